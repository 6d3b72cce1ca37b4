//! Answers that outlive their reader: a reload, a lost network, a second tab.
//!
//! Use it if users expect the answer to be there when they return, and you pay for some that nobody reads. Without that need
//! use `relay` alone, where a disconnect cancels. Here it does not: so Stop is an endpoint, and an answer that nobody has read
//! for [`Limits::abandon`] is stopped. Guarantees: nothing is asked before it is admitted; one generation per key, however often it is
//! posted; every reader gets every event after its cursor once, or a `reset`; another user's generation does not exist; what is kept is
//! bounded in number (per user and in all), bytes and time.
//!
//! Generations are in this process: route a user to the instance that has them, or keep the log outside. The function that answers a
//! question is an argument: `relay` has it. Needs `generation`, `public_error`, `sse/streams`, `sse/event`.
//!
//! ```ignore
//! let (streams, places) = (relay.streams.clone(), relay.places.clone()); // an `Arc<Relay>`: sh copy llm/relay
//! let all = Generations::new(streams, places, Limits::default(), relay.shutdown.clone());
//! let router = app(all, move |user, question| relay.events(user, question)).layer(authentication);
//! ```

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Extension, Router,
    extract::{DefaultBodyLimit, Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    generation::{Answer, Generation},
    public_error::{Body, Permits, PublicError, UserId},
};
use crate::sse::{
    event::{Ids, LastEventId, Names, is_token},
    streams::{self, Slot, Streams},
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
    /// Largest log of one answer in bytes of events; readers of a larger one get a `reset`. JSON needs at most six bytes for one of
    /// text: the default holds an answer of `relay::Config::most_bytes`.
    pub most_bytes: usize,
    /// Largest request in bytes; beyond it 413.
    pub most_request_bytes: usize,
    /// The path of a question; its answer is at `{path}/{key}`.
    pub path: &'static str,
    /// The header with the key, in lower case.
    pub key_header: &'static str,
    /// The format of the ids. Plain numbers are enough: the log of a key is one answer.
    pub ids: Ids,
    /// The event for a cursor that the log does not have: the page drops the text that it shows.
    pub reset: &'static str,
    /// Whether a question waits until the model has responded, so that a refusal is a status, after which the key is unused again:
    /// with `relay`, for at most `relay::Config::head`. If not, a refusal is the terminal event, and the key keeps it.
    pub hold_head: bool,
    /// The response for a refusal: its status and its body.
    pub refuse: fn(PublicError) -> Response,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            most: 1_000,
            per_user: 8,
            keep: Duration::from_secs(10 * 60),
            abandon: Duration::from_secs(2 * 60),
            most_bytes: 6 * 1024 * 1024 + 64 * 1024,
            most_request_bytes: 256 * 1024,
            path: "/generations",
            key_header: "idempotency-key",
            ids: Ids::Epoch,
            reset: Names::DEFAULT.reset,
            hold_head: false,
            refuse: IntoResponse::into_response,
        }
    }
}

/// All generations of this process.
pub struct Generations {
    streams: Streams,
    places: Arc<Permits>,
    limits: Limits,
    shutdown: CancellationToken,
    known: Mutex<Known>,
    /// At shutdown: close it and wait for it.
    pub tasks: TaskTracker,
}

type User = Extension<UserId>;

// ANCHOR: routes
/// `POST /generations` begins or joins a generation; its path and its header `Idempotency-Key` are settings in
/// [`Limits`]. `GET /generations/{key}`, or the same POST again, continues after `Last-Event-ID`;
/// `DELETE /generations/{key}` stops the generation. The GET starts nothing, so `EventSource` may repeat it. `answer`
/// gets the user and the question, and returns an [`Answer`] that must not call the model before it is polled.
pub fn app<Q, A, F>(all: Arc<Generations>, answer: F) -> Router
where
    Q: DeserializeOwned + Hash + Send + 'static,
    A: Answer,
    F: Fn(String, Q) -> Result<A, PublicError> + Clone + Send + Sync + 'static,
{
    let limit = DefaultBodyLimit::max(all.limits.most_request_bytes);
    let path = all.limits.path;
    let one = get(attach).head(streams::head).delete(stop);
    Router::new()
        .route(path, post(begin::<Q, A, F>))
        .route(&format!("{path}/{{key}}"), one.with_state(all.clone()))
        .layer(limit)
        .with_state((all, answer))
}
// ANCHOR_END: routes

// ANCHOR: join
async fn begin<Q, A, F>(
    State((all, answer)): State<(Arc<Generations>, F)>,
    Extension(UserId(user)): User,
    headers: HeaderMap,
    cursor: LastEventId, // a POST whose response was cut is sent again with its key and this cursor
    Body(question): Body<Q>,
) -> Response
where
    Q: Hash,
    A: Answer,
    F: Fn(String, Q) -> Result<A, PublicError>,
{
    let question = match question {
        Ok(question) => question,
        Err(refused) => return (all.limits.refuse)(refused),
    };
    // The key is random and made once per question: the same request sent again repeats the key, a new try at an
    // answer has a new key.
    let key = headers
        .get(all.limits.key_header)
        .and_then(|key| key.to_str().ok());
    let Some(key) = key.filter(|key| is_token(key, 64)) else {
        return (all.limits.refuse)(PublicError::KEY);
    };
    let mut hasher = DefaultHasher::new();
    question.hash(&mut hasher);
    let id = (user.clone(), key.to_owned());
    let begun = answer(user, question).and_then(|answer| {
        let slot = all.admit()?; // first: what is refused must not run
        Ok((slot, all.begin(id, hasher.finish(), || answer)?))
    });
    let (slot, generation) = match begun {
        Ok(begun) => begun,
        Err(refused) => return (all.limits.refuse)(refused),
    };
    if all.limits.hold_head
        && let Err(refused) = generation.opened().await
    {
        return (all.limits.refuse)(refused);
    }
    respond(slot, &generation, &cursor)
}
// ANCHOR_END: join

async fn attach(
    State(all): State<Arc<Generations>>,
    Extension(UserId(user)): User,
    Path(key): Path<String>,
    cursor: LastEventId,
) -> Response {
    match (all.get(&(user, key)), all.admit()) {
        (Some(generation), Ok(slot)) => respond(slot, &generation, &cursor),
        (Some(_), Err(refused)) => (all.limits.refuse)(refused),
        (None, _) => (all.limits.refuse)(PublicError::UNKNOWN),
    }
}

/// Returns 204 for each key: a Stop may arrive before its question does, and is remembered for it.
async fn stop(
    State(all): State<Arc<Generations>>,
    Extension(UserId(user)): User,
    Path(key): Path<String>,
) -> Response {
    if !is_token(&key, 64) {
        return (all.limits.refuse)(PublicError::KEY);
    }
    match all.stop((user, key)) {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(refused) => (all.limits.refuse)(refused),
    }
}

fn respond(slot: Slot, generation: &Arc<Generation>, cursor: &LastEventId) -> Response {
    match generation.read(cursor) {
        Some(events) => slot.respond(events),
        None => StatusCode::NO_CONTENT.into_response(), // it has everything: `EventSource` stops
    }
}

impl Generations {
    /// For one process. `shutdown` refuses questions and forgets what has ended; the answers that run must end on their own then.
    pub fn new(
        streams: Streams,
        places: Arc<Permits>,
        limits: Limits,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            streams,
            places,
            limits,
            shutdown,
            known: Mutex::default(),
            tasks: TaskTracker::new(),
        })
    }

    /// The limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Generations that are kept, for a gauge.
    pub fn count(&self) -> usize {
        self.lock().0.len()
    }

    /// The generation of this key, if it is kept.
    pub fn get(&self, id: &Id) -> Option<Arc<Generation>> {
        let known = self.lock();
        let entry = known.0.get(id).filter(|entry| entry.asked.is_some())?;
        Some(entry.generation.clone())
    }

    /// A permit for one more stream.
    ///
    /// # Errors
    /// [`PublicError::FULL`].
    pub fn admit(&self) -> Result<Slot, PublicError> {
        self.streams.admit().map_err(|_| PublicError::FULL)
    }

    // ANCHOR: begin
    /// Returns the generation of this key. `asked` is the hash of the question. If the key has a generation with this
    /// hash, returns that one. If it has no question yet, returns a new one, which runs `answer` (not after a Stop).
    ///
    /// # Errors
    /// If the key belongs to another question, or there is no room, or the service shuts down.
    pub fn begin<A: Answer>(
        self: &Arc<Self>,
        id: Id,
        asked: u64,
        answer: impl FnOnce() -> A,
    ) -> Result<Arc<Generation>, PublicError> {
        // Looked up and inserted under one lock, so that two requests at the same time begin one generation.
        let mut known = self.lock();
        let stopped = match known.0.get(&id) {
            None => false,
            Some(kept) if kept.asked == Some(asked) => return Ok(kept.generation.clone()),
            // The same key for another question is the client's mistake; the old answer would answer another question.
            Some(Entry { asked: Some(_), .. }) => return Err(PublicError::KEY_REUSED),
            Some(_) => true,
        };
        if self.shutdown.is_cancelled() {
            return Err(PublicError::RESTART);
        }
        let place = match stopped {
            true => None,
            false => Some((self.places)(&id.0).ok_or(PublicError::BUSY)?),
        };
        let kept = self.keep(&mut known, id, Some(asked))?;
        if stopped {
            kept.2.stop.cancel(); // before its task starts, so the model is not called
        }
        let (generation, answer) = (kept.2.clone(), answer());
        self.tasks.spawn(async move {
            kept.2.run(answer, place, kept.0.limits.abandon).await;
            if !kept.0.limits.hold_head || kept.2.opened().await.is_ok() {
                kept.rest().await;
            }
        });
        Ok(generation)
    }
    // ANCHOR_END: begin

    fn stop(self: &Arc<Self>, id: Id) -> Result<(), PublicError> {
        let mut known = self.lock();
        if let Some(entry) = known.0.get(&id) {
            entry.generation.stop.cancel();
            return Ok(());
        }
        let kept = self.keep(&mut known, id, None)?;
        self.tasks.spawn(async move { kept.rest().await });
        Ok(())
    }

    fn keep(
        self: &Arc<Self>,
        known: &mut Known,
        id: Id,
        asked: Option<u64>,
    ) -> Result<Kept, PublicError> {
        known.remove(&id); // a Stop that waited for its question
        known.make_room(&id.0, &self.limits)?;
        let Limits {
            most_bytes,
            ids,
            reset,
            ..
        } = self.limits;
        let generation = Generation::new(most_bytes, ids, reset);
        known.insert(id.clone(), generation.clone(), asked);
        Ok(Kept(self.clone(), id, generation))
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

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

impl Entry {
    fn has_ended(&self) -> bool {
        self.asked.is_none() || self.generation.has_ended()
    }
}

impl Known {
    fn remove(&mut self, id: &Id) -> Option<()> {
        self.0.remove(id)?.generation.forget.cancel();
        Some(())
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
            .filter(|((owner, _), entry)| of(owner) && entry.has_ended());
        let id = ended.min_by_key(|(_, entry)| entry.number)?.0.clone();
        self.remove(&id)
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
                () = self.0.shutdown.cancelled() => {} // nobody returns to this process
            }
        };
        let _ = timeout(self.0.limits.keep, forget).await;
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut known = self.0.lock();
        // Evicted, its key may belong to another one by now.
        let kept = known.0.get(&self.1);
        if kept.is_some_and(|kept| Arc::ptr_eq(&kept.generation, &self.2)) {
            known.0.remove(&self.1);
        }
    }
}
