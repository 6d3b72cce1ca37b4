//! A subscriber of the hub in `super::fanout`: a cursor into the topic's ring, which is the body of a
//! response. Dropping it, as hyper does when the client has gone, frees it at once.

// ANCHOR: router
use axum::extract::{Path, State as Shared};
use axum::response::IntoResponse;
use axum::{Router, routing::get};

use super::fanout::Hub;
use super::message::LastEventId;

/// `GET /topics/{topic}/events`. Which topics a user may read is decided before this.
pub fn router(hub: Hub) -> Router {
    async fn events(
        Shared(hub): Shared<Hub>,
        Path(topic): Path<String>,
        cursor: LastEventId,
    ) -> impl IntoResponse {
        hub.subscribe(&topic, &cursor)
    }
    Router::new()
        .route("/topics/{topic}/events", get(events))
        .with_state(hub)
}
// ANCHOR_END: router

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::header;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http_body::Frame;
use tokio::time::Instant;

use super::encode::HEARTBEAT;
use super::fanout::{SlowConsumer, State, Topic};

/// Waiting events are joined up to this many bytes: one system call instead of many.
const FRAME: usize = 16 * 1024;

/// The events of one topic for one client.
pub struct Subscription {
    hub: Hub,
    topic: Arc<Topic>,
    slot: usize,
    /// Sequence number of the next event to send.
    next: u64,
    /// What was published later than this counts for [`Config::queue`](super::fanout::Config::queue);
    /// what it replays from the history does not.
    joined: u64,
    /// Sent before anything else.
    first: Option<Bytes>,
    /// The heartbeat that was seen last.
    beat: u64,
    born: Instant,
}

impl Subscription {
    pub(super) fn new(
        hub: Hub,
        topic: Arc<Topic>,
        state: &State,
        slot: usize,
        next: u64,
        lost: bool,
    ) -> Self {
        let retry = hub
            .shared
            .config
            .retry
            .mul_f64(rand::random_range(0.5..1.5));
        // The client has a cursor before the first event, and its own time to come back.
        let mut first = BytesMut::from(topic.cursor(next - 1, retry));
        if lost {
            first.extend_from_slice(&topic.reset(next - 1));
        }
        Self {
            slot,
            next,
            joined: state.next,
            first: Some(first.freeze()),
            beat: state.beat,
            born: Instant::now(),
            hub,
            topic,
        }
    }
}

impl http_body::Body for Subscription {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        let send = |bytes| Poll::Ready(Some(Ok(Frame::data(bytes))));
        if let Some(first) = this.first.take() {
            return send(first);
        }
        let config = &this.hub.shared.config;
        let mut state = this.topic.lock();
        if this.beat != state.beat {
            this.beat = state.beat;
            if this.born.elapsed() >= config.max_age {
                return Poll::Ready(None);
            }
            if this.next == state.next {
                return send(HEARTBEAT);
            }
        }
        if this.next == state.next {
            if state.closed {
                return Poll::Ready(None);
            }
            state.waiting[this.slot] = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let oldest = state.next - state.history.len() as u64;
        let behind = state.next - this.next.max(this.joined);
        let slow = behind > config.queue as u64 || this.next < oldest;
        let mut frame = BytesMut::new();
        match config.slow {
            SlowConsumer::Conflate => this.next = state.next - 1,
            SlowConsumer::Disconnect if slow => return Poll::Ready(None),
            SlowConsumer::DropOldest if slow => {
                this.next = state.next - config.queue.min(state.history.len()) as u64;
                frame.extend_from_slice(&this.topic.reset(this.next - 1));
            }
            SlowConsumer::Disconnect | SlowConsumer::DropOldest => {}
        }
        let from = (this.next - oldest) as usize;
        let one = state.next - this.next == 1;
        if let (true, true, Some(event)) = (one, frame.is_empty(), state.history.get(from)) {
            // The usual case: the bytes that all subscribers share.
            this.next += 1;
            return send(event.clone());
        }
        for event in state.history.range(from..) {
            frame.extend_from_slice(event);
            this.next += 1;
            if frame.len() >= FRAME {
                break;
            }
        }
        send(frame.freeze())
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.shared.leave(&self.topic, self.slot);
    }
}

impl IntoResponse for Subscription {
    fn into_response(self) -> Response {
        let headers = [
            (header::CONTENT_TYPE, "text/event-stream"),
            // `no-transform` keeps compressing proxies from holding events back.
            (header::CACHE_CONTROL, "no-cache, no-transform"),
            (header::HeaderName::from_static("x-accel-buffering"), "no"),
        ];
        (headers, Body::new(self)).into_response()
    }
}
