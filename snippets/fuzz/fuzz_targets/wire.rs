//! Any bytes, in three chunkings, against the standard's prose; and the limits.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/support/sse_reference.rs"]
mod sse_reference;
#[path = "../../src/sse/wire.rs"]
#[allow(dead_code)]
mod wire;

use sse_reference::Read;
use wire::{Limits, ParseError, Parser};

fn parse<'c>(
    limits: Limits,
    chunks: impl IntoIterator<Item = &'c [u8]>,
) -> Result<Read, ParseError> {
    let mut parser = Parser::new(limits);
    let mut read = Vec::new();
    for chunk in chunks {
        let mut events = parser.push(chunk);
        while let Some(event) = events.next()? {
            assert!(event.data.len() <= limits.event);
            let owned = (
                event.event_type.to_owned(),
                event.data.to_owned(),
                event.last_event_id.to_owned(),
            );
            read.push(owned);
        }
        assert!(events.rest().is_empty());
    }
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap();
    Ok((
        read,
        parser.last_event_id().to_owned(),
        parser.retry().map(millis),
    ))
}

fn cut(mut seed: u64, mut rest: &[u8]) -> Vec<&[u8]> {
    let mut chunks = Vec::new();
    while !rest.is_empty() {
        seed = seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let (chunk, more) = rest.split_at(((seed >> 33) as usize % 12).min(rest.len()));
        chunks.push(chunk);
        rest = more;
    }
    chunks
}

fuzz_target!(|input: (u64, &[u8])| {
    let (seed, bytes) = input;
    let expected = Ok(sse_reference::read(bytes));
    let wide = Limits::default();
    assert_eq!(parse(wide, [bytes]), expected);
    assert_eq!(parse(wide, bytes.chunks(1)), expected);
    assert_eq!(parse(wide, cut(seed, bytes)), expected);

    // Whether a bound is passed does not depend on the chunking; which of the two is noticed first may,
    // and an event bound may be noticed only when the line ends.
    // (Replacing invalid bytes may make text longer than its bytes.)
    if std::str::from_utf8(bytes).is_ok() {
        let narrow = Limits {
            line: 24,
            event: 32,
        };
        let whole = parse(narrow, [bytes, b"\n"]).ok();
        assert_eq!(
            parse(narrow, cut(seed, bytes).into_iter().chain([&b"\n"[..]])).ok(),
            whole
        );
    }
});
