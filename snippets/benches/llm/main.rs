//! Decoding of model streams: MB of wire bytes and tokens a second of each decoder, on one core.
//!
//! `cargo bench -p snippets --bench llm`; with `-- --json` one JSON object a line.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use serde_json::json;
use snippets::llm::anthropic::Anthropic;
use snippets::llm::gemini::Gemini;
use snippets::llm::ollama::Ollama;
use snippets::llm::openai_chat::OpenAiChat;
use snippets::llm::openai_responses::OpenAiResponses;
use snippets::llm::providers::decode::Records;
use snippets::llm::providers::{Decoder, ModelEvent};
use snippets::llm::scripted_model::{Reply, Script, ScriptedModel};

const TOKENS: usize = 20_000;
/// What one read of a socket brings, roughly: one token while the model is slow, many when it is not.
const CHUNKS: [usize; 2] = [256, 16 * 1024];
const MEASURED: Duration = Duration::from_secs(1);

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let json = std::env::args().any(|argument| argument == "--json");
    if !json {
        println!(
            "{:<18}{:>8}{:>12}{:>14}{:>12}",
            "decoder", "chunk", "MB/s", "tokens/s", "B/token"
        );
    }
    run::<OpenAiChat>(&runtime, "openai chat", "/v1/chat/completions", json);
    run::<OpenAiResponses>(&runtime, "openai responses", "/v1/responses", json);
    run::<Anthropic>(&runtime, "anthropic", "/v1/messages", json);
    run::<Gemini>(
        &runtime,
        "gemini",
        "/v1/models/m:streamGenerateContent",
        json,
    );
    run::<Ollama>(&runtime, "ollama", "/api/chat", json);
}

fn run<D: Decoder + Default>(
    runtime: &tokio::runtime::Runtime,
    name: &str,
    path: &str,
    as_json: bool,
) {
    let wire = runtime.block_on(wire(path));
    for size in CHUNKS {
        let mut best = Duration::MAX;
        let begin = Instant::now();
        while begin.elapsed() < MEASURED {
            let start = Instant::now();
            let tokens = decode::<D>(&wire, size);
            best = best.min(start.elapsed());
            assert_eq!(tokens, TOKENS);
        }
        let seconds = best.as_secs_f64();
        let megabytes = wire.len() as f64 / 1e6 / seconds;
        let tokens = TOKENS as f64 / seconds;
        if as_json {
            let line = json!({"bench": "llm_decode", "decoder": name, "chunk_bytes": size,
                "megabytes_per_second": megabytes, "tokens_per_second": tokens});
            println!("{line}");
        } else {
            let bytes = wire.len() / TOKENS;
            println!("{name:<18}{size:>8}{megabytes:>12.0}{tokens:>14.0}{bytes:>12}");
        }
    }
}

/// Decodes everything and returns how many tokens it found.
fn decode<D: Decoder + Default>(wire: &[u8], size: usize) -> usize {
    let mut records = Records::new(D::default());
    let mut out = Vec::new();
    let mut tokens = 0;
    for chunk in wire.chunks(size) {
        records.push(black_box(chunk), &mut out).unwrap();
        let text = out
            .iter()
            .filter(|event| matches!(event, ModelEvent::Text(_)));
        tokens += text.count();
        black_box(&out);
        out.clear();
    }
    records.end(&mut out).unwrap();
    tokens
}

/// The bytes with which the scripted model answers.
async fn wire(path: &str) -> Vec<u8> {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await
        .unwrap();
    let url = format!("http://{}{path}", listener.local_addr().unwrap());
    let reply = Reply::text(&"token ".repeat(TOKENS));
    let router = ScriptedModel::new(Script::reply(reply)).router();
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    let response = reqwest::Client::new()
        .post(url)
        .json(&json!({}))
        .send()
        .await
        .unwrap();
    let bytes = response.bytes().await.unwrap().to_vec();
    server.abort();
    bytes
}
