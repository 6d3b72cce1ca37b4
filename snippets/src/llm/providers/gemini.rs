//! Gemini `streamGenerateContent?alt=sse`.
//!
//! Without `alt=sse` the body is one JSON array, not a stream of events. There is no terminal
//! event: the last chunk has a `finishReason`, and then the body ends. A body that ends without one
//! is truncated. Function calls come whole, unless you ask for streamed arguments: do not.

use serde::Deserialize;

use super::tool_calls::ToolCalls;
use super::{Decoder, Failure, FinishReason, ModelError, ModelEvent, Usage};

/// Decodes `GenerateContentResponse` events.
#[derive(Debug, Default)]
pub struct Gemini {
    calls: ToolCalls,
    next_call: u32,
    finish_reason: Option<String>,
}

impl Decoder for Gemini {
    fn record(
        &mut self,
        _name: &str,
        data: &str,
        out: &mut Vec<ModelEvent>,
    ) -> Result<(), ModelError> {
        let chunk: Chunk =
            serde_json::from_str(data).map_err(|e| ModelError::Malformed(e.to_string()))?;
        if let Some(error) = chunk.error {
            return Err(ModelError::Provider {
                failure: Failure::from_code(&error.status),
                code: error.status,
                message: error.message,
            });
        }
        out.extend(
            chunk
                .usage_metadata
                .map(|usage| ModelEvent::Usage(usage.into())),
        );
        // The prompt was blocked: there are no candidates, and there will be none.
        let blocked = chunk
            .prompt_feedback
            .and_then(|feedback| feedback.block_reason);
        self.finish_reason = blocked.or(self.finish_reason.take());
        for candidate in chunk.candidates.into_iter().filter(|c| c.index == 0) {
            for part in candidate.content.unwrap_or_default().parts {
                if let Some(text) = part.text.filter(|text| !text.is_empty()) {
                    out.push(match part.thought {
                        true => ModelEvent::Reasoning(text),
                        false => ModelEvent::Text(text),
                    });
                }
                if let Some(call) = part.function_call {
                    self.call(call, out)?;
                }
            }
            self.finish_reason = candidate.finish_reason.or(self.finish_reason.take());
        }
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<ModelEvent>) -> Result<(), ModelError> {
        let reason = self.finish_reason.take().ok_or(ModelError::Truncated)?;
        out.push(self.calls.finish(finish_reason(reason))?);
        Ok(())
    }
}

impl Gemini {
    fn call(&mut self, call: FunctionCall, out: &mut Vec<ModelEvent>) -> Result<(), ModelError> {
        if call.will_continue.unwrap_or(false) || call.partial_args.is_some() {
            let text = "streamed function arguments, which this decoder does not read";
            return Err(ModelError::Malformed(text.to_owned()));
        }
        let index = self.next_call;
        self.next_call += 1;
        let id = call.id.unwrap_or_default();
        self.calls.start(index, &id, &call.name, out)?;
        let arguments = call.args.map(|args| args.to_string()).unwrap_or_default();
        self.calls.push(index, &arguments, out)
    }
}

fn finish_reason(reason: String) -> FinishReason {
    match reason.as_str() {
        "STOP" => FinishReason::Stop,
        "MAX_TOKENS" => FinishReason::MaxTokens,
        "SAFETY" | "RECITATION" | "BLOCKLIST" | "PROHIBITED_CONTENT" | "SPII" | "JAILBREAK"
        | "MODEL_ARMOR" => FinishReason::ContentFilter,
        _ => FinishReason::Other(reason),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Chunk {
    #[serde(default)]
    candidates: Vec<Candidate>,
    prompt_feedback: Option<PromptFeedback>,
    usage_metadata: Option<UsageMetadata>,
    error: Option<ErrorBody>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PromptFeedback {
    block_reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Candidate {
    #[serde(default)]
    index: u32,
    content: Option<Content>,
    finish_reason: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Content {
    parts: Vec<Part>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part {
    text: Option<String>,
    #[serde(default)]
    thought: bool,
    function_call: Option<FunctionCall>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FunctionCall {
    id: Option<String>,
    #[serde(default)]
    name: String,
    args: Option<serde_json::Value>,
    partial_args: Option<serde_json::Value>,
    will_continue: Option<bool>,
}

/// Totals of the request so far, in every chunk.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct UsageMetadata {
    prompt_token_count: Option<u64>,
    tool_use_prompt_token_count: Option<u64>,
    cached_content_token_count: Option<u64>,
    candidates_token_count: Option<u64>,
    thoughts_token_count: Option<u64>,
}

impl From<UsageMetadata> for Usage {
    fn from(usage: UsageMetadata) -> Self {
        // `candidatesTokenCount` leaves the thoughts out, although they are billed as output.
        let sum = |one: Option<u64>, other: Option<u64>| match (one, other) {
            (None, None) => None,
            _ => Some(one.unwrap_or(0) + other.unwrap_or(0)),
        };
        Self {
            input: sum(usage.prompt_token_count, usage.tool_use_prompt_token_count),
            cached_input: usage.cached_content_token_count,
            output: sum(usage.candidates_token_count, usage.thoughts_token_count),
            reasoning: usage.thoughts_token_count,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ErrorBody {
    status: String,
    message: String,
}
