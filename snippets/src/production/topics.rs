//! Topics over several instances: published on any of them, read on any of them.
//!
//! Use it for rooms, users, orders: names that are many, of which a process serves some. A topic is one [`SharedLog`], so
//! its clients resume anywhere; it is opened when someone reads it and closed when nobody has for [`Limits::linger`].
//! Publishing opens nothing. All topics of a process share the connections of its broker: `redis_log.rs` and
//! `postgres_log.rs` need two and five of them. A topic per user is `user:ID`, with the id from your authentication.
//! Needs `shared_log.rs` and its files.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::OnceCell,
    time::{Instant, sleep},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    shared_log::{Config, Paged, SharedLog},
    store::Store,
};
use crate::sse::{
    event::{Cursor, Event, LastEventId},
    streams::Holding,
};

/// What a process serves at once.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Most topics that are open. A closed one costs nothing.
    pub topics: usize,
    /// How long a topic without readers stays open, for clients that reconnect.
    pub linger: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            topics: 10_000,
            linger: Duration::from_secs(30),
        }
    }
}

/// Why a topic was not read.
#[derive(Debug, thiserror::Error)]
pub enum TopicError<E> {
    /// [`Limits::topics`] are open and all of them have readers. Return 503.
    #[error("too many topics are open in this process")]
    Full,
    /// The broker does not answer. Return 503.
    #[error("the broker does not answer: {0}")]
    Broker(#[from] E),
}

/// A subscriber of a topic, which keeps it open.
pub type TopicReader<S> = Holding<Paged<S>, Arc<SharedLog<S>>>;

/// The topics of this process.
pub struct Topics<S> {
    open: Box<dyn Fn(&str) -> S + Send + Sync>,
    config: Config,
    limits: Limits,
    topics: Arc<Mutex<Open<S>>>,
    _sweep: AbortOnDropHandle<()>,
}

type Open<S> = HashMap<String, Topic<S>>;

struct Topic<S> {
    /// Filled by the first reader; the others wait for it.
    log: Arc<OnceCell<Arc<SharedLog<S>>>>,
    idle_since: Instant,
}

impl<S> Topic<S> {
    fn has_readers(&self) -> bool {
        // In addition to the map's: one of a caller that opens it, or of a subscriber.
        Arc::strong_count(&self.log) > 1
            || self.log.get().is_some_and(|log| Arc::strong_count(log) > 1)
    }
}

impl<S: Store> Topics<S> {
    /// `open` returns the log of a topic: `move |topic| redis.log(&format!("topic:{topic}"), 1_000)`. `config` is that of
    /// each topic; they share [`Config::reads`].
    pub fn start(
        open: impl Fn(&str) -> S + Send + Sync + 'static,
        config: Config,
        limits: Limits,
    ) -> Self {
        let topics = Arc::<Mutex<Open<S>>>::default();
        let sweep = tokio::spawn(sweep(topics.clone(), limits.linger));
        Self {
            open: Box::new(open),
            config,
            limits,
            topics,
            _sweep: AbortOnDropHandle::new(sweep),
        }
    }

    // ANCHOR: publish
    /// Appends `event` to `topic`; every process delivers it to the topic's readers.
    ///
    /// # Errors
    /// If the broker does not acknowledge it. It may be in the topic anyway.
    pub async fn publish(&self, topic: &str, event: &Event) -> Result<Cursor, S::Error> {
        let log = lock(&self.topics)
            .get(topic)
            .and_then(|topic| topic.log.get().cloned());
        match log {
            Some(log) => log.publish(event).await,
            None => (self.open)(topic).append(event).await,
        }
    }
    // ANCHOR_END: publish

    // ANCHOR: read
    /// Everything after `cursor`, then each new event. `None`: the client has the terminal event; return 204. Check the
    /// right to read `topic` before, at each connection: a reconnect is a replay.
    ///
    /// # Errors
    /// If too many topics are open, or if the broker does not answer.
    pub async fn read(
        &self,
        topic: &str,
        cursor: &LastEventId,
    ) -> Result<Option<TopicReader<S>>, TopicError<S::Error>> {
        let cell = self.cell(topic).ok_or(TopicError::Full)?;
        let start = async || {
            SharedLog::start((self.open)(topic), self.config.clone())
                .await
                .map(Arc::new)
        };
        let log = cell.get_or_try_init(start).await?.clone();
        Ok(log.read(cursor).await?.map(|source| Holding(source, log)))
    }
    // ANCHOR_END: read

    fn cell(&self, name: &str) -> Option<Arc<OnceCell<Arc<SharedLog<S>>>>> {
        let mut topics = lock(&self.topics);
        if !topics.contains_key(name) && topics.len() >= self.limits.topics {
            topics.retain(|_, topic| topic.has_readers());
            if topics.len() >= self.limits.topics {
                return None;
            }
        }
        let now = Instant::now();
        let topic = topics.entry(name.to_owned()).or_insert_with(|| Topic {
            log: Arc::default(),
            idle_since: now,
        });
        topic.idle_since = now;
        Some(topic.log.clone())
    }

    /// Open topics, for a gauge.
    pub fn open(&self) -> usize {
        lock(&self.topics).len()
    }
}

// ANCHOR: sweep
async fn sweep<S>(topics: Arc<Mutex<Open<S>>>, linger: Duration) {
    loop {
        sleep((linger / 4).max(Duration::from_millis(10))).await;
        lock(&topics).retain(|_, topic| {
            if topic.has_readers() {
                topic.idle_since = Instant::now();
            }
            topic.idle_since.elapsed() < linger
        });
    }
}
// ANCHOR_END: sweep

fn lock<S>(topics: &Mutex<Open<S>>) -> MutexGuard<'_, Open<S>> {
    topics.lock().unwrap_or_else(PoisonError::into_inner)
}
