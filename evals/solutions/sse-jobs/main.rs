//! Jobs that run once, in tasks of their own, each with a log (`sse/resume`) that its streams read.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use snippets::connections::listen;
use snippets::sse::event::{Event, LastEventId};
use snippets::sse::log::{self, Log};
use snippets::sse::streams::{self, Config, Streams};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[derive(Deserialize)]
struct Job {
    label: String,
    steps: u32,
    step_ms: u64,
    fail_at: Option<u32>,
}

#[derive(Clone)]
struct App {
    logs: Arc<Mutex<HashMap<u64, Arc<Log>>>>,
    ids: Arc<AtomicU64>,
    runs: Arc<AtomicU64>,
    streams: Streams,
}

async fn create(State(app): State<App>, Json(job): Json<Job>) -> (StatusCode, Json<Value>) {
    let id = app.ids.fetch_add(1, Ordering::Relaxed) + 1;
    let log = Log::new(log::Config::complete(10_000, 1024 * 1024));
    let mut logs = app.logs.lock().unwrap_or_else(PoisonError::into_inner);
    logs.insert(id, log.clone());
    app.runs.fetch_add(1, Ordering::Relaxed);
    tokio::spawn(async move {
        let publish = |event: Event| drop(log.publish(&event));
        for step in 1..=job.steps {
            if let Err(error) = work(&job, step).await {
                eprintln!("job {id}: {error}");
                let failed = Event::new("failed", &json!({ "code": "job_failed" }));
                return failed.map(|m| publish(m.last())).unwrap_or(());
            }
            let data = json!({ "label": job.label, "step": step });
            Event::new("step", &data).map(publish).unwrap_or(());
        }
        let done = Event::new("done", &json!({ "steps": job.steps }));
        done.map(|m| publish(m.last())).unwrap_or(());
    });
    (StatusCode::CREATED, Json(json!({ "id": id })))
}

async fn work(job: &Job, step: u32) -> Result<(), std::io::Error> {
    tokio::time::sleep(Duration::from_millis(job.step_ms)).await;
    if job.fail_at == Some(step) {
        return Err(std::io::Error::other("disk /dev/sdb1 is full"));
    }
    Ok(())
}

async fn events(State(app): State<App>, Path(id): Path<u64>, cursor: LastEventId) -> Response {
    let logs = app.logs.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(log) = logs.get(&id).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    drop(logs);
    let Some(reader) = log.read(&cursor) else {
        return StatusCode::NO_CONTENT.into_response();
    };
    match app.streams.admit() {
        Ok(slot) => slot.respond(reader),
        Err(refused) => refused.into_response(),
    }
}

async fn stats(State(app): State<App>) -> Json<Value> {
    Json(json!({ "runs": app.runs.load(Ordering::Relaxed) }))
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".into());
    let stop = CancellationToken::new();
    let spread = Config {
        drain_spread: Duration::from_secs(1),
        ..Config::default()
    };
    let app = App {
        logs: Arc::default(),
        ids: Arc::default(),
        runs: Arc::default(),
        streams: Streams::start(spread, stop.clone()),
    };
    let app = Router::new()
        .route("/jobs", post(create))
        .route("/jobs/{id}/events", get(events).head(streams::head))
        .route("/stats", get(stats))
        .with_state(app);
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    let mut term = signal(SignalKind::terminate())?;
    let stopping = stop.clone();
    tokio::spawn(async move {
        term.recv().await;
        stopping.cancel();
    });
    let config = listen::Config {
        drain: Duration::from_secs(3),
        ..listen::Config::default()
    };
    listen::serve(listener, app, config, stop).await;
    Ok(())
}
