//! `decode`: a recorded body from standard input, one JSON object per event on standard output.

use std::io::{Read, Write};

use clap::ValueEnum;
use serde_json::{Value, json};
use stream_probe::wire::{Limits, Parser};

use crate::Outcome;
use crate::llm::failure::{Failure, ModelError};
use crate::llm::model_event::{FinishReason, ModelEvent};
use crate::llm::providers::decode::{Decoder, Records};
use crate::llm::{anthropic, gemini, ollama, openai_chat, openai_responses};

/// One JSON object per event, and `{"retry":ms}` whenever the stream changes the reconnection time.
pub(crate) fn events(mut input: impl Read) -> Outcome {
	let mut out = std::io::BufWriter::new(std::io::stdout().lock());
	let mut parser = Parser::new(Limits { line: 256 << 20, event: 256 << 20 });
	let mut retry = None;
	let mut chunk = vec![0_u8; 64 * 1024];
	loop {
		let length = input.read(&mut chunk)?;
		if length == 0 {
			break;
		}
		// Line by line, so that a retry is written in its place among the events.
		for line in chunk[..length].split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
			let mut events = parser.push(line);
			while let Some(event) = events.next()? {
				let event = json!({
					"type": event.event_type,
					"data": event.data,
					"lastEventId": event.last_event_id,
				});
				writeln!(out, "{event}")?;
			}
			let now = parser.retry();
			if now != retry {
				retry = now;
				let ms = now.unwrap_or_default().as_millis() as u64;
				writeln!(out, "{}", json!({ "retry": ms }))?;
			}
		}
		out.flush()?;
	}
	Ok(())
}

/// Whose dialect a recorded answer is written in.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Provider {
	OpenaiChat,
	OpenaiResponses,
	Anthropic,
	Gemini,
	Ollama,
}

/// One JSON object per model event; `Ok(true)` if the answer is complete.
pub(crate) fn model_events(provider: Provider, input: impl Read) -> Result<bool, Box<dyn std::error::Error>> {
	match provider {
		Provider::OpenaiChat => answer(openai_chat::OpenAiChat::default(), input),
		Provider::OpenaiResponses => answer(openai_responses::OpenAiResponses::default(), input),
		Provider::Anthropic => answer(anthropic::Anthropic::default(), input),
		Provider::Gemini => answer(gemini::Gemini::default(), input),
		Provider::Ollama => answer(ollama::Ollama::default(), input),
	}
}

fn answer<D: Decoder>(decoder: D, mut input: impl Read) -> Result<bool, Box<dyn std::error::Error>> {
	let mut out = std::io::BufWriter::new(std::io::stdout().lock());
	let mut records = Records::new(decoder);
	let mut events = Vec::new();
	let mut complete = false;
	let mut chunk = vec![0_u8; 64 * 1024];
	loop {
		let length = input.read(&mut chunk)?;
		let result = match length {
			0 => records.end(&mut events),
			_ => records.push(&chunk[..length], &mut events),
		};
		for event in events.drain(..) {
			if let ModelEvent::Finish { reason, .. } = &event {
				complete = !matches!(reason, FinishReason::MaxTokens | FinishReason::ContentFilter);
			}
			if let Some(event) = of_event(&event) {
				writeln!(out, "{event}")?;
			}
		}
		if let Err(error) = &result {
			writeln!(out, "{}", of_error(error))?;
			complete = false;
		}
		out.flush()?;
		if length == 0 || result.is_err() {
			return Ok(complete);
		}
	}
}

/// `None` for a heartbeat, of which a recording has as many as it has reads.
fn of_event(event: &ModelEvent) -> Option<Value> {
	Some(match event {
		ModelEvent::Heartbeat => return None,
		ModelEvent::Text(text) => json!({ "type": "text", "text": text }),
		ModelEvent::Reasoning(text) => json!({ "type": "reasoning", "text": text }),
		ModelEvent::Refusal(text) => json!({ "type": "refusal", "text": text }),
		ModelEvent::ToolCallStart { index, id, name } => {
			json!({ "type": "tool_call_start", "index": index, "id": id, "name": name })
		}
		ModelEvent::ToolCallDelta { index, fragment } => {
			json!({ "type": "tool_call_delta", "index": index, "fragment": fragment })
		}
		ModelEvent::Usage(usage) => json!({
			"type": "usage",
			"input": usage.input,
			"cached_input": usage.cached_input,
			"output": usage.output,
			"reasoning": usage.reasoning,
		}),
		ModelEvent::Other { kind, raw } => json!({ "type": "other", "kind": kind, "raw": raw }),
		ModelEvent::Finish { reason, tool_calls } => {
			let calls = tool_calls.iter();
			let calls = calls.map(|call| json!({ "id": call.id, "name": call.name, "arguments": call.arguments }));
			json!({ "type": "finish", "reason": of_reason(reason), "tool_calls": calls.collect::<Vec<_>>() })
		}
	})
}

fn of_reason(reason: &FinishReason) -> &str {
	match reason {
		FinishReason::Stop => "stop",
		FinishReason::ToolCalls => "tool_calls",
		FinishReason::AwaitsClient => "awaits_client",
		FinishReason::MaxTokens => "max_tokens",
		FinishReason::ContentFilter => "content_filter",
		FinishReason::Refusal => "refusal",
		FinishReason::Paused => "paused",
		FinishReason::Other(reason) => reason,
	}
}

/// `kind`: how it failed; `class`: whose fault it is, by which `retry` is decided.
fn of_error(error: &ModelError) -> Value {
	let kind = match error {
		ModelError::Truncated => "truncated",
		ModelError::Provider { .. } => "provider",
		ModelError::Status { .. } => "status",
		ModelError::Malformed(_) => "malformed",
		ModelError::TooLarge { .. } => "too_large",
		ModelError::Transport(_) => "transport",
	};
	let class = match error.failure() {
		Failure::RateLimited => "rate_limited",
		Failure::Overloaded => "overloaded",
		Failure::Internal => "internal",
		Failure::Rejected => "rejected",
		Failure::Misconfigured => "misconfigured",
		Failure::AccountEmpty => "account_empty",
	};
	json!({
		"type": "error",
		"kind": kind,
		"class": class,
		"retry": error.failure().is_retryable(),
		"message": error.to_string(),
	})
}
