//! The order feed, from the pattern `sse/resume` and `connections/listen`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use snippets::connections::listen;
use snippets::sse::event::Event;
use snippets::sse::log::{self, Log};
use snippets::sse::resume;
use snippets::sse::streams::{Config, Streams};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

async fn publish(State(log): State<Arc<Log>>, Json(order): Json<serde_json::Value>) -> StatusCode {
    match Event::new("order", &order).map(|event| log.publish(&event)) {
        Ok(Ok(_)) => StatusCode::ACCEPTED,
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
    let log = Log::new(log::Config::complete(500, 64 * 1024 * 1024));
    let config = Config {
        max_streams: 200,
        drain_spread: Duration::from_secs(1),
        heartbeat: Duration::from_millis(number("HEARTBEAT_MS", 15_000)),
        ..Config::default()
    };
    let app = Router::new()
        .route("/orders", post(publish))
        .with_state(log.clone())
        .merge(resume::app(log, Streams::start(config, stop.clone())));
    let port = number("PORT", 3000) as u16;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    let mut term = signal(SignalKind::terminate())?;
    let stopping = stop.clone();
    tokio::spawn(async move {
        term.recv().await;
        stopping.cancel();
    });
    let config = listen::Config {
        drain: Duration::from_secs(3),
        ..listen::Config::default()
    };
    listen::serve(listener, app, config, stop).await;
    Ok(())
}
