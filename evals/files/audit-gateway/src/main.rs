//! The gateway of the trading desk: price events (SSE), a chat room (WebSocket), an assistant (SSE over POST).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use axum_extra::extract::CookieJar;
use futures::stream::SplitSink;
use futures::{SinkExt, Stream, StreamExt, stream};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{Mutex, broadcast, mpsc};
use tokio_stream::wrappers::{BroadcastStream, UnboundedReceiverStream};
use tower::limit::ConcurrencyLimitLayer;

#[derive(Clone, Deserialize)]
struct Price {
    symbol: String,
    kind: String,
    value: f64,
}

#[derive(Clone)]
struct Gateway {
    epoch: u64,
    log: Arc<Mutex<VecDeque<(u64, Price)>>>,
    live: broadcast::Sender<(u64, Price)>,
    room: Arc<Mutex<Vec<SplitSink<WebSocket, Message>>>>,
    model: reqwest::Client,
    sessions: Arc<std::collections::HashSet<String>>,
}

// --- Prices ---------------------------------------------------------------------

async fn publish(State(gateway): State<Gateway>, Json(price): Json<Price>) -> StatusCode {
    let mut log = gateway.log.lock().await;
    let id = log.back().map_or(1, |(id, _)| id + 1);
    log.push_back((id, price.clone()));
    if log.len() > 1000 {
        log.pop_front();
    }
    // Under the lock, so that the order of the channel is the order of the log.
    let _ = gateway.live.send((id, price));
    StatusCode::ACCEPTED
}

fn event(epoch: u64, id: u64, price: &Price) -> Event {
    let data = json!({ "symbol": price.symbol, "value": price.value });
    Event::default()
        .id(format!("{epoch:x}-{id}"))
        .event(&price.kind)
        .data(data.to_string())
}

async fn prices(State(gateway): State<Gateway>, headers: HeaderMap) -> Response {
    let cursor = headers
        .get("last-event-id")
        .and_then(|id| id.to_str().ok()?.split_once('-'))
        .and_then(|(epoch, id)| {
            Some((
                u64::from_str_radix(epoch, 16).ok()?,
                id.parse::<u64>().ok()?,
            ))
        });
    let epoch = gateway.epoch;
    let missed: Vec<(u64, Price)> = match cursor {
        Some((known, id)) if known == epoch => {
            let log = gateway.log.lock().await;
            log.iter().filter(|(n, _)| *n > id).cloned().collect()
        }
        _ => Vec::new(),
    };
    let live = BroadcastStream::new(gateway.live.subscribe());
    let live = live.filter_map(|price| async move { price.ok() });
    let events = stream::iter(missed)
        .chain(live)
        .map(move |(id, price)| Ok::<_, Infallible>(event(epoch, id, &price)));
    let ping = Event::default().event("ping").data("{}");
    let sse = Sse::new(events).keep_alive(
        KeepAlive::new()
            .interval(Duration::from_secs(15))
            .event(ping),
    );
    (
        [
            ("x-accel-buffering", "no"),
            ("cache-control", "no-cache, no-transform"),
        ],
        sse,
    )
        .into_response()
}

// --- The room -------------------------------------------------------------------

async fn room(
    State(gateway): State<Gateway>,
    jar: CookieJar,
    upgrade: WebSocketUpgrade,
) -> Response {
    let session = jar.get("session").map(|cookie| cookie.value().to_owned());
    if !session.is_some_and(|session| gateway.sessions.contains(&session)) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    upgrade
        .max_message_size(16 * 1024)
        .on_upgrade(move |socket| member(socket, gateway))
}

async fn member(socket: WebSocket, gateway: Gateway) {
    let (sink, mut messages) = socket.split();
    gateway.room.lock().await.push(sink);
    while let Some(Ok(message)) = messages.next().await {
        let Message::Text(text) = message else {
            continue;
        };
        let mut room = gateway.room.lock().await;
        for sink in room.iter_mut() {
            let _ = sink.send(Message::Text(text.clone())).await;
        }
    }
}

// --- The assistant --------------------------------------------------------------

#[derive(Deserialize)]
struct Question {
    prompt: String,
}

#[derive(Deserialize)]
struct Chunk {
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    delta: Delta,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
}

async fn assistant(
    State(gateway): State<Gateway>,
    Json(question): Json<Question>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let (sender, events) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        if let Err(error) = relay(&gateway, question, &sender).await {
            let data = json!({ "error": error.to_string() });
            let _ = sender.send(Ok(Event::default().event("failed").data(data.to_string())));
        }
    });
    Sse::new(UnboundedReceiverStream::new(events)).keep_alive(KeepAlive::default())
}

async fn relay(
    gateway: &Gateway,
    question: Question,
    sender: &mpsc::UnboundedSender<Result<Event, Infallible>>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let body = json!({
        "model": "gpt-5",
        "stream": true,
        "stream_options": { "include_usage": true },
        "messages": [{ "role": "user", "content": question.prompt }],
    });
    let response = gateway
        .model
        .post("https://api.openai.com/v1/chat/completions")
        .json(&body)
        .send()
        .await?
        .error_for_status()?;
    let mut bytes = response.bytes_stream();
    let mut buffer = String::new();
    while let Some(part) = bytes.next().await {
        buffer.push_str(&String::from_utf8_lossy(&part?));
        while let Some(end) = buffer.find('\n') {
            let line: String = buffer.drain(..=end).collect();
            let Some(data) = line.trim_end().strip_prefix("data:") else {
                continue;
            };
            if data.trim() == "[DONE]" {
                break;
            }
            let chunk: Chunk = serde_json::from_str(data)?;
            if let Some(text) = &chunk.choices[0].delta.content {
                let data = json!({ "text": text });
                let _ = sender.send(Ok(Event::default().event("delta").data(data.to_string())));
            }
        }
    }
    let _ = sender.send(Ok(Event::default().event("done").data("{}")));
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let gateway = Gateway {
        epoch: rand::random(),
        log: Arc::default(),
        live: broadcast::channel(1024).0,
        room: Arc::default(),
        model: reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(60))
            .build()?,
        sessions: Arc::default(),
    };
    let app = Router::new()
        .route("/prices", post(publish))
        .route("/prices/events", get(prices))
        .route("/room", get(room))
        .route("/assistant", post(assistant))
        .layer(DefaultBodyLimit::max(64 * 1024))
        .layer(ConcurrencyLimitLayer::new(1_000)) // at most 1,000 open streams
        .with_state(gateway);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    axum::serve(listener, app)
        .with_graceful_shutdown(async {
            let _ = tokio::signal::ctrl_c().await;
        })
        .await?;
    Ok(())
}
