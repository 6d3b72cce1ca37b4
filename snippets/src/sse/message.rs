//! What goes into an event stream, and what comes back as a cursor: both checked here, so that
//! nothing behind this file can panic or be injected into.
//!
//! Used by `serve.rs` and `resume.rs`. axum's `Event` panics on CR and LF, in an id on NUL too, and it does so
//! after the 200 has been sent: the client sees a truncated body, and no layer sees anything.

// ANCHOR: message
use std::{convert::Infallible, sync::Arc};

use axum::{
    extract::{FromRequestParts, Query},
    http::request::Parts,
    response::sse::Event,
};
use serde::{Deserialize, Serialize};

/// One event. It cannot hold a name, an id or data that break the format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    name: String,
    id: Option<String>,
    data: Arc<str>,
    last: bool,
}

/// Why a [`Message`] was not built. The text names the rule, never the value, which may be a peer's.
#[derive(Debug, thiserror::Error)]
pub enum InvalidMessage {
    /// See [`is_token`].
    #[error("an event name is 1 to 64 characters of A-Z a-z 0-9 - . _ ~")]
    Name,
    /// `error` and `open` would also call the listeners that EventSource calls for its own state.
    #[error("`error` and `open` are EventSource's own events")]
    ReservedName,
    /// See [`is_token`]. An empty id would erase the client's cursor.
    #[error("an event id is 1 to 128 characters of A-Z a-z 0-9 - . _ ~")]
    Id,
    /// The data has no JSON form.
    #[error("data is not serializable: {0}")]
    Data(#[from] serde_json::Error),
}

impl Message {
    /// An event called `name` with `data` as JSON, which is never empty: a browser does not fire an
    /// event without a data line (HTML 9.2.6), and axum writes none for `data("")`.
    pub fn new(name: &str, data: &impl Serialize) -> Result<Self, InvalidMessage> {
        if !is_token(name, 64) {
            return Err(InvalidMessage::Name);
        }
        if matches!(name, "error" | "open") {
            return Err(InvalidMessage::ReservedName);
        }
        Ok(Self {
            name: name.to_owned(),
            id: None,
            data: serde_json::to_string(data)?.into(),
            last: false,
        })
    }

    /// Sets the id that a client sends back as `Last-Event-ID`.
    pub fn with_id(mut self, id: impl Into<String>) -> Result<Self, InvalidMessage> {
        let id = id.into();
        if !is_token(&id, 128) {
            return Err(InvalidMessage::Id);
        }
        self.id = Some(id);
        Ok(self)
    }

    /// Marks the terminal event: the response ends after it, and the client must not come back.
    pub fn last(mut self) -> Self {
        self.last = true;
        self
    }

    /// Whether this is the terminal event.
    pub fn is_last(&self) -> bool {
        self.last
    }

    /// The event id, where there is one.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The event name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The data as JSON.
    pub fn data(&self) -> &str {
        &self.data
    }

    /// Bytes of name and data, for logs that are bounded by size.
    pub fn size(&self) -> usize {
        self.name.len() + self.data.len()
    }
}

/// Cannot panic: all three values were checked, and each is set once.
impl From<Message> for Event {
    fn from(message: Message) -> Self {
        let mut event = Event::default().event(message.name);
        if let Some(id) = message.id {
            event = event.id(id);
        }
        event.data(message.data)
    }
}

/// The unreserved characters of RFC 3986, section 2.3: such a value needs no escaping in
/// `?lastEventId=`, comes back as ASCII, and does not make a cross-origin `fetch` ask a preflight
/// for its `Last-Event-ID` value alone.
pub fn is_token(value: &str, max_len: usize) -> bool {
    (1..=max_len).contains(&value.len())
        && value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b))
}

/// Where the client says it stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LastEventId {
    /// It has seen nothing.
    None,
    /// It has seen everything up to and with this id.
    Id(String),
    /// It has seen something, and what it sent is no id of ours (not ASCII, too long, sent twice).
    /// That is not "nothing": starting anew in silence would leave a gap or repeat events.
    Unusable,
}

/// Reads the `Last-Event-ID` header (HTML 9.2.4) or, without it, `?lastEventId=`, which a page uses
/// when it builds a new `EventSource`. The header wins: the URL of a reconnecting `EventSource` still
/// holds the value that it was built with.
impl<S: Send + Sync> FromRequestParts<S> for LastEventId {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        #[derive(Deserialize)]
        struct Cursor {
            #[serde(rename = "lastEventId")]
            last_event_id: Option<String>,
        }
        let mut headers = parts.headers.get_all("last-event-id").iter();
        let sent = match (headers.next(), headers.next()) {
            (None, _) => Query::<Cursor>::try_from_uri(&parts.uri)
                .map(|Query(cursor)| cursor.last_event_id.unwrap_or_default())
                .map_err(drop),
            // The browser sends the UTF-8 bytes of an id: `to_str` fails on "é1".
            (Some(value), None) => value.to_str().map(str::to_owned).map_err(drop),
            (Some(_), Some(_)) => Err(()),
        };
        Ok(match sent {
            Ok(id) if id.is_empty() => Self::None,
            Ok(id) if is_token(&id, 128) => Self::Id(id),
            _ => Self::Unusable,
        })
    }
}
// ANCHOR_END: message
