//! Rooms: fan-out with one encoding and one order for all, presence, history, and resume after a reconnect.
//!
//! Promises: every member of a room sees the same events under the same sequence numbers; a member that does not keep up
//! holds up nobody; a member that returns with its last sequence number misses nothing, or is told `reset`.
//! Goes with [`super::outbox`]; [`super::rooms_endpoint`] speaks the protocol. One process: across instances put a shared
//! log behind it.

// ANCHOR: rooms
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use axum::extract::ws::Message;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use super::outbox::{Event, Full, Outbox};

/// The bounds of a hub.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Events a room keeps for members that return, and for recognising a message that is sent twice.
    pub history: usize,
    /// The same, in bytes; below half of [`super::limits::Limits::queue_bytes`], since a replay is one message: a connection cut within it gains nothing.
    pub history_bytes: usize,
    /// Rooms of the hub.
    pub rooms: usize,
    /// Connections in one room.
    pub members: usize,
    /// How long an empty room keeps its history for the last member's return.
    pub keep_empty: Duration,
    /// The policy for slow members, by the room's name.
    pub full: fn(&str) -> Full,
}

/// Where a member left off. Sequence numbers count only within one epoch: a room that was freed, or a process that was
/// restarted, begins again at 1, and "after 500" would wait for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// From the answer to the join.
    pub epoch: String,
    /// The last event that was processed.
    pub seq: u64,
}

/// All rooms of one process; clones are the same hub.
#[derive(Clone)]
pub struct Hub(Arc<Shared>);

struct Shared {
    rules: Rules,
    rooms: Mutex<HashMap<Arc<str>, Arc<Room>>>,
}

struct Room {
    name: Arc<str>,
    epoch: String,
    full: Full,
    rules: Rules,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last: u64,
    history: VecDeque<Kept>,
    history_bytes: usize,
    /// Sequence numbers of the messages in the history by sender and message id.
    known: HashMap<(Arc<str>, String), u64>,
    next_member: u64,
    members: HashMap<u64, (Arc<str>, Outbox)>,
    /// Connections by user: presence is of users, not of their tabs.
    users: HashMap<Arc<str>, usize>,
    empty_since: Option<Instant>,
}

struct Kept {
    event: Event,
    sent: Option<(Arc<str>, String)>,
}

#[derive(Serialize)]
struct Wire<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    room: &'a str,
    seq: u64,
    user: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a Value>,
}

#[derive(Serialize)]
struct Answer<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    room: &'a str,
    epoch: &'a str,
    seq: u64,
    users: Vec<&'a str>,
}

impl Hub {
    /// Call it inside a runtime: a task frees rooms that stay empty, and ends with the hub.
    pub fn new(rules: Rules) -> Self {
        let hub = Self(Arc::new(Shared {
            rules,
            rooms: Mutex::default(),
        }));
        tokio::spawn(sweep(Arc::downgrade(&hub.0)));
        hub
    }

    /// Adds a connection to a room: it is sent `joined` (or `reset`, when `resume` cannot be honoured) and what it missed,
    /// then every later event. Refused with `full` when the hub or the room is.
    pub fn join(
        &self,
        name: &str,
        user: &Arc<str>,
        outbox: &Outbox,
        resume: Option<&Cursor>,
    ) -> Result<Membership, &'static str> {
        let rules = &self.0.rules;
        // Held until the member is in the room, so that the sweep does not free the room in between.
        let mut rooms = lock(&self.0.rooms);
        let room = match rooms.get(name) {
            Some(room) => room.clone(),
            None if rooms.len() >= rules.rooms => return Err("full"),
            None => {
                let room = Arc::new(Room::new(name, rules));
                rooms.insert(room.name.clone(), room.clone());
                room
            }
        };
        let id = room.admit(user, outbox, resume)?;
        Ok(Membership {
            room,
            id,
            user: user.clone(),
        })
    }

    /// Rooms that exist now.
    pub fn rooms(&self) -> usize {
        lock(&self.0.rooms).len()
    }
}

/// A connection's place in a room; dropping it leaves the room.
pub struct Membership {
    room: Arc<Room>,
    id: u64,
    user: Arc<str>,
}

impl Membership {
    /// The room's name.
    pub fn room(&self) -> &str {
        &self.room.name
    }

    /// Publishes to all members and returns the sequence number. A `message_id` that this user has sent before, as far as
    /// the history goes, is not published again: it is a resend whose acknowledgement was lost.
    pub fn publish(&self, message_id: String, data: &Value) -> u64 {
        let sent = (self.user.clone(), message_id);
        let mut state = lock(&self.room.state);
        if let Some(&seq) = state.known.get(&sent) {
            return seq;
        }
        self.room.append(
            &mut state,
            "message",
            Some(data),
            sent.0.clone(),
            Some(sent),
        )
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut state = lock(&self.room.state);
        state.members.remove(&self.id);
        if let Some(connections) = state.users.get_mut(&self.user) {
            *connections -= 1;
            if *connections == 0 {
                state.users.remove(&self.user);
                self.room.announce(&mut state, "user_left", &self.user);
            }
        }
        if state.members.is_empty() {
            state.empty_since = Some(Instant::now());
        }
    }
}

impl Room {
    fn new(name: &str, rules: &Rules) -> Self {
        let epoch = format!("{:016x}", rand::random::<u64>());
        let full = (rules.full)(name);
        Self {
            name: name.into(),
            epoch,
            full,
            rules: rules.clone(),
            state: Mutex::default(),
        }
    }

    /// One lock from the replay to the membership: an event is in the replay or comes live, never both, never neither.
    fn admit(
        &self,
        user: &Arc<str>,
        outbox: &Outbox,
        resume: Option<&Cursor>,
    ) -> Result<u64, &'static str> {
        let mut state = lock(&self.state);
        if state.members.len() >= self.rules.members {
            return Err("full");
        }
        let connections = state.users.entry(user.clone()).or_default();
        *connections += 1;
        if *connections == 1 {
            self.announce(&mut state, "user_joined", user);
        }
        let replay = resume.map(|cursor| self.since(&state, cursor));
        let answer = Answer {
            kind: if matches!(replay, Some(None)) {
                "reset"
            } else {
                "joined"
            },
            room: &self.name,
            epoch: &self.epoch,
            seq: state.last,
            users: state.users.keys().map(|user| &**user).collect(),
        };
        // The events are encoded already: they are put in as they are.
        let mut answer = serde_json::to_string(&answer).unwrap_or_default();
        answer.pop();
        answer.push_str(",\"events\":[");
        answer.push_str(&replay.flatten().unwrap_or_default().join(","));
        answer.push_str("]}");
        outbox.send(Message::Text(answer.into()));
        let id = state.next_member;
        state.next_member += 1;
        state.members.insert(id, (user.clone(), outbox.clone()));
        state.empty_since = None;
        Ok(id)
    }

    /// What came after `cursor`; None when that is not known any more, or never was.
    fn since<'a>(&self, state: &'a State, cursor: &Cursor) -> Option<Vec<&'a str>> {
        let oldest = state
            .history
            .front()
            .map_or(state.last + 1, |kept| kept.event.seq);
        let known =
            cursor.epoch == self.epoch && cursor.seq <= state.last && cursor.seq + 1 >= oldest;
        known.then(|| {
            state
                .history
                .iter()
                .filter(|kept| kept.event.seq > cursor.seq)
                .map(|kept| kept.event.text.as_str())
                .collect()
        })
    }

    /// Presence. A room that conflates keeps only its newest event in the queues, so it has values and no presence.
    fn announce(&self, state: &mut State, kind: &str, user: &Arc<str>) {
        if self.full != Full::Conflate {
            self.append(state, kind, None, user.clone(), None);
        }
    }

    /// Numbers, encodes once, keeps, and hands to every queue, all under the room's lock: that is what makes the order one.
    fn append(
        &self,
        state: &mut State,
        kind: &str,
        data: Option<&Value>,
        user: Arc<str>,
        sent: Option<(Arc<str>, String)>,
    ) -> u64 {
        let seq = state.last + 1;
        let wire = Wire {
            kind,
            room: &self.name,
            seq,
            user: &user,
            data,
        };
        let text = serde_json::to_string(&wire).unwrap_or_default(); // cannot fail: all keys are strings
        let event = Event {
            room: self.name.clone(),
            seq,
            text: text.into(),
        };
        state.last = seq;
        state.history_bytes += event.text.len();
        if let Some(sent) = sent.clone() {
            state.known.insert(sent, seq);
        }
        state.history.push_back(Kept {
            event: event.clone(),
            sent,
        });
        while state.history.len() > self.rules.history
            || state.history_bytes > self.rules.history_bytes
        {
            let Some(oldest) = state.history.pop_front() else {
                break;
            };
            state.history_bytes -= oldest.event.text.len();
            if let Some(sent) = oldest.sent {
                state.known.remove(&sent);
            }
        }
        for (_, outbox) in state.members.values() {
            outbox.offer(event.clone(), self.full); // never waits for a member
        }
        seq
    }
}

async fn sweep(hub: Weak<Shared>) {
    while let Some(shared) = hub.upgrade() {
        let keep = shared.rules.keep_empty;
        lock(&shared.rooms).retain(|_, room| {
            lock(&room.state)
                .empty_since
                .is_none_or(|since| since.elapsed() < keep)
        });
        drop(shared);
        tokio::time::sleep(keep).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
// ANCHOR_END: rooms
