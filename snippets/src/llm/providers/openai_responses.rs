//! OpenAI Responses.
//!
//! Named SSE events whose data repeats the name as `type`. There is no `[DONE]`: the stream ends
//! with `response.completed`, `response.incomplete`, `response.failed` or `error`.

use serde::Deserialize;

use super::openai_chat::ErrorBody;
use super::tool_calls::ToolCalls;
use super::{Decoder, FinishReason, ModelError, ModelEvent, Usage};

/// Decodes `response.*` events.
#[derive(Debug, Default)]
pub struct OpenAiResponses {
    calls: ToolCalls,
}

impl Decoder for OpenAiResponses {
    fn record(
        &mut self,
        _name: &str,
        data: &str,
        out: &mut Vec<ModelEvent>,
    ) -> Result<(), ModelError> {
        let event: Event =
            serde_json::from_str(data).map_err(|e| ModelError::Malformed(e.to_string()))?;
        let index = event.output_index.unwrap_or_default();
        match (event.kind.as_str(), event.delta) {
            ("response.output_text.delta", Some(text)) => out.push(ModelEvent::Text(text)),
            ("response.refusal.delta", Some(text)) => out.push(ModelEvent::Refusal(text)),
            (
                "response.reasoning_text.delta" | "response.reasoning_summary_text.delta",
                Some(text),
            ) => out.push(ModelEvent::Reasoning(text)),
            ("response.function_call_arguments.delta", Some(fragment)) => {
                self.calls.push(index, &fragment, out)?;
            }
            ("response.output_item.added", _) => {
                if let Some(call) = event.item.filter(|item| item.kind == "function_call") {
                    // `id` names the item; the result must name `call_id`.
                    self.calls.start(index, &call.call_id, &call.name, out)?;
                }
            }
            ("response.output_item.done", _) => {
                if let Some(call) = event.item.filter(|item| item.kind == "function_call") {
                    self.calls.start(index, &call.call_id, &call.name, out)?;
                    self.calls.complete(index, &call.arguments, out)?;
                }
            }
            ("response.completed" | "response.incomplete", _) => {
                let response = event.response.unwrap_or_default();
                out.extend(response.usage.map(|usage| ModelEvent::Usage(usage.into())));
                let details = response.incomplete_details.and_then(|d| d.reason);
                let reason = finish_reason(&event.kind, details);
                out.push(self.calls.finish(reason)?);
            }
            ("response.failed", _) => {
                let error = event.response.and_then(|response| response.error);
                return Err(error.unwrap_or_default().into());
            }
            ("error", _) => {
                let flat = ErrorBody::new(event.code, event.message);
                return Err(event.error.unwrap_or(flat).into());
            }
            _ => {}
        }
        Ok(())
    }
}

fn finish_reason(kind: &str, details: Option<String>) -> FinishReason {
    match details.as_deref() {
        None if kind == "response.completed" => FinishReason::Stop,
        Some("max_output_tokens") => FinishReason::MaxTokens,
        Some("content_filter") => FinishReason::ContentFilter,
        _ => FinishReason::Other(details.unwrap_or_else(|| "incomplete".to_owned())),
    }
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    output_index: Option<u32>,
    delta: Option<String>,
    item: Option<Item>,
    response: Option<Response>,
    // The `error` event carries its fields itself; some hosts nest them.
    code: Option<serde_json::Value>,
    message: Option<String>,
    error: Option<ErrorBody>,
}

/// Fields of a function call; other items have other fields.
#[derive(Deserialize)]
struct Item {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    call_id: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    arguments: String,
}

#[derive(Default, Deserialize)]
struct Response {
    usage: Option<ResponseUsage>,
    incomplete_details: Option<IncompleteDetails>,
    error: Option<ErrorBody>,
}

#[derive(Deserialize)]
struct IncompleteDetails {
    reason: Option<String>,
}

#[derive(Deserialize)]
struct ResponseUsage {
    input_tokens: u64,
    output_tokens: u64,
    input_tokens_details: Option<Details>,
    output_tokens_details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    cached_tokens: Option<u64>,
    reasoning_tokens: Option<u64>,
}

impl From<ResponseUsage> for Usage {
    fn from(usage: ResponseUsage) -> Self {
        Self {
            input: Some(usage.input_tokens),
            cached_input: usage.input_tokens_details.and_then(|d| d.cached_tokens),
            output: Some(usage.output_tokens),
            reasoning: usage.output_tokens_details.and_then(|d| d.reasoning_tokens),
        }
    }
}
