//! Server-Sent Events: a job to watch (`sse/serve`), a log to be cut off from (`sse/resume`), a hundred
//! subscribers (`super::fanout`), and compression that holds events back (`super::gzip`).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use snippets::sse::event::Event;
use snippets::sse::jobs::{self, Jobs, Progress};
use snippets::sse::log::{self, Log};
use snippets::sse::resume;
use snippets::sse::streams::{Config, Streams};
use tokio_util::sync::CancellationToken;

/// Jobs that are remembered; an older one is forgotten.
const JOBS: usize = 64;
/// Events that the log keeps: few, so that a reader sees it trimmed.
const LOG_EVENTS: usize = 8;

/// `/serve/jobs/{id}/events` and `/resume/events` as in the patterns; `POST /serve/jobs` starts a
/// job, `POST /resume/publish?count=3` publishes.
pub fn router(shutdown: CancellationToken) -> Router {
    let config = Config {
        max_streams: 200,
        heartbeat: Duration::from_secs(5),
        retry: Duration::from_secs(1),
        drain_spread: Duration::ZERO,
        ..Config::default()
    };
    let streams = Streams::start(config, shutdown.clone());
    let started = Started {
        jobs: Jobs::default(),
        ids: Arc::default(),
        shutdown,
    };
    let fanout = super::fanout::router(streams.clone());
    let gzip = super::gzip::router(started.shutdown.clone());
    let serve = jobs::app(started.jobs.clone(), streams.clone()).merge(
        Router::new()
            .route("/jobs", post(start))
            .with_state(started),
    );
    let log = Log::new(log::Config::complete(LOG_EVENTS, 64 * 1024));
    let resume = resume::app(log.clone(), streams).merge(
        Router::new()
            .route("/publish", post(publish))
            .with_state(log),
    );
    Router::new()
        .nest("/serve", serve)
        .nest("/resume", resume)
        .nest("/fanout", fanout)
        .nest("/gzip", gzip)
}

#[derive(Clone)]
struct Started {
    jobs: Jobs,
    /// The next id, and those that are remembered.
    ids: Arc<Mutex<(u64, VecDeque<u64>)>>,
    shutdown: CancellationToken,
}

async fn start(State(started): State<Started>) -> Result<Json<Value>, StatusCode> {
    let id = {
        let mut guard = started.ids.lock().unwrap_or_else(PoisonError::into_inner);
        let (next, known) = &mut *guard;
        *next += 1;
        known.push_back(*next);
        if known.len() > JOBS
            && let Some(oldest) = known.pop_front()
        {
            started.jobs.remove(oldest);
        }
        *next
    };
    let worker = started.jobs.insert(id);
    let worker = worker.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let work = async move {
        for percent in (5..=100).step_by(5) {
            tokio::time::sleep(Duration::from_millis(300)).await;
            if worker.set(Progress { percent }).is_err() {
                return;
            }
        }
    };
    tokio::spawn(async move { started.shutdown.run_until_cancelled(work).await });
    Ok(Json(json!({ "id": id })))
}

#[derive(Deserialize)]
struct Publish {
    count: u8,
}

async fn publish(
    State(log): State<Arc<Log>>,
    Query(publish): Query<Publish>,
) -> Result<StatusCode, StatusCode> {
    for _ in 0..publish.count.min(50) {
        let data = json!({ "text": TEXTS[rand::random_range(0..TEXTS.len())] });
        let line = Event::new("line", &data).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
        log.publish(&line).map_err(|_| StatusCode::CONFLICT)?;
    }
    Ok(StatusCode::NO_CONTENT)
}

const TEXTS: [&str; 4] = [
    "order placed",
    "order paid",
    "parcel sent",
    "parcel delivered",
];
