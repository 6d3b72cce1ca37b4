//! An SSE event, validated and encoded once and shared as bytes by all readers; its id, which is a position in a log;
//! and the cursor that a client sends back.
//!
//! Use it for every event. Nothing that uses this file can be injected into, and nothing panics: axum's own `Event`
//! panics on CR and LF, and on NUL in an id, after the 200 has been sent. The default id is
//! `EPOCH-SEQUENCE`: sequence numbers count within one epoch (one lifetime of a log), so a cursor of an earlier process is
//! recognized. HTML, section 9.2.

use std::{
    borrow::Cow,
    convert::Infallible,
    fmt::{self, Display},
};

use axum::extract::{FromRequestParts, Query};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Uri, request::Parts};
use serde::Serialize;

// ANCHOR: names
/// The names of the events that a stream sends on its own. Change them if your contract has others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names {
    /// Sent during silence. `None`: a comment, which `EventSource` hides from the page and a `fetch` reader sees.
    pub heartbeat: Option<&'static str>,
    /// The cursor cannot be used: the client drops its state.
    pub reset: &'static str,
    /// The server restarts: the client reconnects with its cursor. `None`: a comment, and the response ends.
    pub restart: Option<&'static str>,
    /// The stream failed. The reason is logged and not sent.
    pub failed: &'static str,
    /// The session of the client is over.
    pub unauthorized: &'static str,
}
// ANCHOR_END: names

impl Names {
    /// The names that the clients of this pack know.
    pub const DEFAULT: Self = Self {
        heartbeat: Some("ping"),
        reset: "reset",
        restart: Some("restart"),
        failed: "stream_error",
        unauthorized: "unauthorized",
    };

    /// Whether `name` is one of them.
    pub fn has(&self, name: &str) -> bool {
        let own = [self.reset, self.failed, self.unauthorized];
        own.contains(&name) || [self.heartbeat, self.restart].contains(&Some(name))
    }

    /// As [`Event::new`], for a stream with these names.
    ///
    /// # Errors
    /// If the name is reserved or malformed, or if `data` has no JSON form.
    pub fn event(
        &self,
        name: &str,
        data: &(impl Serialize + ?Sized),
    ) -> Result<Event, InvalidEvent> {
        if self.has(name) || ["error", "open"].contains(&name) {
            return Err(InvalidEvent::ReservedName);
        }
        Event::unreserved(name, data)
    }
}

impl Default for Names {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// One event, without its id: `event: NAME\ndata: DATA\n\n`. Cloning shares the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    block: Bytes,
    name: u8,
    last: bool,
}

/// Why an [`Event`] was not built. The text names the rule, never the value, which may be a peer's.
#[derive(Debug, thiserror::Error)]
pub enum InvalidEvent {
    /// See [`Event::new`].
    #[error(
        "an event name is 1 to 128 bytes without control characters and without a leading space"
    )]
    Name,
    /// `error` and `open` also call the listeners of EventSource's own events; the others belong to the stream.
    #[error(
        "the event name is reserved: choose another, or build the event with Event::unreserved"
    )]
    ReservedName,
    /// The data has no JSON form.
    #[error("data is not serializable: {0}")]
    Data(#[from] serde_json::Error),
}

impl Event {
    // ANCHOR: new
    /// An event called `name` with `data` as JSON. `order:paid` is a name; the names of [`Names::DEFAULT`], `error` and
    /// `open` are reserved.
    ///
    /// # Errors
    /// If the name is reserved or malformed, or if `data` has no JSON form.
    pub fn new(name: &str, data: &(impl Serialize + ?Sized)) -> Result<Self, InvalidEvent> {
        Names::DEFAULT.event(name, data)
    }

    /// As [`Event::new`], for a name that a contract prescribes. `error` and `open` are safe if no client is an
    /// `EventSource`; its `onerror` cannot distinguish such an event from a lost connection.
    ///
    /// # Errors
    /// If the name is malformed, or if `data` has no JSON form.
    pub fn unreserved(name: &str, data: &(impl Serialize + ?Sized)) -> Result<Self, InvalidEvent> {
        Self::text(name, &serde_json::to_string(data)?)
    }

    /// An event whose data is `text` and not JSON, such as `[DONE]`. An empty `name` is the event `message`; lines of
    /// `text` become one `data:` line each. Empty text is sent as an empty line, which axum leaves out: without a data
    /// line a browser fires no event (HTML 9.2.6).
    ///
    /// # Errors
    /// If the name is malformed.
    pub fn text(name: &str, text: &str) -> Result<Self, InvalidEvent> {
        if name.len() > 128 || name.starts_with(' ') || name.chars().any(char::is_control) {
            return Err(InvalidEvent::Name);
        }
        Ok(Self::block(name, text))
    }
    // ANCHOR_END: new

    /// The event `message` with `text`, as [`Event::text`] makes it: for protocols without names.
    pub fn message(text: &str) -> Self {
        Self::block("", text)
    }

    fn block(name: &str, text: &str) -> Self {
        let mut block = BytesMut::with_capacity(name.len() + text.len() + 24);
        if !name.is_empty() {
            put(&mut block, &["event: ", name, "\n"]);
        }
        // CR alone ends a line too.
        for line in text.replace("\r\n", "\n").split(['\n', '\r']) {
            put(&mut block, &["data: ", line, "\n"]);
        }
        block.put_u8(b'\n');
        Self {
            block: block.freeze(),
            name: name.len() as u8,
            last: false,
        }
    }

    /// Marks the terminal event: the response ends after it, and the client does not reconnect.
    pub fn last(mut self) -> Self {
        self.last = true;
        self
    }

    /// Whether this is the terminal event.
    pub fn is_last(&self) -> bool {
        self.last
    }

    /// The name; empty for the event `message`.
    pub fn name(&self) -> &str {
        let from = if self.name == 0 { 0 } else { "event: ".len() };
        self.str(from, from + self.name as usize)
    }

    /// The data.
    pub fn data(&self) -> Cow<'_, str> {
        let head = if self.name == 0 {
            0
        } else {
            "event: \n".len() + self.name as usize
        };
        let lines = self.str(head + "data: ".len(), self.block.len() - 2);
        if lines.contains('\n') {
            lines.replace("\ndata: ", "\n").into()
        } else {
            lines.into()
        }
    }

    fn str(&self, from: usize, to: usize) -> &str {
        std::str::from_utf8(&self.block[from..to]).unwrap_or_default()
    }

    /// The block without an id.
    pub fn bytes(&self) -> Bytes {
        self.block.clone()
    }

    /// The block with `id`. An id with CR, LF or NUL, which a [`Cursor`] has not, is left out.
    pub fn at(&self, id: impl Display) -> Bytes {
        let mut block = BytesMut::with_capacity(self.block.len() + 40);
        let id = id.to_string();
        if is_id(&id) {
            put(&mut block, &["id: ", &id, "\n"]);
        }
        block.extend_from_slice(&self.block);
        block.freeze()
    }
}

/// Whether `id` can be written: a reader ignores one with NUL, and CR or LF would open another field.
pub(super) fn is_id(id: &str) -> bool {
    !id.contains(['\r', '\n', '\0'])
}

fn put(block: &mut BytesMut, parts: &[&str]) {
    parts
        .iter()
        .for_each(|part| block.extend_from_slice(part.as_bytes()));
}

// ANCHOR: last-event-id
/// The cursor that a client sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LastEventId {
    /// It has seen nothing.
    None,
    /// It has seen every event up to and including this id.
    Id(String),
    /// It has seen something, and its cursor is no id of ours (not ASCII, too long, sent twice). To start at the
    /// beginning without a `reset` would leave a gap or repeat events.
    Unusable,
}

impl LastEventId {
    /// Reads the header `Last-Event-ID` (HTML 9.2.4) or, without it, `parameter` of the query, which a page uses for a new
    /// `EventSource`. The header wins: the URL of a reconnecting `EventSource` still holds its first cursor.
    pub fn read(headers: &HeaderMap, uri: &Uri, parameter: &str) -> Self {
        let mut headers = headers.get_all("last-event-id").iter();
        let sent = match (headers.next(), headers.next()) {
            (None, _) => Query::<Vec<(String, String)>>::try_from_uri(uri)
                .map_err(drop)
                .and_then(|Query(pairs)| {
                    let mut ids = pairs.into_iter().filter(|(name, _)| name == parameter);
                    match (ids.next(), ids.next()) {
                        (id, None) => Ok(id.map(|(_, id)| id).unwrap_or_default()),
                        _ => Err(()),
                    }
                }),
            // A browser sends the UTF-8 bytes of an id: `to_str` fails on "é1".
            (Some(value), None) => value.to_str().map(str::to_owned).map_err(drop),
            (Some(_), Some(_)) => Err(()),
        };
        match sent {
            Ok(id) if id.is_empty() => Self::None,
            Ok(id) if is_token(&id, 128) => Self::Id(id),
            _ => Self::Unusable,
        }
    }
}

/// [`LastEventId::read`] with `?lastEventId=`.
impl<S: Send + Sync> FromRequestParts<S> for LastEventId {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::read(&parts.headers, &parts.uri, "lastEventId"))
    }
}

/// The unreserved characters of RFC 3986, section 2.3: such a value needs no escaping in `?lastEventId=`.
pub fn is_token(value: &str, max_len: usize) -> bool {
    (1..=max_len).contains(&value.len())
        && value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b))
}
// ANCHOR_END: last-event-id

// ANCHOR: cursor
/// The last event that a client has: everything up to and including `seq`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// Differs for each lifetime of the log.
    pub epoch: u64,
    /// The first event is 1; 0 is the position before it.
    pub seq: u64,
}

/// `EPOCH-SEQUENCE`, the epoch in hexadecimal.
impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{}", self.epoch, self.seq)
    }
}

/// The format of event ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ids {
    /// `EPOCH-SEQUENCE`.
    #[default]
    Epoch,
    /// The sequence number alone. A cursor of an earlier lifetime is noticed only if it is ahead of the log or behind it: let the
    /// numbers begin at the clock ([`First::Clock`](super::log::First::Clock)), or continue over restarts
    /// ([`Log::starting_after`](super::log::Log::starting_after)).
    Sequence,
}

impl Ids {
    /// The id of `cursor`.
    pub fn id(self, cursor: Cursor) -> impl fmt::Display {
        Id(self, cursor)
    }

    /// The cursor whose id is `id`, for a log in `epoch`. Only the exact spelling is accepted: neither `+5` nor `05`.
    pub fn parse(self, id: &str, epoch: u64) -> Option<Cursor> {
        let (epoch, seq) = match self {
            Self::Epoch => {
                let (epoch, seq) = id.split_once('-')?;
                (u64::from_str_radix(epoch, 16).ok()?, seq.parse().ok()?)
            }
            Self::Sequence => (epoch, id.parse().ok()?),
        };
        let cursor = Cursor { epoch, seq };
        (seq < u64::MAX && self.id(cursor).to_string() == id).then_some(cursor)
    }
}

struct Id(Ids, Cursor);

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Ids::Epoch => self.1.fmt(f),
            Ids::Sequence => self.1.seq.fmt(f),
        }
    }
}

/// Why a client must drop its state; by default, the data of the event `reset` is `{"reason": …}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The log no longer keeps the next event.
    Trimmed,
    /// The cursor is from another lifetime of the log.
    Epoch,
    /// The cursor is beyond the newest event.
    Ahead,
    /// The cursor is not an id of this log.
    Invalid,
    /// The client reads too slowly and has missed events.
    Slow,
}
// ANCHOR_END: cursor
