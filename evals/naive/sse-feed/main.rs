//! The feed as it is often written: a broadcast channel, a ring for the reconnect, a concurrency layer.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::{Stream, StreamExt, stream};
use tokio::sync::{Semaphore, broadcast};
use tokio_stream::wrappers::BroadcastStream;

#[derive(Clone)]
struct Feed {
    ring: Arc<Mutex<VecDeque<(u64, String)>>>,
    next: Arc<Mutex<u64>>,
    live: broadcast::Sender<(u64, String)>,
    open: Arc<Semaphore>,
    heartbeat: Duration,
}

async fn publish(State(feed): State<Feed>, Json(order): Json<serde_json::Value>) -> StatusCode {
    let id = {
        let mut next = feed.next.lock().unwrap();
        *next += 1;
        *next
    };
    {
        let mut ring = feed.ring.lock().unwrap();
        ring.push_back((id, order.to_string()));
        if ring.len() > 500 {
            ring.pop_front();
        }
    }
    let _ = feed.live.send((id, order.to_string()));
    StatusCode::ACCEPTED
}

fn event((id, data): (u64, String)) -> Result<Event, Infallible> {
    Ok(Event::default()
        .event("order")
        .id(id.to_string())
        .data(data))
}

async fn events(
    State(feed): State<Feed>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, StatusCode> {
    let _permit = feed
        .open
        .clone()
        .try_acquire_owned()
        .map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    let last = headers
        .get("last-event-id")
        .and_then(|id| id.to_str().ok()?.parse().ok())
        .unwrap_or(0);
    let missed: Vec<_> = feed
        .ring
        .lock()
        .unwrap()
        .iter()
        .filter(|(id, _)| *id > last)
        .cloned()
        .collect();
    let live = BroadcastStream::new(feed.live.subscribe()).filter_map(|e| async { e.ok() });
    let keep_alive = KeepAlive::new().interval(feed.heartbeat);
    Ok(Sse::new(stream::iter(missed).chain(live).map(event)).keep_alive(keep_alive))
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let number = |name: &str, or: u64| {
        std::env::var(name)
            .ok()
            .and_then(|v| v.parse().ok())
            .unwrap_or(or)
    };
    let feed = Feed {
        ring: Arc::default(),
        next: Arc::default(),
        live: broadcast::channel(256).0,
        open: Arc::new(Semaphore::new(200)),
        heartbeat: Duration::from_millis(number("HEARTBEAT_MS", 15_000)),
    };
    let app = Router::new()
        .route("/orders", post(publish))
        .route("/events", get(events))
        .with_state(feed);
    let listener =
        tokio::net::TcpListener::bind(("127.0.0.1", number("PORT", 3000) as u16)).await?;
    axum::serve(listener, app)
        .with_graceful_shutdown(async {
            let mut term =
                tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
            term.recv().await;
        })
        .await
}
