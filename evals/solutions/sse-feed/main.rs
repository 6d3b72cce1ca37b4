//! The order feed, from the patterns `sse/resume`, `sse/lifecycle` and `sse/listen`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use snippets::sse::listen::{self, SocketLimits};
use snippets::sse::message::Message;
use snippets::sse::resume::{self, Log};
use snippets::sse::serve::{Config, Streams};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

async fn publish(State(log): State<Arc<Log>>, Json(order): Json<serde_json::Value>) -> StatusCode {
    match Message::new("order", &order).map(|message| log.publish(message)) {
        Ok(Ok(())) => StatusCode::ACCEPTED,
        _ => StatusCode::PAYLOAD_TOO_LARGE,
    }
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let number = |name: &str, or: u64| {
        std::env::var(name)
            .ok()
            .and_then(|v| v.parse().ok())
            .unwrap_or(or)
    };
    let stop = CancellationToken::new();
    let log = Arc::new(Log::new(rand::random(), 500, 64 * 1024 * 1024));
    let config = Config {
        max_streams: 200,
        heartbeat: Duration::from_millis(number("HEARTBEAT_MS", 15_000)),
        ..Config::default()
    };
    let app = Router::new()
        .route("/orders", post(publish))
        .with_state(log.clone())
        .merge(resume::app(log, Streams::new(config, stop.clone())));
    let port = number("PORT", 3000) as u16;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    let listener = listen::Listener::new(listener, SocketLimits::default());
    let mut term = signal(SignalKind::terminate())?;
    let stopping = stop.clone();
    tokio::spawn(async move {
        term.recv().await;
        stopping.cancel();
    });
    let (day, drain) = (Duration::from_secs(86_400), Duration::from_secs(3));
    listen::serve(listener, app, day, stop, drain).await;
    Ok(())
}
