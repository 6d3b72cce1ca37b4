//! The parts of a UI message stream: what the AI SDK's `useChat` reads, one part per event.
//!
//! Use it with `ui_writer`, which knows their order. Needs no other file.

use serde::Serialize;
use serde_json::Value;

/// One part of the stream; the client fails on a `type` that it does not know.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(
    tag = "type",
    rename_all = "kebab-case",
    rename_all_fields = "camelCase"
)]
#[allow(
    missing_docs,
    reason = "named by the protocol: ai-sdk.dev, stream protocol"
)]
pub enum UiPart {
    Start {
        message_id: String,
    },
    /// One model call, with the tools that it made run, is one step.
    StartStep,
    TextStart {
        id: String,
    },
    TextDelta {
        id: String,
        delta: String,
    },
    TextEnd {
        id: String,
    },
    ReasoningStart {
        id: String,
    },
    ReasoningDelta {
        id: String,
        delta: String,
    },
    ReasoningEnd {
        id: String,
    },
    ToolInputStart {
        tool_call_id: String,
        tool_name: String,
    },
    ToolInputDelta {
        tool_call_id: String,
        input_text_delta: String,
    },
    ToolInputAvailable {
        tool_call_id: String,
        tool_name: String,
        input: Value,
    },
    ToolInputError {
        tool_call_id: String,
        tool_name: String,
        input: Value,
        error_text: String,
    },
    ToolOutputAvailable {
        tool_call_id: String,
        output: Value,
    },
    ToolOutputError {
        tool_call_id: String,
        error_text: String,
    },
    /// The call runs when the user approves it. AI SDK 6 and later.
    ToolApprovalRequest {
        approval_id: String,
        tool_call_id: String,
    },
    ToolOutputDenied {
        tool_call_id: String,
    },
    SourceUrl {
        source_id: String,
        url: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        title: Option<String>,
    },
    File {
        media_type: String,
        url: String,
    },
    FinishStep,
    Finish {
        finish_reason: &'static str,
        message_metadata: Value,
    },
    /// The user stopped the answer; the client has not necessarily hung up.
    Abort {
        reason: String,
    },
    /// The answer failed. The text reaches the user: never provider text.
    Error {
        error_text: &'static str,
    },
    // ANCHOR: data
    /// Data of your own for the page: see [`UiPart::data`].
    #[serde(untagged)]
    Data {
        #[serde(rename = "type")]
        kind: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        data: Value,
        /// If true, not kept in the message: the page sees it only in `onData`.
        transient: bool,
    },
    /// Any other part of the protocol (`source-document`, `reasoning-file`, `custom`, `message-metadata`, `reset-step`), or one with
    /// fields that the variants do not have (`providerMetadata`, `preliminary`): the object with its `type`.
    #[serde(untagged)]
    Raw(Value),
    // ANCHOR_END: data
}

impl UiPart {
    /// The part `data-{name}`. A later one with the same `id` replaces it in the message.
    pub fn data(name: &str, id: Option<String>, data: Value) -> Self {
        let (kind, transient) = (format!("data-{name}"), false);
        Self::Data {
            kind,
            id,
            data,
            transient,
        }
    }

    /// The sources and images in a part of a provider that has no event of its own (`ModelEvent::Other`): citations of Anthropic,
    /// OpenAI and Gemini, images of OpenRouter and Gemini. Only `http` links and images as data: a page shows both.
    pub(super) fn found_in(raw: &Value, out: &mut Vec<Self>) {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let link = |url: &Value, title: &Value| {
            let url = text(url)?;
            let safe = url.starts_with("https://") || url.starts_with("http://");
            let (source_id, title) = (url.clone(), text(title));
            safe.then_some(Self::SourceUrl {
                source_id,
                url,
                title,
            })
        };
        let image = |media_type: &str, url: String| {
            let prefix = format!("data:{media_type};base64,");
            let media_type = media_type.to_owned();
            let safe = ["image/png", "image/jpeg", "image/webp", "image/gif"];
            (safe.contains(&media_type.as_str()) && url.starts_with(&prefix))
                .then_some(Self::File { media_type, url })
        };
        match raw {
            Value::Array(items) => items.iter().for_each(|item| Self::found_in(item, out)),
            Value::Object(fields) => {
                let kind = raw["type"].as_str().unwrap_or_default();
                let cited = [&raw["url_citation"], raw];
                let cited = cited.iter().find(|one| one["url"].is_string());
                let cites = matches!(kind, "url_citation" | "web_search_result_location");
                let (web, inline) = (&raw["web"], &raw["inlineData"]);
                let picture = text(&raw["image_url"]["url"]).unwrap_or_default();
                let media_type = picture
                    .strip_prefix("data:")
                    .and_then(|url| url.split_once(';'));
                let found = match (cited, text(&inline["data"])) {
                    (Some(one), _) if cites => link(&one["url"], &one["title"]),
                    (_, Some(data)) => {
                        let media_type = inline["mimeType"].as_str().unwrap_or_default();
                        image(media_type, format!("data:{media_type};base64,{data}"))
                    }
                    _ if web["uri"].is_string() => link(&web["uri"], &web["title"]),
                    _ => media_type.and_then(|(media_type, _)| image(media_type, picture.clone())),
                };
                match found {
                    Some(part) => out.push(part),
                    None => fields.values().for_each(|item| Self::found_in(item, out)),
                }
            }
            _ => {}
        }
    }

    /// For the user: the message is a fragment.
    pub const TRUNCATED: &str = "The answer was cut off. Try again.";

    /// Keeps in `open` how each part that has begun would end.
    pub fn track(&self, open: &mut Vec<Self>) {
        match self {
            Self::TextStart { id } => open.push(Self::TextEnd { id: id.clone() }),
            Self::ReasoningStart { id } => open.push(Self::ReasoningEnd { id: id.clone() }),
            Self::ToolInputStart {
                tool_call_id,
                tool_name,
            } => open.push(Self::interrupted(tool_call_id, tool_name, Value::from(""))),
            Self::Raw(raw) if raw["type"] == "reset-step" => open.clear(),
            Self::TextEnd { .. } | Self::ReasoningEnd { .. } => open.retain(|end| end != self),
            Self::ToolInputAvailable { tool_call_id, .. }
            | Self::ToolInputError { tool_call_id, .. } => open.retain(
                |end| !matches!(end, Self::ToolInputError { tool_call_id: id, .. } if id == tool_call_id),
            ),
            _ => {}
        }
    }

    /// The end of a call that did not arrive completely, with what arrived of its arguments.
    pub(super) fn interrupted(tool_call_id: &str, tool_name: &str, input: Value) -> Self {
        Self::ToolInputError {
            tool_call_id: tool_call_id.to_owned(),
            tool_name: tool_name.to_owned(),
            input,
            error_text: "the call was not complete".to_owned(),
        }
    }
}
