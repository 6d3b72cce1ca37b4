//! OpenAI chat completions, as the types of the `openai` SDK describe them.

use serde_json::{Value, json};

use super::{Frame, Protocol, Reply, Stop};

pub(super) const PROTOCOL: Protocol = Protocol {
    content_type: "text/event-stream",
    frames,
    error_event,
    error_body,
};

fn frames(id: u64, model: &str, reply: &Reply) -> Vec<Frame> {
    let event = |choices: Value, usage: Value| {
        let chunk = json!({
            "id": format!("chatcmpl-{id}"), "object": "chat.completion.chunk", "created": 1_767_225_600,
            "model": model, "choices": choices, "usage": usage,
        });
        format!("data: {chunk}\n\n")
    };
    let delta = |delta: Value, finish_reason: Value| {
        let choice =
            json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason});
        event(json!([choice]), Value::Null)
    };
    let mut frames = vec![Frame::other(delta(
        json!({"role": "assistant", "content": "", "refusal": null}),
        Value::Null,
    ))];
    let field = if reply.stop == Stop::Refusal {
        "refusal"
    } else {
        "content"
    };
    frames.extend(
        reply
            .text
            .iter()
            .map(|text| Frame::token(delta(json!({ field: text }), Value::Null))),
    );
    // Parallel calls interleave: all begin, then their arguments come in turns.
    for (index, call) in reply.tool_calls.iter().enumerate() {
        let start = json!({"index": index, "id": format!("call_{index}"), "type": "function",
            "function": {"name": call.name, "arguments": ""}});
        frames.push(Frame::other(delta(
            json!({"tool_calls": [start]}),
            Value::Null,
        )));
    }
    let rounds = reply
        .tool_calls
        .iter()
        .map(|call| call.arguments.len())
        .max();
    for round in 0..rounds.unwrap_or(0) {
        for (index, call) in reply.tool_calls.iter().enumerate() {
            let Some(piece) = call.arguments.get(round) else {
                continue;
            };
            let piece = json!({"index": index, "function": {"arguments": piece}});
            frames.push(Frame::token(delta(
                json!({"tool_calls": [piece]}),
                Value::Null,
            )));
        }
    }
    let reason = match reply.stop {
        Stop::Natural if reply.tool_calls.is_empty() => "stop",
        Stop::Natural => "tool_calls",
        Stop::Length => "length",
        Stop::Refusal => "stop",
    };
    frames.push(Frame::other(delta(json!({}), json!(reason))));
    let output = reply.tokens() - reply.reasoning.len();
    let usage = json!({"prompt_tokens": 12, "completion_tokens": output, "total_tokens": 12 + output,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 0}});
    frames.push(Frame::other(event(json!([]), usage)));
    frames.push(Frame::other("data: [DONE]\n\n".to_owned()));
    frames
}

fn error_event() -> String {
    format!("data: {}\n\n", error_body(500))
}

pub(super) fn error_body(status: u16) -> Value {
    let (kind, code) = match status {
        429 => ("requests", json!("rate_limit_exceeded")),
        401 => ("invalid_request_error", json!("invalid_api_key")),
        400..500 => ("invalid_request_error", Value::Null),
        _ => ("server_error", Value::Null),
    };
    // A text as providers write them: it names the account, which no end user may read.
    json!({"error": {"message": "The server had an error (org-scripted, key sk-…cret)", "type": kind,
        "param": null, "code": code}})
}
