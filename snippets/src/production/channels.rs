//! Channels that not every user may read: the right to read is checked at each connection, before the cursor.
//!
//! A reconnect is a replay, and its `Last-Event-ID` comes from the client. Each channel has its own log with its own epoch,
//! so a cursor of another channel is a `reset` and never a position. An open stream ends at the first heartbeat after its
//! reader has lost the right to it. Needs `sse/{event,cursor,log,log_reader,streams}.rs`; `Reader` comes from your authentication.

// ANCHOR: channels
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock},
    task::{Context, Poll},
};

use axum::{
    Extension, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};

use crate::sse::{
    event::{Event, LastEventId, Names},
    log::Log,
    log_reader,
    streams::{self, Chunk, Source, Streams},
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
    /// Open streams. Their heartbeat is how long one outlives the right to it.
    pub streams: Streams,
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
        .route(
            "/channels/{channel}/events",
            get(events).head(streams::head),
        )
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
    let Some(log) = log.read(&last_event_id) else {
        return StatusCode::NO_CONTENT.into_response();
    };
    match channels.streams.admit() {
        Ok(slot) => slot.respond(WhileReadable {
            log,
            reader,
            channel,
            channels,
        }),
        Err(refused) => refused.into_response(),
    }
}

/// A log for as long as its reader may read it.
struct WhileReadable {
    log: log_reader::Reader,
    reader: Reader,
    channel: String,
    channels: Arc<Channels>,
}

impl Source for WhileReadable {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Chunk>> {
        self.log.poll(cx)
    }

    fn id(&self) -> Option<String> {
        self.log.id()
    }

    fn beat(&mut self) -> Option<Event> {
        let readable = self.channels.readable(&self.reader, &self.channel);
        if readable.is_some() {
            return None;
        }
        let data = serde_json::json!({ "code": "unauthorized" });
        Event::unreserved(Names::DEFAULT.unauthorized, &data).ok()
    }
}
// ANCHOR_END: channels
