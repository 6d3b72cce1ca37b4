//! OpenAI Responses.
//!
//! Named SSE events whose data repeats the name as `type`. There is no `[DONE]`: the stream ends with `response.completed`,
//! `response.incomplete`, `response.failed` or `error`. Needs `providers/{decode,json,tool_calls}` and their files.

use std::collections::HashSet;

use super::failure::ModelError;
use super::model_event::{FinishReason, ModelEvent, Usage};
use super::providers::decode::{Decoder, failure_in};
use super::providers::json::{Json, other};
use super::providers::tool_calls::{Piece, ToolCalls};

/// Decodes `response.*` events.
#[derive(Debug, Default)]
pub struct OpenAiResponses {
    calls: ToolCalls,
    /// Items whose text has come in pieces.
    streamed: HashSet<u64>,
    /// Text has come without the number of its item.
    unplaced: bool,
    /// Items that have come whole, by number and by id.
    done: HashSet<u64>,
    ids: HashSet<String>,
    /// Actions that you are to run: `call_id`, or the id of an approval. Their outputs remove them.
    pending: HashSet<String>,
    /// The id of the response, and the number of the last event.
    response: String,
    last: Option<u64>,
    /// The last event before a cut.
    cut: Option<u64>,
}

/// Items that one answer may hold.
const MAX_ITEMS: usize = 4096;

impl Decoder for OpenAiResponses {
    fn record(
        &mut self,
        name: &str,
        record: &Json<'_>,
        out: &mut Vec<ModelEvent>,
    ) -> Result<(), ModelError> {
        let kind = record.get("type").text().unwrap_or(name);
        let response = record.get("response");
        if let Some(id) = response.get("id").text() {
            id.clone_into(&mut self.response);
        }
        let number = record.get("sequence_number").count();
        if number.is_some() && number <= self.cut {
            return Ok(()); // sent again
        }
        self.last = number.or(self.last);
        let (index, delta) = (record.get("output_index").count(), record.get("delta"));
        let event: fn(String) -> ModelEvent = match kind {
            "response.output_text.delta" => ModelEvent::Text,
            "response.refusal.delta" => ModelEvent::Refusal,
            "response.reasoning_text.delta" | "response.reasoning_summary_text.delta" => {
                ModelEvent::Reasoning
            }
            "response.function_call_arguments.delta" | "response.custom_tool_call_input.delta" => {
                let piece = Piece {
                    index,
                    arguments: delta.text().unwrap_or_default(),
                    custom: kind.starts_with("response.custom"),
                    ..Piece::default()
                };
                return self.calls.piece(piece, out);
            }
            "response.output_item.added" => {
                let item = record.get("item");
                if let Some(piece) = call(index, item) {
                    let arguments = "";
                    self.calls.piece(Piece { arguments, ..piece }, out)?;
                }
                return Ok(());
            }
            "response.output_item.done" => return self.item(index, record.get("item"), out),
            "response.completed" | "response.incomplete" | "response.done" => {
                return self.finish(kind, response, out);
            }
            "response.failed" => return Err(ModelError::provider(&response.to_value())),
            // Each repeats what other events say.
            "response.created"
            | "response.queued"
            | "response.in_progress"
            | "response.output_text.done"
            | "response.refusal.done"
            | "response.content_part.added"
            | "response.content_part.done"
            | "response.reasoning_text.done"
            | "response.reasoning_summary_text.done"
            | "response.reasoning_summary_part.added"
            | "response.reasoning_summary_part.done"
            | "response.function_call_arguments.done"
            | "response.custom_tool_call_input.done" => return Ok(()),
            _ => {
                if let Some(error) = failure_in(kind, record) {
                    return Err(error);
                }
                out.push(other(kind, record));
                return Ok(());
            }
        };
        match delta.text() {
            Some(text) => {
                self.bound(self.streamed.len())?;
                self.streamed.extend(index);
                self.unplaced |= index.is_none();
                out.push(event(text.to_owned()));
            }
            None if delta.is_empty() => {}
            None => out.push(other(kind, record)),
        }
        Ok(())
    }

    /// If the request had `background` and `store`: `GET /v1/responses/{id}?stream=true&starting_after={number}`.
    fn continued(&mut self) -> Option<(String, u64)> {
        self.cut = self.last;
        let id = Some(&self.response).filter(|id| !id.is_empty())?;
        Some((id.clone(), self.last?))
    }
}

impl OpenAiResponses {
    /// A whole item: of calls its arguments, of a message its text where none has come in pieces, of each the raw JSON, which
    /// OpenAI wants back in `input` when it does not store the answer.
    fn item(
        &mut self,
        index: Option<u64>,
        item: &Json<'_>,
        out: &mut Vec<ModelEvent>,
    ) -> Result<(), ModelError> {
        if item.is_empty() {
            return Ok(());
        }
        self.bound(self.done.len().max(self.ids.len()))?;
        let id = item.get("id").text();
        let known = index.is_some_and(|index| self.done.contains(&index))
            || id.is_some_and(|id| self.ids.contains(id));
        self.done.extend(index);
        self.ids.extend(id.map(str::to_owned));
        if known {
            return Ok(());
        }
        let kind = item.get("type").text().unwrap_or_default();
        if let Some(piece) = call(index, item) {
            self.calls.whole(piece, out)?;
        } else if let Some(call) = item.get("call_id").text() {
            match kind.ends_with("_output") {
                true => self.pending.remove(call),
                false => self.pending.insert(call.to_owned()),
            };
        } else if kind.ends_with("_approval_request") {
            let id = item.get("id").text().unwrap_or(kind);
            self.pending.insert(id.to_owned());
        }
        let streamed = match index {
            _ if self.unplaced => true,
            Some(index) => self.streamed.contains(&index),
            None => !self.streamed.is_empty(),
        };
        for part in item.get("content").items().iter().filter(|_| !streamed) {
            let event: fn(String) -> ModelEvent = match part.get("type").text() {
                Some("refusal") => ModelEvent::Refusal,
                Some("output_text") => ModelEvent::Text,
                _ => continue,
            };
            let text = part.get("refusal").text().or(part.get("text").text());
            out.extend(text.map(str::to_owned).map(event));
        }
        out.push(other("response.output_item.done", item));
        Ok(())
    }

    fn finish(
        &mut self,
        kind: &str,
        response: &Json<'_>,
        out: &mut Vec<ModelEvent>,
    ) -> Result<(), ModelError> {
        let status = response.get("status").text().unwrap_or_default();
        if matches!(status, "failed" | "cancelled") || !response.get("error").is_empty() {
            return Err(ModelError::provider(&response.to_value()));
        }
        // Hosts that send no event for an item have it here.
        for (index, item) in (0..).zip(response.get("output").items()) {
            if !self.done.contains(&index) {
                self.item(Some(index), item, out)?;
            }
        }
        out.extend(usage(response.get("usage")));
        let details = response.get("incomplete_details").get("reason").text();
        let reason = match details {
            Some("max_output_tokens" | "max_tokens") => FinishReason::MaxTokens,
            Some("content_filter") => FinishReason::ContentFilter,
            Some(other) => FinishReason::Other(other.to_owned()),
            None if kind == "response.incomplete" || status == "incomplete" => {
                FinishReason::Other("incomplete".to_owned())
            }
            None if !self.pending.is_empty() => FinishReason::AwaitsClient,
            None => FinishReason::Stop,
        };
        out.push(self.calls.finish(reason)?);
        Ok(())
    }

    fn bound(&self, items: usize) -> Result<(), ModelError> {
        let (what, limit) = ("the number of items", MAX_ITEMS);
        match items < limit {
            true => Ok(()),
            false => Err(ModelError::TooLarge { what, limit }),
        }
    }
}

/// A call that is released with the answer; other actions are [`FinishReason::AwaitsClient`].
fn call<'a>(index: Option<u64>, item: &'a Json<'_>) -> Option<Piece<'a>> {
    let custom = match item.get("type").text()? {
        "function_call" => false,
        "custom_tool_call" => true,
        _ => return None,
    };
    let input = if custom { "input" } else { "arguments" };
    Some(Piece {
        index,
        // `id` names the item; the result must name `call_id`.
        id: item.get("call_id").text(),
        name: item.get("name").text(),
        arguments: item.get(input).text().unwrap_or_default(),
        custom,
    })
}

fn usage(usage: &Json<'_>) -> Option<ModelEvent> {
    let details = |side: &str, name: &str| usage.get(side).get(name).count();
    let input = usage.get("input_tokens").count();
    let total = usage.get("total_tokens").count().zip(input);
    let rest = total.and_then(|(total, input)| total.checked_sub(input));
    let usage = Usage {
        input,
        cached_input: details("input_tokens_details", "cached_tokens"),
        output: usage.get("output_tokens").count().max(rest),
        reasoning: details("output_tokens_details", "reasoning_tokens"),
    };
    (usage != Usage::default()).then_some(ModelEvent::Usage(usage))
}
