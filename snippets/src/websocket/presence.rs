//! Presence in a room: state, not events in its history. Used by `rooms.rs`, and for the members of one process by
//! `production/presence.rs`.
//!
//! Guarantees: a user counts once, with any number of connections; one who reconnects within the grace period has neither left
//! nor come; entering and leaving cost the same in a room of ten and of ten thousand.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;

/// Names that are shown at most; [`Presence::count`] is the number of all.
pub const USERS_SHOWN: usize = 50;

/// The users of one room.
#[derive(Debug, Default)]
pub struct Presence {
    /// In order, so that the names that are shown are always the same ones.
    users: BTreeMap<Arc<str>, Present>,
    /// Users without a connection, and until when they still count; the oldest is in front.
    leaving: VecDeque<(Instant, Arc<str>)>,
    changes: Vec<Change>,
}

/// A user who has come (`true`) or left.
pub type Change = (Arc<str>, bool);

#[derive(Debug, Default)]
struct Present {
    connections: usize,
    until: Option<Instant>,
}

impl Presence {
    /// One more connection of `user`.
    pub fn enter(&mut self, user: &Arc<str>) {
        if !self.users.contains_key(user) {
            self.changes.push((user.clone(), true));
        }
        let present = self.users.entry(user.clone()).or_default();
        present.connections += 1;
        present.until = None;
    }

    // ANCHOR: leave
    /// Subtracts one connection of `user`. After the last one, the user counts as present until `until`.
    pub fn leave(&mut self, user: &Arc<str>, until: Instant) {
        if let Some(present) = self.users.get_mut(user) {
            present.connections = present.connections.saturating_sub(1);
            if present.connections == 0 {
                present.until = Some(until);
                self.leaving.push_back((until, user.clone()));
            }
        }
    }

    /// Removes users whose `until` has passed. Returns who has come and who has left since the last call, in order.
    pub fn take_changes(&mut self, now: Instant) -> Vec<Change> {
        while let Some((until, _)) = self.leaving.front()
            && *until <= now
            && let Some((until, user)) = self.leaving.pop_front()
        {
            // If the user has returned, `until` is `None`; if the user has then left again, it is later. In both
            // cases this entry is stale, and the user stays.
            let present = self.users.get(&user);
            if present.is_some_and(|present| present.until == Some(until)) {
                self.users.remove(&user);
                self.changes.push((user, false));
            }
        }
        std::mem::take(&mut self.changes)
    }
    // ANCHOR_END: leave

    /// Whether a change is still to be taken, now or later.
    pub fn is_pending(&self) -> bool {
        !self.changes.is_empty() || !self.leaving.is_empty()
    }

    /// Number of users.
    pub fn count(&self) -> usize {
        self.users.len()
    }

    /// All names, in order.
    pub fn users(&self) -> impl Iterator<Item = &Arc<str>> {
        self.users.keys()
    }

    /// The first [`USERS_SHOWN`] names.
    pub fn names(&self) -> Vec<&str> {
        let names = self.users.keys().map(|user| &**user);
        names.take(USERS_SHOWN).collect()
    }
}
