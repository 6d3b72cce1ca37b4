//! Jobs started by POST, watched over SSE, finished without their client.
//!
//! `POST /jobs` starts a job and returns 201 with the address of its events; `GET /jobs/{id}/events` streams its state, each event
//! being the whole state, up to `done` or `failed`; `DELETE /jobs/{id}` stops it. A job runs in a task of its own: a client that
//! disconnects, reconnects or never comes changes nothing. Everything is bounded: jobs, streams, and the time that a finished job is kept.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{any, delete, get, post},
};
use serde_json::json;
pub use snippets::connections::refusal::Refusal;
use snippets::sse::event::{Event, LastEventId};
use snippets::sse::log::{Config as LogConfig, Log, Writer};
use snippets::sse::streams::{self, Config as StreamsConfig, Streams};
use tokio::task::AbortHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// An event that is not valid, or does not fit.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Most bytes of one state.
const MAX_STATE: usize = 4096;

/// The contract and the bounds, in one place.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Most jobs that run or are kept. One more is refused with 503.
    pub max_jobs: usize,
    /// How long a finished job can still be watched; then it is 404.
    pub keep: Duration,
    /// Length of one of the hundred steps of the example's work.
    pub step: Duration,
    /// The event of each state, and the two that are terminal.
    pub progress: &'static str,
    /// The work is done.
    pub done: &'static str,
    /// The work failed or was stopped.
    pub failed: &'static str,
    /// Limits, heartbeat and drain of the event streams.
    pub streams: StreamsConfig,
    /// The response for a refusal: its status, its headers and its body. The codes are `not_found`, `full` and `internal`.
    pub refuse: fn(Refusal) -> Response,
    /// How long connections may take to end at a shutdown, and then the jobs: twice this is below the time after which the process is
    /// killed (Kubernetes: 30 s by default), or the longest jobs are lost.
    pub drain: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_jobs: 1_000,
            keep: Duration::from_secs(600),
            step: Duration::from_millis(100),
            progress: "progress",
            done: "done",
            failed: "failed",
            streams: StreamsConfig::default(),
            refuse: Refusal::into_response,
            drain: Duration::from_secs(20),
        }
    }
}

/// The service: its routes, and the jobs that run in it.
#[derive(Clone)]
pub struct Service(Arc<Shared>);

struct Shared {
    settings: Settings,
    streams: Streams,
    running: TaskTracker,
    jobs: Mutex<HashMap<String, Job>>,
}

struct Job {
    log: Arc<Log>,
    work: AbortHandle,
}

impl Service {
    /// Starts with no jobs. Cancel `shutdown` to end every stream in band.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(settings: Settings, shutdown: CancellationToken) -> Self {
        let streams = Streams::start(settings.streams.clone(), shutdown);
        Self(Arc::new(Shared {
            settings,
            streams,
            running: TaskTracker::new(),
            jobs: Mutex::default(),
        }))
    }

    /// The routes. Put authentication before them: anyone who knows an id may watch and stop the job.
    pub fn app(&self) -> Router {
        Router::new()
            .route("/jobs", post(start))
            .route("/jobs/{id}", delete(stop))
            .route("/jobs/{id}/events", get(events).head(streams::head))
            .route("/health", any(async || "ok"))
            .with_state(self.clone())
    }

    /// Waits for the jobs that run, for at most `deadline`. They are in memory, and end with the process.
    pub async fn finish(&self, deadline: Duration) {
        self.0.running.close();
        let _ = tokio::time::timeout(deadline, self.0.running.wait()).await;
    }

    fn refuse(&self, status: StatusCode, code: &'static str, retry: Option<Duration>) -> Response {
        (self.0.settings.refuse)(Refusal {
            status,
            code,
            retry,
        })
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<String, Job>> {
        self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a job and returns its id; `None` if there are too many.
    fn begin(&self) -> Result<Option<String>, Failure> {
        let settings = &self.0.settings;
        let mut jobs = self.jobs();
        if jobs.len() >= settings.max_jobs {
            return Ok(None);
        }
        let id = format!("{:032x}", rand::random::<u128>());
        let log = Log::new(LogConfig {
            names: settings.streams.names,
            ..LogConfig::state(MAX_STATE)
        });
        // If the work panics or is stopped, nobody else would say so.
        let last_words = Event::new(settings.failed, &json!({"code": "stopped"}))?;
        let writer = Writer::new(log.clone(), last_words);
        let work = self.0.running.spawn(work(settings.clone(), writer));
        let stop = work.abort_handle();
        jobs.insert(id.clone(), Job { log, work: stop });
        let (service, kept) = (self.clone(), id.clone());
        tokio::spawn(async move {
            // A panic in the work is in its log already.
            let _ = work.await;
            tokio::time::sleep(service.0.settings.keep).await;
            service.jobs().remove(&kept);
        });
        Ok(Some(id))
    }
}

/// The work. Replace it: publish the whole state whenever it changes, and the terminal event once.
async fn work(settings: Settings, writer: Writer) {
    let publish = |name: &str, percent: u8, last: bool| -> Result<(), Failure> {
        let event = Event::new(name, &json!({"percent": percent}))?;
        let event = if last { event.last() } else { event };
        writer.log.publish(&event)?;
        Ok(())
    };
    for percent in 0..100 {
        if let Err(error) = publish(settings.progress, percent, false) {
            tracing::error!(%error, "a state cannot be published");
            return;
        }
        tokio::time::sleep(settings.step).await;
    }
    if let Err(error) = publish(settings.done, 100, true) {
        tracing::error!(%error, "the end cannot be published");
    }
}

async fn start(State(service): State<Service>) -> Response {
    match service.begin() {
        Ok(Some(id)) => {
            let events = format!("/jobs/{id}/events");
            let body = Json(json!({"id": id, "events": events}));
            (StatusCode::CREATED, [(header::LOCATION, events)], body).into_response()
        }
        Ok(None) => service.refuse(
            StatusCode::SERVICE_UNAVAILABLE,
            "full",
            Some(Duration::from_secs(10)),
        ),
        Err(error) => {
            tracing::error!(%error, "a job cannot be started");
            service.refuse(StatusCode::INTERNAL_SERVER_ERROR, "internal", None)
        }
    }
}

/// Stops a job: its watchers get `failed`. Unknown and finished jobs are the same to the client.
async fn stop(State(service): State<Service>, Path(id): Path<String>) -> StatusCode {
    if let Some(job) = service.jobs().get(&id) {
        job.work.abort();
    }
    StatusCode::NO_CONTENT
}

async fn events(
    State(service): State<Service>,
    Path(id): Path<String>,
    cursor: LastEventId,
) -> Response {
    let log = service.jobs().get(&id).map(|job| job.log.clone());
    let Some(log) = log else {
        return service.refuse(StatusCode::NOT_FOUND, "not_found", None);
    };
    // The client has the terminal event: after a 204, an EventSource does not reconnect.
    let Some(reader) = log.read(&cursor) else {
        return StatusCode::NO_CONTENT.into_response();
    };
    match service.0.streams.admit() {
        Ok(slot) => slot.respond(reader),
        Err(refused) => {
            let retry = Some(refused.retry);
            service.refuse(StatusCode::SERVICE_UNAVAILABLE, "full", retry)
        }
    }
}
