//! The UI message stream (v1) of the AI SDK, written from Rust: `useChat` talks to your axum service without a Next.js route between.
//!
//! Use it if the front end is built on the AI SDK; otherwise `relay` has a smaller protocol. `use_chat` has the endpoints. Guarantee:
//! the stream ends with `[DONE]`, and a fragment never ends like a complete message. Siblings: `ui_part`, `ui_writer`, `model_event`,
//! `public_error`. Other topics: `sse/streams`.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::{
    http::{HeaderName, HeaderValue},
    response::Response,
};
use futures::{Stream, StreamExt, stream, stream::BoxStream};

use super::{
    model_event::ModelEvent, public_error::PublicError, ui_part::UiPart, ui_writer::UiWriter,
};
use crate::sse::{
    event::Event,
    streams::{Chunk, Own, Slot, Source},
};

// ANCHOR: response
/// Sends `source`, a [`UiMessage`]. To hold a user's permit, wrap it in [`Holding`](crate::sse::streams::Holding).
pub fn ui_response(slot: Slot, source: impl Source) -> Response {
    let mut response = slot.respond(source);
    let version = HeaderName::from_static("x-vercel-ai-ui-message-stream");
    let headers = response.headers_mut();
    headers.insert(version, HeaderValue::from_static("v1"));
    response
}
// ANCHOR_END: response

/// One part an event, and `[DONE]` after the last. The client fails the message on an event that is not a part: the
/// heartbeat is a comment, and a shutdown or the maximum age ends the open parts and the message with an error.
pub struct UiMessage {
    parts: BoxStream<'static, UiPart>,
    /// The ends of the open parts.
    open: Vec<UiPart>,
}

impl UiMessage {
    /// A message of `parts`.
    pub fn new(parts: impl Stream<Item = UiPart> + Send + 'static) -> Self {
        let (parts, open) = (parts.boxed(), Vec::new());
        Self { parts, open }
    }
}

// ANCHOR: own
impl Source for UiMessage {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Chunk>> {
        Poll::Ready(match ready!(Pin::new(&mut self.parts).poll_next(cx)) {
            Some(part) => {
                part.track(&mut self.open);
                Some(Chunk::from(&event(&part)))
            }
            None => Some(done([])),
        })
    }

    fn own(&mut self, what: Own) -> Option<Chunk> {
        Some(match what {
            Own::Prelude | Own::Heartbeat => Chunk::COMMENT,
            Own::Shutdown | Own::MaxAge => {
                let error_text = UiPart::TRUNCATED;
                let open = std::mem::take(&mut self.open);
                done(open.into_iter().chain([UiPart::Error { error_text }]))
            }
        })
    }
}
// ANCHOR_END: own

/// The event of a part.
pub fn event(part: &UiPart) -> Event {
    // Strings and JSON values: this cannot fail; if it did, the client would fail on the empty part.
    Event::message(&serde_json::to_string(part).unwrap_or_default())
}

/// A log of the events of parts, such as a generation's.
pub struct UiLog<S>(pub S);

impl<S: Source> Source for UiLog<S> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Chunk>> {
        self.0.poll(cx)
    }

    fn own(&mut self, what: Own) -> Option<Chunk> {
        Some(match what {
            Own::Prelude | Own::Heartbeat => Chunk::COMMENT,
            Own::Shutdown | Own::MaxAge => {
                let error_text = UiPart::TRUNCATED;
                done([UiPart::Error { error_text }])
            }
        })
    }
}

fn done(parts: impl IntoIterator<Item = UiPart>) -> Chunk {
    let events = parts.into_iter().map(|part| event(&part));
    let events = events.chain([Event::message("[DONE]")]);
    let bytes: Vec<u8> = events.flat_map(|event| event.bytes()).collect();
    Chunk {
        bytes: bytes.into(),
        last: true,
        reset: None,
    }
}

// ANCHOR: parts
/// The parts of a message that is one model call: a chat without tools of its own.
pub fn ui_parts<S, E>(message_id: &str, events: S) -> impl Stream<Item = UiPart> + Send + use<S, E>
where
    S: Stream<Item = Result<ModelEvent, E>> + Send,
    PublicError: From<E>,
{
    let mut first = Vec::new();
    let writer = UiWriter::start(message_id, &mut first);
    let rest = stream::unfold(
        (Box::pin(events), Some(writer)),
        |(mut events, writer)| async {
            let mut writer = writer?;
            let mut out = Vec::new();
            let writer = match events.next().await {
                Some(Ok(event)) => match writer.event(event, &mut out) {
                    None => Some(writer),
                    Some((reason, _)) => {
                        writer.finish(&reason, &mut out);
                        None
                    }
                },
                Some(Err(error)) => {
                    writer.fail(error.into(), &mut out);
                    None
                }
                None => {
                    writer.fail(PublicError::TRUNCATED, &mut out);
                    None
                }
            };
            Some((stream::iter(out), (events, writer)))
        },
    );
    stream::iter(first).chain(rest.flatten())
}
// ANCHOR_END: parts
