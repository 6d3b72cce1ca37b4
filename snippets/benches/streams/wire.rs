//! The parser beside others, on what they read most: the chunks of an LLM's answer, and large events.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use eventsource_stream::Eventsource;
use futures::executor::block_on;
use futures::{StreamExt, TryStreamExt, stream};
use snippets::sse::wire::{Limits, Parser};

use crate::report::{self, Row};

/// A network read of an LLM's answer, as TLS and hyper hand it over.
const SMALL_READ: usize = 1_400;
const LARGE_READ: usize = 16 * 1024;
const ROUNDS: usize = 15;

/// The events of a streamed answer in the shape of chat completions: one for each token.
fn answer() -> Vec<u8> {
    let tokens = [
        "The", " quick", " brown", " fox", " –", " naïve", " 数据", "\\n\\n", "**bold**", ".",
    ];
    let mut out = String::new();
    for token in tokens.iter().cycle().take(10_000) {
        out.push_str(&format!(
            "data: {{\"id\":\"chatcmpl-0123456789abcdefghijklmnopqrs\",\"object\":\"chat.completion.chunk\",\
             \"created\":1790000000,\"model\":\"model-2026\",\"system_fingerprint\":\"fp_0123456789\",\
             \"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{token}\"}},\"logprobs\":null,\
             \"finish_reason\":null}}],\"obfuscation\":\"a8Kd0\"}}\n\n"
        ));
    }
    out.push_str("data: [DONE]\n\n");
    out.into_bytes()
}

/// The same answer with named events, about half of whose bytes are not JSON values.
fn named() -> Vec<u8> {
    let tokens = [
        "The", " quick", " brown", " fox", " –", " naïve", " 数据", "\\n\\n", "**bold**", ".",
    ];
    let mut out = String::new();
    for token in tokens.iter().cycle().take(10_000) {
        out.push_str(&format!(
            "event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":0,\
             \"delta\":{{\"type\":\"text_delta\",\"text\":\"{token}\"}}}}\n\n"
        ));
    }
    out.into_bytes()
}

/// Events of 64 KiB.
fn large() -> Vec<u8> {
    let data = "the quick brown fox jumps over the lazy dog; ".repeat(1456);
    format!("data: {data}\n\n").repeat(80).into_bytes()
}

fn chunks(bytes: &[u8], length: usize) -> Vec<Bytes> {
    bytes.chunks(length).map(Bytes::copy_from_slice).collect()
}

fn source(chunks: &[Bytes]) -> impl futures::Stream<Item = std::io::Result<Bytes>> + Unpin {
    stream::iter(chunks.iter().cloned().map(Ok))
}

fn lent(chunks: &[Bytes]) -> usize {
    let mut parser = Parser::new(Limits::default());
    let mut count = 0;
    for chunk in chunks {
        let mut events = parser.push(chunk);
        while let Some(event) = events.next().unwrap() {
            black_box(event);
            count += 1;
        }
    }
    count
}

/// The others hand out owned strings: the same for a fair comparison.
fn owned(chunks: &[Bytes]) -> usize {
    let mut parser = Parser::new(Limits::default());
    let mut count = 0;
    for chunk in chunks {
        let mut events = parser.push(chunk);
        while let Some(event) = events.next().unwrap() {
            black_box((
                event.event_type.to_owned(),
                event.data.to_owned(),
                event.last_event_id.to_owned(),
            ));
            count += 1;
        }
    }
    count
}

fn sse_stream(chunks: &[Bytes]) -> usize {
    let events = sse_stream::SseByteStream::new(source(chunks));
    block_on(events.map(|event| black_box(event.unwrap())).count())
}

fn eventsource_stream(chunks: &[Bytes]) -> usize {
    let events = source(chunks).eventsource();
    block_on(events.map(|event| black_box(event.unwrap())).count())
}

fn sse_codec(chunks: &[Bytes]) -> usize {
    let events = sse_codec::decode_stream(source(chunks).into_async_read());
    block_on(events.map(|event| black_box(event.unwrap())).count())
}

type Run = fn(&[Bytes]) -> usize;

/// The quickest of the rounds, which other work on the machine disturbs least.
fn speed(run: Run, chunks: &[Bytes], expected: usize) -> f64 {
    let bytes: usize = chunks.iter().map(Bytes::len).sum();
    let mut best = Duration::MAX;
    let start = Instant::now();
    for round in 0..ROUNDS {
        let start_round = Instant::now();
        assert_eq!(run(chunks), expected);
        best = best.min(start_round.elapsed());
        if round > 0 && start.elapsed() > Duration::from_secs(3) {
            break;
        }
    }
    bytes as f64 / best.as_secs_f64() / 1e9
}

pub fn run() {
    let inputs = [
        (chunks(&answer(), SMALL_READ), 10_001),
        (chunks(&named(), SMALL_READ), 10_000),
        (chunks(&large(), LARGE_READ), 80),
    ];
    let parsers: [(&str, Run); 5] = [
        ("`wire`, events lent", lent),
        ("`wire`, events copied out", owned),
        ("sse-stream 0.3.0", sse_stream),
        ("sse-codec 0.3.3", sse_codec),
        ("eventsource-stream 0.2.3", eventsource_stream),
    ];
    let rows: Vec<Row> = parsers
        .iter()
        .map(|(name, run)| Row {
            name: (*name).to_owned(),
            values: inputs
                .iter()
                .map(|(chunks, expected)| speed(*run, chunks, *expected))
                .collect(),
        })
        .collect();
    report::write(
        "wire",
        "GB/s on one core; LLM answers in reads of 1,400 bytes, events of 64 KiB in reads of 16 KiB",
        &["unnamed LLM events", "named LLM events", "large events"],
        &rows,
        report::Better::More,
    );
}
