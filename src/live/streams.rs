//! Streams: the same slow reader behind a bounded and behind an unbounded queue
//! (`streams/backpressure`), with the bytes in each queue as an event stream.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use serde_json::{Value, json};
use snippets::sse::event::Event;
use snippets::sse::streams::{Config, Produced, Streams};
use snippets::streams::backpressure::byte_channel;
use snippets::streams::pace::ticker;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{IntervalStream, UnboundedReceiverStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

const CHUNK: usize = 64 * 1024;
/// What one answer has in all: the bound of the unbounded queue, so that it harms nobody here.
const CHUNKS: usize = 768;
/// One chunk each: about 12 MiB a second.
const PERIOD: Duration = Duration::from_millis(5);
/// The bound of the bounded queue.
const LIMIT: u32 = 256 * 1024;

/// Bytes made and bytes taken from the queue.
#[derive(Default)]
struct Queue {
    made: AtomicUsize,
    taken: AtomicUsize,
}

impl Queue {
    fn bytes(&self) -> usize {
        let taken = self.taken.load(Relaxed);
        self.made.load(Relaxed).saturating_sub(taken)
    }
}

#[derive(Default)]
struct Run {
    bounded: Arc<Queue>,
    unbounded: Arc<Queue>,
}

#[derive(Clone)]
struct Live {
    /// The newest run: one reader at a time watches, so a new one replaces it.
    run: Arc<Mutex<Arc<Run>>>,
    bodies: Streams,
    depths: Streams,
    shutdown: CancellationToken,
}

/// `POST /backpressure/run` starts over; `GET /backpressure/bounded`, `…/unbounded` and
/// `…/depths` are its two bodies and the sizes of their queues.
pub fn router(shutdown: CancellationToken) -> Router {
    let streams = |max_streams| {
        let config = Config {
            max_streams,
            ..Config::default()
        };
        Streams::start(config, shutdown.clone())
    };
    let live = Live {
        run: Arc::default(),
        bodies: streams(4),
        depths: streams(4),
        shutdown: shutdown.clone(),
    };
    Router::new()
        .route("/backpressure/run", post(begin))
        .route("/backpressure/depths", get(depths))
        .route("/backpressure/{queue}", get(body))
        .with_state(live)
}

fn current(live: &Live) -> Arc<Run> {
    live.run
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}

async fn begin(State(live): State<Live>) -> Json<Value> {
    *live.run.lock().unwrap_or_else(PoisonError::into_inner) = Arc::default();
    Json(json!({ "limit": LIMIT, "total": CHUNK * CHUNKS }))
}

async fn body(State(live): State<Live>, Path(queue): Path<String>) -> Response {
    let slot = match live.bodies.admit() {
        Ok(slot) => slot,
        Err(refused) => return refused.into_response(),
    };
    let run = current(&live);
    let chunks = match queue.as_str() {
        "bounded" => bounded(run.bounded.clone()).left_stream(),
        "unbounded" => unbounded(run.unbounded.clone()).right_stream(),
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    let chunks = chunks
        .map(move |chunk| {
            let _until_the_body_is_dropped = &slot;
            Ok::<_, Infallible>(chunk)
        })
        .take_until(live.shutdown.clone().cancelled_owned());
    Body::from_stream(chunks.fuse()).into_response()
}

/// The producer: a chunk each period, counted when it is made.
fn produce(queue: Arc<Queue>) -> impl Stream<Item = Bytes> + Send + Unpin {
    let chunk = Bytes::from(vec![b'.'; CHUNK]);
    IntervalStream::new(ticker(PERIOD))
        .take(CHUNKS)
        .map(move |_| {
            queue.made.fetch_add(CHUNK, Relaxed);
            // A copy each: shared bytes would cost nothing to keep.
            Bytes::copy_from_slice(&chunk)
        })
}

fn counted(queue: Arc<Queue>) -> impl FnMut(&Bytes) + Send {
    move |chunk| {
        queue.taken.fetch_add(chunk.len(), Relaxed);
    }
}

/// The pattern: the producer waits for room.
fn bounded(queue: Arc<Queue>) -> impl Stream<Item = Bytes> + Send {
    let (tx, chunks) = byte_channel(64, LIMIT);
    let mut source = produce(queue.clone());
    let filling = AbortOnDropHandle::new(tokio::spawn(async move {
        while let Some(chunk) = source.next().await {
            if tx.send(chunk).await.is_err() {
                return;
            }
        }
    }));
    chunks.inspect(counted(queue)).inspect(move |_| {
        let _until_the_body_is_dropped = &filling;
    })
}

/// The counterexample: the producer never waits. `CHUNKS` is all that bounds it.
fn unbounded(queue: Arc<Queue>) -> impl Stream<Item = Bytes> + Send {
    let (tx, chunks) = mpsc::unbounded_channel();
    let mut source = produce(queue.clone());
    tokio::spawn(async move {
        while let Some(chunk) = source.next().await {
            if tx.send(chunk).is_err() {
                return;
            }
        }
    });
    UnboundedReceiverStream::new(chunks).inspect(counted(queue))
}

async fn depths(State(live): State<Live>) -> Response {
    let run = current(&live);
    let messages = IntervalStream::new(ticker(Duration::from_millis(200))).map(move |_| {
        let (bounded, unbounded) = (run.bounded.bytes(), run.unbounded.bytes());
        Event::new(
            "depth",
            &json!({ "bounded": bounded, "unbounded": unbounded }),
        )
    });
    match live.depths.admit() {
        Ok(slot) => slot.respond(Produced::new(messages)),
        Err(refused) => refused.into_response(),
    }
}
