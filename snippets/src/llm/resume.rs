//! Answers that outlive their reader: a reload, a lost network, a second tab.
//!
//! Use it when users expect the answer to be there when they come back, and you pay for some that nobody reads. Without that need
//! use `relay` alone, where a disconnect cancels. Here it must not: so Stop is an endpoint, and an answer that nobody has watched
//! for [`Limits::abandon`] is stopped. Promises: one generation for one key, however often it is posted; every reader gets every
//! event after its cursor once, or a `reset`; another user's generation is a 404; what is kept is bounded in number, bytes and time.
//!
//! Generations live in this process: route a user to the instance that has them, or keep the log outside.
//!
//! Siblings: `generation`, `relay`, `chat`, `public_error`, `upstream`. Other topics: `sse/serve`, `sse/message`.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Extension, Json, Router,
    extract::{DefaultBodyLimit, Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::{
    generation::Generation,
    public_error::PublicError,
    relay::{ChatRequest, Relay, UserId},
    upstream::Turn,
};
use crate::sse::{
    message::{LastEventId, is_token},
    serve,
};

/// Limits of what is kept.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Generations in memory, running or kept; beyond it 503.
    pub most: usize,
    /// How long an answer is kept after its end. Store it elsewhere too: a log is no archive.
    pub keep: Duration,
    /// How long a generation goes on without any reader.
    pub abandon: Duration,
}

/// Owner and key: another user's key finds nothing, and no one can tell it from a key that does not exist.
type Id = (String, String);

/// A generation and the hash of its conversation.
type Known = (Arc<Generation>, u64);

/// All generations of this process.
pub struct Generations {
    relay: Arc<Relay>,
    limits: Limits,
    known: Mutex<HashMap<Id, Known>>,
    /// At shutdown, after `relay.shutdown`: close it and wait for it.
    pub tasks: TaskTracker,
}

/// `POST /generations` (header `Idempotency-Key`) begins or joins, `GET /generations/{key}` goes on after `Last-Event-ID`,
/// `DELETE /generations/{key}` stops. The GET starts nothing, so `EventSource` may repeat it.
pub fn app(generations: Arc<Generations>) -> Router {
    let one = get(attach).head(serve::head).delete(stop);
    Router::new()
        .route("/generations", post(begin))
        .route("/generations/{key}", one)
        .layer(DefaultBodyLimit::max(256 * 1024))
        .with_state(generations)
}

type All = State<Arc<Generations>>;

async fn begin(
    State(all): All,
    Extension(UserId(user)): Extension<UserId>,
    headers: HeaderMap,
    Json(request): Json<ChatRequest>,
) -> Response {
    // `crypto.randomUUID()`, made once for each question: a request that is sent again repeats it, a new try has a new one.
    let key = headers
        .get("idempotency-key")
        .and_then(|key| key.to_str().ok());
    let Some(key) = key.filter(|key| is_token(key, 64)) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    match all.begin((user, key.to_owned()), request.messages) {
        Ok(generation) => all.stream(&generation, &LastEventId::None),
        Err(refused) => refused.into_response(),
    }
}

async fn attach(
    State(all): All,
    Extension(UserId(user)): Extension<UserId>,
    Path(key): Path<String>,
    cursor: LastEventId,
) -> Response {
    match all.find(user, key) {
        Some(generation) => all.stream(&generation, &cursor),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn stop(
    State(all): All,
    Extension(UserId(user)): Extension<UserId>,
    Path(key): Path<String>,
) -> StatusCode {
    match all.find(user, key) {
        Some(generation) => {
            generation.stop.cancel();
            StatusCode::NO_CONTENT
        }
        None => StatusCode::NOT_FOUND,
    }
}

impl Generations {
    /// For one process.
    pub fn new(relay: Arc<Relay>, limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            relay,
            limits,
            known: Mutex::default(),
            tasks: TaskTracker::new(),
        })
    }

    /// Generations that are kept, for a gauge.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    fn find(&self, user: String, key: String) -> Option<Arc<Generation>> {
        self.lock()
            .get(&(user, key))
            .map(|(generation, _)| generation.clone())
    }

    fn begin(self: &Arc<Self>, id: Id, turns: Vec<Turn>) -> Result<Arc<Generation>, PublicError> {
        let mut hasher = DefaultHasher::new();
        turns.hash(&mut hasher);
        let conversation = hasher.finish();
        // Looked up and inserted under one lock: two requests at the same time begin one generation.
        let mut known = self.lock();
        let kept = known.len();
        let vacant = match known.entry(id.clone()) {
            Entry::Occupied(found) if found.get().1 == conversation => {
                return Ok(found.get().0.clone());
            }
            // The same key for another question is the client's mistake; its old answer would be the wrong one.
            Entry::Occupied(_) => return Err(PublicError::KEY_REUSED),
            Entry::Vacant(vacant) => vacant,
        };
        if kept >= self.limits.most {
            return Err(PublicError::FULL);
        }
        let place = self.relay.places.enter(&id.0).ok_or(PublicError::BUSY)?;
        // JSON needs at most six bytes for one: the answer reaches its own limit before the log is trimmed.
        let max_bytes = self
            .relay
            .config
            .most_bytes
            .saturating_mul(6)
            .saturating_add(64 * 1024);
        let (generation, _) = vacant.insert((Generation::new(max_bytes), conversation));
        let (all, running) = (self.clone(), generation.clone());
        self.tasks.spawn(async move {
            let kept = Kept { all, id };
            let all = &kept.all;
            running
                .run(&all.relay, &kept.id.0, turns, all.limits.abandon)
                .await;
            drop(place);
            // At shutdown nobody comes back to this process.
            let _ = timeout(all.limits.keep, all.relay.shutdown.cancelled()).await;
        });
        Ok(generation.clone())
    }

    fn stream(&self, generation: &Arc<Generation>, cursor: &LastEventId) -> Response {
        let Some(messages) = generation.read(cursor) else {
            return StatusCode::NO_CONTENT.into_response(); // it has everything: `EventSource` stops
        };
        match self.relay.streams.admit() {
            Ok(slot) => slot.respond(messages),
            Err(refused) => refused.into_response(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Id, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets a generation, also when its task panics.
struct Kept {
    all: Arc<Generations>,
    id: Id,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.all.lock().remove(&self.id);
    }
}
