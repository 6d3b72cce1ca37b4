//! Wrong: each chunk of the body is decoded and split into lines on its own.
//! Harm: a character or a line across two chunks is lost or halved; JSON that was sent whole does not parse.
//! Instead: sse/wire
//! Probe: cannot see: a client

use snippets::sse::wire::{Limits, Parser};

const STREAM: &str = "data: {\"text\":\"Grüße 😀\"}\n\ndata: {\"text\":\"end\"}\n\n";

fn per_chunk(chunks: &[&[u8]]) -> Vec<String> {
    let mut data = Vec::new();
    for chunk in chunks {
        for line in String::from_utf8_lossy(chunk).split('\n') {
            if let Some(value) = line.strip_prefix("data: ") {
                data.push(value.to_owned());
            }
        }
    }
    data
}

fn parsed(chunks: &[&[u8]]) -> Vec<String> {
    let mut parser = Parser::new(Limits::default());
    let mut data = Vec::new();
    for chunk in chunks {
        let mut events = parser.push(chunk);
        while let Some(event) = events.next().unwrap() {
            data.push(event.data.to_owned());
        }
    }
    data
}

fn is_json(data: &str) -> bool {
    serde_json::from_str::<serde_json::Value>(data).is_ok()
}

#[test]
fn a_cut_anywhere_but_between_events_does_harm() {
    let bytes = STREAM.as_bytes();
    let whole = per_chunk(&[bytes]);
    let emoji = STREAM.find('😀').unwrap();
    let (left, right) = bytes.split_at(emoji + 2);
    assert_eq!(per_chunk(&[left, right])[0], "{\"text\":\"Grüße \u{FFFD}");
    let harmed = (1..bytes.len()).filter(|&at| {
        let (left, right) = bytes.split_at(at);
        let data = per_chunk(&[left, right]);
        data != whole && !data.iter().all(|data| is_json(data)) || data.len() < whole.len()
    });
    assert!(harmed.count() > bytes.len() * 3 / 4);
}

#[test]
fn with_the_parser_a_cut_does_not_matter() {
    let bytes = STREAM.as_bytes();
    for at in 0..bytes.len() {
        let (left, right) = bytes.split_at(at);
        let data = parsed(&[left, right]);
        assert_eq!(
            data,
            ["{\"text\":\"Grüße 😀\"}", "{\"text\":\"end\"}"],
            "cut at {at}"
        );
    }
}
