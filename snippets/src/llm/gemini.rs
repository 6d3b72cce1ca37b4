//! Gemini `streamGenerateContent?alt=sse`.
//!
//! Without `alt=sse` the body is one JSON array, not a stream of events. There is no terminal event: the last chunk has a
//! `finishReason`, and then the body ends. A body that ends without one is truncated. Function calls come whole, unless you ask for
//! streamed arguments: do not. Needs `providers/{decode,json,tool_calls}` and their files.

use super::failure::ModelError;
use super::model_event::{FinishReason, ModelEvent, Usage};
use super::providers::decode::{Decoder, failure_in};
use super::providers::json::{Json, other};
use super::providers::tool_calls::{Piece, ToolCalls};

/// Decodes `GenerateContentResponse` events.
#[derive(Debug, Default)]
pub struct Gemini {
    calls: ToolCalls,
    next_call: u64,
    usage: Usage,
    /// Content that comes after a reason takes it back: the end of the body alone proves nothing.
    reason: Option<String>,
}

impl Decoder for Gemini {
    fn record(
        &mut self,
        name: &str,
        record: &Json<'_>,
        out: &mut Vec<ModelEvent>,
    ) -> Result<(), ModelError> {
        if let Some(error) = failure_in(name, record) {
            return Err(error);
        }
        if let Some(usage) = usage(record.get("usageMetadata")) {
            self.usage = usage.or(self.usage);
            out.push(ModelEvent::Usage(self.usage));
        }
        // The prompt was blocked: there are no candidates, and there will be none.
        self.reason(record.get("promptFeedback").get("blockReason"));
        let candidates = record.get("candidates").items().iter();
        for candidate in candidates.filter(|c| c.get("index").count().unwrap_or(0) == 0) {
            for part in candidate.get("content").get("parts").items() {
                let before = out.len();
                self.part(part, out)?;
                let silent = |event: &ModelEvent| matches!(event, ModelEvent::Other { .. });
                if !out[before..].iter().all(silent) {
                    self.reason = None;
                }
            }
            for name in [
                "groundingMetadata",
                "citationMetadata",
                "urlContextMetadata",
            ] {
                if !candidate.get(name).is_empty() {
                    out.push(other(name, candidate.get(name)));
                }
            }
            self.reason(candidate.get("finishReason"));
        }
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<ModelEvent>) -> Result<(), ModelError> {
        let reason = self.reason.take().ok_or(ModelError::Truncated)?;
        let reason = match reason.as_str() {
            "STOP" => FinishReason::Stop,
            "MAX_TOKENS" => FinishReason::MaxTokens,
            "SAFETY" | "RECITATION" | "BLOCKLIST" | "PROHIBITED_CONTENT" | "SPII" | "JAILBREAK"
            | "MODEL_ARMOR" | "IMAGE_SAFETY" => FinishReason::ContentFilter,
            _ => FinishReason::Other(reason),
        };
        out.push(self.calls.finish(reason)?);
        Ok(())
    }
}

impl Gemini {
    fn reason(&mut self, reason: &Json<'_>) {
        let unspecified = ["FINISH_REASON_UNSPECIFIED", "BLOCK_REASON_UNSPECIFIED"];
        if let Some(reason) = reason.text().filter(|reason| !unspecified.contains(reason)) {
            self.reason = Some(reason.to_owned());
        }
    }

    fn part(&mut self, part: &Json<'_>, out: &mut Vec<ModelEvent>) -> Result<(), ModelError> {
        let (text, call) = (part.get("text"), part.get("functionCall"));
        if let Some(text) = text.text() {
            out.push(match part.get("thought").is_true() {
                true => ModelEvent::Reasoning(text.to_owned()),
                false => ModelEvent::Text(text.to_owned()),
            });
        }
        if !call.is_empty() {
            self.call(call, out)?;
        }
        // Gemini refuses the next request without the signature, in the part where it came.
        if !part.get("thoughtSignature").is_empty() {
            out.push(other("thoughtSignature", part));
        } else if text.text().is_none() && call.is_empty() {
            let known = ["text", "thought", "functionCall"];
            let unknown = part.fields().find(|(name, _)| !known.contains(name));
            out.extend(unknown.map(|(name, _)| other(name, part)));
        }
        Ok(())
    }

    fn call(&mut self, call: &Json<'_>, out: &mut Vec<ModelEvent>) -> Result<(), ModelError> {
        if call.get("willContinue").is_true() || !call.get("partialArgs").is_empty() {
            let text = "streamed function arguments, which this decoder does not read";
            return Err(ModelError::Malformed(text.to_owned()));
        }
        let arguments = call.get("args").as_arguments();
        let piece = Piece {
            index: Some(self.next_call),
            id: call.get("id").text(),
            name: call.get("name").text(),
            arguments: &arguments,
            custom: false,
        };
        self.next_call += 1;
        self.calls.whole(piece, out)
    }
}

/// Totals of the request so far, in every chunk.
fn usage(usage: &Json<'_>) -> Option<Usage> {
    let count = |name: &str| usage.get(name).count();
    // `candidatesTokenCount` leaves the thoughts out, although they are billed as output.
    let sum = |one: Option<u64>, other: Option<u64>| match (one, other) {
        (None, None) => None,
        _ => Some(one.unwrap_or(0) + other.unwrap_or(0)),
    };
    let thoughts = count("thoughtsTokenCount");
    let input = sum(count("promptTokenCount"), count("toolUsePromptTokenCount"));
    let rest = count("totalTokenCount").zip(input);
    let rest = rest.and_then(|(total, input)| total.checked_sub(input));
    let usage = Usage {
        input,
        cached_input: count("cachedContentTokenCount"),
        output: sum(count("candidatesTokenCount"), thoughts).max(rest),
        reasoning: thoughts,
    };
    (usage != Usage::default()).then_some(usage)
}
