//! OpenAI Responses, as the types of the `openai` SDK describe them.

use serde_json::{Value, json};

use super::{Frame, Protocol, Reply, Stop, openai_chat};

pub(super) const PROTOCOL: Protocol = Protocol {
    content_type: "text/event-stream",
    frames,
    error_event,
    error_body: openai_chat::error_body,
};

/// Numbers the events and remembers the items for the last one.
struct Writer {
    frames: Vec<Frame>,
    output: Vec<Value>,
    response: Value,
}

impl Writer {
    fn event(&mut self, kind: &str, mut data: Value, token: bool) {
        data["type"] = json!(kind);
        data["sequence_number"] = json!(self.frames.len());
        let bytes = format!("event: {kind}\ndata: {data}\n\n");
        self.frames.push(Frame { bytes, token });
    }

    fn response(&mut self, kind: &str, status: &str, more: Value) {
        let mut response = self.response.clone();
        response["status"] = json!(status);
        response["output"] = json!(self.output);
        for (key, value) in more.as_object().into_iter().flatten() {
            response[key] = value.clone();
        }
        self.event(kind, json!({"response": response}), false);
    }

    /// An item without content: what comes between its beginning and its end is `inside`.
    fn item(&mut self, begin: Value, end: Value, inside: impl FnOnce(&mut Self, Value)) {
        let at = json!({"item_id": begin["id"], "output_index": self.output.len()});
        let mut data = at.clone();
        data["item"] = begin;
        self.event("response.output_item.added", data.clone(), false);
        inside(self, at);
        data["item"] = end.clone();
        self.event("response.output_item.done", data, false);
        self.output.push(end);
    }

    fn deltas(&mut self, kind: &str, at: &Value, pieces: &[String]) {
        for piece in pieces {
            let mut data = at.clone();
            data["delta"] = json!(piece);
            self.event(kind, data, true);
        }
    }
}

fn frames(id: u64, model: &str, reply: &Reply) -> Vec<Frame> {
    let mut writer = Writer {
        frames: Vec::new(),
        output: Vec::new(),
        response: json!({"id": format!("resp_{id}"), "object": "response", "model": model,
            "created_at": 1_767_225_600, "error": null, "incomplete_details": null, "usage": null,
            "instructions": null, "metadata": {}, "parallel_tool_calls": true, "temperature": 1.0,
            "tool_choice": "auto", "tools": [], "top_p": 1.0}),
    };
    writer.response("response.created", "in_progress", json!({}));
    writer.response("response.in_progress", "in_progress", json!({}));
    if !reply.reasoning.is_empty() {
        let part = json!({"type": "summary_text", "text": reply.reasoning.concat()});
        let item = |summary: Value| json!({"id": "rs_1", "type": "reasoning", "summary": summary});
        writer.item(
            item(json!([])),
            item(json!([part.clone()])),
            |writer, mut at| {
                at["summary_index"] = json!(0);
                let mut data = at.clone();
                data["part"] = json!({"type": "summary_text", "text": ""});
                writer.event("response.reasoning_summary_part.added", data.clone(), false);
                writer.deltas(
                    "response.reasoning_summary_text.delta",
                    &at,
                    &reply.reasoning,
                );
                data["part"] = part;
                writer.event("response.reasoning_summary_part.done", data, false);
            },
        );
    }
    if !reply.text.is_empty() {
        let text = reply.text.concat();
        let (kind, part): (_, fn(&str) -> Value) = match reply.stop {
            Stop::Refusal => (
                "refusal",
                |text| json!({"type": "refusal", "refusal": text}),
            ),
            _ => (
                "output_text",
                |text| json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []}),
            ),
        };
        let item = |status: &str, content: Value| {
            json!({"id": "msg_1", "type": "message", "role": "assistant", "status": status,
                "content": content})
        };
        let begin = item("in_progress", json!([]));
        let end = item("completed", json!([part(&text)]));
        writer.item(begin, end, |writer, mut at| {
            at["content_index"] = json!(0);
            at["logprobs"] = json!([]);
            let mut data = at.clone();
            data["part"] = part("");
            writer.event("response.content_part.added", data.clone(), false);
            writer.deltas(&format!("response.{kind}.delta"), &at, &reply.text);
            at[if kind == "refusal" { "refusal" } else { "text" }] = json!(text);
            writer.event(&format!("response.{kind}.done"), at, false);
            data["part"] = part(&text);
            writer.event("response.content_part.done", data, false);
        });
    }
    for (n, call) in reply.tool_calls.iter().enumerate() {
        let arguments = call.arguments.concat();
        let item = |status: &str, arguments: &str| {
            json!({"id": format!("fc_{n}"), "type": "function_call", "status": status,
                "call_id": format!("call_{n}"), "name": call.name, "arguments": arguments})
        };
        let (begin, end) = (item("in_progress", ""), item("completed", &arguments));
        writer.item(begin, end, |writer, mut at| {
            let kind = "response.function_call_arguments.delta";
            writer.deltas(kind, &at, &call.arguments);
            at["arguments"] = json!(arguments);
            at["name"] = json!(call.name);
            writer.event("response.function_call_arguments.done", at, false);
        });
    }
    let (output, reasoning) = (reply.tokens(), reply.reasoning.len());
    let usage = json!({"input_tokens": 12, "input_tokens_details": {"cached_tokens": 4},
        "output_tokens": output, "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": 12 + output});
    match reply.stop {
        Stop::Length => {
            let details = json!({"reason": "max_output_tokens"});
            let more = json!({"usage": usage, "incomplete_details": details});
            writer.response("response.incomplete", "incomplete", more);
        }
        Stop::Natural | Stop::Refusal => {
            writer.response("response.completed", "completed", json!({"usage": usage}));
        }
    }
    writer.frames
}

fn error_event() -> String {
    let data = json!({"type": "error", "code": "server_error", "param": null,
        "message": "The server had an error (org-scripted, key sk-…cret)", "sequence_number": 99});
    format!("event: error\ndata: {data}\n\n")
}
