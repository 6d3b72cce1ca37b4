//! OpenAI chat completions, and the many servers that speak the same format in their own way.
//!
//! Unnamed SSE events. `finish_reason` comes in the last chunk of the choice, the usage (ask for it:
//! `"stream_options": {"include_usage": true}`) in a later chunk whose `choices` is empty, and `data: [DONE]` ends the stream. Only
//! choice 0 is read: do not ask for `n` > 1. Needs `providers/{decode,json,tool_calls}` and their files.

use super::failure::ModelError;
use super::model_event::{FinishReason, ModelEvent, Usage};
use super::providers::decode::{Decoder, EndRule, failure_in, gave_up};
use super::providers::json::{Json, other};
use super::providers::tool_calls::{Piece, ToolCalls};

/// Decodes `chat.completion.chunk` events.
#[derive(Debug, Default)]
pub struct OpenAiChat {
    end_rule: EndRule,
    calls: ToolCalls,
    usage: Usage,
    reason: Option<String>,
    /// Content has come after the reason: the end of the body alone proves nothing.
    content_after_reason: bool,
    has_content: bool,
}

impl OpenAiChat {
    /// For a host with another [`EndRule`] than the default.
    pub fn new(end_rule: EndRule) -> Self {
        Self {
            end_rule,
            ..Self::default()
        }
    }

    fn finish(&mut self, out: &mut Vec<ModelEvent>) -> Result<(), ModelError> {
        // Without a reason the provider gave up: not an answer, whatever was written before.
        let reason = match self.reason.take() {
            Some(reason) => reason,
            None if self.end_rule == EndRule::Terminal => "stop".to_owned(),
            None => return Err(ModelError::Truncated),
        };
        if let Some(error) = gave_up(&reason) {
            return Err(error);
        }
        let reason = match reason.as_str() {
            "stop" | "eos" | "end_turn" => FinishReason::Stop,
            "tool_calls" => FinishReason::ToolCalls,
            "function_call" if !self.calls.is_empty() => FinishReason::ToolCalls,
            "length" | "max_tokens" | "model_length" => FinishReason::MaxTokens,
            "content_filter" => FinishReason::ContentFilter,
            _ => FinishReason::Other(reason),
        };
        out.push(self.calls.finish(reason)?);
        Ok(())
    }

    fn delta(&mut self, delta: &Json<'_>, out: &mut Vec<ModelEvent>) -> Result<(), ModelError> {
        // One of the two names; hosts that send both repeat the text.
        let reasoning = delta.get("reasoning_content");
        let reasoning = match reasoning.is_empty() {
            true => delta.get("reasoning"),
            false => reasoning,
        };
        parts(reasoning, &ModelEvent::Reasoning, "reasoning", out);
        parts(delta.get("content"), &ModelEvent::Text, "content", out);
        parts(delta.get("refusal"), &ModelEvent::Refusal, "refusal", out);
        for call in delta.get("tool_calls").items() {
            self.call(call, call, out)?;
        }
        // The predecessor of `tool_calls`.
        if !delta.get("function_call").is_empty() {
            self.call(delta, delta.get("function_call"), out)?;
        }
        for (name, value) in delta.fields() {
            let known = [
                "role",
                "content",
                "refusal",
                "reasoning",
                "reasoning_content",
                "tool_calls",
                "function_call",
            ];
            if !known.contains(&name) && !value.is_empty() {
                out.push(other(name, value));
            }
        }
        Ok(())
    }

    fn call(
        &mut self,
        call: &Json<'_>,
        function: &Json<'_>,
        out: &mut Vec<ModelEvent>,
    ) -> Result<(), ModelError> {
        let custom = call.get("custom");
        let function = match (custom.is_empty(), call.get("function").is_empty()) {
            (false, _) => custom,
            (true, false) => call.get("function"),
            (true, true) => function,
        };
        let arguments = match custom.is_empty() {
            true => function.get("arguments"),
            false => custom.get("input"),
        };
        let arguments = arguments.as_arguments();
        let piece = Piece {
            index: call.get("index").count(),
            id: call.get("id").text(),
            name: function.get("name").text(),
            arguments: &arguments,
            custom: !custom.is_empty(),
        };
        self.calls.piece(piece, out)?;
        // Google's thought signature.
        let extra = call.get("extra_content");
        if !extra.is_empty() {
            out.push(other("tool_calls", call));
        }
        Ok(())
    }

    fn usage(&mut self, usage: &Json<'_>, out: &mut Vec<ModelEvent>) {
        let details = |side: &str, name: &str| usage.get(side).get(name).count();
        let prompt = usage.get("prompt_tokens").count();
        let completion = usage.get("completion_tokens").count();
        // xAI and Google leave the reasoning out of `completion_tokens`, not out of the total.
        let rest = usage.get("total_tokens").count().zip(prompt);
        let rest = rest.and_then(|(total, prompt)| total.checked_sub(prompt));
        let new = Usage {
            input: prompt,
            cached_input: details("prompt_tokens_details", "cached_tokens")
                .or(usage.get("prompt_cache_hit_tokens").count()),
            output: completion.max(rest),
            reasoning: details("completion_tokens_details", "reasoning_tokens"),
        };
        if new != Usage::default() {
            self.usage = new.or(self.usage);
            out.push(ModelEvent::Usage(self.usage));
        }
    }
}

impl Decoder for OpenAiChat {
    fn record(
        &mut self,
        name: &str,
        record: &Json<'_>,
        out: &mut Vec<ModelEvent>,
    ) -> Result<(), ModelError> {
        // Groq reports a failure next to its usage.
        let reports = [(name, record), ("", record.get("x_groq"))];
        if let Some(error) = reports.iter().find_map(|(name, one)| failure_in(name, one)) {
            return Err(error);
        }
        self.usage(record.get("usage"), out);
        self.usage(record.get("x_groq").get("usage"), out);
        // The usage chunk has no choices; so has Azure's first chunk.
        let choices = record.get("choices").items().iter();
        for choice in choices.filter(|choice| choice.get("index").count().unwrap_or(0) == 0) {
            if let Some(error) = failure_in("", choice) {
                return Err(error);
            }
            self.usage(choice.get("usage"), out);
            let before = out.len();
            // A host that does not stream sends one `message`; others repeat the whole in it at the end.
            let delta = choice.get("delta");
            if !delta.is_empty() {
                self.delta(delta, out)?;
            } else if !self.has_content {
                self.delta(choice.get("message"), out)?;
            }
            if out.len() > before {
                self.has_content = true;
                self.content_after_reason = self.reason.is_some();
            }
            if let Some(reason) = choice.get("finish_reason").text() {
                self.reason = Some(reason.to_owned());
                self.content_after_reason = false;
            }
        }
        Ok(())
    }

    fn done(&mut self, out: &mut Vec<ModelEvent>) -> Result<(), ModelError> {
        self.finish(out)
    }

    fn end(&mut self, out: &mut Vec<ModelEvent>) -> Result<(), ModelError> {
        if self.end_rule != EndRule::Reason || self.reason.is_none() || self.content_after_reason {
            return Err(ModelError::Truncated);
        }
        self.finish(out)
    }
}

/// Text, or a list of parts (Mistral): text, or thinking that has parts itself.
fn parts(
    content: &Json<'_>,
    event: &dyn Fn(String) -> ModelEvent,
    name: &str,
    out: &mut Vec<ModelEvent>,
) {
    match content {
        Json::Text(text) if !text.is_empty() => out.push(event(text.to_string())),
        Json::List(items) => {
            for item in items {
                parts(item, event, name, out);
            }
        }
        Json::Object(_) => {
            let thinking = content.get("thinking");
            match (content.get("text").text(), thinking.is_empty()) {
                (Some(text), _) => out.push(event(text.to_owned())),
                (None, false) => parts(thinking, &ModelEvent::Reasoning, name, out),
                (None, true) if content.get("type").text() == Some("text") => {}
                (None, true) if content.is_empty() => {}
                (None, true) => out.push(other(name, content)),
            }
        }
        _ => {}
    }
}
