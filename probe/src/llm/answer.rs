//! What the events of an answer mean, in the shapes that are in use.

use serde_json::Value;

use crate::Terminal;
use crate::wire_log::{Event, Form, Log};

/// What one event is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
	Text(String),
	/// The end as it should be.
	Done,
	/// `[DONE]`, which may follow a typed end.
	Sentinel,
	/// An error, an abort, or an end that says it is none.
	Failure,
	/// Heartbeats, metadata, usage and whatever else.
	Other,
}

const DONE: &[&str] = &[
	"done",
	"end",
	"complete",
	"completed",
	"finish",
	"finished",
	"message_stop",
	"messagestop",
	"message_end",
	"message-end",
	"stream_end",
	"stop",
	"response.completed",
	"run_finished",
];

/// Reads an event; `terminals` are how the service names its own ends.
pub(crate) fn read(event: &Event, terminals: &[Terminal]) -> Part {
	let data = event.data.trim();
	let json: Option<Value> = serde_json::from_str(data).ok();
	if terminals.iter().any(|own| own.matches(event, json.as_ref())) {
		return Part::Done;
	}
	if data == "[DONE]" {
		return Part::Sentinel;
	}
	// Dify has its name in `event`.
	let inner = json.as_ref().and_then(|json| json.get("type").or_else(|| json.get("event"))).and_then(Value::as_str);
	let names = [Some(event.event_type.as_str()), inner];
	for name in names.into_iter().flatten() {
		let name = name.to_ascii_lowercase();
		if ["error", "fail", "abort", "truncat", "incomplete", "interrupt"].iter().any(|word| name.contains(word)) {
			return Part::Failure;
		}
	}
	if let Some(Value::Object(object)) = &json {
		if object.get("error").is_some_and(|error| !error.is_null()) {
			return Part::Failure;
		}
		// llama.cpp's own API has `stop`, Bedrock's Converse `messageStop`.
		let ends = |key: &str| object.get(key) == Some(&Value::Bool(true));
		if ends("done") || ends("stop") || object.contains_key("messageStop") {
			return Part::Done;
		}
	}
	let known = |name: &str| DONE.contains(&name.to_ascii_lowercase().as_str());
	if names.into_iter().flatten().any(known) {
		return Part::Done;
	}
	// `…done` events of parts repeat their text.
	if inner.is_some_and(|name| {
		let name = name.to_ascii_lowercase();
		[".done", "-end", "_end", "_stop"].iter().any(|end| name.ends_with(end))
	}) {
		return Part::Other;
	}
	match json {
		Some(Value::String(text)) => Part::Text(text),
		Some(Value::Object(object)) => match text(&Value::Object(object)) {
			Some(text) => Part::Text(text),
			None => Part::Other,
		},
		Some(Value::Null | Value::Array(_)) => Part::Other,
		// A number or a boolean may well be a token.
		Some(_) => Part::Text(event.data.clone()),
		None => match old_data_stream(data) {
			Some(part) => part,
			None => Part::Text(event.data.clone()),
		},
	}
}

/// `0:"text"`, the data stream of AI SDK 3 and 4.
fn old_data_stream(data: &str) -> Option<Part> {
	let (kind, value) = data.split_once(':')?;
	let value: Value = serde_json::from_str(value).ok()?;
	match (kind, value) {
		("0", Value::String(text)) => Some(Part::Text(text)),
		("d", _) => Some(Part::Done),
		("3", _) => Some(Part::Failure),
		("2" | "8" | "9" | "a" | "b" | "c" | "e" | "f" | "g", _) => Some(Part::Other),
		_ => None,
	}
}

/// The text of a delta, wherever the shapes in use have it.
fn text(value: &Value) -> Option<String> {
	const PATHS: &[&str] = &[
		"/choices/0/delta/content",
		"/delta/text",
		"/delta/content",
		"/delta/message/content/text",
		"/contentBlockDelta/delta/text",
		"/token/text",
		"/answer",
		"/message/content",
		"/candidates/0/content/parts/0/text",
		"/delta",
		"/text",
		"/token",
		"/content",
		"/t",
		"/value",
		"/response",
		"/data/text",
		"/data/delta",
	];
	PATHS
		.iter()
		.find_map(|path| value.pointer(path).and_then(Value::as_str))
		.filter(|text| !text.is_empty())
		.map(str::to_owned)
}

/// The text of a whole answer.
pub(crate) fn whole_text(events: &[Event], terminals: &[Terminal]) -> String {
	events
		.iter()
		.filter_map(|event| match read(event, terminals) {
			Part::Text(text) => Some(text),
			_ => None,
		})
		.collect()
}

/// How an answer ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ends {
	Right(String),
	Wrong(String),
	/// In a shape that the probe does not know.
	Unclear(String),
}

/// Judges the end of an answer that is complete.
pub(crate) fn end_of(log: &Log, terminals: &[Terminal]) -> Ends {
	let events = &log.events;
	let parts: Vec<Part> = events.iter().map(|event| read(event, terminals)).collect();
	let at = |wanted: Part| -> Vec<usize> { (0..parts.len()).filter(|i| parts[*i] == wanted).collect() };
	let (done, sentinel, failure) = (at(Part::Done), at(Part::Sentinel), at(Part::Failure));
	if done.len() > 1 || sentinel.len() > 1 {
		return Ends::Wrong(format!("{} typed terminal events and {} [DONE]", done.len(), sentinel.len()));
	}
	let Some(first) = done.iter().chain(&sentinel).chain(&failure).min() else {
		return without_end(log, &parts, terminals);
	};
	if parts[*first..].iter().any(|part| matches!(part, Part::Text(_))) {
		return Ends::Wrong(format!("text comes after {}", describe(&events[*first])));
	}
	Ends::Right(describe(&events[*first]))
}

fn without_end(log: &Log, parts: &[Part], terminals: &[Terminal]) -> Ends {
	let dataless = log.dataless.iter().find(|name| DONE.contains(&name.to_ascii_lowercase().as_str()));
	if let Some(name) = dataless {
		return Ends::Wrong(format!("event: {name} came without data, which never fires"));
	}
	let Some(last) = log.events.last() else {
		return Ends::Unclear("the answer has no event".to_owned());
	};
	if !terminals.is_empty() {
		return Ends::Wrong("no event is one of --terminal".to_owned());
	}
	let mut ending = log.events.iter().rev().take(3);
	if crate::sse::is_terminal(last) || ending.any(|event| finish_reason(&event.data)) {
		return Ends::Right("one of the last events carries the finish reason".to_owned());
	}
	if log.form == Form::Chunks {
		return Ends::Unclear(
			"plain text has no events: llm-truncation-visible shows whether a cut looks different from its end"
				.to_owned(),
		);
	}
	let like_text = |event: &Event| {
		let same = |(other, part): (&Event, &Part)| matches!(part, Part::Text(_)) && shape(other) == shape(event);
		log.events.iter().zip(parts).any(same)
	};
	if like_text(last) {
		return Ends::Wrong("none: the last event is a piece of text like the others".to_owned());
	}
	Ends::Unclear(format!(
		"the last event, {}, is not a known end (name yours with --terminal, such as --terminal FIELD=VALUE)",
		describe(last)
	))
}

/// The kind of an event, whatever its text: its name and the keys of its JSON.
fn shape(event: &Event) -> (String, Vec<String>) {
	let keys = match serde_json::from_str(event.data.trim()) {
		Ok(Value::Object(object)) => object.keys().cloned().collect(),
		_ => Vec::new(),
	};
	(event.event_type.clone(), keys)
}

/// The shapes of the events after the last piece of text.
pub(crate) fn tail(events: &[Event], terminals: &[Terminal]) -> Vec<(String, Vec<String>)> {
	let text = |event: &Event| matches!(read(event, terminals), Part::Text(_));
	let after = events.iter().rposition(text).map_or(0, |last| last + 1);
	events[after..].iter().map(shape).collect()
}

/// Gemini, TGI and others mark the last chunk itself.
pub(crate) fn finish_reason(data: &str) -> bool {
	serde_json::from_str::<Value>(data).is_ok_and(|json| {
		["/candidates/0/finishReason", "/choices/0/finish_reason", "/finish_reason", "/finishReason", "/generated_text"]
			.iter()
			.any(|path| json.pointer(path).is_some_and(Value::is_string))
	})
}

fn describe(event: &Event) -> String {
	format!("{} {}", event.event_type, crate::report::quote(event.data.as_bytes()))
}

#[cfg(test)]
mod tests {
	use super::*;
	use crate::wire_log::{Form, Log};

	fn log(form: Form, body: &str) -> Log {
		let mut log = Log::new(form);
		log.push(body.as_bytes(), std::time::Instant::now());
		log
	}

	fn right(log: &Log, terminals: &[&str]) -> bool {
		let terminals: Vec<_> = terminals.iter().map(|text| Terminal::parse(text)).collect();
		matches!(end_of(log, &terminals), Ends::Right(_))
	}

	/// The shapes in use, as their documentation has them.
	#[test]
	fn text_and_end_are_found_in_every_shape() {
		let sse = [
			"data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"a b\"}}]}\n\ndata: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
			"event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"content\":[]}}\n\nevent: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"a b\"}}\n\nevent: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
			"data: {\"type\":\"response.output_text.delta\",\"delta\":\"a b\"}\n\ndata: {\"type\":\"response.output_text.done\",\"text\":\"a b\"}\n\ndata: {\"type\":\"response.completed\",\"response\":{}}\n\n",
			"data: {\"type\":\"start\"}\n\ndata: {\"type\":\"text-start\",\"id\":\"0\"}\n\ndata: {\"type\":\"text-delta\",\"id\":\"0\",\"delta\":\"a b\"}\n\ndata: {\"type\":\"text-end\",\"id\":\"0\"}\n\ndata: {\"type\":\"finish-step\"}\n\ndata: {\"type\":\"finish\"}\n\ndata: [DONE]\n\n",
			"data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"a \"}]}}]}\n\ndata: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"b\"}]},\"finishReason\":\"STOP\"}]}\n\n",
			"data: \"a b\"\n\nevent: done\ndata: {}\n\n",
			// llama.cpp, TGI, Dify, Cohere, AG-UI.
			"data: {\"content\":\"a b\",\"stop\":false}\n\ndata: {\"content\":\"\",\"stop\":true}\n\n",
			"data: {\"token\":{\"text\":\"a \"},\"generated_text\":null}\n\ndata: {\"token\":{\"text\":\"b\"},\"generated_text\":\"a b\"}\n\n",
			"data: {\"event\":\"message\",\"answer\":\"a b\"}\n\ndata: {\"event\":\"message_end\",\"metadata\":{}}\n\n",
			"data: {\"type\":\"content-delta\",\"delta\":{\"message\":{\"content\":{\"text\":\"a b\"}}}}\n\ndata: {\"type\":\"content-end\"}\n\ndata: {\"type\":\"message-end\"}\n\n",
			"data: {\"type\":\"TEXT_MESSAGE_CONTENT\",\"delta\":\"a b\"}\n\ndata: {\"type\":\"TEXT_MESSAGE_END\"}\n\ndata: {\"type\":\"RUN_FINISHED\"}\n\n",
			"data: a b\n\ndata: [DONE]\n\n",
		];
		for body in sse {
			let log = log(Form::Events, body);
			assert_eq!(whole_text(&log.events, &[]), "a b", "{body}");
			assert!(right(&log, &[]), "{body}");
		}
		let ollama =
			"{\"message\":{\"content\":\"a b\"},\"done\":false}\n{\"message\":{\"content\":\"\"},\"done\":true}\n";
		let bedrock =
			"{\"contentBlockDelta\":{\"delta\":{\"text\":\"a b\"}}}\n{\"messageStop\":{\"stopReason\":\"end_turn\"}}\n";
		let old = "0:\"a \"\n0:\"b\"\nd:{\"finishReason\":\"stop\"}\n";
		for body in [ollama, bedrock, old] {
			let log = log(Form::Lines, body);
			assert_eq!(whole_text(&log.events, &[]), "a b", "{body}");
			assert!(right(&log, &[]), "{body}");
		}
	}

	#[test]
	fn an_own_end_is_named_and_an_unknown_one_is_no_failure() {
		let own = log(Form::Events, "data: \"a\"\n\nevent: over\ndata: {}\n\n");
		assert!(matches!(end_of(&own, &[]), Ends::Unclear(_)));
		assert!(right(&own, &["over"]));
		assert!(right(&own, &["refused", "over"]));
		for wrong in [
			"event: done\ndata: {}\n\nevent: done\ndata: {}\n\n",
			"event: done\ndata: {}\n\ndata: \"a\"\n\n",
			"data: \"a\"\n\ndata: \"b\"\n\n",
			"data: \"a\"\n\nevent: end\n\n",
		] {
			let log = log(Form::Events, wrong);
			assert!(matches!(end_of(&log, &[]), Ends::Wrong(_)), "{wrong}");
		}
	}
}
