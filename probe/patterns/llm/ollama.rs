//! Ollama `/api/chat`.
//!
//! NDJSON (`application/x-ndjson`), not SSE. The line with `"done": true` is the last one and has the counters; a failure after the
//! 200 is a line `{"error": "…"}`. Tool calls come whole. Needs `providers/{decode,json,tool_calls}` and their files.

use super::failure::ModelError;
use super::model_event::{FinishReason, ModelEvent, Usage};
use super::providers::decode::{Decoder, Framing, failure_in};
use super::providers::json::{Json, other};
use super::providers::tool_calls::{Piece, ToolCalls};

/// Decodes the lines of a chat response.
#[derive(Debug, Default)]
pub struct Ollama {
    calls: ToolCalls,
    next_call: u64,
}

impl Decoder for Ollama {
    const FRAMING: Framing = Framing::Ndjson;

    fn record(
        &mut self,
        name: &str,
        record: &Json<'_>,
        out: &mut Vec<ModelEvent>,
    ) -> Result<(), ModelError> {
        if let Some(error) = failure_in(name, record) {
            return Err(error);
        }
        let message = record.get("message");
        let text = |name: &str| message.get(name).text().map(str::to_owned);
        out.extend(text("thinking").map(ModelEvent::Reasoning));
        out.extend(text("content").map(ModelEvent::Text));
        for call in message.get("tool_calls").items() {
            let function = call.get("function");
            let arguments = function.get("arguments").as_arguments();
            let piece = Piece {
                index: Some(self.next_call),
                id: call.get("id").text(),
                name: function.get("name").text(),
                arguments: &arguments,
                custom: false,
            };
            self.next_call += 1;
            self.calls.whole(piece, out)?;
        }
        for (name, value) in message.fields() {
            let known = ["role", "content", "thinking", "tool_calls"];
            if !known.contains(&name) && !value.is_empty() {
                out.push(other(name, value));
            }
        }
        if record.get("done").is_true() {
            out.push(ModelEvent::Usage(Usage {
                input: record.get("prompt_eval_count").count(),
                output: record.get("eval_count").count(),
                ..Usage::default()
            }));
            // Ollama leaves the reason out when the runner died.
            let reason = record.get("done_reason").text();
            let reason = match reason.ok_or(ModelError::Truncated)? {
                "stop" => FinishReason::Stop,
                "length" => FinishReason::MaxTokens,
                other => FinishReason::Other(other.to_owned()),
            };
            out.push(self.calls.finish(reason)?);
        }
        Ok(())
    }
}
