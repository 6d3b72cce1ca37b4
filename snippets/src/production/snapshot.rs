//! A state and the stream of its changes: `GET /snapshot` has the cursor that `GET /events` continues from.
//!
//! Use it for every live view: a page loads the snapshot, reads the events after its cursor, and loads it again after a
//! `reset`. It guarantees: an event is either in the snapshot or after its cursor, never in neither and never in both.
//! The state is in memory here. If it is in a database, read the newest cursor of the log **before** the state: some events
//! after it are then in the state already, so let each set a value or carry a version. Needs `sse/resume.rs` and its files;
//! `sse/live-state.ts` is the page.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::{
    Json, Router, extract::State, http::header::CACHE_CONTROL, response::IntoResponse, routing::get,
};
use serde::Serialize;

use crate::sse::{
    event::{Cursor, Event},
    log::{Log, PublishError},
};

/// What a client loads first, and after each `reset`.
#[derive(Debug, Clone, Serialize)]
pub struct Snapshot<T> {
    /// The id of the last event that is in `state`: the client sends it as its `Last-Event-ID`.
    pub cursor: String,
    /// The whole state.
    pub state: T,
}

/// A state and the log of its changes.
pub struct Live<T> {
    state: Mutex<T>,
    log: Arc<Log>,
}

impl<T: Clone> Live<T> {
    /// `log` is written through [`Live::change`] alone.
    pub fn new(state: T, log: Arc<Log>) -> Self {
        Self {
            state: Mutex::new(state),
            log,
        }
    }

    // ANCHOR: change
    /// Publishes `event` and applies it, as one step for [`Live::snapshot`].
    ///
    /// # Errors
    /// If the log refuses the event: the state is unchanged.
    pub fn change(
        &self,
        event: &Event,
        apply: impl FnOnce(&mut T),
    ) -> Result<Cursor, PublishError> {
        let mut state = self.state();
        let cursor = self.log.publish(event)?;
        apply(&mut state);
        Ok(cursor)
    }
    // ANCHOR_END: change

    // ANCHOR: snapshot
    /// The state, with the cursor of its last change.
    pub fn snapshot(&self) -> Snapshot<T> {
        let state = self.state();
        Snapshot {
            cursor: self.log.newest().to_string(),
            state: state.clone(),
        }
    }
    // ANCHOR_END: snapshot

    fn state(&self) -> MutexGuard<'_, T> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `GET /snapshot`, on the same instance as the events: merge it with `resume::app(log, streams)`.
pub fn app<T: Clone + Serialize + Send + 'static>(live: Arc<Live<T>>) -> Router {
    Router::new()
        .route("/snapshot", get(snapshot::<T>))
        .with_state(live)
}

async fn snapshot<T: Clone + Serialize + Send + 'static>(
    State(live): State<Arc<Live<T>>>,
) -> impl IntoResponse {
    // A stored one would have a cursor that is trimmed: a reset, and the same snapshot again.
    ([(CACHE_CONTROL, "no-store")], Json(live.snapshot()))
}
