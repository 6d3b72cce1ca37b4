//! What the events of an answer mean, in the shapes that are in use.

use serde_json::Value;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire_log::{Form, Log};

    fn events(form: Form, body: &str) -> Vec<Event> {
        let mut log = Log::new(form);
        log.push(body.as_bytes(), std::time::Instant::now());
        log.events
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
            "data: a b\n\ndata: [DONE]\n\n",
        ];
        for body in sse {
            let events = events(Form::Events, body);
            assert_eq!(whole_text(&events, None), "a b", "{body}");
            assert!(end_of(&events, None).is_ok(), "{body}");
        }
        let ollama = "{\"message\":{\"content\":\"a b\"},\"done\":false}\n{\"message\":{\"content\":\"\"},\"done\":true}\n";
        let old = "0:\"a \"\n0:\"b\"\nd:{\"finishReason\":\"stop\"}\n";
        for body in [ollama, old] {
            let events = events(Form::Lines, body);
            assert_eq!(whole_text(&events, None), "a b", "{body}");
            assert!(end_of(&events, None).is_ok(), "{body}");
        }
    }

    #[test]
    fn an_end_of_ones_own_is_named() {
        let own = events(Form::Events, "data: \"a\"\n\nevent: over\ndata: {}\n\n");
        assert!(end_of(&own, None).is_err());
        assert!(end_of(&own, Some("over")).is_ok());
        let twice = events(
            Form::Events,
            "event: done\ndata: {}\n\nevent: done\ndata: {}\n\n",
        );
        assert!(end_of(&twice, None).is_err());
        let late = events(Form::Events, "event: done\ndata: {}\n\ndata: \"a\"\n\n");
        assert!(end_of(&late, None).is_err());
    }
}
