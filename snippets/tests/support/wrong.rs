//! What a wrong twin needs to be wrong in one thing only when `stream-probe` looks at all of it.

use std::fmt::Display;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::ws::CloseFrame;
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use axum::routing::{MethodRouter, get};
use bytes::Bytes;
use futures::{Stream, StreamExt, future, stream};
use snippets::llm::chat::{ChatEvent, Done, Kind, Names};
use snippets::llm::providers::{ModelError, ModelEvent, Usage};
use snippets::llm::upstream::Upstream;
use snippets::sse::event::{Event, InvalidEvent, LastEventId};
use snippets::sse::log::{self, Log};
use snippets::sse::resume;
use snippets::sse::streams::{self, Chunk, Produced, Source, Streams};
use stream_probe::Options;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tower_http::set_header::SetResponseHeaderLayer;

/// A service that does one thing wrong, and what makes it send an event.
pub struct Wrong {
    pub app: Router,
    pub publish: Option<Arc<dyn Fn(usize) + Send + Sync>>,
}

impl Wrong {
    pub fn new(app: Router) -> Self {
        Self { app, publish: None }
    }

    pub fn publishing(app: Router, publish: impl Fn(usize) + Send + Sync + 'static) -> Self {
        Self {
            app,
            publish: Some(Arc::new(publish)),
        }
    }
}

/// How a counterexample is served.
#[derive(Clone, Copy)]
pub enum Start {
    Service(fn() -> Wrong),
    /// In a process of its own, for what only a process shows.
    Process(fn() -> Wrong),
    /// In front of the probe, which plays the provider.
    Relay(fn(Upstream) -> Wrong),
    /// The same by the provider's origin.
    RelayTo(fn(String) -> Wrong),
}

/// How `stream-probe` looks at a counterexample: `PROBED` of each whose header says `Probe: fails`.
#[derive(Clone, Copy)]
pub struct Probed {
    pub start: Start,
    pub set: fn(&mut Options),
}

impl Probed {
    pub const fn new(start: Start) -> Self {
        Self { start, set: |_| {} }
    }

    /// With these options.
    pub const fn with(self, set: fn(&mut Options)) -> Self {
        Self { set, ..self }
    }
}

/// Its events are large enough to fill every buffer.
pub fn stalls(options: &mut Options) {
    options.skip.clear();
}

pub fn resumes(options: &mut Options) {
    options.resumable = true;
}

/// Streams with a heartbeat that a test need not wait for.
pub fn streams() -> Streams {
    let config = streams::Config {
        heartbeat: Duration::from_millis(500),
        ..streams::Config::default()
    };
    Streams::start(config, CancellationToken::new())
}

/// The response of `sse/serve`.
pub fn respond<E: Display + Send + 'static>(
    events: impl Stream<Item = Result<Event, E>> + Send + 'static,
) -> Response {
    let events = Produced::new(Box::pin(events));
    streams().admit().unwrap().respond(events)
}

/// The same for events that have ids of their own.
pub fn send(events: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    struct Encoded<S>(std::pin::Pin<Box<S>>);
    impl<S: Stream<Item = Bytes> + Send + 'static> Source for Encoded<S> {
        fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Chunk>> {
            let chunk = |bytes| Chunk {
                bytes,
                ..Chunk::default()
            };
            self.0.as_mut().poll_next(cx).map(|next| next.map(chunk))
        }
    }
    streams()
        .admit()
        .unwrap()
        .respond(Encoded(Box::pin(events)))
}

/// `sse/resume` as it is, for what is wrong around it.
pub fn resumable() -> (Router, impl Fn(usize) + Send + Sync + 'static) {
    let log = Log::new(log::Config::complete(1000, 1 << 20));
    let app = resume::app(log.clone(), streams());
    (app, move |n| {
        log.publish(&Event::new("tick", &n).unwrap()).unwrap();
    })
}

/// The headers of `sse/serve` on what axum's `Sse` answers by itself.
pub fn with_headers(app: Router) -> Router {
    let set = |name, value| {
        SetResponseHeaderLayer::overriding(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    };
    app.layer(set("cache-control", "no-cache, no-store, no-transform"))
        .layer(set("x-accel-buffering", "no"))
}

/// A GET route that does nothing for HEAD.
pub fn route<H, T>(handler: H) -> MethodRouter
where
    H: axum::handler::Handler<T, ()>,
    T: 'static,
{
    get(handler).head(streams::head)
}

/// A log of numbered events, for twins that do one step of resuming wrong.
pub struct Feed {
    prefix: &'static str,
    /// Bytes of filler in each event.
    filler: usize,
    stored: Mutex<Vec<usize>>,
    pub length: watch::Sender<usize>,
    /// The number of each event as it is published; a subscriber may be 16 behind.
    pub live: broadcast::Sender<usize>,
}

impl Feed {
    pub fn new(prefix: &'static str, filler: usize) -> Arc<Self> {
        Arc::new(Self {
            prefix,
            filler,
            stored: Mutex::default(),
            length: watch::Sender::new(0),
            live: broadcast::channel(16).0,
        })
    }

    pub fn publish(&self, n: usize) {
        let mut stored = self.stored.lock().unwrap();
        stored.push(n);
        self.length.send_replace(stored.len());
        let _ = self.live.send(stored.len());
    }

    /// The event with this number; the first is 1.
    pub fn event(&self, number: usize) -> Bytes {
        let n = self.stored.lock().unwrap()[number - 1];
        let event = Event::new("tick", &(n, "x".repeat(self.filler))).unwrap();
        event.at(format!("{}{number}", self.prefix))
    }

    /// Where a client begins, and the reset that it is told of where its cursor means nothing.
    pub fn begin(&self, cursor: &LastEventId) -> (Option<Bytes>, usize) {
        let length = *self.length.borrow();
        let known = match cursor {
            LastEventId::None => return (None, length),
            LastEventId::Id(id) => id
                .strip_prefix(self.prefix)
                .and_then(|number| number.parse().ok())
                .filter(|number| *number <= length),
            LastEventId::Unusable => None,
        };
        match known {
            Some(number) => (None, number),
            None => (
                Some(Event::unreserved("reset", &()).unwrap().bytes()),
                length,
            ),
        }
    }

    /// The events after `cursor`, for ever; one beyond the end waits until there are as many.
    pub fn after(self: &Arc<Self>, cursor: usize) -> impl Stream<Item = Bytes> + Send + use<> {
        let (feed, length) = (self.clone(), self.length.subscribe());
        stream::unfold(
            (feed, length, cursor),
            |(feed, mut length, at)| async move {
                length.wait_for(|length| *length > at).await.ok()?;
                Some((feed.event(at + 1), (feed, length, at + 1)))
            },
        )
    }
}

/// An answer of a model as `llm/relay` sends it: one terminal event, and a failure that says no more than a code.
pub fn answer(
    events: impl Stream<Item = Result<ModelEvent, ModelError>> + Send + 'static,
) -> Response {
    answer_with(events, |error| {
        ChatEvent::Failed(error.into()).event(&Names::default())
    })
}

/// The same with another way to report a failure.
pub fn answer_with(
    events: impl Stream<Item = Result<ModelEvent, ModelError>> + Send + 'static,
    failed: fn(&ModelError) -> Result<Event, InvalidEvent>,
) -> Response {
    let events = events.chain(stream::iter([Err(ModelError::Truncated)]));
    let sent = |event: ChatEvent| Some(event.event(&Names::default()));
    respond(events.filter_map(move |event| {
        future::ready(match event {
            Ok(ModelEvent::Text(text)) => sent(ChatEvent::Delta(Kind::Text, text)),
            Ok(ModelEvent::Finish { reason, tool_calls }) => {
                let done = Done {
                    reason,
                    tool_calls,
                    usage: Usage::default(),
                };
                sent(ChatEvent::Done(Arc::new(done)))
            }
            Ok(_) => None,
            Err(error) => Some(failed(&error).map(Event::last)),
        })
    }))
}

/// The Close that an error of the library calls for, which it does not send itself.
pub fn close_for(error: &axum::Error) -> CloseFrame {
    use std::error::Error as _;
    use tokio_tungstenite::tungstenite::Error;
    let source = error.source().and_then(|error| error.downcast_ref());
    let code = match source {
        Some(Error::Capacity(_)) => 1009,
        Some(Error::Utf8(_)) => 1007,
        _ => 1002,
    };
    CloseFrame {
        code,
        reason: "".into(),
    }
}
