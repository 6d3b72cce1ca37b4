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
use http_body_util::BodyExt;
use serde_json::{Value, json};
use snippets::sse::fanout::{Config, Hub, SlowConsumer};
use snippets::sse::message::{LastEventId, Message};
use snippets::sse::serve::Streams;
use snippets::streams::pace::ticker;
use tokio::time::sleep;
use tokio_stream::wrappers::IntervalStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

const TOPIC: &str = "prices";
/// Subscribers in process that read at once; the page and the slow one make a hundred.
const FAST: usize = 98;
const EVENTS: usize = 80;
const PERIOD: Duration = Duration::from_millis(50);
/// What may wait for one subscriber.
const QUEUE: usize = 16;
/// What is kept for one who comes back.
const HISTORY: usize = 64;
/// The slow one's pause between two reads: thirty events.
const PAUSE: Duration = Duration::from_millis(1500);

/// One run: its topic, its subscribers and its publisher. Dropped, all of it ends.
struct Run {
    hub: Hub,
    counts: Arc<Counts>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

#[derive(Default)]
struct Counts {
    published: AtomicUsize,
    fast: Vec<AtomicUsize>,
    slow: Slow,
}

#[derive(Default)]
struct Slow {
    events: AtomicUsize,
    resets: AtomicUsize,
    ended: AtomicUsize,
}

#[derive(Clone)]
struct Live {
    /// The newest run: one reader at a time watches, so a new one replaces it.
    run: Arc<Mutex<Option<Run>>>,
    streams: Streams,
    shutdown: CancellationToken,
}

/// `POST /run/{policy}` begins anew; `GET /topics/prices/events` is the page's own subscription, and
/// `GET /counts` says what the others have.
pub fn router(streams: Streams, shutdown: CancellationToken) -> Router {
    let live = Live {
        run: Arc::default(),
        streams,
        shutdown,
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
        "disconnect" => SlowConsumer::Disconnect,
        "drop-oldest" => SlowConsumer::DropOldest,
        "conflate" => SlowConsumer::Conflate,
        _ => return Err(StatusCode::NOT_FOUND),
    };
    let hub = Hub::start(Config {
        queue: QUEUE,
        history: HISTORY,
        slow,
        ..Config::default()
    });
    let counts = Arc::new(Counts {
        fast: (0..FAST).map(|_| AtomicUsize::new(0)).collect(),
        ..Counts::default()
    });
    let mut tasks = vec![tokio::spawn(read_slowly(hub.clone(), counts.clone()))];
    for n in 0..FAST {
        tasks.push(tokio::spawn(read(hub.clone(), counts.clone(), n)));
    }
    tasks.push(tokio::spawn(publish(hub.clone(), counts.clone())));
    let run = Run {
        hub,
        counts,
        _tasks: tasks.into_iter().map(AbortOnDropHandle::new).collect(),
    };
    *live.run.lock().unwrap_or_else(PoisonError::into_inner) = Some(run);
    Ok(Json(
        json!({ "events": EVENTS, "queue": QUEUE, "history": HISTORY }),
    ))
}

/// As the pattern's own route, on the hub of the newest run.
async fn follow(State(live): State<Live>, last_event_id: LastEventId) -> Response {
    let hub = {
        let run = live.run.lock().unwrap_or_else(PoisonError::into_inner);
        run.as_ref().map(|run| run.hub.clone())
    };
    match hub {
        Some(hub) => subscription_of(&hub, &last_event_id, live.shutdown.clone()),
        None => StatusCode::NO_CONTENT.into_response(),
    }
}

fn subscription_of(hub: &Hub, cursor: &LastEventId, shutdown: CancellationToken) -> Response {
    let response = hub.subscribe(TOPIC, cursor).into_response();
    // The program ends without a hub of its own to close.
    response.map(|body| {
        let frames = body
            .into_data_stream()
            .take_until(shutdown.cancelled_owned());
        axum::body::Body::from_stream(frames.fuse())
    })
}

async fn publish(hub: Hub, counts: Arc<Counts>) {
    // The page has time to subscribe.
    sleep(Duration::from_millis(400)).await;
    let mut ticks = ticker(PERIOD);
    for n in 1..=EVENTS {
        ticks.tick().await;
        if hub.publish(TOPIC, "price", &n.to_string()).is_err() {
            return;
        }
        counts.published.store(n, Relaxed);
    }
}

/// Events in a frame.
fn events(frame: &str) -> usize {
    frame.matches("event: price\n").count()
}

async fn read(hub: Hub, counts: Arc<Counts>, n: usize) {
    let mut body = hub.subscribe(TOPIC, &LastEventId::None);
    while let Some(Ok(frame)) = body.frame().await {
        if let (Some(data), Some(count)) = (frame.data_ref(), counts.fast.get(n)) {
            count.fetch_add(events(&String::from_utf8_lossy(data)), Relaxed);
        }
    }
}

/// Reads a frame of events, then does something else. When its response ends it comes back, as an EventSource does.
async fn read_slowly(hub: Hub, counts: Arc<Counts>) {
    let mut cursor = LastEventId::None;
    loop {
        let mut body = hub.subscribe(TOPIC, &cursor);
        while let Some(Ok(frame)) = body.frame().await {
            let Some(data) = frame.data_ref() else {
                continue;
            };
            let text = String::from_utf8_lossy(data);
            counts.slow.events.fetch_add(events(&text), Relaxed);
            counts
                .slow
                .resets
                .fetch_add(text.matches("event: reset\n").count(), Relaxed);
            if let Some(id) = text
                .lines()
                .rev()
                .find_map(|line| line.strip_prefix("id: "))
            {
                cursor = LastEventId::Id(id.to_owned());
            }
            if events(&text) > 0 {
                sleep(PAUSE).await;
            }
        }
        counts.slow.ended.fetch_add(1, Relaxed);
    }
}

async fn counts(State(live): State<Live>) -> Response {
    let run = live.run.clone();
    let messages = IntervalStream::new(ticker(Duration::from_millis(200))).map(move |_| {
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
                "held": run.hub.held(TOPIC),
            })
        });
        Message::new("counts", &counts)
    });
    match live.streams.admit() {
        Ok(slot) => slot.respond(messages),
        Err(refused) => refused.into_response(),
    }
}
