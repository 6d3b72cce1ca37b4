//! One hub, many subscribers: each event is encoded once and shared by all, and a slow reader costs
//! nobody else anything.
//!
//! A topic keeps one ring of encoded events; a subscriber is a cursor into it, so its queue is bounded
//! ([`Config::queue`]) without holding memory of its own, and what [`SlowConsumer`] says happens when it
//! falls behind. Publishing never waits. The ring serves `Last-Event-ID` too. Use it where events are
//! small, many read the same ones, and one process has them. Goes with `super::subscription`,
//! `super::encode` and `super::message`, and with `super::listen`, which ends connections that have stopped reading. HTML, section 9.2.

// ANCHOR: config
use std::time::Duration;

/// What happens to a subscriber that has more than [`Config::queue`] events waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlowConsumer {
    /// End the response. The client reconnects with its cursor and is sent what [`Config::history`]
    /// still holds: nothing is lost unless it stays away too long. For logs and chat.
    Disconnect,
    /// Skip to the newest events and say so with an event `reset`. The client must fetch the current
    /// state then. For feeds that are worth more on time than complete.
    DropOldest,
    /// Send only the newest event, without saying so. Only where each event is the whole state.
    Conflate,
}

/// How a hub treats its topics and subscribers.
#[derive(Debug, Clone)]
pub struct Config {
    /// Most events that may wait for one subscriber.
    pub queue: usize,
    /// Events kept for clients that reconnect, at least [`Self::queue`]. A topic holds no more memory
    /// than this many of the largest events.
    pub history: usize,
    /// What happens when [`Self::queue`] is full.
    pub slow: SlowConsumer,
    /// A comment is sent this often where no event is waiting (HTML 9.2.7 says about 15 s): less than half
    /// of the shortest idle timeout on the way.
    pub heartbeat: Duration,
    /// A response ends when it is this old (checked at the heartbeat), so that authorisation, routing
    /// and load are decided anew.
    pub max_age: Duration,
    /// How long a topic without subscribers keeps its history for those who reconnect.
    pub linger: Duration,
    /// Events that follow one another within this time are written together: the write is most of what
    /// an event costs. The first of them is not held back. Zero: each on its own.
    pub join: Duration,
    /// Middle of the reconnection times; each client is given its own, half to one and a half of it.
    pub retry: Duration,
}
// ANCHOR_END: config

impl Default for Config {
    fn default() -> Self {
        Self {
            queue: 256,
            history: 1024,
            slow: SlowConsumer::Disconnect,
            heartbeat: Duration::from_secs(15),
            max_age: Duration::from_secs(30 * 60),
            linger: Duration::from_secs(60),
            join: Duration::ZERO,
            retry: Duration::from_secs(3),
        }
    }
}

// ANCHOR: hub
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};

use super::encode::{EncodeError, Message};
use super::message::LastEventId;
use super::subscription::Subscription;

/// The topics of this process. Clones share them; when the last is dropped, so are the heartbeats.
#[derive(Clone)]
pub struct Hub {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) config: Config,
    runtime: Handle,
    /// Taken before the lock of a topic, never after it.
    topics: Mutex<HashMap<String, Arc<Topic>>>,
}

pub(super) struct Topic {
    name: String,
    /// Distinguishes this ring from one that an earlier process or an earlier topic of this name had.
    epoch: u32,
    state: Mutex<State>,
}

pub(super) struct State {
    pub(super) history: VecDeque<Bytes>,
    /// Sequence number of the event that will be published next; the first is 1.
    pub(super) next: u64,
    /// Counts the heartbeats.
    pub(super) beat: u64,
    pub(super) closed: bool,
    /// One slot a subscriber; a waker is here while its subscriber has nothing to send.
    pub(super) waiting: Vec<Option<Waker>>,
    free: Vec<usize>,
    empty_since: Option<Instant>,
    /// When subscribers may be woken again; [`Config::join`].
    quiet_until: Instant,
    wake_planned: bool,
}

impl Hub {
    /// A hub whose heartbeats run on the current tokio runtime.
    pub fn start(config: Config) -> Self {
        let shared = Arc::new(Shared {
            config,
            runtime: Handle::current(),
            topics: Mutex::default(),
        });
        let hub = Arc::downgrade(&shared);
        let first = Instant::now() + shared.config.heartbeat;
        let mut ticks = interval_at(first, shared.config.heartbeat);
        // After a stall, one heartbeat: not a burst of those that were missed.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::spawn(async move {
            loop {
                ticks.tick().await;
                let Some(hub) = hub.upgrade() else { return };
                hub.tick();
            }
        });
        Self { shared }
    }

    /// Sends an event to the subscribers of `topic` and returns how many there are. Never waits.
    ///
    /// # Errors
    /// When `event` cannot be an event type.
    pub fn publish(&self, topic: &str, event: &str, data: &str) -> Result<usize, EncodeError> {
        let topic = lock(&self.shared.topics).get(topic).cloned();
        // Without a topic there is neither a subscriber nor one who could come back.
        let Some(topic) = topic else { return Ok(0) };
        let mut state = topic.lock();
        let id = topic.id(state.next);
        let message = Message::data(data).event(event).id(&id).encode()?;
        state.next += 1;
        state.history.push_back(message);
        if state.history.len() > self.shared.config.history.max(self.shared.config.queue) {
            state.history.pop_front();
        }
        let subscribers = state.subscribers();
        if state.wake_planned {
            return Ok(subscribers);
        }
        let (now, join) = (Instant::now(), self.shared.config.join);
        if now >= state.quiet_until {
            state.quiet_until = now + join;
            wake_all(state);
        } else {
            state.wake_planned = true;
            state.quiet_until += join;
            let wake_at = state.quiet_until - join;
            drop(state);
            self.shared.runtime.spawn(async move {
                sleep_until(wake_at).await;
                let mut state = topic.lock();
                state.wake_planned = false;
                wake_all(state);
            });
        }
        Ok(subscribers)
    }

    /// A subscriber, which is the body of its response. With a cursor it continues after that event, or
    /// begins with `reset` where that is not possible; without one it begins with the next event.
    pub fn subscribe(&self, topic: &str, cursor: &LastEventId) -> Subscription {
        let mut topics = lock(&self.shared.topics);
        let topic = topics.entry(topic.to_owned()).or_insert_with_key(|name| {
            Arc::new(Topic {
                name: name.clone(),
                epoch: rand::random(),
                state: Mutex::new(State::new()),
            })
        });
        let mut state = topic.lock();
        state.empty_since = None;
        let slot = state.free.pop().unwrap_or_else(|| {
            state.waiting.push(None);
            state.waiting.len() - 1
        });
        // The cursor before the oldest event that is kept is good too: nothing after it is missing.
        let oldest = state.next - state.history.len() as u64;
        let (next, lost) = match cursor {
            LastEventId::None => (state.next, false),
            LastEventId::Unusable => (state.next, true),
            LastEventId::Id(id) => match topic.sequence(id).map(|last| last + 1) {
                Some(next) if (oldest..=state.next).contains(&next) => (next, false),
                _ => (state.next, true),
            },
        };
        Subscription::new(self.clone(), Arc::clone(topic), &state, slot, next, lost)
    }

    /// Ends all responses after what is still waiting for them, for a shutdown.
    pub fn close(&self) {
        for topic in lock(&self.shared.topics).values() {
            let mut state = topic.lock();
            state.closed = true;
            wake_all(state);
        }
    }

    /// Number of topics, and of subscribers of all.
    pub fn counts(&self) -> (usize, usize) {
        let topics = lock(&self.shared.topics);
        let subscribers = topics.values().map(|topic| topic.lock().subscribers());
        (topics.len(), subscribers.sum())
    }

    /// Bytes of events that `topic` keeps for all its subscribers.
    pub fn held(&self, topic: &str) -> usize {
        let topic = lock(&self.shared.topics).get(topic).cloned();
        topic.map_or(0, |topic| topic.lock().history.iter().map(Bytes::len).sum())
    }
}

impl Shared {
    fn tick(&self) {
        lock(&self.topics).retain(|_, topic| {
            let mut state = topic.lock();
            if state
                .empty_since
                .is_some_and(|since| since.elapsed() >= self.config.linger)
            {
                return false;
            }
            state.beat += 1;
            wake_all(state);
            true
        });
    }

    pub(super) fn leave(&self, topic: &Topic, slot: usize) {
        let mut topics = lock(&self.topics);
        let mut state = topic.lock();
        state.waiting[slot] = None;
        state.free.push(slot);
        if state.subscribers() == 0 {
            state.empty_since = Some(Instant::now());
            if self.config.linger.is_zero() {
                topics.remove(&topic.name);
            }
        }
    }
}

impl Topic {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn id(&self, sequence: u64) -> String {
        format!("{:08x}-{sequence}", self.epoch)
    }

    /// A block without data: no event fires, but the client's cursor and retry time are set.
    pub(super) fn cursor(&self, sequence: u64, retry: Duration) -> Bytes {
        format!(
            "id: {}\nretry: {}\n\n",
            self.id(sequence),
            retry.as_millis()
        )
        .into()
    }

    /// Tells the client that events are missing before the next one: it must fetch the state anew.
    pub(super) fn reset(&self, sequence: u64) -> Bytes {
        format!("id: {}\nevent: reset\ndata: {{}}\n\n", self.id(sequence)).into()
    }

    /// The sequence number in an id of this ring.
    fn sequence(&self, id: &str) -> Option<u64> {
        let (epoch, sequence) = id.split_once('-')?;
        let same = u32::from_str_radix(epoch, 16) == Ok(self.epoch);
        sequence
            .parse::<u64>()
            .ok()
            .filter(|&last| same && last < u64::MAX)
    }
}

impl State {
    fn new() -> Self {
        Self {
            history: VecDeque::new(),
            next: 1,
            beat: 0,
            closed: false,
            waiting: Vec::new(),
            free: Vec::new(),
            empty_since: None,
            quiet_until: Instant::now(),
            wake_planned: false,
        }
    }

    fn subscribers(&self) -> usize {
        self.waiting.len() - self.free.len()
    }
}

/// Wakes after the lock is released: a woken subscriber takes the same lock.
fn wake_all(mut state: MutexGuard<'_, State>) {
    let wakers: Vec<Waker> = state.waiting.iter_mut().filter_map(Option::take).collect();
    drop(state);
    wakers.into_iter().for_each(Waker::wake);
}

/// A panic elsewhere leaves nothing half done in these maps.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
// ANCHOR_END: hub
