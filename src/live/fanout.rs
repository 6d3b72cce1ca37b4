//! Fan-out (`sse/fanout`): a hundred subscribers of one topic, one of which reads too slowly.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::StreamExt;
use serde_json::{Value, json};
use snippets::sse::event::{Event, LastEventId};
use snippets::sse::fanout;
use snippets::sse::log::{Config, Log, Slow};
use snippets::sse::log_reader::Reader;
use snippets::sse::streams::{Produced, Source, Streams};
use snippets::streams::pace::ticker;
use tokio::time::sleep;
use tokio_stream::wrappers::IntervalStream;
use tokio_util::task::AbortOnDropHandle;

/// Subscribers in process that read at once; the page and the slow one make a hundred.
const FAST: usize = 98;
const EVENTS: usize = 80;
const PERIOD: Duration = Duration::from_millis(50);
/// What may wait for one subscriber.
const QUEUE: usize = 16;
/// What is kept for one that reconnects.
const HISTORY: usize = 64;
/// The slow one's pause between two reads: thirty events.
const PAUSE: Duration = Duration::from_millis(1500);

/// One run: its topic, its subscribers and its publisher. Dropped, all of it ends.
struct Run {
    log: Arc<Log>,
    counts: Arc<Counts>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

#[derive(Default)]
struct Counts {
    published: AtomicUsize,
    fast: Vec<AtomicUsize>,
    slow: SlowReader,
}

#[derive(Default)]
struct SlowReader {
    events: AtomicUsize,
    resets: AtomicUsize,
    ended: AtomicUsize,
}

#[derive(Clone)]
struct Live {
    /// The newest run: one reader at a time watches, so a new one replaces it.
    run: Arc<Mutex<Option<Run>>>,
    streams: Streams,
}

/// `POST /run/{policy}` starts again; `GET /topics/prices/events` is the page's own subscription, and
/// `GET /counts` says what the others have.
pub fn router(streams: Streams) -> Router {
    let live = Live {
        run: Arc::default(),
        streams,
    };
    Router::new()
        .route("/run/{policy}", post(begin))
        .route("/counts", get(counts))
        .route("/topics/{topic}/events", get(follow))
        .with_state(live)
}

async fn begin(
    State(live): State<Live>,
    Path(policy): Path<String>,
) -> Result<Json<Value>, StatusCode> {
    let slow = match policy.as_str() {
        "disconnect" => Slow::End,
        "drop-oldest" => Slow::Reset,
        "conflate" => Slow::Newest,
        _ => return Err(StatusCode::NOT_FOUND),
    };
    let log = Log::new(Config {
        queue: QUEUE,
        events: HISTORY,
        slow,
        join: Duration::ZERO,
        ..fanout::feed()
    });
    let counts = Arc::new(Counts {
        fast: (0..FAST).map(|_| AtomicUsize::new(0)).collect(),
        ..Counts::default()
    });
    let mut tasks = vec![tokio::spawn(read_slowly(log.clone(), counts.clone()))];
    for n in 0..FAST {
        tasks.push(tokio::spawn(read(log.clone(), counts.clone(), n)));
    }
    tasks.push(tokio::spawn(publish(log.clone(), counts.clone())));
    let run = Run {
        log,
        counts,
        _tasks: tasks.into_iter().map(AbortOnDropHandle::new).collect(),
    };
    *live.run.lock().unwrap_or_else(PoisonError::into_inner) = Some(run);
    Ok(Json(
        json!({ "events": EVENTS, "queue": QUEUE, "history": HISTORY }),
    ))
}

/// As the pattern's own route, on the log of the newest run.
async fn follow(State(live): State<Live>, cursor: LastEventId) -> Response {
    let log = {
        let run = live.run.lock().unwrap_or_else(PoisonError::into_inner);
        run.as_ref().map(|run| run.log.clone())
    };
    let Some(reader) = log.and_then(|log| log.read(&cursor)) else {
        return StatusCode::NO_CONTENT.into_response();
    };
    match live.streams.admit() {
        Ok(slot) => slot.respond(reader),
        Err(refused) => refused.into_response(),
    }
}

async fn publish(log: Arc<Log>, counts: Arc<Counts>) {
    // The page has time to subscribe.
    sleep(Duration::from_millis(400)).await;
    let mut ticks = ticker(PERIOD);
    for n in 1..=EVENTS {
        ticks.tick().await;
        let published = Event::new("price", &n).map(|price| log.publish(&price));
        if !matches!(published, Ok(Ok(_))) {
            return;
        }
        counts.published.store(n, Relaxed);
    }
}

/// Events in a frame.
fn events(frame: &str) -> usize {
    frame.matches("event: price\n").count()
}

/// The next chunk of a reader, as text. An empty one is the end.
async fn chunk(reader: &mut Reader) -> String {
    let chunk = std::future::poll_fn(|cx| reader.poll(cx)).await;
    chunk.map_or_else(String::new, |chunk| {
        String::from_utf8_lossy(&chunk.bytes).into_owned()
    })
}

async fn read(log: Arc<Log>, counts: Arc<Counts>, n: usize) {
    let Some(mut reader) = log.read(&LastEventId::None) else {
        return;
    };
    loop {
        let text = chunk(&mut reader).await;
        if text.is_empty() {
            return;
        }
        if let Some(count) = counts.fast.get(n) {
            count.fetch_add(events(&text), Relaxed);
        }
    }
}

/// Reads a chunk of events, then does something else. When its response ends it reconnects, as an EventSource does.
async fn read_slowly(log: Arc<Log>, counts: Arc<Counts>) {
    let mut cursor = LastEventId::None;
    while let Some(mut reader) = log.read(&cursor) {
        loop {
            let text = chunk(&mut reader).await;
            if text.is_empty() {
                break;
            }
            counts.slow.events.fetch_add(events(&text), Relaxed);
            let resets = text.matches("event: reset\n").count();
            counts.slow.resets.fetch_add(resets, Relaxed);
            cursor = LastEventId::Id(reader.at().to_string());
            if events(&text) > 0 {
                sleep(PAUSE).await;
            }
        }
        counts.slow.ended.fetch_add(1, Relaxed);
    }
}

async fn counts(State(live): State<Live>) -> Response {
    let run = live.run.clone();
    let counts = IntervalStream::new(ticker(Duration::from_millis(200))).map(move |_| {
        let run = run.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = run.as_ref().map(|run| {
            let all = || run.counts.fast.iter().map(|count| count.load(Relaxed));
            let slow = &run.counts.slow;
            json!({
                "published": run.counts.published.load(Relaxed),
                "least": all().min(),
                "most": all().max(),
                "slow": slow.events.load(Relaxed),
                "resets": slow.resets.load(Relaxed),
                "ended": slow.ended.load(Relaxed),
                "held": run.log.kept().1,
            })
        });
        Event::new("counts", &counts)
    });
    match live.streams.admit() {
        Ok(slot) => slot.respond(Produced::new(counts)),
        Err(refused) => refused.into_response(),
    }
}
