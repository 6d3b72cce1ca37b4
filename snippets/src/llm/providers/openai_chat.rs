//! OpenAI chat completions, and the many servers that speak the same format.
//!
//! Unnamed SSE events. `finish_reason` comes in the last chunk of the choice, the usage (ask for
//! it: `"stream_options": {"include_usage": true}`) in a later chunk whose `choices` is empty, and
//! `data: [DONE]` ends the stream. Only choice 0 is read: do not ask for `n` > 1.

use serde::Deserialize;

use super::tool_calls::ToolCalls;
use super::{Decoder, Failure, FinishReason, ModelError, ModelEvent, Usage};

/// Decodes `chat.completion.chunk` events.
#[derive(Debug, Default)]
pub struct OpenAiChat {
    calls: ToolCalls,
    finish_reason: Option<String>,
}

impl Decoder for OpenAiChat {
    fn record(
        &mut self,
        _name: &str,
        data: &str,
        out: &mut Vec<ModelEvent>,
    ) -> Result<(), ModelError> {
        if data == "[DONE]" {
            // Without a reason the provider gave up: not an answer, whatever was written before.
            let reason = self.finish_reason.take().ok_or(ModelError::Truncated)?;
            out.push(self.calls.finish(finish_reason(reason))?);
            return Ok(());
        }
        let chunk: Chunk =
            serde_json::from_str(data).map_err(|e| ModelError::Malformed(e.to_string()))?;
        if let Some(error) = chunk.error {
            return Err(error.into());
        }
        if let Some(usage) = chunk.usage {
            out.push(ModelEvent::Usage(usage.into()));
        }
        // The usage chunk has no choices; so has the first chunk of some hosts.
        let choices = chunk.choices.unwrap_or_default();
        for choice in choices.into_iter().filter(|choice| choice.index == 0) {
            let delta = choice.delta.unwrap_or_default();
            let text = |text: Option<String>| text.filter(|text| !text.is_empty());
            out.extend(text(delta.reasoning_content).map(ModelEvent::Reasoning));
            out.extend(text(delta.content).map(ModelEvent::Text));
            out.extend(text(delta.refusal).map(ModelEvent::Refusal));
            for call in delta.tool_calls.unwrap_or_default() {
                let function = call.function.unwrap_or_default();
                // Id and name come in the first delta of a call only; later ones have the index.
                if let (Some(id), Some(name)) = (call.id, function.name) {
                    self.calls.start(call.index, &id, &name, out)?;
                }
                if let Some(fragment) = function.arguments {
                    self.calls.push(call.index, &fragment, out)?;
                }
            }
            self.finish_reason = choice.finish_reason.or(self.finish_reason.take());
        }
        Ok(())
    }
}

fn finish_reason(reason: String) -> FinishReason {
    match reason.as_str() {
        "stop" => FinishReason::Stop,
        "tool_calls" => FinishReason::ToolCalls,
        "length" => FinishReason::MaxTokens,
        "content_filter" => FinishReason::ContentFilter,
        _ => FinishReason::Other(reason),
    }
}

#[derive(Deserialize)]
struct Chunk {
    choices: Option<Vec<Choice>>,
    usage: Option<ChunkUsage>,
    error: Option<ErrorBody>,
}

#[derive(Deserialize)]
struct Choice {
    index: u32,
    delta: Option<Delta>,
    finish_reason: Option<String>,
}

#[derive(Default, Deserialize)]
struct Delta {
    content: Option<String>,
    refusal: Option<String>,
    /// Not OpenAI's: DeepSeek, vLLM and others send their reasoning here.
    reasoning_content: Option<String>,
    tool_calls: Option<Vec<CallDelta>>,
}

#[derive(Deserialize)]
struct CallDelta {
    index: u32,
    id: Option<String>,
    function: Option<FunctionDelta>,
}

#[derive(Default, Deserialize)]
struct FunctionDelta {
    name: Option<String>,
    arguments: Option<String>,
}

#[derive(Deserialize)]
struct ChunkUsage {
    prompt_tokens: u64,
    completion_tokens: u64,
    prompt_tokens_details: Option<Details>,
    completion_tokens_details: Option<Details>,
}

#[derive(Default, Deserialize)]
struct Details {
    cached_tokens: Option<u64>,
    reasoning_tokens: Option<u64>,
}

impl From<ChunkUsage> for Usage {
    fn from(usage: ChunkUsage) -> Self {
        Self {
            input: Some(usage.prompt_tokens),
            cached_input: usage.prompt_tokens_details.and_then(|d| d.cached_tokens),
            output: Some(usage.completion_tokens),
            reasoning: usage
                .completion_tokens_details
                .and_then(|d| d.reasoning_tokens),
        }
    }
}

/// OpenAI's error object; `code` is a string, a number with some hosts, or null.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct ErrorBody {
    code: Option<serde_json::Value>,
    #[serde(rename = "type")]
    kind: Option<String>,
    message: Option<String>,
}

impl ErrorBody {
    pub(super) fn new(code: Option<serde_json::Value>, message: Option<String>) -> Self {
        let kind = None;
        Self {
            code,
            kind,
            message,
        }
    }
}

impl From<ErrorBody> for ModelError {
    fn from(error: ErrorBody) -> Self {
        let code = match error.code {
            Some(serde_json::Value::String(code)) => Some(code),
            Some(serde_json::Value::Number(code)) => Some(code.to_string()),
            _ => None,
        };
        let code = code.or(error.kind).unwrap_or_default();
        Self::Provider {
            failure: Failure::from_code(&code),
            code,
            message: error.message.unwrap_or_default(),
        }
    }
}
