//! Anthropic Messages, and the hosts that speak the same format.
//!
//! Named SSE events whose data repeats the name as `type`. Content comes in numbered blocks; `ping` may come anywhere;
//! `message_delta` brings the stop reason and the usage so far; `message_stop` ends the stream. An `error` event may come at any time
//! after the 200. Needs `providers/{decode,json,tool_calls}` and their files.

use super::failure::ModelError;
use super::model_event::{FinishReason, ModelEvent, Usage};
use super::providers::decode::{Decoder, EndRule, failure_in};
use super::providers::json::{Json, other};
use super::providers::tool_calls::{Piece, ToolCalls};

/// Decodes `message_*` and `content_block_*` events.
#[derive(Debug, Default)]
pub struct Anthropic {
    end_rule: EndRule,
    calls: ToolCalls,
    usage: Counts,
    reason: Option<String>,
    content_after_reason: bool,
}

impl Anthropic {
    /// For a host with another [`EndRule`] than the default.
    pub fn new(end_rule: EndRule) -> Self {
        Self {
            end_rule,
            ..Self::default()
        }
    }

    fn finish(&mut self, out: &mut Vec<ModelEvent>) -> Result<(), ModelError> {
        let reason = match self.reason.take() {
            Some(reason) => reason,
            None if self.end_rule == EndRule::Terminal => "end_turn".to_owned(),
            None => return Err(ModelError::Truncated),
        };
        let reason = match reason.as_str() {
            "end_turn" | "stop_sequence" => FinishReason::Stop,
            "tool_use" => FinishReason::ToolCalls,
            "max_tokens" | "model_context_window_exceeded" => FinishReason::MaxTokens,
            "refusal" => FinishReason::Refusal,
            "pause_turn" => FinishReason::Paused,
            _ => FinishReason::Other(reason),
        };
        out.push(self.calls.finish(reason)?);
        Ok(())
    }

    fn start(
        &mut self,
        index: Option<u64>,
        block: &Json<'_>,
        out: &mut Vec<ModelEvent>,
    ) -> Result<(), ModelError> {
        let (id, name) = (block.get("id").text(), block.get("name").text());
        // Blocks of server tools, whose ids begin otherwise, are run by the provider: never by you.
        let ours = id.is_none_or(|id| !id.starts_with("srvtoolu") && !id.starts_with("mcptoolu"));
        let kind = block.get("type").text().or(match name {
            Some(_) if ours => Some("tool_use"),
            _ => None,
        });
        match kind {
            Some("tool_use") => {
                let input = block.get("input");
                let arguments = match input.is_empty() {
                    true => String::new(),
                    false => input.to_string(),
                };
                let piece = Piece {
                    index,
                    id,
                    name,
                    arguments: &arguments,
                    custom: false,
                };
                // Compatible hosts give the whole input here and send no pieces.
                return match arguments.is_empty() {
                    true => self.calls.piece(piece, out),
                    false => self.calls.whole(piece, out),
                };
            }
            Some("text" | "thinking") | None => {
                let text = |name: &str| block.get(name).text().map(str::to_owned);
                out.extend(text("text").map(ModelEvent::Text));
                out.extend(text("thinking").map(ModelEvent::Reasoning));
                if !block.get("signature").is_empty() {
                    out.push(other("signature_delta", block));
                }
            }
            Some(kind) => out.push(other(kind, block)),
        }
        Ok(())
    }

    fn delta(
        &mut self,
        index: Option<u64>,
        record: &Json<'_>,
        out: &mut Vec<ModelEvent>,
    ) -> Result<(), ModelError> {
        let delta = record.get("delta");
        // Compatible hosts leave the type out.
        let kind = delta.get("type").text().or_else(|| {
            let fields = ["text", "thinking", "partial_json"];
            fields
                .into_iter()
                .find(|name| delta.get(name).text().is_some())
        });
        let (field, event): (_, fn(String) -> ModelEvent) = match kind {
            Some("text_delta" | "text") => ("text", ModelEvent::Text),
            Some("thinking_delta" | "thinking") => ("thinking", ModelEvent::Reasoning),
            Some("input_json_delta" | "partial_json") => {
                let arguments = delta.get("partial_json").text().unwrap_or_default();
                // The input of server tools comes in the same shape.
                if index.is_some_and(|index| !self.calls.contains(index)) {
                    out.push(other("input_json_delta", record));
                    return Ok(());
                }
                let piece = Piece {
                    index,
                    arguments,
                    ..Piece::default()
                };
                return self.calls.piece(piece, out);
            }
            _ if delta.is_empty() => return Ok(()),
            kind => {
                out.push(other(kind.unwrap_or("content_block_delta"), record));
                return Ok(());
            }
        };
        match delta.get(field) {
            Json::Text(text) if !text.is_empty() => out.push(event(text.to_string())),
            value if value.is_empty() => {}
            _ => out.push(other(kind.unwrap_or(field), record)),
        }
        Ok(())
    }
}

impl Decoder for Anthropic {
    fn record(
        &mut self,
        name: &str,
        record: &Json<'_>,
        out: &mut Vec<ModelEvent>,
    ) -> Result<(), ModelError> {
        let kind = record.get("type").text().unwrap_or(name);
        let index = record.get("index").count();
        let before = out.len();
        match kind {
            "content_block_start" => self.start(index, record.get("content_block"), out)?,
            "content_block_delta" => self.delta(index, record, out)?,
            "message_start" => {
                out.extend(self.usage.update(record.get("message").get("usage")));
                return Ok(());
            }
            "message_delta" => {
                let delta = record.get("delta");
                if let Some(reason) = delta.get("stop_reason").text() {
                    self.reason = Some(reason.to_owned());
                    self.content_after_reason = false;
                }
                out.extend(self.usage.update(record.get("usage")));
                // The category of a refusal.
                if !delta.get("stop_details").is_empty() {
                    out.push(other("stop_details", delta.get("stop_details")));
                }
                return Ok(());
            }
            "message_stop" => return self.finish(out),
            "ping" => {
                out.push(ModelEvent::Heartbeat);
                return Ok(());
            }
            "content_block_stop" => return Ok(()),
            _ => {
                if let Some(error) = failure_in(kind, record) {
                    return Err(error);
                }
                out.push(other(kind, record));
                return Ok(());
            }
        }
        self.content_after_reason |= self.reason.is_some() && out.len() > before;
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<ModelEvent>) -> Result<(), ModelError> {
        if self.end_rule != EndRule::Reason || self.reason.is_none() || self.content_after_reason {
            return Err(ModelError::Truncated);
        }
        self.finish(out)
    }
}

/// Counts are cumulative, and a null says nothing: each one replaces its predecessor, none is added.
#[derive(Debug, Default)]
struct Counts {
    usage: Usage,
    /// Written to the cache.
    written: Option<u64>,
}

impl Counts {
    fn update(&mut self, new: &Json<'_>) -> Option<ModelEvent> {
        let count = |name: &str| new.get(name).count();
        if new.is_empty() {
            return None;
        }
        let said = Usage {
            input: count("input_tokens"),
            cached_input: count("cache_read_input_tokens"),
            output: count("output_tokens"),
            reasoning: new
                .get("output_tokens_details")
                .get("thinking_tokens")
                .count(),
        };
        self.usage = said.or(self.usage);
        self.written = count("cache_creation_input_tokens").or(self.written);
        // `input_tokens` leaves out what the cache read or wrote.
        let cached = self.usage.cached_input.unwrap_or(0) + self.written.unwrap_or(0);
        Some(ModelEvent::Usage(Usage {
            input: self.usage.input.map(|tokens| tokens + cached),
            ..self.usage
        }))
    }
}
