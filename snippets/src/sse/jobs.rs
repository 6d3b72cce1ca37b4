//! The example service of `serve.rs`: progress of a job, `GET /jobs/{id}/events`.
//!
//! Each event is the whole state, so a client that missed some needs only the newest: a `watch`
//! channel is enough, and a slow client skips states instead of queueing them. Where each event
//! counts, use `resume.rs`. Needs `message.rs` and `serve.rs`.

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
use futures::{Stream, StreamExt, stream};
use serde::Serialize;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;

use super::{
    message::{InvalidMessage, LastEventId, Message},
    serve::{self, Streams},
};

/// The state of a job: 100 percent is the end.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Progress {
    /// 0 to 100.
    pub percent: u8,
}

/// The known jobs. A job runs in its worker, which holds the sender, and is never started by
/// a GET: EventSource repeats it after every end of the response.
#[derive(Debug, Clone, Default)]
pub struct Jobs(Arc<RwLock<HashMap<u64, watch::Receiver<Progress>>>>);

impl Jobs {
    /// Registers a job and returns its worker's end.
    pub fn insert(&self, id: u64) -> watch::Sender<Progress> {
        let (worker, progress) = watch::channel(Progress { percent: 0 });
        let mut jobs = self.0.write().unwrap_or_else(PoisonError::into_inner);
        jobs.insert(id, progress);
        worker
    }

    /// Forgets a job; its events are 404 from now on. Open streams are not touched.
    pub fn remove(&self, id: u64) {
        let mut jobs = self.0.write().unwrap_or_else(PoisonError::into_inner);
        jobs.remove(&id);
    }

    fn watch(&self, id: u64) -> Option<watch::Receiver<Progress>> {
        let jobs = self.0.read().unwrap_or_else(PoisonError::into_inner);
        jobs.get(&id).cloned()
    }
}

/// `GET /jobs/{id}/events`.
pub fn app(jobs: Jobs, streams: Streams) -> Router {
    Router::new()
        .route("/jobs/{id}/events", get(events).head(serve::head))
        .with_state((jobs, streams))
}

async fn events(
    State((jobs, streams)): State<(Jobs, Streams)>,
    Path(id): Path<u64>,
    last_event_id: LastEventId,
) -> Response {
    let Some(progress) = jobs.watch(id) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    // The client has the terminal event: 204 is the answer after which EventSource stops.
    if last_event_id == LastEventId::Id("100".into()) && progress.borrow().percent == 100 {
        return StatusCode::NO_CONTENT.into_response();
    }
    match streams.admit() {
        Ok(slot) => slot.respond(messages(progress)),
        Err(refused) => refused.into_response(),
    }
}

/// The current state, each later one, and a terminal event: `done`, or `failed` when the worker has
/// gone without finishing.
fn messages(
    progress: watch::Receiver<Progress>,
) -> impl Stream<Item = Result<Message, InvalidMessage>> {
    let states = WatchStream::new(progress).map(|state| {
        let id = state.percent.to_string();
        match state.percent {
            100 => Ok(Message::new("done", &state)?.with_id(id)?.last()),
            _ => Message::new("progress", &state)?.with_id(id),
        }
    });
    // Reached only without `done`, since the response ends with that.
    let worker_gone = stream::once(async {
        Ok(Message::new("failed", &serde_json::json!({"code": "worker_gone"}))?.last())
    });
    states.chain(worker_gone)
}
// ANCHOR_END: jobs
