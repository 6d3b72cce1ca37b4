//! Metrics of streams: how many are open, why they close, how long clients wait for the first event and between events,
//! and which clients lag.
//!
//! Wrap the source of a stream in [`Observer::watch`] before `Slot::respond`. Everything is recorded where it happens, the
//! end in `Drop`: if a client disconnects, no line after the loop runs. Labels are a fixed few: one [`Observer`] per kind
//! of stream, never one per user or room. Needs `sse/{event,streams}.rs`; `scrape.rs` is the endpoint.

use std::task::{Context, Poll, ready};

use memchr::memmem;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::sse::{
    event::{Event, Names, Reason},
    streams::{Chunk, Own, Source},
};

/// Why a stream has closed: the values of the label `reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// The terminal event, or the end of the source.
    Ended,
    /// The source failed.
    Error,
    /// The instance is stopping.
    Shutdown,
    /// The client disconnected, or was cut because it did not read.
    Client,
}

/// The metrics of one kind of stream. Make it once, at start, after the recorder has been installed; clone it.
#[derive(Clone)]
pub struct Observer {
    kind: &'static str,
    failed: &'static str,
    stopping: CancellationToken,
    open: Gauge,
    opened: Counter,
    resumed: Counter,
    refused: Counter,
    events: Counter,
    dropped: Counter,
    resets: [Counter; 5],
    closed: [Counter; 4],
    first_event: Histogram,
    between_events: Histogram,
    not_taken: Histogram,
    duration: Histogram,
    queue: Histogram,
}

impl Observer {
    // ANCHOR: names
    /// `stopping` is the token that ends the streams at a shutdown (`Streams::start`).
    pub fn new(kind: &'static str, stopping: CancellationToken) -> Self {
        let reset = |reason| counter!("stream_resets_total", "kind" => kind, "reason" => reason);
        let closed = |reason| counter!("stream_closed_total", "kind" => kind, "reason" => reason);
        Self {
            kind,
            failed: Names::DEFAULT.failed,
            stopping,
            open: gauge!("stream_open", "kind" => kind),
            opened: counter!("stream_opened_total", "kind" => kind),
            resumed: counter!("stream_resumed_total", "kind" => kind),
            refused: counter!("stream_refused_total", "kind" => kind),
            events: counter!("stream_events_total", "kind" => kind),
            dropped: counter!("stream_dropped_events_total", "kind" => kind),
            resets: ["trimmed", "epoch", "ahead", "invalid", "slow"].map(reset),
            closed: ["ended", "error", "shutdown", "client"].map(closed),
            first_event: histogram!("stream_first_event_seconds", "kind" => kind),
            between_events: histogram!("stream_between_events_seconds", "kind" => kind),
            not_taken: histogram!("stream_event_not_taken_seconds", "kind" => kind),
            duration: histogram!("stream_duration_seconds", "kind" => kind),
            queue: histogram!("stream_queue_depth", "kind" => kind),
        }
    }
    // ANCHOR_END: names

    /// For a stream whose event of an internal failure has a name of your own.
    pub fn failing_with(mut self, failed: &'static str) -> Self {
        self.failed = failed;
        self
    }

    /// Watches one stream from now until it is dropped. `resumed`: the client came with a cursor.
    pub fn watch<S>(&self, source: S, resumed: bool) -> Watched<S> {
        self.opened.increment(1);
        self.resumed.increment(u64::from(resumed));
        self.open.increment(1);
        let now = Instant::now();
        Watched {
            source,
            observer: self.clone(),
            opened: now,
            last: None,
            given: None,
            events: 0,
            closed: None,
        }
    }

    /// A client that got 503 or 429.
    pub fn refused(&self) {
        self.refused.increment(1);
    }

    /// For connections with a queue each: record its length at each ping.
    pub fn queued(&self, messages: usize) {
        self.queue.record(messages as f64);
    }

    /// Events that were left out for a slow client.
    pub fn dropped(&self, events: u64) {
        self.dropped.increment(events);
    }
}

/// See [`Observer::watch`].
pub struct Watched<S> {
    source: S,
    observer: Observer,
    opened: Instant,
    last: Option<Instant>,
    /// When the last bytes were handed to the connection, until it takes more.
    given: Option<Instant>,
    events: u64,
    closed: Option<Closed>,
}

impl<S: Source> Source for Watched<S> {
    // ANCHOR: poll
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Chunk>> {
        // The connection polls when its buffers have room and nothing is queued, so this wait is the client's lag.
        if let Some(given) = self.given.take() {
            self.observer.not_taken.record(given.elapsed());
        }
        let chunk = ready!(self.source.poll(cx));
        match &chunk {
            Some(chunk) => self.given_out(chunk),
            None => self.closed = self.closed.or(Some(Closed::Ended)),
        }
        Poll::Ready(chunk)
    }
    // ANCHOR_END: poll

    fn id(&self) -> Option<String> {
        self.source.id()
    }

    fn beat(&mut self) -> Option<Event> {
        let end = self.source.beat();
        if let Some(event) = &end {
            self.given_out(&Chunk {
                last: true,
                ..Chunk::from(event)
            });
        }
        end
    }

    fn own(&mut self, what: Own) -> Option<Chunk> {
        self.source.own(what)
    }
}

impl<S> Watched<S> {
    fn given_out(&mut self, chunk: &Chunk) {
        let (now, observer) = (Instant::now(), &self.observer);
        // Each event ends with an empty line.
        let events = memmem::find_iter(&chunk.bytes, b"\n\n").count() as u64;
        observer.events.increment(events);
        match self.last {
            None => observer.first_event.record(now - self.opened),
            Some(last) => observer.between_events.record(now - last),
        }
        if let Some(reason) = chunk.reset {
            observer.resets[match reason {
                Reason::Trimmed => 0,
                Reason::Epoch => 1,
                Reason::Ahead => 2,
                Reason::Invalid => 3,
                Reason::Slow => 4,
            }]
            .increment(1);
        }
        if chunk.last {
            let failed = chunk.bytes.strip_prefix(b"event: ").unwrap_or_default();
            let failed = failed
                .strip_prefix(self.observer.failed.as_bytes())
                .is_some_and(|rest| rest.starts_with(b"\n"));
            self.closed = Some(if failed { Closed::Error } else { Closed::Ended });
        }
        self.events += events;
        (self.last, self.given) = (Some(now), Some(now));
    }
}

// ANCHOR: drop
impl<S> Drop for Watched<S> {
    fn drop(&mut self) {
        let observer = &self.observer;
        let reason = self
            .closed
            .unwrap_or(match observer.stopping.is_cancelled() {
                true => Closed::Shutdown,
                false => Closed::Client,
            });
        let lasted = self.opened.elapsed();
        observer.open.decrement(1);
        observer.closed[reason as usize].increment(1);
        observer.duration.record(lasted);
        // An event, not a span: a span that is open for hours is exported when it ends, and looks like one slow request.
        tracing::info!(
            kind = observer.kind,
            ?reason,
            ?lasted,
            events = self.events,
            "stream closed"
        );
    }
}
// ANCHOR_END: drop
