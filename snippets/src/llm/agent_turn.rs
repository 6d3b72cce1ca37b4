//! What an agent sends back to its model: the question, the model's own turn, and the results of its tools.
//!
//! Use it if you keep the conversation in the provider's own format. Guarantee: signatures of the reasoning, the work of server
//! tools, citations, reasoning items and thought signatures go back as they came. It writes four formats: chat completions, Responses,
//! Anthropic and Gemini.
//!
//! Sibling: `model_event`.

// ANCHOR: turn
use serde_json::{Map, Value, json};

use super::model_event::{Dialect, ModelEvent, ToolCall};

/// Begins the id of a call for which the provider has none: the provider gets none back.
pub const UNNAMED: &str = "unnamed_";

/// How this host takes back its own turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// As in the upstream.
    pub dialect: Dialect,
    /// The name under which a host of chat completions wants its reasoning back: `reasoning_content` (DeepSeek). OpenAI takes none.
    pub reasoning: Option<&'static str>,
}

/// A picture of the user: its type and its base64.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// `image/png`, …
    pub media_type: String,
    /// The bytes.
    pub base64: String,
}

/// The model's turn while it arrives.
#[derive(Debug)]
pub struct Turn {
    format: Format,
    /// Anthropic's content, in its order.
    blocks: Vec<Value>,
    /// The items of Responses, or the signed parts of Gemini with what came between them.
    items: Vec<Value>,
    text: String,
    reasoning: String,
    /// Fields of chat completions that go back: `reasoning_details` (OpenRouter), `thinking_blocks` (LiteLLM).
    fields: Map<String, Value>,
    /// Chat completions: what a call has besides its id and function, by id.
    extra: Map<String, Value>,
}

impl Turn {
    /// Nothing has arrived.
    pub fn new(format: Format) -> Self {
        Self {
            format,
            blocks: Vec::new(),
            items: Vec::new(),
            text: String::new(),
            reasoning: String::new(),
            fields: Map::new(),
            extra: Map::new(),
        }
    }

    /// Takes each event of the model, in order.
    pub fn event(&mut self, event: &ModelEvent) {
        if self.format.dialect == Dialect::Gemini {
            self.part(event);
        }
        match event {
            ModelEvent::Text(text) | ModelEvent::Refusal(text) => {
                self.text.push_str(text);
                // Later text does not belong to an earlier citation.
                self.append("text", "text", text, |last| last.get("citations").is_none());
            }
            ModelEvent::Reasoning(text) => {
                self.reasoning.push_str(text);
                self.append("thinking", "thinking", text, |last| {
                    last.get("signature").is_none()
                });
            }
            ModelEvent::ToolCallStart { id, name, .. } => {
                let block = json!({ "type": "tool_use", "id": id, "name": name, "input": {} });
                self.blocks.push(block);
            }
            ModelEvent::Other { kind, raw } => {
                if let Ok(raw) = serde_json::from_str::<Value>(raw) {
                    self.other(kind, raw);
                }
            }
            _ => {}
        }
    }

    fn append(&mut self, kind: &str, field: &str, text: &str, same: fn(&Value) -> bool) {
        match self.blocks.last_mut() {
            Some(last) if last["type"] == kind && same(last) => push(&mut last[field], text),
            _ => self.blocks.push(json!({ "type": kind, field: text })),
        }
    }

    fn other(&mut self, kind: &str, raw: Value) {
        let delta = |field: &str| raw["delta"].get(field).or(raw.get(field)).cloned();
        match (kind, self.format.dialect) {
            ("signature_delta", Dialect::Anthropic) => {
                // Thinking that the provider keeps to itself has a signature and no text.
                self.append("thinking", "thinking", "", |_| true);
                let signature = delta("signature").unwrap_or_default();
                let (last, signature) = (self.blocks.last_mut(), signature.as_str());
                if let (Some(last), Some(signature)) = (last, signature) {
                    push(&mut last["signature"], signature);
                }
            }
            ("citations_delta", Dialect::Anthropic) => {
                let last = self.blocks.last_mut().filter(|last| last["type"] == "text");
                if let (Some(last), Some(citation)) = (last, delta("citation")) {
                    extend(&mut last["citations"], [citation]);
                }
            }
            ("input_json_delta", Dialect::Anthropic) => {
                let piece = delta("partial_json").unwrap_or_default();
                if let (Some(last), Some(piece)) = (self.blocks.last_mut(), piece.as_str()) {
                    // Text until the turn is complete: see `message`.
                    if last["input"].is_object() {
                        last["input"] = json!("");
                    }
                    push(&mut last["input"], piece);
                }
            }
            (_, Dialect::Anthropic) if raw["type"] == kind => self.blocks.push(raw),
            ("response.output_item.done", Dialect::OpenAiResponses) if raw["type"].is_string() => {
                self.items.push(raw);
            }
            ("reasoning_details" | "thinking_blocks", Dialect::OpenAiChat) => {
                let list = self.fields.entry(kind).or_insert_with(|| json!([]));
                let Value::Array(items) = raw else { return };
                items.into_iter().for_each(|item| merge(list, item));
            }
            ("tool_calls", Dialect::OpenAiChat) => {
                let id = raw["id"].as_str().unwrap_or_default().to_owned();
                self.extra.insert(id, raw["extra_content"].clone());
            }
            _ => {}
        }
    }

    /// Gemini: the parts in their order, each signature in the part in which it came.
    fn part(&mut self, event: &ModelEvent) {
        match event {
            ModelEvent::Text(text) | ModelEvent::Refusal(text) => match self.items.last_mut() {
                Some(last)
                    if last["text"].is_string() && last.get("thoughtSignature").is_none() =>
                {
                    push(&mut last["text"], text);
                }
                _ => self.items.push(json!({ "text": text })),
            },
            ModelEvent::ToolCallStart { id, name, .. } => {
                let mut call = json!({ "name": name });
                if !id.starts_with(UNNAMED) {
                    call["id"] = id.as_str().into();
                }
                self.items.push(json!({ "functionCall": call }));
            }
            ModelEvent::Other { kind, raw } if kind == "thoughtSignature" => {
                let Ok(part @ Value::Object(_)) = serde_json::from_str::<Value>(raw) else {
                    return;
                };
                // Its text or its call was an event before.
                let text = part["text"].as_str().filter(|_| part["thought"] != true);
                if let Some(last) = self.items.last_mut() {
                    let rest = last["text"].as_str().zip(text);
                    let rest = rest.and_then(|(all, text)| all.strip_suffix(text));
                    match rest.map(str::to_owned) {
                        Some(rest) if !rest.is_empty() => last["text"] = rest.into(),
                        None if !(last["functionCall"].is_object()
                            && part["functionCall"].is_object()) => {}
                        _ => drop(self.items.pop()),
                    }
                }
                self.items.push(part);
            }
            _ => {}
        }
    }

    /// The complete turn, with the calls that the model made: one message, none if it is empty, or the items of Responses.
    pub fn messages(mut self, calls: &[ToolCall]) -> Vec<Value> {
        let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_else(|_| json!({}));
        if self.format.dialect == Dialect::OpenAiResponses {
            let has = |items: &[Value], field: &str, value: &str| {
                items.iter().any(|item| item[field] == value)
            };
            if !self.text.is_empty() && !has(&self.items, "type", "message") {
                self.items
                    .push(json!({ "role": "assistant", "content": self.text }));
            }
            // Hosts that repeat no item.
            for ToolCall {
                id,
                name,
                arguments,
            } in calls
            {
                if has(&self.items, "call_id", id) {
                    continue;
                }
                self.items.push(json!({ "type": "function_call", "call_id": id, "name": name, "arguments": arguments }));
            }
            return self.items;
        }
        if self.format.dialect == Dialect::Gemini {
            let calls = calls.iter();
            let parts = self.items.iter_mut();
            let made = parts.filter_map(|part| part.get_mut("functionCall"));
            for (made, call) in made.zip(calls).filter(|(made, _)| made.is_object()) {
                if made.get("args").is_none() {
                    made["args"] = parse(&call.arguments);
                }
            }
            let message = json!({ "role": "model", "parts": self.items });
            return Vec::from_iter((!self.items.is_empty()).then_some(message));
        }
        if self.format.dialect == Dialect::Anthropic {
            self.blocks.retain(|block| block["text"] != "");
            let mut calls = calls.iter();
            for block in &mut self.blocks {
                if block["type"] == "tool_use" {
                    block["input"] = calls
                        .next()
                        .map_or(json!({}), |call| parse(&call.arguments));
                } else if let Value::String(text) = &block["input"] {
                    block["input"] = parse(text);
                }
            }
            let message = json!({ "role": "assistant", "content": self.blocks });
            return Vec::from_iter((!self.blocks.is_empty()).then_some(message));
        }
        if self.text.is_empty() && calls.is_empty() {
            return Vec::new();
        }
        let content = Some(self.text).filter(|text| !text.is_empty());
        let mut message = json!({ "role": "assistant", "content": content });
        if let Some(name) = self.format.reasoning {
            message[name] = self.reasoning.into();
        }
        for (name, value) in self.fields {
            message[name] = value;
        }
        for call in calls {
            let function = json!({ "name": call.name, "arguments": call.arguments });
            let mut one = json!({ "id": call.id, "type": "function", "function": function });
            if let Some(extra) = self.extra.remove(&call.id) {
                one["extra_content"] = extra;
            }
            extend(&mut message["tool_calls"], [one]);
        }
        vec![message]
    }

    /// The turn of a model that was stopped: its text alone, since half a call and reasoning without its signature are refused.
    pub fn stopped(self) -> Option<Value> {
        let text = Some(self.text.trim_end()).filter(|text| !text.is_empty())?;
        Some(match self.format.dialect {
            Dialect::Gemini => json!({ "role": "model", "parts": [{ "text": text }] }),
            _ => json!({ "role": "assistant", "content": text }),
        })
    }
}

impl Format {
    /// The user's turn.
    pub fn question(self, text: &str, images: &[Image]) -> Value {
        let url = |image: &Image| format!("data:{};base64,{}", image.media_type, image.base64);
        let image = |image: &Image| match self.dialect {
            Dialect::OpenAiChat => {
                json!({ "type": "image_url", "image_url": { "url": url(image) } })
            }
            Dialect::OpenAiResponses => json!({ "type": "input_image", "image_url": url(image) }),
            Dialect::Anthropic => json!({ "type": "image", "source":
                { "type": "base64", "media_type": image.media_type, "data": image.base64 } }),
            Dialect::Gemini => json!({ "inlineData":
                { "mimeType": image.media_type, "data": image.base64 } }),
        };
        let first = match self.dialect {
            Dialect::Gemini => json!({ "text": text }),
            Dialect::OpenAiResponses => json!({ "type": "input_text", "text": text }),
            Dialect::OpenAiChat | Dialect::Anthropic => json!({ "type": "text", "text": text }),
        };
        let content: Vec<Value> = [first]
            .into_iter()
            .chain(images.iter().map(image))
            .collect();
        match (self.dialect, images) {
            (Dialect::Gemini, _) => json!({ "role": "user", "parts": content }),
            (_, []) => json!({ "role": "user", "content": text }),
            _ => json!({ "role": "user", "content": content }),
        }
    }

    /// The results of all calls of a turn, in the order of the calls: the call, text, and whether it is an error.
    pub fn results(self, results: impl Iterator<Item = (ToolCall, String, bool)>) -> Vec<Value> {
        let one = |(ToolCall { id, name, .. }, text, error): (ToolCall, String, bool)| match self
            .dialect
        {
            Dialect::OpenAiChat => json!({ "role": "tool", "tool_call_id": id, "content": text }),
            Dialect::OpenAiResponses => {
                json!({ "type": "function_call_output", "call_id": id, "output": text })
            }
            Dialect::Anthropic => {
                json!({ "type": "tool_result", "tool_use_id": id, "content": text, "is_error": error })
            }
            Dialect::Gemini => {
                let output = serde_json::from_str(&text).unwrap_or_else(|_| Value::from(text));
                let key = if error { "error" } else { "output" };
                let mut response = json!({ "name": name, "response": { key: output } });
                if !id.starts_with(UNNAMED) {
                    response["id"] = id.into();
                }
                json!({ "functionResponse": response })
            }
        };
        let results: Vec<Value> = results.map(one).collect();
        match self.dialect {
            Dialect::OpenAiChat | Dialect::OpenAiResponses => results,
            Dialect::Anthropic => vec![json!({ "role": "user", "content": results })],
            Dialect::Gemini => vec![json!({ "role": "user", "parts": results })],
        }
    }

    /// A tool as the request declares it.
    pub fn tool(self, name: &str, description: &str, schema: &Value) -> Value {
        match self.dialect {
            Dialect::OpenAiChat => json!({ "type": "function", "function":
                { "name": name, "description": description, "parameters": schema } }),
            Dialect::Anthropic => {
                json!({ "name": name, "description": description, "input_schema": schema })
            }
            // Strict by default, and then it refuses schemas with optional fields.
            Dialect::OpenAiResponses => json!({ "type": "function", "name": name,
                "description": description, "parameters": schema, "strict": false }),
            // The request has all of them in one `functionDeclarations`.
            Dialect::Gemini => {
                json!({ "name": name, "description": description, "parametersJsonSchema": schema })
            }
        }
    }
}
// ANCHOR_END: turn

fn push(field: &mut Value, text: &str) {
    match field {
        Value::String(known) => known.push_str(text),
        _ => *field = text.into(),
    }
}

fn extend(field: &mut Value, items: impl IntoIterator<Item = Value>) {
    if !field.is_array() {
        *field = json!([]);
    }
    if let Value::Array(list) = field {
        list.extend(items);
    }
}

/// A piece of the last item of the list, or its next item.
fn merge(list: &mut Value, item: Value) {
    let last = list.as_array_mut().and_then(|list| list.last_mut());
    let same = |last: &Value, name: &str| last.get(name) == item.get(name);
    match (last, item.as_object()) {
        (Some(last), Some(fields))
            if last.is_object()
                && same(last, "type")
                && same(last, "index")
                && !last["signature"].is_string() =>
        {
            for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
                match (name.as_str(), value.as_str()) {
                    ("text" | "summary" | "thinking" | "data", Some(text)) => {
                        push(&mut last[name], text);
                    }
                    _ => last[name] = value.clone(),
                }
            }
        }
        _ => extend(list, [item]),
    }
}

// ANCHOR: session
/// The result of a call: JSON, or a text that explains the failure to the model.
pub type Output = Result<Value, String>;

/// A conversation in the provider's own format. Store it where the provider's data may be stored.
#[derive(Debug, Clone, Default)]
pub struct Session {
    /// What is sent, oldest first.
    pub messages: Vec<Value>,
    /// Calls of the newest turn without a result that was sent.
    pub calls: Vec<Call>,
    /// The place of the newest question: a refused turn goes back up to there.
    pub question: usize,
}

/// A call of a tool.
#[derive(Debug, Clone)]
pub struct Call {
    /// As the model made it.
    pub call: ToolCall,
    /// The id of the approval that it waits for, random. `None` once it has begun.
    pub approval: Option<String>,
    /// Its result.
    pub output: Option<Output>,
}

impl Session {
    /// Those of `decisions` for which a call waits.
    pub fn waiting<'a>(&self, decisions: &'a [Decision]) -> impl Iterator<Item = &'a Decision> {
        let waits = |one: &&Decision| {
            let mut calls = self.calls.iter();
            calls.any(|call| call.output.is_none() && call.approval.as_ref() == Some(&one.id))
        };
        decisions.iter().filter(waits)
    }

    /// A run of a copy of this session has begun with `decisions`: here their calls wait no longer, so that a decision which is sent
    /// again runs nothing. When the run has ended, its own session replaces this one.
    pub fn decided(&mut self, decisions: &[Decision]) {
        for call in &mut self.calls {
            let id = call.approval.take();
            call.approval = id.filter(|id| decisions.iter().all(|one| one.id != *id));
        }
    }

    /// Gives each call a result that has none, and moves them all to the messages. A call without a result is refused by the provider.
    pub fn settle(&mut self, format: Format, most_bytes: usize) {
        let results = self.calls.drain(..).map(
            |Call {
                 call,
                 approval,
                 output,
             }| {
                let missing = match approval {
                    Some(_) => "the user did not approve this call",
                    None => "the call was stopped; it may have had an effect",
                };
                let output = output.unwrap_or_else(|| Err(missing.to_owned()));
                let (text, error) = match output.map(|value| value.to_string()) {
                    Ok(text) if text.len() > most_bytes => (
                        format!(
                            "the result has {} bytes, more than {most_bytes}",
                            text.len()
                        ),
                        true,
                    ),
                    Ok(text) => (text, false),
                    Err(text) => (text, true),
                };
                (call, text, error)
            },
        );
        let results: Vec<_> = results.collect();
        if !results.is_empty() {
            self.messages.extend(format.results(results.into_iter()));
        }
    }
}

/// The user's decision on one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// [`Call::approval`].
    pub id: String,
    /// Whether it may run.
    pub approved: bool,
    /// For the model.
    pub reason: Option<String>,
}
// ANCHOR_END: session
