//! Rooms: one order for all members, encoded once; resume after a reconnect; a policy for slow members; presence.
//!
//! A room is a log of frames and each member is a position in it: publishing queues nothing and waits for nobody.
//! Guarantees: every member receives the same events under the same sequence numbers; a member that returns with its
//! cursor misses nothing or gets `reset`; presence is state next to the log, so that coming and going costs no history.
//! One process: a client that reconnects to another instance gets `reset`. `rooms_endpoint.rs` is the endpoint. Needs
//! `rooms_protocol.rs`, `presence.rs`, `outbox.rs` and `sse/log.rs` with its files.

// ANCHOR: rules
use std::time::Duration;

/// What happens to a member for which more than [`Rules::queue`] events wait. The kind of data decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// Close with `outbox::TOO_SLOW` (1013); the client reconnects and resumes. For data that must be complete.
    Disconnect,
    /// Skip the oldest and send one `gap` in their place. For feeds and logs.
    DropOldest,
    /// Send only the newest event, also to newcomers. For values that replace each other: prices, positions.
    Conflate,
}

/// The bounds of a hub, which holds all rooms of a process.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Events that a room keeps for members that return, and for recognizing a message that is sent twice.
    pub history: usize,
    /// The same, in bytes. A larger message is refused.
    pub history_bytes: usize,
    /// Maximum number of events that may wait for a member, not counting those from before its join. They
    /// are those of the history, not copies, so set it above a burst: a burst must not disconnect a member that reads.
    pub queue: usize,
    /// Maximum number of rooms.
    pub rooms: usize,
    /// Maximum number of connections in one room.
    pub members: usize,
    /// How long an empty room keeps its history for members that return. Then it is freed; the next join starts it with
    /// another epoch, counting from 1.
    pub keep_empty: Duration,
    /// Whether answers and cursors have the epoch. For a contract of plain numbers set `false`: a room's first number
    /// is then taken from the clock (`First::Clock`), so that a cursor from before a restart of the room gets `reset`.
    pub epochs: bool,
    /// How long a user stays present after the last connection, so that a reconnect does not show as leaving and joining.
    pub grace: Duration,
    /// Whether members are notified who is present: by `presence` messages, and by `count` and `users` in the answer to a join.
    pub presence: bool,
    /// Minimum time between two `presence` messages of a room.
    pub presence_every: Duration,
    /// The policy for slow members, chosen by the room's name.
    pub full: fn(&str) -> Full,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            history: 256,
            history_bytes: 1024 * 1024,
            queue: 256,
            rooms: 10_000,
            members: 10_000,
            keep_empty: Duration::from_secs(60),
            epochs: true,
            grace: Duration::from_secs(15),
            presence: true,
            presence_every: Duration::from_secs(1),
            full: |_| Full::Disconnect,
        }
    }
}
// ANCHOR_END: rules

// ANCHOR: rooms
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use axum::extract::ws::Message;
use bytes::Bytes;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::outbox::{Outbox, text_frame};
use super::presence::Presence;
use super::rooms_protocol::{Cursor, Entry, Reply, event};
use crate::sse::event::LastEventId;
use crate::sse::event::{Ids, Reason};
use crate::sse::log::{Begin, Config, First, Log, Slow};
use crate::sse::log_reader::{Next, Reader};

/// All rooms of one process; clones are the same hub.
#[derive(Clone)]
pub struct Hub(Arc<Shared>);

struct Shared {
    rules: Rules,
    rooms: Mutex<HashMap<Arc<str>, Arc<Room>>>,
    chores: Arc<Chores>,
}

/// Rooms with a presence to publish, users to time out, or nobody inside.
#[derive(Default)]
struct Chores {
    rooms: Mutex<Vec<Arc<Room>>>,
    work: Notify,
}

struct Room {
    name: Arc<str>,
    epoch: String,
    full: Full,
    events: Arc<Log>,
    /// Only the newest counts.
    presence: Arc<Log>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    members: usize,
    presence: Presence,
    /// Whether it is in [`Chores`].
    listed: bool,
    empty_since: Option<Instant>,
    /// Sequence numbers of the last messages by sender and message id.
    known: HashMap<(Arc<str>, String), u64>,
    known_order: VecDeque<(Arc<str>, String)>,
}

impl Hub {
    /// Call it inside a runtime: one task does the chores of all rooms, and ends with the hub.
    pub fn new(rules: Rules) -> Self {
        let hub = Self(Arc::new(Shared {
            rules,
            rooms: Mutex::default(),
            chores: Arc::default(),
        }));
        tokio::spawn(run_chores(Arc::downgrade(&hub.0), hub.0.chores.clone()));
        hub
    }

    /// Adds a connection to a room and answers with `joined`, or with `reset` if `resume` cannot be honored. Poll the
    /// membership for what follows: the events that were missed, then each new one.
    ///
    /// # Errors
    /// `full`, if the hub or the room is.
    pub fn join(
        &self,
        name: &str,
        user: &Arc<str>,
        outbox: &Outbox,
        resume: Option<&Cursor>,
    ) -> Result<Membership, &'static str> {
        let rules = &self.0.rules;
        // Held until the member is in the room, so that the room is not freed in between.
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
        let mut state = lock(&room.state);
        if state.members >= rules.members {
            return Err("full");
        }
        state.members += 1;
        state.empty_since = None;
        state.presence.enter(user);
        self.0.list(&room, &mut state);
        drop(state);
        drop(rooms);
        let mut member = Membership {
            events: room.events.read_at(room.events.newest()),
            presence: room.presence.read_at(room.presence.newest()),
            hub: self.0.clone(),
            room,
            user: user.clone(),
        };
        member.resume(outbox, resume);
        Ok(member)
    }

    /// Rooms that exist now.
    pub fn rooms(&self) -> usize {
        lock(&self.0.rooms).len()
    }
}

/// A connection's place in a room, and its position in the events; dropping it leaves the room.
pub struct Membership {
    hub: Arc<Shared>,
    room: Arc<Room>,
    user: Arc<str>,
    events: Reader,
    presence: Reader,
}

impl Membership {
    /// The room's name.
    pub fn room(&self) -> &str {
        &self.room.name
    }

    /// Continues after `cursor`, or at the next event without one, and answers as [`Hub::join`]. This fills a gap; nobody else
    /// notices it.
    pub fn resume(&mut self, outbox: &Outbox, cursor: Option<&Cursor>) {
        let room = &self.room;
        // A number of another epoch is no position.
        let other = cursor.is_some_and(|cursor| match &cursor.epoch {
            Some(epoch) => *epoch != room.epoch,
            None => self.hub.rules.epochs,
        });
        let id = match cursor {
            Some(_) if other => LastEventId::None,
            Some(cursor) => LastEventId::Id(cursor.seq.to_string()),
            None => LastEventId::None,
        };
        // `None` only after a terminal event, which a room has not.
        if let Some(reader) = room.events.read(&id) {
            self.events = reader;
        }
        let mut reset = other.then_some(Reason::Epoch);
        // A reader that is not where the client asked for has its reason first. A room that conflates has no history.
        if room.full != Full::Conflate
            && reset.is_none()
            && cursor.is_some_and(|cursor| cursor.seq != self.events.at().seq)
            && let Poll::Ready(Next::Missed(reason, _)) =
                self.events.next(&mut Context::from_waker(Waker::noop()))
        {
            reset = Some(reason);
        }
        let rules = &self.hub.rules;
        let state = lock(&room.state);
        let entry = Entry {
            room: &room.name,
            epoch: rules.epochs.then_some(&*room.epoch),
            seq: self.events.at().seq, // the events continue after it
            reason: reset,
            count: rules.presence.then(|| state.presence.count()),
            users: rules.presence.then(|| state.presence.names()),
        };
        let answer = match reset {
            None => Reply::Joined(entry),
            Some(_) => Reply::Reset(entry),
        };
        let answer = answer.text();
        drop(state);
        outbox.send(Message::Text(answer.into()));
    }

    /// Publishes to all members and returns the sequence number. A `message_id` that this user has sent before, as far as the
    /// history goes, is not published again: it is a resend whose acknowledgement was lost.
    ///
    /// # Errors
    /// `too_large`, if the message is larger than [`Rules::history_bytes`].
    pub fn publish(&self, message_id: String, data: &Value) -> Result<u64, &'static str> {
        let room = &self.room;
        let (before, after) = event(&room.name, &self.user, data);
        let sent = (self.user.clone(), message_id);
        let mut state = lock(&room.state);
        if let Some(&seq) = state.known.get(&sent) {
            return Ok(seq);
        }
        let published = room
            .events
            .publish_with(false, |seq| text_frame(&format!("{before}{seq}{after}")));
        let seq = published.map_err(|_| "too_large")?.seq;
        state.known.insert(sent.clone(), seq);
        state.known_order.push_back(sent);
        if state.known_order.len() > self.hub.rules.history
            && let Some(oldest) = state.known_order.pop_front()
        {
            state.known.remove(&oldest);
        }
        Ok(seq)
    }

    /// The next frames for this member. `None`: it is too slow for a room that disconnects; close with `outbox::TOO_SLOW`.
    pub fn poll_frames(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Poll::Ready(Next::Blocks(presence)) = self.presence.next(cx) {
            return Poll::Ready(Some(presence));
        }
        match self.events.next(cx) {
            Poll::Ready(Next::Blocks(frames)) => Poll::Ready(Some(frames)),
            Poll::Ready(Next::Missed(_, from)) => {
                let (room, to) = (self.room(), self.events.at().seq);
                Poll::Ready(Some(text_frame(&Reply::Gap { room, from, to }.text())))
            }
            Poll::Ready(Next::Last(_) | Next::End) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut state = lock(&self.room.state);
        state.members -= 1;
        if state.members == 0 {
            state.empty_since = Some(now);
        }
        let until = now + self.hub.rules.grace;
        state.presence.leave(&self.user, until);
        self.hub.list(&self.room, &mut state);
    }
}

impl Room {
    fn new(name: &str, rules: &Rules) -> Self {
        let full = (rules.full)(name);
        let events = Log::new(Config {
            queue: rules.queue,
            slow: match full {
                Full::Disconnect => Slow::End,
                Full::DropOldest => Slow::Reset,
                Full::Conflate => Slow::Newest,
            },
            begin: Begin::Now,
            // The protocol carries the epoch once, in the answer to the join.
            ids: Ids::Sequence,
            first: match rules.epochs {
                true => First::One,
                false => First::Clock,
            },
            ..match full {
                Full::Conflate => Config::state(rules.history_bytes),
                _ => Config::complete(rules.history, rules.history_bytes),
            }
        });
        Self {
            name: name.into(),
            epoch: format!("{:016x}", events.newest().epoch),
            full,
            events,
            presence: Log::new(Config::state(usize::MAX)),
            state: Mutex::default(),
        }
    }

    /// Publishes a changed presence. Returns whether there is more to do later.
    fn tidy(&self, now: Instant, tell: bool) -> bool {
        let mut state = lock(&self.state);
        if !state.presence.take_changes(now).is_empty() && tell {
            let presence = Reply::Presence {
                room: &self.name,
                count: state.presence.count(),
                users: state.presence.names(),
            };
            let frame = text_frame(&presence.text());
            let _ = self.presence.publish_with(false, |_| frame); // never too large, never finished
        }
        state.listed = state.presence.is_pending() || state.empty_since.is_some();
        state.listed
    }
}

impl Shared {
    fn list(&self, room: &Arc<Room>, state: &mut State) {
        let chore = state.presence.is_pending() || state.empty_since.is_some();
        if chore && !std::mem::replace(&mut state.listed, true) {
            lock(&self.chores.rooms).push(room.clone());
            self.chores.work.notify_one();
        }
    }

    /// Frees a room that has been empty for [`Rules::keep_empty`].
    fn free(&self, room: &Room, now: Instant) -> bool {
        let mut rooms = lock(&self.rooms);
        let empty_since = lock(&room.state).empty_since;
        let free = empty_since.is_some_and(|since| now - since >= self.rules.keep_empty);
        if free {
            rooms.remove(&room.name);
        }
        free
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.chores.work.notify_one();
    }
}

async fn run_chores(hub: Weak<Shared>, chores: Arc<Chores>) {
    loop {
        if lock(&chores.rooms).is_empty() {
            chores.work.notified().await;
        }
        let Some(every) = hub.upgrade().map(|hub| hub.rules.presence_every) else {
            return;
        };
        sleep(every).await;
        let Some(hub) = hub.upgrade() else { return };
        let now = Instant::now();
        let mut rooms = std::mem::take(&mut *lock(&chores.rooms));
        rooms.retain(|room| room.tidy(now, hub.rules.presence) && !hub.free(room, now));
        lock(&chores.rooms).append(&mut rooms);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
// ANCHOR_END: rooms
