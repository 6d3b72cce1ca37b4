//! Channels that not everybody may read: the right to read is asked at each connection, before the cursor is looked at.
//!
//! A reconnect is a replay, and its `Last-Event-ID` comes from the client. With one log for each channel, each with an epoch of
//! its own, a cursor of another channel is a `reset` and never a position. An open stream ends soon after the right to it.
//! Needs `sse/protect.rs`, `sse/resume.rs` and what they need; `Reader` comes from your authentication.

// ANCHOR: channels
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use axum::{
    Extension, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};

use crate::sse::{
    legacy::Log,
    legacy::while_valid,
    message::LastEventId,
    serve::{self, Streams},
};

/// Who reads: never taken from the path, the query or the cursor.
#[derive(Debug, Clone)]
pub struct Reader(pub String);

/// Stands for the table of rights that you have.
#[derive(Debug)]
pub struct Channel {
    /// Who may read it.
    pub readers: HashSet<String>,
    /// With an epoch that no other channel has.
    pub log: Arc<Log>,
}

/// What the route shares.
#[derive(Debug)]
pub struct Channels {
    /// By name.
    pub all: RwLock<HashMap<String, Channel>>,
    /// Open streams.
    pub streams: Streams,
    /// How long an open stream outlives the right to it at most.
    pub recheck: Duration,
}

impl Channels {
    /// The log of `channel`, if there is one and `reader` may read it.
    pub fn readable(&self, reader: &Reader, channel: &str) -> Option<Arc<Log>> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        let channel = all.get(channel)?;
        let may = channel.readers.contains(&reader.0);
        may.then(|| Arc::clone(&channel.log))
    }
}

/// `GET /channels/{channel}/events`.
pub fn app(channels: Arc<Channels>) -> Router {
    Router::new()
        .route("/channels/{channel}/events", get(events).head(serve::head))
        .with_state(channels)
}

async fn events(
    State(channels): State<Arc<Channels>>,
    Extension(reader): Extension<Reader>,
    Path(channel): Path<String>,
    last_event_id: LastEventId,
) -> Response {
    // The same answer whether it does not exist or is another's.
    let Some(log) = channels.readable(&reader, &channel) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let Some(messages) = log.subscribe(&last_event_id) else {
        return StatusCode::NO_CONTENT.into_response();
    };
    match channels.streams.admit() {
        Ok(slot) => {
            let every = channels.recheck;
            let valid = move || channels.readable(&reader, &channel).is_some();
            slot.respond(while_valid(messages, every, valid))
        }
        Err(refused) => refused.into_response(),
    }
}
// ANCHOR_END: channels
