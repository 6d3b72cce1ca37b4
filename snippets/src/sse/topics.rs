//! One log per key: an order, a user, a room, a job.
//!
//! A log is created when someone subscribes or publishes state, kept for `linger` after its last reader has left, and the
//! number of logs is bounded. Needs `log.rs` with its files.

// ANCHOR: topics
use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{
    event::{Cursor, Event, Ids, LastEventId},
    log::{Config, First, Log, PublishError},
    log_reader::Reader,
};

/// Bounds of all topics together. In all they keep at most `max_topics` times [`Config::bytes`].
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Most topics at once.
    pub max_topics: usize,
    /// How long a topic without readers keeps its events for clients that reconnect. With [`Ids::Sequence`] and [`First::One`] a topic
    /// stays once it has had an event, because its numbers must not begin again: `max_topics` then bounds all topics of the process.
    pub linger: Duration,
    /// The same for a topic that never had an event. If `linger` is hours, keep this at a minute: otherwise one user who asks for
    /// random names takes all topics.
    pub linger_empty: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            max_topics: 100_000,
            linger: Duration::from_secs(60),
            linger_empty: Duration::from_secs(60),
        }
    }
}

/// All topics are taken. Return 503 with `Retry-After`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the service has no room for another topic")]
pub struct TooManyTopics;

/// Logs by name. Cloning is cheap.
#[derive(Clone)]
pub struct Topics(Arc<Shared>);

/// The sweep locks one shard at a time: a publisher waits for a part of the topics, not for all.
const SHARDS: usize = 64;

struct Shared {
    config: Config,
    bounds: Bounds,
    hasher: RandomState,
    count: AtomicUsize,
    shards: [Mutex<HashMap<Box<str>, Topic>>; SHARDS],
}

struct Topic {
    log: Arc<Log>,
    empty_since: Option<Instant>,
}

impl Topics {
    /// Starts the one task that drops topics without readers.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(config: Config, bounds: Bounds) -> Self {
        let shared = Shared {
            config,
            bounds,
            hasher: RandomState::new(),
            count: AtomicUsize::new(0),
            shards: std::array::from_fn(|_| Mutex::default()),
        };
        let topics = Self(Arc::new(shared));
        tokio::spawn(sweep(Arc::downgrade(&topics.0), bounds));
        topics
    }

    /// The log of `topic`, which is created if it does not exist. Decide before whether the caller may have it.
    ///
    /// # Errors
    /// If there is no room for another topic.
    pub fn log(&self, topic: &str) -> Result<Arc<Log>, TooManyTopics> {
        let mut shard = self.0.shard(topic);
        let entry = match shard.entry(topic.into()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let room = |count| (count < self.0.bounds.max_topics).then_some(count + 1);
                let counted = self
                    .0
                    .count
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, room);
                counted.map_err(|_| TooManyTopics)?;
                entry.insert(Topic {
                    log: Log::new(self.0.config.clone()),
                    empty_since: None,
                })
            }
        };
        entry.empty_since = None;
        Ok(entry.log.clone())
    }

    /// A reader of `topic` after `cursor`. `None`: the client has the terminal event; return 204.
    ///
    /// # Errors
    /// If there is no room for another topic.
    pub fn read(&self, topic: &str, cursor: &LastEventId) -> Result<Option<Reader>, TooManyTopics> {
        Ok(self.log(topic)?.read(cursor))
    }

    /// Publishes to the readers of `topic`. `None`: there is neither a reader nor a client that could reconnect.
    ///
    /// # Errors
    /// As [`Log::publish`].
    pub fn publish(&self, topic: &str, event: &Event) -> Result<Option<Cursor>, PublishError> {
        let log = self
            .0
            .shard(topic)
            .get(topic)
            .map(|topic| topic.log.clone());
        log.map(|log| log.publish(event)).transpose()
    }

    /// The number of topics, for a gauge.
    pub fn count(&self) -> usize {
        self.0.count.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn shard(&self, topic: &str) -> MutexGuard<'_, HashMap<Box<str>, Topic>> {
        lock(&self.shards[self.hasher.hash_one(topic) as usize % SHARDS])
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Drops each topic that has had no reader for its `linger`, at a quarter of the shorter one as precision.
async fn sweep(topics: Weak<Shared>, bounds: Bounds) {
    let pause =
        (bounds.linger.min(bounds.linger_empty) / 4 / SHARDS as u32).max(Duration::from_millis(1));
    loop {
        for shard in 0..SHARDS {
            sleep(pause).await;
            let Some(topics) = topics.upgrade() else {
                return;
            };
            let counts = topics.config.ids == Ids::Sequence && topics.config.first == First::One;
            let mut shard = lock(&topics.shards[shard]);
            let before = shard.len();
            shard.retain(|_, topic| {
                // A task that holds the log may be about to subscribe, or publishes into it.
                let is_used = topic.log.readers() > 0 || Arc::strong_count(&topic.log) > 1;
                if is_used || (counts && topic.log.newest().seq > 0) {
                    topic.empty_since = None;
                    return true;
                }
                let linger = match topic.log.has_begun() {
                    true => bounds.linger,
                    false => bounds.linger_empty,
                };
                topic.empty_since.get_or_insert_with(Instant::now).elapsed() < linger
            });
            topics
                .count
                .fetch_sub(before - shard.len(), Ordering::Relaxed);
        }
    }
}
// ANCHOR_END: topics
