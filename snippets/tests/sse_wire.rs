//! `sse/wire`: three tables of cases in every chunking, bounds, and the serializer's round trip.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::Value;
use snippets::sse::event::{Event, InvalidEvent};
use snippets::sse::streams::Chunk;
use snippets::sse::wire::{Limits, ParseError, Parser};

/// What a stream gave.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Outcome {
    /// Type, data, last event id.
    pub events: Vec<(String, String, String)>,
    pub last_event_id: String,
    pub retry: Option<Duration>,
}

pub fn parse<'c>(initial_id: &str, chunks: impl IntoIterator<Item = &'c [u8]>) -> Outcome {
    let mut parser = Parser::new(Limits::default()).resume_after(initial_id);
    let mut outcome = Outcome::default();
    for chunk in chunks {
        let mut events = parser.push(chunk);
        while let Some(event) = events.next().unwrap() {
            outcome.events.push((
                event.event_type.to_owned(),
                event.data.to_owned(),
                event.last_event_id.to_owned(),
            ));
        }
    }
    outcome.last_event_id = parser.last_event_id().to_owned();
    outcome.retry = parser.retry();
    outcome
}

/// Cuts `bytes` into chunks of the lengths that `seed` gives, empty ones among them.
fn cut(bytes: &[u8], mut seed: u64) -> Vec<&[u8]> {
    let mut chunks = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        seed = seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let length = ((seed >> 33) as usize % 9).min(rest.len());
        let (chunk, more) = rest.split_at(length);
        chunks.push(chunk);
        rest = more;
    }
    chunks
}

pub struct Case {
    pub name: String,
    pub raw: Vec<u8>,
    pub initial_id: String,
    pub chunks: Option<Vec<Vec<u8>>>,
    pub expected: Vec<(String, String, String)>,
    json: Value,
}

pub fn base64(text: &str) -> Vec<u8> {
    let value = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        other => panic!("{other} in base64"),
    };
    let mut bytes = Vec::new();
    for group in text.trim_end_matches('=').as_bytes().chunks(4) {
        let bits = group.iter().enumerate().fold(0_u32, |bits, (at, &c)| {
            bits | u32::from(value(c)) << (18 - 6 * at)
        });
        bytes.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    bytes
}

/// The cases of one file that are about parsing a body.
pub fn cases(file: &str) -> Vec<Case> {
    let path = format!("{}/tests/data/{file}", env!("CARGO_MANIFEST_DIR"));
    let json: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    json["cases"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|case| !text(&case["connection"]).starts_with("failed"))
        .map(|case| Case {
            name: text(&case["name"]),
            raw: base64(case["raw_base64"].as_str().unwrap()),
            initial_id: text(&case["initial_last_event_id"]),
            chunks: case["chunks_base64"]
                .as_array()
                .map(|chunks| chunks.iter().map(|chunk| base64(&text(chunk))).collect()),
            expected: case["expected"]
                .as_array()
                .unwrap()
                .iter()
                .map(|event| {
                    (
                        text(&event["type"]),
                        text(&event["data"]),
                        text(&event["lastEventId"]),
                    )
                })
                .collect(),
            json: case.clone(),
        })
        .collect()
}

fn check(case: &Case, how: &str, outcome: &Outcome) {
    let name = &case.name;
    assert_eq!(outcome.events, case.expected, "{name}, {how}");
    if let Some(id) = case.json["last_event_id_at_eof"].as_str() {
        assert_eq!(outcome.last_event_id, id, "{name}, {how}");
    }
    if let Some(retry) = case.json.get("retry_ms") {
        let retry = retry.as_u64().map(Duration::from_millis);
        assert_eq!(outcome.retry, retry, "{name}, {how}");
    }
}

fn agree_with(file: &str, count: usize) {
    let cases = cases(file);
    assert_eq!(cases.len(), count);
    for case in &cases {
        let id = case.initial_id.as_str();
        check(case, "whole", &parse(id, [&case.raw[..]]));
        check(case, "one byte at a time", &parse(id, case.raw.chunks(1)));
        if let Some(chunks) = &case.chunks {
            check(
                case,
                "as listed",
                &parse(id, chunks.iter().map(Vec::as_slice)),
            );
        }
        for at in 0..case.raw.len() {
            let (left, right) = case.raw.split_at(at);
            check(case, &format!("cut at {at}"), &parse(id, [left, right]));
        }
        for seed in 0..50 {
            check(
                case,
                &format!("cut with seed {seed}"),
                &parse(id, cut(&case.raw, seed)),
            );
        }
    }
}

#[test]
fn agrees_with_the_web_platform_tests_in_every_chunking() {
    // Two more of the 33 are about the content type: the client must not read the body at all.
    agree_with("wpt-sse-cases.json", 31);
}

#[test]
fn agrees_with_launchdarklys_contract_tests_in_every_chunking() {
    agree_with("ld-sse-cases.json", 89);
}

#[test]
fn agrees_with_the_projects_own_table_in_every_chunking() {
    agree_with("sse-cases.json", 71);
}

#[test]
fn the_readable_bytes_of_the_own_table_are_the_exact_ones() {
    for case in cases("sse-cases.json") {
        let mut bytes = Vec::new();
        let mut readable = case.json["raw"].as_str().unwrap().bytes();
        while let Some(byte) = readable.next() {
            bytes.push(if byte != b'\\' {
                byte
            } else {
                match readable.next().unwrap() {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'x' => {
                        let hex = [readable.next().unwrap(), readable.next().unwrap()];
                        u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap()
                    }
                    other => other,
                }
            });
        }
        assert_eq!(bytes, case.raw, "{}", case.name);
        assert!(
            case.json["section"].as_str().unwrap().starts_with("9.2."),
            "{}",
            case.name
        );
    }
}

#[test]
fn a_bare_cr_dispatches_at_once_and_swallows_the_lf_that_follows() {
    let mut parser = Parser::new(Limits::default());
    let mut events = parser.push(b"data: a\r\r");
    assert_eq!(events.next().unwrap().unwrap().data, "a");
    assert!(events.next().unwrap().is_none());
    // Were the LF a line ending of its own, the event after it would come out early and empty.
    let mut events = parser.push(b"\ndata: b\r");
    assert!(events.next().unwrap().is_none());
    let mut events = parser.push(b"\n\r\n");
    assert_eq!(events.next().unwrap().unwrap().data, "b");
}

#[test]
fn reset_keeps_the_cursor_and_forgets_the_unfinished_event() {
    let mut parser = Parser::new(Limits::default());
    let mut events =
        parser.push(b"retry: 7\nid: 1\ndata: a\n\nid: 2\nevent: x\ndata: lost\ndata: mor");
    assert_eq!(events.next().unwrap().unwrap().last_event_id, "1");
    assert!(events.next().unwrap().is_none());
    parser.reset();
    assert_eq!(parser.last_event_id(), "1");
    assert_eq!(parser.retry(), Some(Duration::from_millis(7)));
    let mut events = parser.push(b"\xEF\xBB\xBFdata: b\n\n");
    let event = events.next().unwrap().unwrap();
    assert_eq!(
        (event.event_type, event.data, event.last_event_id),
        ("message", "b", "1")
    );
}

#[test]
fn events_can_be_taken_one_at_a_time() {
    let mut parser = Parser::new(Limits::default());
    let chunk = b"data: a\n\ndata: b\n\nda";
    let mut events = parser.push(chunk);
    assert_eq!(events.next().unwrap().unwrap().data, "a");
    let rest = events.rest();
    assert_eq!(rest, b"data: b\n\nda");
    let mut events = parser.push(rest);
    assert_eq!(events.next().unwrap().unwrap().data, "b");
    assert!(events.next().unwrap().is_none());
    assert!(events.rest().is_empty());
}

/// The outcome of `bytes` under `limits`, for a chunk length.
fn limited(limits: Limits, bytes: &[u8], chunk: usize) -> Result<usize, ParseError> {
    let mut parser = Parser::new(limits);
    let mut count = 0;
    for chunk in bytes.chunks(chunk) {
        let mut events = parser.push(chunk);
        loop {
            match events.next() {
                Ok(Some(_)) => count += 1,
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(parser.push(b"\n\n").next(), Err(error), "an error stays");
                    return Err(error);
                }
            }
        }
    }
    Ok(count)
}

#[test]
fn a_line_and_an_event_are_bounded_in_every_chunking() {
    let limits = Limits {
        line: 16,
        event: 20,
    };
    for chunk in [1, 2, 3, 5, 7, 11, 64] {
        let run = |text: &str| limited(limits, text.as_bytes(), chunk);
        // Exactly at the bounds.
        assert_eq!(run("data: 0123456789\n\n"), Ok(1));
        assert_eq!(run("data: 0123456789\ndata: 123456789\n\n"), Ok(1));
        assert_eq!(run(":0123456789abcde\n\n"), Ok(0));
        // One past them.
        assert_eq!(
            run("data: 0123456789a\n\n"),
            Err(ParseError::LineTooLong(16))
        );
        assert_eq!(
            run(":0123456789abcdef\n\n"),
            Err(ParseError::LineTooLong(16))
        );
        assert_eq!(
            run("unknown-field-name\n\n"),
            Err(ParseError::LineTooLong(16))
        );
        assert_eq!(
            run("data: 0123456789\ndata: 0123456789\n\n"),
            Err(ParseError::EventTooLarge(20))
        );
        // A peer that never ends its line, or never sends the blank line.
        assert_eq!(run(&"x".repeat(10_000)), Err(ParseError::LineTooLong(16)));
        assert_eq!(
            run(&"data:\n".repeat(10_000)),
            Err(ParseError::EventTooLarge(20))
        );
        // The bound is for one event, not for the stream.
        assert_eq!(run(&"data: 0123456789\n\n".repeat(100)), Ok(100));
    }
}

/// Text in which what matters to the format is frequent.
pub fn stream_like() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"\n".to_vec()),
        Just(b"\r".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"data".to_vec()),
        Just(b"event".to_vec()),
        Just(b"id".to_vec()),
        Just(b"retry".to_vec()),
        Just(b":".to_vec()),
        Just(b" ".to_vec()),
        Just(b"\0".to_vec()),
        Just(b"\xEF\xBB\xBF".to_vec()),
        Just(b"\xEF\xBB".to_vec()),
        Just("😀é".as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..4),
        "[a-z0-9]{1,12}".prop_map(String::into_bytes),
    ];
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn reads_what_the_standards_prose_reads(bytes in stream_like()) {
        let outcome = parse("", [&bytes[..]]);
        let retry = outcome.retry.map(|time| time.as_millis() as u64);
        prop_assert_eq!(
            (outcome.events, outcome.last_event_id, retry),
            crate::support::sse_reference::read(&bytes)
        );
    }

    #[test]
    fn any_split_gives_the_same_events(bytes in stream_like(), seed in any::<u64>()) {
        let whole = parse("7", [&bytes[..]]);
        prop_assert_eq!(&whole, &parse("7", bytes.chunks(1)));
        prop_assert_eq!(&whole, &parse("7", cut(&bytes, seed)));
    }
}

// The other direction: `sse/event`.

#[test]
fn an_event_is_encoded_as_one_block() {
    let text = |event: &Event| String::from_utf8(event.bytes().to_vec()).unwrap();
    assert_eq!(text(&Event::message("a")), "data: a\n\n");
    assert_eq!(text(&Event::message("")), "data: \n\n");
    assert_eq!(
        text(&Event::message("a\r\nb\rc\n")),
        "data: a\ndata: b\ndata: c\ndata: \n\n"
    );
    let named = Event::new("add", &1).unwrap();
    assert_eq!(named.at(7), "id: 7\nevent: add\ndata: 1\n\n");
}

#[test]
fn transcript() {
    let event = Event::new("tick", &serde_json::json!({"text": "one line"})).unwrap();
    let lines = Event::message("three\r\nlines,\r\n");
    let mut wire = Vec::from(event.at(7));
    for block in [
        lines.bytes(),
        Event::message("").at(8),
        Chunk::COMMENT.bytes,
    ] {
        wire.extend_from_slice(&block);
    }
    let mut text = String::from_utf8(wire.clone()).unwrap();
    text.push_str("[read as]\n\n");
    for (event_type, data, id) in parse("", [&wire[..]]).events {
        text.push_str(&format!("{event_type} {data:?}, last event id {id:?}\n"));
    }
    insta::assert_snapshot!("sse_wire", text);
}

#[test]
fn what_would_open_another_field_is_rejected() {
    for name in ["a\ndata: injected", "a\rb", "a\0b", " a"] {
        assert!(matches!(Event::text(name, "x"), Err(InvalidEvent::Name)));
    }
    for id in ["a\nb", "a\rb", "a\0b", "\n"] {
        assert_eq!(Event::message("x").at(id), "data: x\n\n", "without the id");
    }
}

/// What the reader sees of line endings in data.
fn lf_only(data: &str) -> String {
    data.replace("\r\n", "\n").replace('\r', "\n")
}

/// Text in which the format's own characters are frequent.
fn hostile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("\n".to_owned()),
        Just("\r".to_owned()),
        Just("\r\n".to_owned()),
        Just("\u{FEFF}".to_owned()),
        Just("data: x".to_owned()),
        Just(" ".to_owned()),
        Just(":".to_owned()),
        Just("\0".to_owned()),
        any::<String>(),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(
        events in prop::collection::vec(
            (hostile(), prop::option::of(hostile()), prop::option::of(hostile())), 0..6),
        seed in any::<u64>(),
    ) {
        let (mut bytes, mut expected, mut last_id) = (Vec::new(), Vec::new(), String::new());
        for (data, name, id) in &events {
            let name = name.as_deref().unwrap_or_default();
            let good = name.len() <= 128 && !name.starts_with(' ') && !name.chars().any(char::is_control);
            let event = Event::text(name, data);
            prop_assert_eq!(event.is_ok(), good);
            let Ok(event) = event else { continue };
            prop_assert_eq!(event.name(), name);
            prop_assert_eq!(event.data(), lf_only(data));
            bytes.extend_from_slice(&id.as_deref().map_or(event.bytes(), |id| event.at(id)));
            if let Some(id) = id && !id.contains(['\r', '\n', '\0']) {
                last_id.clone_from(id);
            }
            let name = if name.is_empty() { "message" } else { name };
            expected.push((name.to_owned(), lf_only(data), last_id.clone()));
        }
        prop_assert_eq!(parse("", cut(&bytes, seed)).events, expected);
    }
}
