//! Relays the model's answer to our page, token by token.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

#[derive(Clone)]
pub struct Relay {
    http: reqwest::Client,
    provider: String,
}

pub fn app(provider: &str) -> reqwest::Result<Router> {
    let http = reqwest::Client::builder().timeout(Duration::from_secs(60));
    let relay = Relay {
        http: http.build()?,
        provider: format!("{provider}/v1/chat/completions"),
    };
    Ok(Router::new().route("/chat", post(chat)).with_state(relay))
}

async fn chat(State(relay): State<Relay>, Json(request): Json<Value>) -> Response {
    let body = json!({ "model": "m", "stream": true, "messages": request["messages"] });
    let answer = match relay.http.post(&relay.provider).json(&body).send().await {
        Ok(answer) => answer,
        Err(error) => return (StatusCode::BAD_GATEWAY, format!("{error:?}")).into_response(),
    };
    let (tokens, events) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut chunks = answer.bytes_stream();
        while let Some(Ok(chunk)) = chunks.next().await {
            for line in String::from_utf8_lossy(&chunk).lines() {
                let Some(data) = line.strip_prefix("data: ") else {
                    continue;
                };
                let part: Value = serde_json::from_str(data).unwrap_or_default();
                if let Some(token) = part["choices"][0]["delta"]["content"].as_str() {
                    let _ = tokens.send(Event::default().event("token").data(token));
                }
            }
        }
        let _ = tokens.send(Event::default().event("done").data("{}"));
    });
    let events = UnboundedReceiverStream::new(events).map(Ok::<_, Infallible>);
    Sse::new(events).into_response()
}
