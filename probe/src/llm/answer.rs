//! What the events of an answer mean, in the shapes that are in use.

use serde_json::Value;

use crate::sse::is_heartbeat;
use crate::wire_log::Event;

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
    "stream_end",
    "stop",
    "response.completed",
];

/// Reads an event; `terminal` is what the service names its own end.
pub(crate) fn read(event: &Event, terminal: Option<&str>) -> Part {
    let data = event.data.trim();
    if terminal.is_some_and(|own| own == event.event_type || own == data) {
        return Part::Done;
    }
    if data == "[DONE]" {
        return Part::Sentinel;
    }
    if is_heartbeat(event) {
        return Part::Other;
    }
    let json: Option<Value> = serde_json::from_str(data).ok();
    let inner = json
        .as_ref()
        .and_then(|json| json.get("type"))
        .and_then(Value::as_str);
    let names = [Some(event.event_type.as_str()), inner];
    if terminal.is_some_and(|own| inner == Some(own)) {
        return Part::Done;
    }
    for name in names.into_iter().flatten() {
        let name = name.to_ascii_lowercase();
        if [
            "error",
            "fail",
            "abort",
            "truncat",
            "incomplete",
            "interrupt",
        ]
        .iter()
        .any(|word| name.contains(word))
        {
            return Part::Failure;
        }
    }
    if let Some(Value::Object(object)) = &json {
        if object.get("error").is_some_and(|error| !error.is_null()) {
            return Part::Failure;
        }
        if object.get("done") == Some(&Value::Bool(true)) {
            return Part::Done;
        }
    }
    let known = |name: &str| DONE.contains(&name.to_ascii_lowercase().as_str());
    if names.into_iter().flatten().any(known) {
        return Part::Done;
    }
    // `…done` events of parts repeat their text.
    if inner.is_some_and(|name| {
        name.ends_with(".done") || name.ends_with("-end") || name.ends_with("_stop")
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
pub(crate) fn whole_text(events: &[Event], terminal: Option<&str>) -> String {
    events
        .iter()
        .filter_map(|event| match read(event, terminal) {
            Part::Text(text) => Some(text),
            _ => None,
        })
        .collect()
}

/// What is wrong with how an answer ends, if anything.
pub(crate) fn end_of(events: &[Event], terminal: Option<&str>) -> Result<String, String> {
    let parts: Vec<Part> = events.iter().map(|event| read(event, terminal)).collect();
    let at =
        |wanted: Part| -> Vec<usize> { (0..parts.len()).filter(|i| parts[*i] == wanted).collect() };
    let (done, sentinel, failure) = (at(Part::Done), at(Part::Sentinel), at(Part::Failure));
    if done.len() > 1 || sentinel.len() > 1 {
        return Err(format!(
            "{} typed terminal events and {} [DONE]",
            done.len(),
            sentinel.len()
        ));
    }
    let Some(first) = done.iter().chain(&sentinel).chain(&failure).min() else {
        let last = events.last();
        if last.is_some_and(|event| crate::sse::is_terminal(event) || finish_reason(&event.data)) {
            return Ok("the last event carries the finish reason".to_owned());
        }
        return Err("none: the answer just ends".to_owned());
    };
    if parts[*first..]
        .iter()
        .any(|part| matches!(part, Part::Text(_)))
    {
        return Err(format!("text comes after {}", describe(&events[*first])));
    }
    Ok(describe(&events[*first]))
}

/// Gemini and others mark the last chunk itself.
fn finish_reason(data: &str) -> bool {
    serde_json::from_str::<Value>(data).is_ok_and(|json| {
        [
            "/candidates/0/finishReason",
            "/choices/0/finish_reason",
            "/finish_reason",
            "/finishReason",
        ]
        .iter()
        .any(|path| json.pointer(path).is_some_and(Value::is_string))
    })
}

fn describe(event: &Event) -> String {
    format!(
        "{} {}",
        event.event_type,
        crate::report::quote(event.data.as_bytes())
    )
}
