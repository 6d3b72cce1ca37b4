//! Ollama `/api/chat`, as the types of the `ollama` package describe it.

use serde_json::{Value, json};

use super::{Frame, Protocol, Reply, Stop};

pub(super) const PROTOCOL: Protocol = Protocol {
    content_type: "application/x-ndjson",
    frames,
    error_event,
    error_body,
};

fn frames(_id: u64, model: &str, reply: &Reply) -> Vec<Frame> {
    let line = |message: Value, more: Value| {
        let mut line = json!({"model": model, "created_at": "2026-01-01T00:00:00Z",
            "message": message, "done": false});
        for (key, value) in more.as_object().into_iter().flatten() {
            line[key] = value.clone();
        }
        format!("{line}\n")
    };
    let message = |key: &str, value: Value| {
        let mut message = json!({"role": "assistant", "content": ""});
        message[key] = value;
        Frame::token(line(message, json!({})))
    };
    let mut frames = Vec::new();
    frames.extend(
        reply
            .reasoning
            .iter()
            .map(|text| message("thinking", json!(text))),
    );
    frames.extend(
        reply
            .text
            .iter()
            .map(|text| message("content", json!(text))),
    );
    for call in &reply.tool_calls {
        let arguments: Value = serde_json::from_str(&call.arguments.concat()).unwrap_or(json!({}));
        let call = json!({"function": {"name": call.name, "arguments": arguments}});
        frames.push(message("tool_calls", json!([call])));
    }
    let reason = if reply.stop == Stop::Length {
        "length"
    } else {
        "stop"
    };
    let more = json!({"done": true, "done_reason": reason, "total_duration": 1, "load_duration": 1,
        "prompt_eval_count": 12, "prompt_eval_duration": 1, "eval_count": reply.tokens(),
        "eval_duration": 1});
    frames.push(Frame::other(line(
        json!({"role": "assistant", "content": ""}),
        more,
    )));
    frames
}

fn error_event() -> String {
    format!("{}\n", error_body(500))
}

fn error_body(_status: u16) -> Value {
    json!({"error": "an error was encountered while running the model (key sk-…cret)"})
}
