//! Answers that outlive their reader: a reload, a lost network, a second tab.
//!
//! Use it if users expect the answer to be there when they return, and you pay for some that nobody reads. Without that need
//! use `relay` alone, where a disconnect cancels. Here it does not: so Stop is an endpoint, and an answer that nobody has read
//! for [`Limits::abandon`] is stopped. Guarantees: nothing is asked before it is admitted; one generation per key, however often it is
//! posted; every reader gets every event after its cursor once, or a `reset`; another user's generation does not exist; what is kept is
//! bounded in number (per user and in all), bytes and time.
//!
//! Generations are in this process: route a user to the instance that has them, or keep the log outside.
//!
//! Needs `generation`, `relay`, `chat`, `request`, `public_error`, `sse/streams`, `sse/event`.

// ANCHOR: limits
use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Extension, Json, Router,
    extract::{DefaultBodyLimit, Path, State, rejection::JsonRejection},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures::{FutureExt, StreamExt, stream, stream::BoxStream};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::{
    chat::{ChatEvent, Names},
    generation::{Answer, Generation},
    public_error::PublicError,
    relay::Relay,
    request::{ChatRequest, Conversation, UserId},
};
use crate::sse::{
    event::{Event, LastEventId, is_token},
    streams::{self, Slot},
};

/// Limits of what is kept.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Generations in memory. If all of them run, 503; else the oldest that has ended makes room.
    pub most: usize,
    /// Of them, per user: their own oldest that has ended makes room.
    pub per_user: usize,
    /// How long an answer is kept after its end. Store it elsewhere too: a log is not an archive.
    pub keep: Duration,
    /// How long a generation runs without any reader.
    pub abandon: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            most: 1_000,
            per_user: 8,
            keep: Duration::from_secs(10 * 60),
            abandon: Duration::from_secs(2 * 60),
        }
    }
}
// ANCHOR_END: limits

// ANCHOR: routes
/// All generations of this process.
pub struct Generations {
    relay: Arc<Relay>,
    limits: Limits,
    known: Mutex<Known>,
    /// At shutdown, after `relay.shutdown`: close it and wait for it.
    pub tasks: TaskTracker,
}

type All = State<Arc<Generations>>;
type User = Extension<UserId>;

/// `POST /generations` (header `Idempotency-Key`) begins or joins, `GET /generations/{key}` continues after `Last-Event-ID`, and
/// so does the POST; `DELETE /generations/{key}` stops. The GET starts nothing, so `EventSource` may repeat it.
///
/// # Panics
/// As [`super::relay::app`].
pub fn app(generations: Arc<Generations>) -> Router {
    let config = &generations.relay.config;
    config.checked();
    let limit = DefaultBodyLimit::max(config.most_request_bytes);
    let one = get(attach).head(streams::head).delete(stop);
    Router::new()
        .route("/generations", post(begin))
        .route("/generations/{key}", one)
        .layer(limit)
        .with_state(generations)
}

async fn begin(
    State(all): All,
    Extension(UserId(user)): User,
    headers: HeaderMap,
    cursor: LastEventId, // a POST whose response was cut is sent again with both
    request: Result<Json<ChatRequest>, JsonRejection>,
) -> Response {
    let Json(request) = match request {
        Ok(request) => request,
        Err(invalid) => {
            return (all.relay.config.refuse)(PublicError::invalid(invalid.status()));
        }
    };
    // Random, made once per question: a request that is sent again repeats it, a new try has a new one.
    let key = headers
        .get("idempotency-key")
        .and_then(|key| key.to_str().ok());
    let Some(key) = key.filter(|key| is_token(key, 64)) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let begun = request
        .conversation(all.relay.config.system)
        .and_then(|conversation| {
            let slot = all.admit()?; // first: what is refused must not run
            let mut hasher = DefaultHasher::new();
            conversation.hash(&mut hasher);
            let answer = || Relayed::new(all.relay.clone(), user.clone(), conversation);
            let id = (user.clone(), key.to_owned());
            Ok((slot, all.begin(id, hasher.finish(), answer)?))
        });
    match begun {
        Ok((slot, generation)) => respond(slot, &generation, &cursor),
        Err(refused) => (all.relay.config.refuse)(refused),
    }
}

async fn attach(
    State(all): All,
    Extension(UserId(user)): User,
    Path(key): Path<String>,
    cursor: LastEventId,
) -> Response {
    let found = all.lock().get(&(user, key));
    match (found, all.admit()) {
        (Some(generation), Ok(slot)) => respond(slot, &generation, &cursor),
        (Some(_), Err(refused)) => (all.relay.config.refuse)(refused),
        (None, _) => StatusCode::NOT_FOUND.into_response(),
    }
}

/// Returns 204 for each key: a Stop may arrive before its question does, and is remembered for it.
async fn stop(State(all): All, Extension(UserId(user)): User, Path(key): Path<String>) -> Response {
    if !is_token(&key, 64) {
        return StatusCode::BAD_REQUEST.into_response();
    }
    match all.stop((user, key)) {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(refused) => (all.relay.config.refuse)(refused),
    }
}

fn respond(slot: Slot, generation: &Arc<Generation>, cursor: &LastEventId) -> Response {
    match generation.read(cursor) {
        Some(events) => slot.respond(events),
        None => StatusCode::NO_CONTENT.into_response(), // it has everything: `EventSource` stops
    }
}
// ANCHOR_END: routes

// ANCHOR: begin
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
        self.lock().0.len()
    }

    /// A permit for one more stream.
    ///
    /// # Errors
    /// [`PublicError::FULL`].
    pub fn admit(&self) -> Result<Slot, PublicError> {
        self.relay.streams.admit().map_err(|_| PublicError::FULL)
    }

    /// The generation of this key: the one that is kept, if `asked`, the hash of the question, is the same; else a new one, which
    /// runs `answer`.
    ///
    /// # Errors
    /// If the key belongs to another question, or there is no room, or the service shuts down.
    pub fn begin<A: Answer>(
        self: &Arc<Self>,
        id: Id,
        asked: u64,
        answer: impl FnOnce() -> A,
    ) -> Result<Arc<Generation>, PublicError> {
        // Looked up and inserted under one lock: two requests at the same time begin one generation.
        let mut known = self.lock();
        if let Some(kept) = known.0.get(&id) {
            // The same key for another question is the client's mistake; the old answer would be the wrong one.
            let same = kept.asked.is_none_or(|kept| kept == asked);
            return if same {
                Ok(kept.generation.clone())
            } else {
                Err(PublicError::KEY_REUSED)
            };
        }
        if self.relay.shutdown.is_cancelled() {
            return Err(PublicError::RESTART);
        }
        let place = self.relay.places.enter(&id.0).ok_or(PublicError::BUSY)?;
        let kept = self.keep(&mut known, id, Some(asked))?;
        let (generation, answer) = (kept.2.clone(), answer());
        self.tasks.spawn(async move {
            kept.2.run(answer, place, kept.0.limits.abandon).await;
            kept.rest().await;
        });
        Ok(generation)
    }

    fn stop(self: &Arc<Self>, id: Id) -> Result<(), PublicError> {
        let mut known = self.lock();
        match known.get(&id) {
            Some(generation) => generation.stop.cancel(),
            None => {
                let names = self.relay.config.names;
                let kept = self.keep(&mut known, id, None)?;
                kept.2.stop.cancel(); // before its task starts
                let events = stream::empty().boxed();
                self.tasks.spawn(async move {
                    kept.2
                        .run(Relayed { events, names }, (), Duration::MAX)
                        .await;
                    kept.rest().await;
                });
            }
        }
        Ok(())
    }

    fn keep(
        self: &Arc<Self>,
        known: &mut Known,
        id: Id,
        asked: Option<u64>,
    ) -> Result<Kept, PublicError> {
        known.make_room(&id.0, &self.limits)?;
        // JSON needs at most six bytes for one: the answer reaches its own limit before the log is trimmed.
        let text = self.relay.config.most_bytes.saturating_mul(6);
        let generation = Generation::new(text.saturating_add(64 * 1024));
        known.insert(id.clone(), generation.clone(), asked);
        Ok(Kept(self.clone(), id, generation))
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
// ANCHOR_END: begin

/// The relay's answer in its own events.
pub struct Relayed {
    events: BoxStream<'static, ChatEvent>,
    names: Names,
}

impl Relayed {
    /// Asks when it is first polled.
    pub fn new(relay: Arc<Relay>, user: String, conversation: Conversation) -> Self {
        let names = relay.config.names;
        let answer = async move {
            match relay.answer(&user, conversation).await {
                Ok(events) => events.left_stream(),
                Err(error) => stream::iter([ChatEvent::Failed(error)]).right_stream(),
            }
        };
        let events = answer.flatten_stream().boxed();
        Self { events, names }
    }
}

impl Answer for Relayed {
    async fn next(&mut self) -> Option<Event> {
        self.events.next().await?.event(&self.names).ok() // the names were checked
    }

    fn end(&mut self, why: PublicError) -> Vec<Event> {
        let event = ChatEvent::Failed(why).event(&self.names);
        event.into_iter().collect()
    }

    fn broken(&self) -> Option<Event> {
        ChatEvent::Failed(PublicError::BROKEN)
            .event(&self.names)
            .ok()
    }
}

// ANCHOR: known
/// Owner and key: another user's key finds nothing, as one that does not exist.
pub type Id = (String, String);

#[derive(Default)]
struct Known(HashMap<Id, Entry>, u64);

struct Entry {
    generation: Arc<Generation>,
    /// The hash of the conversation; `None` for a Stop without a question.
    asked: Option<u64>,
    number: u64,
}

impl Known {
    fn get(&self, id: &Id) -> Option<Arc<Generation>> {
        self.0.get(id).map(|entry| entry.generation.clone())
    }

    fn insert(&mut self, id: Id, generation: Arc<Generation>, asked: Option<u64>) {
        self.1 += 1;
        let number = self.1;
        self.0.insert(
            id,
            Entry {
                generation,
                asked,
                number,
            },
        );
    }

    fn make_room(&mut self, user: &str, limits: &Limits) -> Result<(), PublicError> {
        let of_user = self.0.keys().filter(|(owner, _)| owner == user).count();
        if of_user >= limits.per_user {
            self.evict(|owner| owner == user).ok_or(PublicError::BUSY)?;
        }
        if self.0.len() >= limits.most {
            self.evict(|_| true).ok_or(PublicError::FULL)?;
        }
        Ok(())
    }

    fn evict(&mut self, of: impl Fn(&str) -> bool) -> Option<()> {
        let ended = self
            .0
            .iter()
            .filter(|((owner, _), entry)| of(owner) && entry.generation.has_ended());
        let id = ended.min_by_key(|(_, entry)| entry.number)?.0.clone();
        self.0.remove(&id)?.generation.forget.cancel();
        Some(())
    }
}

/// Forgets a generation, even if its task panics.
struct Kept(Arc<Generations>, Id, Arc<Generation>);

impl Kept {
    /// Keeps it for its readers.
    async fn rest(&self) {
        let forget = async {
            tokio::select! {
                () = self.2.forget.cancelled() => {}
                () = self.0.relay.shutdown.cancelled() => {} // nobody returns to this process
            }
        };
        let _ = timeout(self.0.limits.keep, forget).await;
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut known = self.0.lock();
        // Evicted, its key may belong to another one by now.
        if known
            .get(&self.1)
            .is_some_and(|kept| Arc::ptr_eq(&kept, &self.2))
        {
            known.0.remove(&self.1);
        }
    }
}
// ANCHOR_END: known
