//! The response of every event stream: its permit, its heartbeat, its limits, and its end in band.
//!
//! A pattern adds a [`Source`]; the limit, the response headers, the first bytes, the heartbeat, the maximum age and the
//! drain are here, once. It works under plain `axum::serve` and under `connections/listen.rs`, which adds the deadlines of
//! the sockets and saves memory. Needs `event.rs` and `connections/crowd.rs`. HTML, section 9.2.

// ANCHOR: streams
use std::{
    convert::Infallible,
    fmt::Display,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::Body,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::Stream;
use http_body::Frame;
use tokio_util::sync::CancellationToken;

use super::event::{Event, Names, Reason, is_id};
use crate::connections::crowd::{Crowd, Due, Place, Rules};

// ANCHOR: source
/// Where the body of one response gets its events; the patterns differ only in this.
pub trait Source: Send + Unpin + 'static {
    /// The next bytes: complete events. `None` ends the response.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Chunk>>;

    /// The cursor at which this response starts. It is sent first, as a lone `id:` line, so that a client whose
    /// connection is cut before the first event resumes from it.
    fn id(&self) -> Option<String> {
        None
    }

    /// Called at each heartbeat. If it returns an event, for example because the session is over or a broker is down,
    /// the stream ends with that event.
    fn beat(&mut self) -> Option<Event> {
        None
    }

    /// Replaces what the stream sends on its own: the first bytes, a heartbeat, the end at a shutdown or at the maximum
    /// age. `None` keeps it. Implement it only for clients of another protocol, which may fail on the events `ping`
    /// (heartbeat) and `restart` (shutdown).
    fn own(&mut self, _: Own) -> Option<Chunk> {
        None
    }
}
// ANCHOR_END: source

/// What a stream sends on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    /// The first bytes.
    Prelude,
    /// During silence.
    Heartbeat,
    /// The last bytes, at the shutdown.
    Shutdown,
    /// The last bytes, at the maximum age. Nothing by default: the client reconnects.
    MaxAge,
}

/// Bytes of complete events.
#[derive(Debug, Clone, Default)]
pub struct Chunk {
    /// The bytes.
    pub bytes: Bytes,
    /// The response ends after them.
    pub last: bool,
    /// They are the event `reset`, for metrics.
    pub reset: Option<Reason>,
}

impl From<&Event> for Chunk {
    fn from(event: &Event) -> Self {
        Self {
            bytes: event.bytes(),
            last: event.is_last(),
            reset: None,
        }
    }
}

impl Chunk {
    /// A comment, which every reader of event streams skips.
    pub const COMMENT: Self = Self {
        bytes: Bytes::from_static(b":\n\n"),
        last: false,
        reset: None,
    };
}

// ANCHOR: settings
/// What all streams of a service share.
#[derive(Debug, Clone)]
pub struct Config {
    /// The largest number of streams that may be open at once. Keep it below the limit of file descriptors
    /// (`ulimit -n`).
    pub max_streams: usize,
    /// Longest silence. The HTML Standard (9.2.7) recommends about 15 s. Keep this below half of the shortest idle timeout on the path.
    pub heartbeat: Duration,
    /// Each response ends at a random age of 0.8 to 1 times this; the client reconnects, so that authorization,
    /// routing and load balancing are decided again. The age is checked at heartbeats. `Duration::MAX`: never.
    pub max_age: Duration,
    /// How long a client waits before it reconnects (the field `retry`): each gets 0.5 to 1.5 times this. Never near 0, because browsers obey it.
    pub retry: Duration,
    /// A shutdown ends the streams one after another, spread evenly over this time.
    pub drain_spread: Duration,
    /// The names of the events that a stream sends on its own. Set the same `names` in `log::Config`.
    pub names: Names,
}
// ANCHOR_END: settings

impl Default for Config {
    fn default() -> Self {
        Self {
            max_streams: 10_000,
            heartbeat: Duration::from_secs(15),
            max_age: Duration::from_secs(30 * 60),
            retry: Duration::from_secs(3),
            drain_spread: Duration::from_secs(5),
            names: Names::DEFAULT,
        }
    }
}

/// The open streams of a service. Cloning is cheap.
#[derive(Clone)]
pub struct Streams {
    crowd: Crowd,
    retry: Duration,
    max_age: Duration,
    own: Arc<Encoded>,
}

/// What a stream sends on its own, encoded once for all of them.
struct Encoded {
    heartbeat: Chunk,
    restart: Chunk,
}

impl Encoded {
    fn new(names: Names) -> Self {
        let chunk = |name: Option<&str>, last| {
            let event = name.and_then(|name| Event::text(name, "{}").ok());
            let chunk = event.map_or(Chunk::COMMENT, |event| Chunk::from(&event));
            Chunk { last, ..chunk }
        };
        Self {
            heartbeat: chunk(names.heartbeat, false),
            restart: chunk(names.restart, true),
        }
    }
}

impl Streams {
    /// Cancel `shutdown` to end every stream in band.
    ///
    /// # Panics
    /// Outside of a tokio runtime, which runs the one heartbeat of all streams.
    pub fn start(config: Config, shutdown: CancellationToken) -> Self {
        let Config {
            max_streams: max,
            heartbeat,
            max_age,
            retry,
            drain_spread,
            names,
        } = config;
        let crowd = Crowd::start(
            Rules {
                max,
                heartbeat,
                drain_spread,
            },
            shutdown,
        );
        Self {
            crowd,
            retry,
            max_age,
            own: Arc::new(Encoded::new(names)),
        }
    }

    /// A permit for one more stream. Ask before the 200, and before work that only the stream needs.
    ///
    /// # Errors
    /// If all permits are taken, or the shutdown has begun.
    pub fn admit(&self) -> Result<Slot, Refused> {
        let place = self.crowd.enter().ok_or_else(|| self.refusal())?;
        let beats = self.max_age.div_duration_f64(self.crowd.rules().heartbeat);
        // The cast saturates: `Duration::MAX` is no limit.
        let max_beats = (beats * rand::random_range(0.8..=1.0)).ceil().max(1.0) as u32;
        Ok(Slot {
            place,
            retry: self.refusal().retry.as_millis() as u32,
            max_beats,
            own: self.own.clone(),
        })
    }

    /// What a client gets that is refused for another reason, such as too many topics.
    pub fn refusal(&self) -> Refused {
        Refused {
            retry: self.retry.mul_f64(rand::random_range(0.5..1.5)),
        }
    }

    /// The number of open streams, for a gauge.
    pub fn open(&self) -> usize {
        self.crowd.count()
    }

    /// Waits until all streams have ended, for at most `deadline`. Returns how many have not.
    pub async fn drained(&self, deadline: Duration) -> usize {
        self.crowd.drained(deadline).await
    }
}

/// 503 with `Retry-After` in seconds (RFC 9110, section 10.2.3). An `EventSource` stops permanently at every status
/// except 200: its page has to build a new one.
#[derive(Debug)]
pub struct Refused {
    /// When to try again.
    pub retry: Duration,
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let seconds = self.retry.as_secs_f64().ceil().max(1.0) as u64;
        (
            StatusCode::SERVICE_UNAVAILABLE,
            [(header::RETRY_AFTER, seconds.to_string())],
        )
            .into_response()
    }
}

/// The permit for one stream. It is kept in the response body.
pub struct Slot {
    place: Place,
    retry: u32,
    max_beats: u32,
    own: Arc<Encoded>,
}

impl Slot {
    /// Sends `source` until its end, the shutdown or the maximum age, or until the client disconnects.
    pub fn respond(self, source: impl Source) -> Response {
        (
            EVENT_STREAM,
            Body::new(Events {
                begun: false,
                source: Some(source),
                slot: self,
            }),
        )
            .into_response()
    }

    /// The first bytes: with them proxies and `fetch` release the response, before any event.
    fn prelude(&self, id: Option<String>) -> Bytes {
        match id.filter(|id| is_id(id)) {
            Some(id) => format!("id: {id}\nretry: {}\n\n", self.retry).into(),
            None => format!("retry: {}\n\n", self.retry).into(),
        }
    }
}

// ANCHOR: body
/// The body of an event stream.
struct Events<S> {
    begun: bool,
    /// Dropped when it ends, even if the client takes long to read the rest.
    source: Option<S>,
    slot: Slot,
}

impl<S: Source> http_body::Body for Events<S> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        let Some(source) = &mut this.source else {
            return Poll::Ready(None);
        };
        let slot = &mut this.slot;
        let mut over = false;
        if !this.begun {
            // Before the check of what is due: a shutdown is signaled once, and its event belongs after this.
            this.begun = true;
            let own = source.own(Own::Prelude).map(|chunk| chunk.bytes);
            let prelude = own.unwrap_or_else(|| slot.prelude(source.id()));
            return Poll::Ready(Some(Ok(Frame::data(prelude))));
        }
        // ANCHOR: due
        let chunk = match slot.place.poll(cx) {
            Due::Shutdown => {
                over = true;
                // Events that are ready are sent first, as far as they fit in one write: the client may reconnect
                // to another process, which may not have them.
                match source.poll(cx) {
                    Poll::Ready(None) => None,
                    Poll::Ready(Some(chunk)) if chunk.last => Some(chunk),
                    ready => {
                        let own = source.own(Own::Shutdown);
                        let last = own.unwrap_or_else(|| slot.own.restart.clone());
                        let first = match ready {
                            Poll::Ready(Some(chunk)) => chunk.bytes,
                            _ => Bytes::new(),
                        };
                        let bytes = [first, last.bytes].concat().into();
                        Some(Chunk { bytes, ..last })
                    }
                }
            }
            Due::Beat(age) if age >= slot.max_beats => {
                over = true;
                source.own(Own::MaxAge)
            }
            Due::Beat(_) => match source.beat() {
                Some(event) => Some(Chunk::from(&event.last())),
                None => match source.poll(cx) {
                    Poll::Ready(chunk) => chunk,
                    Poll::Pending => source
                        .own(Own::Heartbeat)
                        .or_else(|| Some(slot.own.heartbeat.clone())),
                },
            },
            Due::Nothing => ready!(source.poll(cx)),
        };
        // ANCHOR_END: due
        if over || chunk.as_ref().is_none_or(|chunk| chunk.last) {
            this.source = None;
        }
        Poll::Ready(chunk.map(|chunk| Ok(Frame::data(chunk.bytes))))
    }
    // ANCHOR_END: body

    fn is_end_stream(&self) -> bool {
        self.source.is_none()
    }
}

/// The response headers of an event stream. `no-transform` and `X-Accel-Buffering` keep compressors and nginx from holding
/// events back; without `no-store`, Chromium reads a `fetch` body ahead into memory, and a slow page does not slow the server.
pub const EVENT_STREAM: [(&str, &str); 3] = [
    ("content-type", "text/event-stream"),
    ("cache-control", "no-cache, no-store, no-transform"),
    ("x-accel-buffering", "no"),
];

/// Answers HEAD. A `get` route runs its handler for HEAD too, and drops the stream: `get(events).head(streams::head)`.
/// It says the same of every path: where HEAD must be refused as GET is, authorize in a layer, or return it from the handler.
/// The body has no known length, so that no `Content-Length` is sent that a GET would not have (RFC 9110, section 8.6).
pub async fn head() -> Response {
    (
        EVENT_STREAM,
        Body::from_stream(futures::stream::empty::<Result<Bytes, Infallible>>()),
    )
        .into_response()
}

/// Events that are produced for this client alone. Dropping the body drops the stream; polling it asks for more.
///
/// An error is logged and sent as the event [`Names::failed`] without its text: an `Err` in the body would cut the
/// connection and discard what was not flushed.
pub struct Produced<S> {
    events: S,
    failed: Event,
}

impl<S> Produced<S> {
    /// Sends `events` up to the first that is [`Event::last`] or an error.
    pub fn new(events: S) -> Self {
        let failed = Event::unreserved(
            Names::DEFAULT.failed,
            &serde_json::json!({"code": "internal"}),
        );
        // The name and the data are constants.
        let failed = failed.unwrap_or_else(|_| unreachable!("a constant event"));
        Self { events, failed }
    }

    /// Sends `failed` instead if the stream fails.
    pub fn or_failed(self, failed: Event) -> Self {
        Self { failed, ..self }
    }
}

impl<S, E> Source for Produced<S>
where
    S: Stream<Item = Result<Event, E>> + Send + Unpin + 'static,
    E: Display + 'static,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Chunk>> {
        Poll::Ready(match ready!(Pin::new(&mut self.events).poll_next(cx)) {
            Some(Ok(event)) => Some(Chunk::from(&event)),
            Some(Err(error)) => {
                tracing::error!(%error, "event stream failed");
                Some(Chunk {
                    last: true,
                    ..Chunk::from(&self.failed)
                })
            }
            None => None,
        })
    }
}

/// A source that keeps something until it is dropped: a user's permit, a reader's count.
pub struct Holding<S, G>(pub S, pub G);

impl<S: Source, G: Send + Unpin + 'static> Source for Holding<S, G> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Chunk>> {
        self.0.poll(cx)
    }

    fn id(&self) -> Option<String> {
        self.0.id()
    }

    fn beat(&mut self) -> Option<Event> {
        self.0.beat()
    }

    fn own(&mut self, what: Own) -> Option<Chunk> {
        self.0.own(what)
    }
}
// ANCHOR_END: streams
