//! Ollama `/api/chat`.
//!
//! NDJSON (`application/x-ndjson`), not SSE. The line with `"done": true` is the last one and has
//! the counters; a failure after the 200 is a line `{"error": "…"}`. Tool calls come whole.

use serde::Deserialize;

use super::decode::Framing;
use super::tool_calls::ToolCalls;
use super::{Decoder, Failure, FinishReason, ModelError, ModelEvent, Usage};

/// Decodes the lines of a chat response.
#[derive(Debug, Default)]
pub struct Ollama {
    calls: ToolCalls,
    next_call: u32,
}

impl Decoder for Ollama {
    const FRAMING: Framing = Framing::Ndjson;

    fn record(
        &mut self,
        _name: &str,
        data: &str,
        out: &mut Vec<ModelEvent>,
    ) -> Result<(), ModelError> {
        let line: Line =
            serde_json::from_str(data).map_err(|e| ModelError::Malformed(e.to_string()))?;
        if let Some(message) = line.error {
            return Err(ModelError::Provider {
                failure: Failure::Internal,
                code: String::new(),
                message,
            });
        }
        let message = line.message.unwrap_or_default();
        let text = |text: Option<String>| text.filter(|text| !text.is_empty());
        out.extend(text(message.thinking).map(ModelEvent::Reasoning));
        out.extend(text(message.content).map(ModelEvent::Text));
        for call in message.tool_calls.unwrap_or_default() {
            let index = self.next_call;
            self.next_call += 1;
            let id = call.id.unwrap_or_default();
            self.calls.start(index, &id, &call.function.name, out)?;
            let arguments = call.function.arguments.map(|json| json.to_string());
            self.calls
                .push(index, &arguments.unwrap_or_default(), out)?;
        }
        if line.done {
            out.push(ModelEvent::Usage(Usage {
                input: line.prompt_eval_count,
                output: line.eval_count,
                ..Usage::default()
            }));
            let reason = line.done_reason.ok_or(ModelError::Truncated)?;
            out.push(self.calls.finish(finish_reason(reason))?);
        }
        Ok(())
    }
}

fn finish_reason(reason: String) -> FinishReason {
    match reason.as_str() {
        "stop" => FinishReason::Stop,
        "length" => FinishReason::MaxTokens,
        _ => FinishReason::Other(reason),
    }
}

#[derive(Deserialize)]
struct Line {
    message: Option<Message>,
    #[serde(default)]
    done: bool,
    done_reason: Option<String>,
    prompt_eval_count: Option<u64>,
    eval_count: Option<u64>,
    error: Option<String>,
}

#[derive(Default, Deserialize)]
struct Message {
    content: Option<String>,
    thinking: Option<String>,
    tool_calls: Option<Vec<Call>>,
}

#[derive(Deserialize)]
struct Call {
    id: Option<String>,
    function: Function,
}

#[derive(Deserialize)]
struct Function {
    name: String,
    arguments: Option<serde_json::Value>,
}
