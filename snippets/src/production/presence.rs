//! Presence in topics over all instances: state in each process, kept equal through a log of its own.
//!
//! Use it with `topics_socket.rs`. An instance appends who comes and who goes to a log that all instances read, on any
//! [`Store`], and a beat every few seconds. Guarantees: a user counts once, with connections to any number of instances; one
//! who reconnects anywhere within the grace period has neither left nor come; when an instance dies, its users leave after
//! [`Config::misses`] beats of the others; while the broker is down nobody leaves, and what it loses is appended again within
//! two beats. Coming costs one event, whatever the number of users. Needs `disconnects.rs`, `shared_log.rs` and
//! `websocket/presence.rs` with their files.

use std::{
    collections::{BTreeMap, HashMap, HashSet, btree_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    disconnects::follow,
    shared_log::{self, SharedLog},
    store::Store,
};
use crate::{
    sse::{
        event::{Event, LastEventId},
        log::{self, Log},
        log_reader::Reader,
    },
    websocket::presence::{Presence as Mine, USERS_SHOWN},
};

/// How long a user counts, and how soon others notice.
#[derive(Debug, Clone)]
pub struct Config {
    /// How long a user counts after the last connection, so that a reconnect is neither leaving nor coming.
    pub grace: Duration,
    /// Time between two signs of life of an instance. The same on all of them.
    pub beat: Duration,
    /// An instance is dead when nothing of it has come for so many beats of this one.
    pub misses: u64,
    /// Least time between two events of a topic for one reader.
    pub every: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(15),
            beat: Duration::from_secs(5),
            misses: 3,
            every: Duration::from_secs(1),
        }
    }
}

/// Pairs of an event at most: some ten KiB.
const PAIRS: usize = 500;
/// What comes within this time goes into one event.
const JOIN: Duration = Duration::from_millis(100);

/// A topic and a user.
type Pair = (String, String);

#[derive(Serialize, Deserialize)]
struct Said {
    from: String,
    what: What,
}

// ANCHOR: what
#[derive(Serialize, Deserialize)]
enum What {
    Here(Vec<Pair>),
    Gone(Vec<Pair>),
    /// Here, and nowhere else; in several events if they are many.
    All {
        first: bool,
        last: bool,
        some: Vec<Pair>,
    },
    /// Alive, with so many pairs.
    Beat(usize),
    /// Some pairs are missing: every instance says [`What::All`].
    Ask,
}
// ANCHOR_END: what

/// The users of all topics, until it and its clones are dropped.
#[derive(Clone)]
pub struct Presence {
    shared: Arc<Shared>,
    _tasks: Arc<[AbortOnDropHandle<()>; 2]>,
}

struct Shared {
    config: Config,
    me: String,
    state: Mutex<State>,
    news: Notify,
}

#[derive(Default)]
struct State {
    /// Connections of this process, by topic.
    mine: HashMap<String, Mine>,
    say_all: bool,
    ask: bool,
    /// Whether this instance has read its own question: what comes before it may be of the dead.
    live: bool,
    /// Beats of this instance that the broker has returned: the clock of all deadlines, which stops while the broker is down.
    beats: u64,
    /// What each instance has said, this one too.
    instances: HashMap<String, Instance>,
    topics: HashMap<String, Topic>,
}

#[derive(Default)]
struct Instance {
    pairs: HashSet<Pair>,
    /// The start of an [`What::All`].
    next: HashSet<Pair>,
    /// In beats of this instance.
    heard: u64,
}

struct Topic {
    /// On how many instances each of them is.
    users: BTreeMap<String, usize>,
    /// The newest event is the whole state.
    log: Arc<Log>,
    stale: bool,
}

/// A connection of a user in a topic, until it is dropped.
pub struct Present {
    shared: Arc<Shared>,
    topic: String,
    user: Arc<str>,
}

impl Presence {
    /// `store` is a log that has nothing else, such as `redis.log("presence", 1_000)`, the same on all instances.
    ///
    /// # Errors
    /// If the broker does not answer.
    pub async fn start<S: Store>(store: S, config: Config) -> Result<Self, S::Error> {
        let log = SharedLog::start(store, shared_log::Config::default());
        let log = Arc::new(log.await?);
        let shared = Arc::new(Shared {
            config,
            me: format!("{:016x}", rand::random::<u64>()),
            state: Mutex::new(State {
                ask: true,
                ..State::default()
            }),
            news: Notify::new(),
        });
        let hearing = shared.clone();
        let hear = follow(log.clone(), move |name, data| hearing.hear(name, data));
        let tasks = [tokio::spawn(hear), tokio::spawn(say(log, shared.clone()))];
        Ok(Self {
            shared,
            _tasks: Arc::new(tasks.map(AbortOnDropHandle::new)),
        })
    }

    /// Counts a connection of `user`, in every process.
    pub fn enter(&self, topic: &str, user: &Arc<str>) -> Present {
        let mut state = self.shared.state();
        state.mine.entry(topic.to_owned()).or_default().enter(user);
        drop(state);
        self.shared.news.notify_one();
        Present {
            shared: self.shared.clone(),
            topic: topic.to_owned(),
            user: user.clone(),
        }
    }

    /// The state of `topic` after each change: the event `presence` with `count`, and with the first names in `users`.
    pub fn watch(&self, topic: &str) -> Option<Reader> {
        let mut state = self.shared.state();
        let topic = Topic::of(&mut state.topics, topic, self.shared.config.every);
        if std::mem::take(&mut topic.stale) {
            topic.show();
        }
        topic.log.read(&LastEventId::None)
    }

    /// The number of users in `topic`.
    pub fn count(&self, topic: &str) -> usize {
        let state = self.shared.state();
        state.topics.get(topic).map_or(0, |topic| topic.users.len())
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        let until = Instant::now() + self.shared.config.grace;
        if let Some(mine) = self.shared.state().mine.get_mut(&self.topic) {
            mine.leave(&self.user, until);
        }
    }
}

// ANCHOR: say
async fn say<S: Store>(log: Arc<SharedLog<S>>, shared: Arc<Shared>) {
    let mut beat = interval(shared.config.beat);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let beat = tokio::select! {
            _ = beat.tick() => true,
            () = shared.news.notified() => false,
        };
        let all = shared.state().news(beat);
        for what in all {
            let from = shared.me.clone();
            // Cannot fail: it has a JSON form.
            let Ok(event) = Event::new("presence", &Said { from, what }) else {
                continue;
            };
            if let Err(error) = log.publish(&event).await {
                tracing::warn!(%error, "presence is not published");
                // It may be in the log anyway: the next beat says everything.
                let mut state = shared.state();
                (state.say_all, state.ask) = (true, true);
                break;
            }
        }
        sleep(JOIN).await;
    }
}

impl State {
    fn news(&mut self, beat: bool) -> Vec<What> {
        let (now, mut said) = (Instant::now(), Vec::new());
        for (topic, mine) in &mut self.mine {
            for (user, here) in mine.take_changes(now) {
                let pair = (topic.clone(), user.to_string());
                match said.last_mut() {
                    Some(What::Here(pairs)) if here && pairs.len() < PAIRS => pairs.push(pair),
                    Some(What::Gone(pairs)) if !here && pairs.len() < PAIRS => pairs.push(pair),
                    _ if here => said.push(What::Here(vec![pair])),
                    _ => said.push(What::Gone(vec![pair])),
                }
            }
        }
        self.mine
            .retain(|_, mine| mine.count() > 0 || mine.is_pending());
        if !beat {
            return said;
        }
        if std::mem::take(&mut self.ask) {
            said.push(What::Ask);
        }
        if std::mem::take(&mut self.say_all) {
            let pairs = self.mine.iter().flat_map(|(topic, mine)| {
                let pair = |user: &Arc<str>| (topic.clone(), user.to_string());
                mine.users().map(pair)
            });
            let pairs: Vec<Pair> = pairs.collect();
            let parts = pairs.len().div_ceil(PAIRS).max(1);
            said.extend((0..parts).map(|part| {
                What::All {
                    first: part == 0,
                    last: part + 1 == parts,
                    some: pairs
                        .iter()
                        .skip(part * PAIRS)
                        .take(PAIRS)
                        .cloned()
                        .collect(),
                }
            }));
        }
        said.push(What::Beat(self.mine.values().map(Mine::count).sum()));
        said
    }
}
// ANCHOR_END: say

impl Topic {
    fn of<'a>(topics: &'a mut HashMap<String, Self>, name: &str, every: Duration) -> &'a mut Self {
        topics.entry(name.to_owned()).or_insert_with(|| Self {
            users: BTreeMap::new(),
            log: Log::new(log::Config {
                join: every,
                ..log::Config::state(usize::MAX)
            }),
            stale: false,
        })
    }

    fn count(&mut self, user: String, here: bool) {
        match (here, self.users.entry(user)) {
            (true, user) => *user.or_default() += 1,
            (false, Entry::Occupied(mut user)) if *user.get() > 1 => *user.get_mut() -= 1,
            (false, Entry::Occupied(user)) => drop(user.remove()),
            (false, Entry::Vacant(_)) => {}
        }
    }

    fn show(&self) {
        let users: Vec<&String> = self.users.keys().take(USERS_SHOWN).collect();
        let state = json!({ "count": self.users.len(), "users": users });
        // Never too large, never finished.
        let _ = Event::new("presence", &state).map(|event| self.log.publish(&event));
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ANCHOR: hear
    fn hear(&self, name: &str, data: &str) {
        let mut state = self.state();
        let State {
            say_all,
            ask,
            live,
            beats,
            instances,
            topics,
            ..
        } = &mut *state;
        if name == "reset" {
            // The broker has lost some, or this reader.
            (*say_all, *ask) = (true, true);
        }
        let Ok(Said { from, what }) = serde_json::from_str::<Said>(data) else {
            return;
        };
        let mine = from == self.me;
        *live |= mine && matches!(what, What::Ask);
        if !*live {
            return;
        }
        let mut changes: Vec<(Pair, bool)> = Vec::new();
        if mine && matches!(what, What::Beat(_)) {
            *beats += 1;
            let dead = |instance: &Instance| *beats - instance.heard > self.config.misses;
            for (_, dead) in instances.extract_if(|name, other| *name != self.me && dead(other)) {
                changes.extend(dead.pairs.into_iter().map(|pair| (pair, false)));
            }
            topics.retain(|_, topic| !topic.users.is_empty() || topic.log.readers() > 0);
        }
        let Instance { pairs, next, heard } = instances.entry(from).or_default();
        *heard = *beats;
        match what {
            What::Here(come) => {
                // Said twice, it counts once.
                let come = come.into_iter().filter(|pair| pairs.insert(pair.clone()));
                changes.extend(come.map(|pair| (pair, true)));
            }
            What::Gone(gone) => {
                let gone = gone.into_iter().filter(|pair| pairs.remove(pair));
                changes.extend(gone.map(|pair| (pair, false)));
            }
            What::All { first, last, some } => {
                if first {
                    next.clear();
                }
                next.extend(some);
                if last {
                    let all = std::mem::take(next);
                    changes.extend(all.difference(pairs).map(|pair| (pair.clone(), true)));
                    changes.extend(pairs.difference(&all).map(|pair| (pair.clone(), false)));
                    *pairs = all;
                }
            }
            What::Beat(count) if count == pairs.len() => {}
            What::Beat(_) if mine => *say_all = true,
            What::Beat(_) => *ask = true,
            What::Ask => *say_all |= !mine,
        }
        // ANCHOR_END: hear
        let mut changed = HashSet::new();
        for ((topic, user), here) in changes {
            Topic::of(topics, &topic, self.config.every).count(user, here);
            changed.insert(topic);
        }
        for name in changed {
            let topic = Topic::of(topics, &name, self.config.every);
            topic.stale = topic.log.readers() == 0;
            if !topic.stale {
                topic.show();
            }
        }
    }
}
