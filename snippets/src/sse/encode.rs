//! The `text/event-stream` format, written: one message into one [`Bytes`].
//!
//! Use it instead of string formatting, where a line break in a value opens a field of the peer's choice,
//! and instead of `axum::response::sse::Event`, which panics inside the body on such a value, drops an
//! empty `data`, and doubles CRLF. Encode once and send the same [`Bytes`] to every subscriber
//! (`super::fanout`). The reader is `super::wire`. Standard: HTML, sections 9.2.5 and 9.2.6.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

/// A comment and a blank line. Proxies and `read` timeouts see it, the browser's scripts do not.
pub const HEARTBEAT: Bytes = Bytes::from_static(b":\n\n");

/// What stands in one block of the stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Message<'a> {
    /// Without data no event fires; with an id, the block still moves the reader's cursor.
    /// The reader sees CR and CRLF as LF: send JSON where that matters.
    pub data: Option<&'a str>,
    /// The event type; `message` when absent or empty. `error` and `open` reach the listeners of a
    /// browser's `EventSource` for the connection: use other names.
    pub event: Option<&'a str>,
    /// The reader's new cursor; empty clears it. Keep to ASCII: it comes back as a request header.
    pub id: Option<&'a str>,
    /// How long the reader waits before it reconnects; sent in whole milliseconds.
    pub retry: Option<Duration>,
}

/// The value would end its line, and the rest would be read as other fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// CR, LF or NUL in the id; the reader ignores an id with NUL.
    #[error("an event id cannot hold CR, LF or NUL")]
    Id,
    /// CR or LF in the event type.
    #[error("an event type cannot hold CR or LF")]
    Event,
}

impl<'a> Message<'a> {
    /// A message with only data. Empty data is an event with empty data.
    pub fn data(data: &'a str) -> Self {
        Self {
            data: Some(data),
            ..Self::default()
        }
    }

    /// With an event type.
    #[must_use]
    pub fn event(self, event: &'a str) -> Self {
        Self {
            event: Some(event),
            ..self
        }
    }

    /// With an id.
    #[must_use]
    pub fn id(self, id: &'a str) -> Self {
        Self {
            id: Some(id),
            ..self
        }
    }

    /// The bytes of the block, its blank line included.
    ///
    /// # Errors
    /// When the id or the event type holds what its field cannot carry. Data can hold anything.
    pub fn encode(&self) -> Result<Bytes, EncodeError> {
        if self.id.is_some_and(|id| id.contains(['\r', '\n', '\0'])) {
            return Err(EncodeError::Id);
        }
        if self.event.is_some_and(|event| event.contains(['\r', '\n'])) {
            return Err(EncodeError::Event);
        }
        let length = |field: Option<&str>| field.map_or(0, str::len);
        let mut out =
            BytesMut::with_capacity(length(self.data) + length(self.event) + length(self.id) + 48);
        if let Some(id) = self.id {
            put_line(&mut out, "id: ", id);
        }
        if let Some(event) = self.event {
            put_line(&mut out, "event: ", event);
        }
        if let Some(retry) = self.retry {
            put_line(&mut out, "retry: ", &retry.as_millis().to_string());
        }
        if let Some(mut data) = self.data {
            // Every line ending of the format ends a line here: LF, CR, and CRLF as one.
            while let Some(end) = data.find(['\r', '\n']) {
                put_line(&mut out, "data: ", &data[..end]);
                let rest = &data[end..];
                data = rest.strip_prefix("\r\n").unwrap_or(&rest[1..]);
            }
            put_line(&mut out, "data: ", data);
        }
        out.put_u8(b'\n');
        Ok(out.freeze())
    }
}

fn put_line(out: &mut BytesMut, field: &str, value: &str) {
    out.put_slice(field.as_bytes());
    out.put_slice(value.as_bytes());
    out.put_u8(b'\n');
}
