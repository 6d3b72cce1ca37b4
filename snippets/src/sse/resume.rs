//! Replay after a reconnect: each event once and in order, or a `reset` that states why not.
//!
//! Use it if each event counts; if the newest state is enough, use `jobs.rs`; if there is one log per user or order, use
//! `fanout.rs`. The log is in memory: after a restart, every cursor is answered with a `reset`. If that must not happen,
//! fill the log from a broker (`production/shared_log.rs`). Needs `log.rs`, `log_reader.rs`, `streams.rs` and their files.
//!
//! ```no_run
//! # use snippets::sse;
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let log = sse::log::Log::new(sse::log::Config::complete(1_000, 1 << 20)); // ids, names, where a newcomer starts: Config
//! let stop = tokio_util::sync::CancellationToken::new(); // cancel it at SIGTERM: the streams end in band
//! let streams = sse::streams::Streams::start(sse::streams::Config::default(), stop.clone());
//! let app = sse::resume::app(log.clone(), streams);
//! log.publish(&sse::event::Event::new("order:paid", &serde_json::json!({"total": 12}))?)?;
//! axum::serve(tokio::net::TcpListener::bind("127.0.0.1:3000").await?, app).await?;
//! # Ok(()) }
//! ```

// ANCHOR: resume
use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};

use super::{
    event::LastEventId,
    log::Log,
    streams::{self, Streams},
};

// ANCHOR: endpoint
/// `GET /events`: everything after the client's cursor, then each new event.
pub fn app(log: Arc<Log>, streams: Streams) -> Router {
    Router::new()
        .route("/events", get(events).head(streams::head))
        .with_state((log, streams))
}

async fn events(
    State((log, streams)): State<(Arc<Log>, Streams)>,
    cursor: LastEventId,
) -> Response {
    // `None`: the client already has the terminal event (the last one). A 204 stops it: an EventSource does not reconnect.
    let Some(reader) = log.read(&cursor) else {
        return StatusCode::NO_CONTENT.into_response();
    };
    match streams.admit() {
        Ok(slot) => slot.respond(reader),
        Err(refused) => refused.into_response(),
    }
}
// ANCHOR_END: endpoint
// ANCHOR_END: resume
