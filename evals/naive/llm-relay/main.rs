//! The relay as it is often written: lines cut out of chunks, a spawned task, the end of the bytes taken for the end.

use std::convert::Infallible;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::routing::post;
use axum::{Json, Router};
use futures::{Stream, StreamExt};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

#[derive(Deserialize)]
struct Chat {
    model: String,
    prompt: String,
}

async fn chat(Json(chat): Json<Chat>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let (sender, events) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let send = |name: &str, data: Value| {
            let _ = sender.send(Ok(Event::default().event(name).data(data.to_string())));
        };
        let base = std::env::var("OPENAI_BASE_URL").unwrap_or_default();
        let key = std::env::var("OPENAI_API_KEY").unwrap_or_default();
        let body = json!({ "model": chat.model, "stream": true, "stream_options": { "include_usage": true },
            "messages": [{ "role": "user", "content": chat.prompt }] });
        let request = reqwest::Client::new()
            .post(format!("{base}/chat/completions"))
            .bearer_auth(key)
            .json(&body);
        let response = match request.send().await {
            Ok(response) if response.status().is_success() => response,
            Ok(response) => {
                return send(
                    "failed",
                    json!({ "code": response.text().await.unwrap_or_default() }),
                );
            }
            Err(error) => return send("failed", json!({ "code": error.to_string() })),
        };
        let mut chunks = response.bytes_stream();
        let mut buffer = String::new();
        let mut reason = Value::Null;
        while let Some(Ok(chunk)) = chunks.next().await {
            buffer.push_str(&String::from_utf8_lossy(&chunk));
            while let Some(end) = buffer.find('\n') {
                let line: String = buffer.drain(..=end).collect();
                let Some(data) = line.trim().strip_prefix("data: ") else {
                    continue;
                };
                let Ok(chunk) = serde_json::from_str::<Value>(data) else {
                    continue;
                };
                let choice = &chunk["choices"][0];
                if let Some(text) = choice["delta"]["content"].as_str() {
                    send("delta", json!({ "text": text }));
                }
                if choice["finish_reason"].is_string() {
                    reason = choice["finish_reason"].clone();
                }
            }
        }
        send(
            "done",
            json!({ "finish_reason": reason, "usage": Value::Null }),
        );
    });
    Sse::new(UnboundedReceiverStream::new(events)).keep_alive(KeepAlive::default())
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".into());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    axum::serve(listener, Router::new().route("/chat", post(chat))).await
}
