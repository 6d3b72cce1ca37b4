//! Anthropic Messages.
//!
//! Named SSE events whose data repeats the name as `type`. Content comes in numbered blocks; `ping`
//! may come anywhere; `message_delta` brings the stop reason and the usage so far; `message_stop`
//! ends the stream. An `error` event may come at any time after the 200.

use serde::Deserialize;

use super::tool_calls::ToolCalls;
use super::{Decoder, Failure, FinishReason, ModelError, ModelEvent, Usage};

/// Decodes `message_*` and `content_block_*` events.
#[derive(Debug, Default)]
pub struct Anthropic {
    calls: ToolCalls,
    usage: UsageSoFar,
    stop_reason: Option<String>,
}

impl Decoder for Anthropic {
    fn record(
        &mut self,
        _name: &str,
        data: &str,
        out: &mut Vec<ModelEvent>,
    ) -> Result<(), ModelError> {
        let event: Event =
            serde_json::from_str(data).map_err(|e| ModelError::Malformed(e.to_string()))?;
        match event.kind.as_str() {
            "message_start" => {
                let usage = event.message.and_then(|message| message.usage);
                out.extend(self.usage.update(usage));
            }
            "content_block_start" => {
                let block = event.content_block.unwrap_or_default();
                // Blocks of server tools are run by the provider: never by you.
                if block.kind == "tool_use" {
                    self.calls.start(event.index, &block.id, &block.name, out)?;
                }
                out.extend(some_text(block.text).map(ModelEvent::Text));
                out.extend(some_text(block.thinking).map(ModelEvent::Reasoning));
            }
            "content_block_delta" => {
                let delta = event.delta.unwrap_or_default();
                out.extend(some_text(delta.text).map(ModelEvent::Text));
                out.extend(some_text(delta.thinking).map(ModelEvent::Reasoning));
                // The input of server tools comes as `partial_json` too.
                if let Some(fragment) = delta.partial_json
                    && self.calls.contains(event.index)
                {
                    self.calls.push(event.index, &fragment, out)?;
                }
            }
            "message_delta" => {
                self.stop_reason = event.delta.and_then(|delta| delta.stop_reason);
                out.extend(self.usage.update(event.usage));
            }
            "message_stop" => {
                let reason = self.stop_reason.take().ok_or(ModelError::Truncated)?;
                out.push(self.calls.finish(finish_reason(reason))?);
            }
            "ping" => out.push(ModelEvent::Heartbeat),
            "error" => {
                let error = event.error.unwrap_or_default();
                return Err(ModelError::Provider {
                    failure: Failure::from_code(&error.kind),
                    code: error.kind,
                    message: error.message,
                });
            }
            _ => {}
        }
        Ok(())
    }
}

fn finish_reason(reason: String) -> FinishReason {
    match reason.as_str() {
        "end_turn" | "stop_sequence" => FinishReason::Stop,
        "tool_use" => FinishReason::ToolCalls,
        "max_tokens" | "model_context_window_exceeded" => FinishReason::MaxTokens,
        "refusal" => FinishReason::Refusal,
        "pause_turn" => FinishReason::Paused,
        _ => FinishReason::Other(reason),
    }
}

/// Counts are cumulative, and a null says nothing: each one replaces its predecessor, none is added.
#[derive(Debug, Default, Deserialize)]
struct UsageSoFar {
    input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    output_tokens_details: Option<OutputDetails>,
}

impl UsageSoFar {
    fn update(&mut self, new: Option<Self>) -> Option<ModelEvent> {
        let new = new?;
        self.input_tokens = new.input_tokens.or(self.input_tokens);
        self.cache_creation_input_tokens = new
            .cache_creation_input_tokens
            .or(self.cache_creation_input_tokens);
        self.cache_read_input_tokens = new.cache_read_input_tokens.or(self.cache_read_input_tokens);
        self.output_tokens = new.output_tokens.or(self.output_tokens);
        self.output_tokens_details = new.output_tokens_details.or(self.output_tokens_details);
        // `input_tokens` leaves out what the cache read or wrote.
        let cached = self.cache_read_input_tokens.unwrap_or(0);
        let written = self.cache_creation_input_tokens.unwrap_or(0);
        Some(ModelEvent::Usage(Usage {
            input: self.input_tokens.map(|tokens| tokens + cached + written),
            cached_input: self.cache_read_input_tokens,
            output: self.output_tokens,
            reasoning: self.output_tokens_details.and_then(|d| d.thinking_tokens),
        }))
    }
}

fn some_text(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    index: u32,
    message: Option<Message>,
    content_block: Option<Block>,
    delta: Option<Delta>,
    usage: Option<UsageSoFar>,
    error: Option<ErrorBody>,
}

#[derive(Deserialize)]
struct Message {
    usage: Option<UsageSoFar>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Block {
    #[serde(rename = "type")]
    kind: String,
    id: String,
    name: String,
    text: String,
    thinking: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Delta {
    text: String,
    thinking: String,
    partial_json: Option<String>,
    stop_reason: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
struct OutputDetails {
    thinking_tokens: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ErrorBody {
    #[serde(rename = "type")]
    kind: String,
    message: String,
}
