//! Messages of a client that are not acknowledged yet.
//!
//! A sent message is not a delivered one: it is kept until the server has acknowledged its id, sent again after a reconnect
//! or a refusal that was only for now, and dropped when it is too old to still be meant. Used by `client_session.rs`.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

/// A message to a room.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename = "publish")]
pub struct Publish {
    /// Names the message in the acknowledgement; the server publishes an id once, however often it is sent.
    pub id: String,
    /// Where to.
    pub room: String,
    /// What.
    pub data: Value,
}

struct Kept {
    message: Publish,
    until: Instant,
    sent: bool,
}

/// The queue: bounded, with an expiry. Messages are sent in order; those after it in the window overtake one that the server
/// refused for now (a window of 1 keeps the order).
pub struct Pending {
    kept: VecDeque<Kept>,
    max: usize,
    window: usize,
    keep_for: Duration,
    names: u64,
    counter: u64,
}

impl Pending {
    // ANCHOR: window
    /// Keeps at most `max` messages, each for `keep_for`, which must be shorter than the time for which the server remembers ids.
    /// At most `window` messages are sent and not acknowledged, which bounds the burst after a reconnect: keep it near the burst
    /// that the server allows (20 in `rates`).
    pub fn new(max: usize, window: usize, keep_for: Duration) -> Self {
        Self {
            kept: VecDeque::new(),
            max,
            window,
            keep_for,
            names: rand::random(),
            counter: 0,
        }
    }
    // ANCHOR_END: window

    // ANCHOR: push
    /// Keeps a message and returns its id. Returns None if the queue is full: the caller must handle that, or the message is lost.
    pub fn push(&mut self, room: String, data: Value) -> Option<String> {
        if self.kept.len() >= self.max {
            return None;
        }
        self.counter += 1;
        let id = format!("{:x}-{}", self.names, self.counter);
        let message = Publish {
            id: id.clone(),
            room,
            data,
        };
        self.kept.push_back(Kept {
            message,
            until: Instant::now() + self.keep_for,
            sent: false,
        });
        Some(id)
    }
    // ANCHOR_END: push

    /// Returns the next message to send, in order, if fewer than `window` are sent and not acknowledged. Messages to rooms that
    /// are not `ready` wait.
    pub fn next_unsent(&mut self, ready: impl Fn(&str) -> bool) -> Option<Publish> {
        let at = self.find_unsent(ready)?;
        let kept = self.kept.get_mut(at)?;
        kept.sent = true;
        Some(kept.message.clone())
    }

    /// Whether [`Pending::next_unsent`] would return one.
    pub fn has_unsent(&self, ready: impl Fn(&str) -> bool) -> bool {
        self.find_unsent(ready).is_some()
    }

    fn find_unsent(&self, ready: impl Fn(&str) -> bool) -> Option<usize> {
        if self.kept.iter().filter(|kept| kept.sent).count() >= self.window {
            return None;
        }
        self.kept
            .iter()
            .position(|kept| !kept.sent && ready(&kept.message.room))
    }

    /// After a reconnect: what was sent may not have arrived.
    pub fn send_again(&mut self) {
        self.kept.iter_mut().for_each(|kept| kept.sent = false);
    }

    /// After a refusal that was only for now.
    pub fn unsend(&mut self, id: &str) {
        let refused = self.kept.iter_mut().filter(|kept| kept.message.id == id);
        refused.for_each(|kept| kept.sent = false);
    }

    /// The server has answered this id, with an acknowledgement or a refusal. False for an id that is not kept.
    pub fn settle(&mut self, id: &str) -> bool {
        let before = self.kept.len();
        self.kept.retain(|kept| kept.message.id != id);
        self.kept.len() < before
    }

    /// The id of a message that has expired; settle it. A stale command must not be carried out once the network is back.
    pub fn expired(&self) -> Option<String> {
        let oldest = self.kept.front()?;
        (oldest.until <= Instant::now()).then(|| oldest.message.id.clone())
    }
}
