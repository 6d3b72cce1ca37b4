//! Channels that not every user may read: the right to read is checked at each connection, before the cursor.
//!
//! A reconnect is a replay, and its `Last-Event-ID` comes from the client. Each channel has its own log with its own epoch,
//! so a cursor of another channel is a `reset` and never a position. An open stream ends at the first check after its
//! reader has lost the right to it. Needs `sse/until.rs` and `sse/log.rs` with their files; `Reader` comes from your authentication.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    future::ready,
    sync::{Arc, PoisonError, RwLock},
};

use axum::{
    Extension, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};

use crate::{
    connections::crowd::Recheck,
    sse::{
        event::{Event, LastEventId, Names},
        log::Log,
        streams::{self, Streams},
        until::Until,
    },
};

/// Who reads: never taken from the path, the query or the cursor.
#[derive(Debug, Clone)]
pub struct Reader(pub String);

/// An entry of the table of rights that you have.
pub struct Channel {
    /// Who may read it.
    pub readers: HashSet<String>,
    /// With an epoch that no other channel has.
    pub log: Arc<Log>,
}

/// What the route shares.
pub struct Channels {
    /// By name.
    pub all: RwLock<HashMap<String, Channel>>,
    /// Open streams.
    pub streams: Streams,
    /// How long an open stream outlives the right to it.
    pub recheck: Recheck,
}

impl Channels {
    // ANCHOR: readable
    /// The log of `channel`, if there is one and `reader` may read it.
    pub fn readable(&self, reader: &Reader, channel: &str) -> Option<Arc<Log>> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        let channel = all.get(channel)?;
        let may = channel.readers.contains(&reader.0);
        may.then(|| Arc::clone(&channel.log))
    }
    // ANCHOR_END: readable
}

/// `GET /channels/{channel}/events`.
pub fn app(channels: Arc<Channels>) -> Router {
    Router::new()
        .route(
            "/channels/{channel}/events",
            get(events).head(streams::head),
        )
        .with_state(channels)
}

// ANCHOR: events
async fn events(
    State(channels): State<Arc<Channels>>,
    Extension(reader): Extension<Reader>,
    Path(channel): Path<String>,
    last_event_id: LastEventId,
) -> Response {
    // The same response whether the channel does not exist or belongs to another user.
    let Some(log) = channels.readable(&reader, &channel) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let Some(log) = log.read(&last_event_id) else {
        return StatusCode::NO_CONTENT.into_response();
    };
    let slot = match channels.streams.admit() {
        Ok(slot) => slot,
        Err(refused) => return refused.into_response(),
    };
    let data = serde_json::json!({ "code": "unauthorized" });
    let Ok(unauthorized) = Event::unreserved(Names::DEFAULT.unauthorized, &data) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let over = async move {
        let may = || {
            let may = channels.readable(&reader, &channel).is_some();
            ready(Ok::<_, Infallible>(may))
        };
        channels.recheck.over(may).await;
        unauthorized
    };
    slot.respond(Until::new(log, over))
}
// ANCHOR_END: events
