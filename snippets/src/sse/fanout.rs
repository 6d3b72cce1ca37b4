//! Many topics, many subscribers of each: `GET /topics/{topic}/events`.
//!
//! Use it if many clients read the same events of one process: an order, a price, a user. Each event is encoded once,
//! publishing waits for no subscriber, and the log's `Slow` decides what happens to a slow one. Needs `topics.rs`,
//! `log.rs`, `log_reader.rs`, `streams.rs` and their files.
//!
//! ```no_run
//! # use snippets::sse;
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let stop = tokio_util::sync::CancellationToken::new(); // cancel it at SIGTERM: the streams end in band
//! let topics = sse::topics::Topics::start(sse::fanout::feed(), sse::topics::Bounds::default()); // feed() is the contract: change it
//! let streams = sse::streams::Streams::start(sse::streams::Config::default(), stop.clone());
//! let app = sse::fanout::app(topics.clone(), streams);
//! topics.publish("orders", &sse::event::Event::new("order:paid", &serde_json::json!({"total": 12}))?)?;
//! axum::serve(tokio::net::TcpListener::bind("127.0.0.1:3000").await?, app).await?;
//! # Ok(()) }
//! ```

// ANCHOR: fanout
use std::time::Duration;

use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};

use super::{
    event::LastEventId,
    log::{Begin, Config, Slow},
    streams::{self, Streams},
    topics::Topics,
};

// ANCHOR: feed
/// A feed: a client without a cursor starts at the next event. The response of a client that is 256 events behind ends; it
/// reconnects and continues after its cursor, or gets a `reset` if its next event is trimmed. Change what your contract
/// defines differently.
pub fn feed() -> Config {
    Config {
        queue: 256,
        slow: Slow::End,
        begin: Begin::Now,
        join: Duration::from_millis(2),
        ..Config::complete(1024, 256 * 1024)
    }
}
// ANCHOR_END: feed

// ANCHOR: routes
/// `GET /topics/{topic}/events`. Decide in front of it which topics a user may read.
pub fn app(topics: Topics, streams: Streams) -> Router {
    Router::new()
        .route("/topics/{topic}/events", get(events).head(streams::head))
        .with_state((topics, streams))
}

async fn events(
    State((topics, streams)): State<(Topics, Streams)>,
    Path(topic): Path<String>,
    cursor: LastEventId,
) -> Response {
    // Before the topic is created: a client that is refused creates none.
    let slot = match streams.admit() {
        Ok(slot) => slot,
        Err(refused) => return refused.into_response(),
    };
    match topics.read(&topic, &cursor) {
        Ok(Some(reader)) => slot.respond(reader),
        Ok(None) => StatusCode::NO_CONTENT.into_response(),
        Err(full) => {
            tracing::warn!(%full, "no topic");
            streams.refusal().into_response()
        }
    }
}
// ANCHOR_END: routes
// ANCHOR_END: fanout
