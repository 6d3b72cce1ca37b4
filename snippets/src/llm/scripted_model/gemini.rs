//! Gemini `streamGenerateContent?alt=sse`, as the types of `@google/genai` describe it.

use serde_json::{Value, json};

use super::{Frame, Protocol, Reply, Stop};

pub(super) const PROTOCOL: Protocol = Protocol {
    content_type: "text/event-stream",
    frames,
    error_event,
    error_body,
};

fn frames(id: u64, model: &str, reply: &Reply) -> Vec<Frame> {
    let (mut thoughts, mut output) = (0, 0);
    let mut chunk = |part: Option<Value>, reason: Option<&str>| {
        match &part {
            Some(part) if part["thought"] == true => thoughts += 1,
            Some(_) => output += 1,
            None => {}
        }
        let mut candidate =
            json!({"index": 0, "content": {"role": "model", "parts": part.as_slice()}});
        if let Some(reason) = reason {
            candidate["finishReason"] = json!(reason);
        }
        let data = json!({"responseId": id.to_string(), "modelVersion": model,
            "candidates": [candidate],
            "usageMetadata": {"promptTokenCount": 12, "cachedContentTokenCount": 4,
                "candidatesTokenCount": output, "thoughtsTokenCount": thoughts,
                "totalTokenCount": 12 + output + thoughts}});
        let bytes = format!("data: {data}\r\n\r\n");
        let token = part.is_some();
        Frame { bytes, token }
    };
    let mut frames = Vec::new();
    for text in &reply.reasoning {
        let part = json!({"text": text, "thought": true});
        frames.push(chunk(Some(part), None));
    }
    for text in &reply.text {
        frames.push(chunk(Some(json!({"text": text})), None));
    }
    for call in &reply.tool_calls {
        // Whole, as an object: arguments are not streamed.
        let args: Value = serde_json::from_str(&call.arguments.concat()).unwrap_or(json!({}));
        let part = json!({"functionCall": {"name": call.name, "args": args}});
        frames.push(chunk(Some(part), None));
    }
    let reason = match reply.stop {
        Stop::Natural => "STOP",
        Stop::Length => "MAX_TOKENS",
        Stop::Refusal => "SAFETY",
    };
    frames.push(chunk(None, Some(reason)));
    frames
}

fn error_event() -> String {
    format!("data: {}\r\n\r\n", error_body(503))
}

fn error_body(status: u16) -> Value {
    let name = match status {
        429 => "RESOURCE_EXHAUSTED",
        503 | 529 => "UNAVAILABLE",
        _ => "INTERNAL",
    };
    json!({"error": {"code": status, "status": name,
        "message": "The model is overloaded (project scripted, key sk-…cret)"}})
}
