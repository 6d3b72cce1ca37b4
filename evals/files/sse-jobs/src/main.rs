//! Runs jobs and shows their progress.
//!
//! POST /jobs {"label", "steps", "step_ms", "fail_at"?} -> 201 {"id"}
//! GET  /jobs/{id}/events -> Server-Sent Events: `step` {"label", "step"}, then `done` {"steps"} or `failed` {"code"}
//! GET  /stats -> {"runs"}: how often work was started

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::Stream;
use serde::{Deserialize, Serialize};
use serde_json::json;

#[derive(Clone, Deserialize, Serialize)]
struct Job {
    label: String,
    steps: u32,
    step_ms: u64,
    fail_at: Option<u32>,
}

#[derive(Clone, Default)]
struct App {
    jobs: Arc<Mutex<HashMap<u64, Job>>>,
    ids: Arc<AtomicU64>,
    runs: Arc<AtomicU64>,
}

async fn create(
    State(app): State<App>,
    Json(job): Json<Job>,
) -> (StatusCode, Json<serde_json::Value>) {
    let id = app.ids.fetch_add(1, Ordering::Relaxed) + 1;
    app.jobs.lock().unwrap().insert(id, job);
    (StatusCode::CREATED, Json(json!({ "id": id })))
}

async fn work(job: &Job, step: u32) -> Result<(), std::io::Error> {
    tokio::time::sleep(Duration::from_millis(job.step_ms)).await;
    if job.fail_at == Some(step) {
        return Err(std::io::Error::other("disk /dev/sdb1 is full"));
    }
    Ok(())
}

async fn events(
    State(app): State<App>,
    Path(id): Path<u64>,
) -> Result<Sse<impl Stream<Item = Result<Event, std::io::Error>>>, StatusCode> {
    let job = app
        .jobs
        .lock()
        .unwrap()
        .get(&id)
        .cloned()
        .ok_or(StatusCode::NOT_FOUND)?;
    app.runs.fetch_add(1, Ordering::Relaxed);
    let stream = async_stream::try_stream! {
        for step in 1..=job.steps {
            work(&job, step).await?;
            let data = json!({ "label": job.label, "step": step });
            yield Event::default().event("step").id(format!("{}-{step}", job.label)).json_data(data).unwrap();
        }
        yield Event::default().event("done").data("");
    };
    Ok(Sse::new(stream).keep_alive(KeepAlive::default()))
}

async fn stats(State(app): State<App>) -> Json<serde_json::Value> {
    Json(json!({ "runs": app.runs.load(Ordering::Relaxed) }))
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".into());
    let app = Router::new()
        .route("/jobs", post(create))
        .route("/jobs/{id}/events", get(events))
        .route("/stats", get(stats))
        .with_state(App::default());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    axum::serve(listener, app)
        .with_graceful_shutdown(async {
            let mut term =
                tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
            term.recv().await;
        })
        .await
}
