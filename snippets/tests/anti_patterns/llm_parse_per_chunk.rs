//! Wrong: each chunk of the body is treated as complete lines, `String::from_utf8_lossy(&chunk).lines()`.
//! Harm: where a chunk ends inside a line or a character, tokens are lost and letters become U+FFFD; in development, chunks happen to end between lines.
//! Instead: llm/providers
//! Probe: fails llm-split-utf8

use axum::{Router, routing::post};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use snippets::llm::openai_chat::OpenAiChat;
use snippets::llm::providers::decode::Records;
use snippets::llm::providers::{FinishReason, ModelError, ModelEvent};

use crate::support::wrong::{Probed, Start, Wrong, answer};

const WIRE: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Grüße \"},\"finish_reason\":null}]}\n\n\
    data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"👋 an alle\"},\"finish_reason\":null}]}\n\n\
    data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n\
    data: [DONE]\n\n";

/// What one chunk is taken for.
fn objects(chunk: &[u8]) -> Vec<Value> {
    let text = String::from_utf8_lossy(chunk);
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.filter_map(|data| serde_json::from_str(data).ok())
        .collect()
}

fn naive(chunks: &[&[u8]]) -> String {
    let mut answer = String::new();
    for json in chunks.iter().flat_map(|chunk| objects(chunk)) {
        answer.push_str(
            json["choices"][0]["delta"]["content"]
                .as_str()
                .unwrap_or_default(),
        );
    }
    answer
}

pub(crate) const PROBED: Probed = Probed::new(Start::RelayTo(wrong_service));

/// A relay that reads the provider in this way; `base` is the provider's origin.
pub(crate) fn wrong_service(base: String) -> Wrong {
    let handler = async move || {
        let url = format!("{base}/v1/chat/completions");
        let opening = async move {
            let request = reqwest::Client::new()
                .post(url)
                .json(&json!({"stream": true}));
            let response = request.send().await.and_then(|r| r.error_for_status());
            let failed = |error: reqwest::Error| ModelError::Transport(error.to_string());
            Ok::<_, ModelError>(response.map_err(failed)?.bytes_stream().map_err(failed))
        };
        let events = stream::once(opening).try_flatten();
        answer(events.flat_map(|chunk| {
            stream::iter(match chunk {
                Ok(chunk) => objects(&chunk).iter().map(event).collect(),
                Err(error) => vec![Err(error)],
            })
        }))
    };
    Wrong::new(Router::new().route("/chat", post(handler)))
}

fn event(json: &Value) -> Result<ModelEvent, ModelError> {
    let choice = &json["choices"][0];
    if json["error"].is_object() {
        return Err(ModelError::Truncated);
    }
    Ok(match choice["delta"]["content"].as_str() {
        Some(text) => ModelEvent::Text(text.to_owned()),
        None if choice["finish_reason"].is_string() => ModelEvent::Finish {
            reason: FinishReason::Stop,
            tool_calls: Vec::new(),
        },
        None => ModelEvent::Heartbeat,
    })
}

fn decoded(chunks: &[&[u8]]) -> String {
    let mut records = Records::new(OpenAiChat::default());
    let mut events = Vec::new();
    for chunk in chunks {
        records.push(chunk, &mut events).unwrap();
    }
    records.end(&mut events).unwrap();
    let text = events.into_iter().filter_map(|event| match event {
        ModelEvent::Text(text) => Some(text),
        _ => None,
    });
    text.collect()
}

#[test]
fn an_unlucky_cut_loses_tokens() {
    let bytes = WIRE.as_bytes();
    assert_eq!(naive(&[bytes]), "Grüße 👋 an alle");
    let mut spoilt = 0;
    for at in 1..bytes.len() {
        let (one, other) = bytes.split_at(at);
        spoilt += usize::from(naive(&[one, other]) != "Grüße 👋 an alle");
        assert_eq!(decoded(&[one, other]), "Grüße 👋 an alle", "cut at {at}");
    }
    // Most places of a single cut: only one in a line ending is harmless, or one after the text.
    assert!(spoilt * 2 > bytes.len(), "{spoilt} of {}", bytes.len());
}
