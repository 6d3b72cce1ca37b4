//! Anthropic Messages, as the types of `@anthropic-ai/sdk` describe them.

use serde_json::{Value, json};

use super::{Frame, Protocol, Reply, Stop};

pub(super) const PROTOCOL: Protocol = Protocol {
    content_type: "text/event-stream",
    frames,
    error_event,
    error_body,
};

fn event(data: Value) -> String {
    let name = data["type"].as_str().unwrap_or_default();
    format!("event: {name}\ndata: {data}\n\n")
}

fn other(data: Value) -> Frame {
    Frame::other(event(data))
}

/// Writes one content block; the deltas marked `true` carry a token.
fn block(frames: &mut Vec<Frame>, index: &mut usize, start: Value, deltas: Vec<(Value, bool)>) {
    frames.push(other(
        json!({"type": "content_block_start", "index": index, "content_block": start}),
    ));
    if *index == 0 {
        frames.push(other(json!({"type": "ping"})));
    }
    for (delta, token) in deltas {
        let data = json!({"type": "content_block_delta", "index": index, "delta": delta});
        let bytes = event(data);
        frames.push(Frame { bytes, token });
    }
    frames.push(other(json!({"type": "content_block_stop", "index": index})));
    *index += 1;
}

fn frames(id: u64, model: &str, reply: &Reply) -> Vec<Frame> {
    let mut frames = vec![other(json!({"type": "message_start", "message": {
        "id": format!("msg_{id}"), "type": "message", "role": "assistant", "model": model,
        "content": [], "stop_reason": null, "stop_sequence": null,
        "usage": {"input_tokens": 8, "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 4, "output_tokens": 1}}}))];
    let mut index = 0;
    if !reply.reasoning.is_empty() {
        let thinking = |text| (json!({"type": "thinking_delta", "thinking": text}), true);
        let mut deltas: Vec<_> = reply.reasoning.iter().map(thinking).collect();
        let signature = json!({"type": "signature_delta", "signature": "c2lnbmVk"});
        deltas.push((signature, false));
        let start = json!({"type": "thinking", "thinking": "", "signature": ""});
        block(&mut frames, &mut index, start, deltas);
    }
    if !reply.text.is_empty() {
        let text = |text| (json!({"type": "text_delta", "text": text}), true);
        let deltas = reply.text.iter().map(text).collect();
        let start = json!({"type": "text", "text": ""});
        block(&mut frames, &mut index, start, deltas);
    }
    for (n, call) in reply.tool_calls.iter().enumerate() {
        let input = |piece: &str| json!({"type": "input_json_delta", "partial_json": piece});
        // The first piece is empty, and with a tool without arguments it may be the only one.
        let mut deltas = vec![(input(""), false)];
        deltas.extend(call.arguments.iter().map(|piece| (input(piece), true)));
        let (id, name) = (format!("toolu_{n}"), &call.name);
        let start = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
        block(&mut frames, &mut index, start, deltas);
    }
    let (reason, details) = match reply.stop {
        Stop::Natural if reply.tool_calls.is_empty() => ("end_turn", Value::Null),
        Stop::Natural => ("tool_use", Value::Null),
        Stop::Length => ("max_tokens", Value::Null),
        Stop::Refusal => {
            let details = json!({"type": "refusal", "category": null, "explanation": null});
            ("refusal", details)
        }
    };
    frames.push(other(json!({"type": "message_delta",
        "delta": {"stop_reason": reason, "stop_sequence": null, "stop_details": details, "container": null},
        "usage": {"input_tokens": 8, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 4,
            "output_tokens": reply.tokens(),
            "output_tokens_details": {"thinking_tokens": reply.reasoning.len()}}})));
    frames.push(other(json!({"type": "message_stop"})));
    frames
}

fn error_event() -> String {
    event(error_body(529))
}

fn error_body(status: u16) -> Value {
    let kind = match status {
        429 => "rate_limit_error",
        529 => "overloaded_error",
        _ => "api_error",
    };
    json!({"type": "error", "request_id": "req_scripted",
        "error": {"type": kind, "message": "Overloaded (org-scripted, key sk-…cret)"}})
}
