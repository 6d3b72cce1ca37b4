//! Progress of a job, `GET /jobs/{id}/events`: each event is the whole state.
//!
//! Use it if a client needs only the newest state: a slow client skips states instead of queueing them, and no cursor is
//! ever unusable. If each event counts, use `resume.rs`. Needs `log.rs`, `log_reader.rs`, `streams.rs` and their files.

// ANCHOR: jobs
use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;
use serde_json::json;

use super::{
    event::{Event, LastEventId},
    log::{Config, Log, PublishError, Writer},
    streams::{self, Streams},
};

/// Most bytes of one state.
const MAX_STATE: usize = 4096;

/// The state of a job: 100 percent is the end.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Progress {
    /// 0 to 100.
    pub percent: u8,
}

/// The known jobs. A job runs in its worker and is never started by a GET: an EventSource repeats that after every end
/// of the response.
#[derive(Clone, Default)]
pub struct Jobs(Arc<RwLock<HashMap<u64, Arc<Log>>>>);

impl Jobs {
    // ANCHOR: worker
    /// Registers a job at 0 percent and returns its writing end, for the worker.
    ///
    /// # Errors
    /// If [`Worker::set`] fails.
    pub fn insert(&self, id: u64) -> Result<Worker, PublishError> {
        let log = Log::new(Config::state(MAX_STATE));
        let worker_gone = Event::new("failed", &json!({"code": "worker_gone"}))?;
        let worker = Worker(Writer::new(log.clone(), worker_gone));
        worker.set(Progress { percent: 0 })?;
        let mut jobs = self.0.write().unwrap_or_else(PoisonError::into_inner);
        jobs.insert(id, log);
        Ok(worker)
    }
    // ANCHOR_END: worker

    /// Forgets a job; its events are 404 from now on. Open streams continue.
    pub fn remove(&self, id: u64) {
        let mut jobs = self.0.write().unwrap_or_else(PoisonError::into_inner);
        jobs.remove(&id);
    }

    fn log(&self, id: u64) -> Option<Arc<Log>> {
        let jobs = self.0.read().unwrap_or_else(PoisonError::into_inner);
        jobs.get(&id).cloned()
    }
}

// ANCHOR: set
/// A job's writing end. If it is dropped before 100 percent (a panic, an aborted task), the log publishes `failed`.
pub struct Worker(Writer);

impl Worker {
    /// Publishes a state. 100 percent is the terminal event.
    ///
    /// # Errors
    /// If the job is finished.
    pub fn set(&self, state: Progress) -> Result<(), PublishError> {
        let event = match state.percent {
            100.. => Event::new("done", &state)?.last(),
            _ => Event::new("progress", &state)?,
        };
        self.0.log.publish(&event).map(drop)
    }
}
// ANCHOR_END: set

/// `GET /jobs/{id}/events`.
pub fn app(jobs: Jobs, streams: Streams) -> Router {
    Router::new()
        .route("/jobs/{id}/events", get(events).head(streams::head))
        .with_state((jobs, streams))
}

// ANCHOR: route
async fn events(
    State((jobs, streams)): State<(Jobs, Streams)>,
    Path(id): Path<u64>,
    cursor: LastEventId,
) -> Response {
    let Some(log) = jobs.log(id) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    // `None`: the client already has the terminal event. After a 204, an EventSource does not reconnect.
    let Some(reader) = log.read(&cursor) else {
        return StatusCode::NO_CONTENT.into_response();
    };
    match streams.admit() {
        Ok(slot) => slot.respond(reader),
        Err(refused) => refused.into_response(),
    }
}
// ANCHOR_END: route
// ANCHOR_END: jobs
