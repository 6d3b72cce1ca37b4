//! A Server-Sent Events response that is right: flushed at once, alive, bounded, and ended on purpose.
//!
//! Use it for every SSE endpoint; it needs `message.rs`, `jobs.rs` is a service built on it, and
//! `lifecycle.rs` serves it. It promises: the head and a prelude leave at once; a quiet stream carries
//! a heartbeat that the client can see; the limit counts open streams, not handlers; the body never
//! ends with an error but with an event that says why; and a shutdown ends every stream.

// ANCHOR: serve
use std::{convert::Infallible, fmt::Display, sync::Arc, time::Duration};

use axum::{
    http::{StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::{Stream, StreamExt, stream};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::message::Message;

/// What all streams of a service share.
#[derive(Debug, Clone)]
pub struct Config {
    /// How many streams may be open at once.
    pub max_streams: usize,
    /// Longest silence. HTML 9.2.7 says about 15 s; keep it below half of the shortest idle limit of
    /// the proxies in front.
    pub heartbeat: Duration,
    /// Each client is told to wait `retry_min` plus a random part of `retry_spread` before it
    /// reconnects, so that a restart is not followed by everybody at once. Never near 0: browsers obey.
    pub retry_min: Duration,
    /// See `retry_min`.
    pub retry_spread: Duration,
    /// A shutdown ends each stream at a random time within this.
    pub drain_spread: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_streams: 10_000,
            heartbeat: Duration::from_secs(15),
            retry_min: Duration::from_secs(1),
            retry_spread: Duration::from_secs(4),
            drain_spread: Duration::ZERO,
        }
    }
}

/// The open streams of a service. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Streams {
    config: Arc<Config>,
    permits: Arc<Semaphore>,
    shutdown: CancellationToken,
}

impl Streams {
    /// Cancel `shutdown` to end every stream in band.
    pub fn new(config: Config, shutdown: CancellationToken) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(config.max_streams)),
            config: Arc::new(config),
            shutdown,
        }
    }

    /// A place for one more stream, or the refusal to answer with. Ask before the 200, and before
    /// any work that only the stream needs.
    pub fn admit(&self) -> Result<Slot, Refused> {
        match self.permits.clone().try_acquire_owned() {
            Ok(permit) if !self.shutdown.is_cancelled() => Ok(Slot {
                streams: Self {
                    // Waited for at each event: one token for all streams would be one lock for all.
                    shutdown: self.shutdown.child_token(),
                    ..self.clone()
                },
                ends: None,
                _permit: permit,
            }),
            _ => Err(Refused {
                retry_after: self.retry(),
            }),
        }
    }

    /// Open streams, for a gauge.
    pub fn open(&self) -> usize {
        self.config.max_streams - self.permits.available_permits()
    }

    fn retry(&self) -> Duration {
        self.config.retry_min + rand::random_range(Duration::ZERO..=self.config.retry_spread)
    }
}

/// 503 with `Retry-After` in seconds (RFC 9110, section 10.2.3). It ends a browser's `EventSource`
/// for good, as every status but 200 does: the page has to build a new one.
#[derive(Debug)]
pub struct Refused {
    retry_after: Duration,
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let seconds = self.retry_after.as_secs_f64().ceil().max(1.0) as u64;
        let retry_after = [(header::RETRY_AFTER, seconds.to_string())];
        (StatusCode::SERVICE_UNAVAILABLE, retry_after).into_response()
    }
}

/// The right to one stream. It lives inside the response body: a concurrency layer lets go when the
/// handler returns, which for a stream is when it begins.
#[derive(Debug)]
pub struct Slot {
    streams: Streams,
    /// Known when the shutdown has begun.
    ends: Option<Instant>,
    _permit: OwnedSemaphorePermit,
}

impl Slot {
    /// Sends `messages` until the first that is [`Message::last`], an error, the end of the stream,
    /// the shutdown, or until the client has gone; `messages` is dropped in that moment.
    ///
    /// An error is logged and becomes a `stream_error` event without its text: an `Err` in the body would
    /// cut the connection and discard what has not been flushed.
    pub fn respond<S, E>(self, messages: S) -> Response
    where
        S: Stream<Item = Result<Message, E>> + Send + 'static,
        E: Display + Send + 'static,
    {
        let config = self.streams.config.clone();
        let retry = self.streams.retry();
        let live = stream::unfold(Some((self, Box::pin(messages))), move |open| async move {
            let (mut slot, mut messages) = open?;
            let next = tokio::select! {
                biased;
                () = slot.shutdown() => {
                    return Some((Event::default().event("restart").retry(retry).data("{}"), None));
                }
                next = messages.next() => next?,
            };
            match next {
                Ok(message) => {
                    let open = (!message.is_last()).then_some((slot, messages));
                    Some((Event::from(message), open))
                }
                Err(error) => {
                    tracing::error!(%error, "event stream failed");
                    let event = Event::default().event("stream_error");
                    Some((event.data(r#"{"code":"internal"}"#), None))
                }
            }
        });
        // The first bytes: proxies and `fetch` release the response with them, whenever the first event comes.
        let prelude = Event::default().comment("stream").retry(retry);
        // An event, since a page cannot see a comment: with it, a client can tell quiet from dead.
        let ping = Event::default().event("ping").data("{}");
        let events = stream::iter([prelude]).chain(live).map(Ok::<_, Infallible>);
        let body = Sse::new(events.fuse())
            .keep_alive(KeepAlive::new().interval(config.heartbeat).event(ping));
        (STREAM_HEADERS, body).into_response()
    }

    async fn shutdown(&mut self) {
        self.streams.shutdown.cancelled().await;
        let spread = self.streams.config.drain_spread;
        let random = || Instant::now() + spread.mul_f64(rand::random());
        // Kept: this future is made anew for each event.
        sleep_until(*self.ends.get_or_insert_with(random)).await;
    }
}

/// `no-transform` and `X-Accel-Buffering` keep compressors and nginx from holding events back; without
/// `no-store`, Chromium reads a `fetch` body ahead into memory, and a slow page does not slow the server.
const STREAM_HEADERS: [(&str, &str); 3] = [
    ("content-type", "text/event-stream"),
    ("cache-control", "no-cache, no-store, no-transform"),
    ("x-accel-buffering", "no"),
];

/// Answers HEAD. A `get` route runs its handler for HEAD too, and throws the stream away:
/// `get(events).head(serve::head)` does no work.
pub async fn head() -> impl IntoResponse {
    STREAM_HEADERS
}
// ANCHOR_END: serve
