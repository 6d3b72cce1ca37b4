//! The user of a socket: who, until when, how many sockets, and how to close all of them.
//!
//! One instance: `production/disconnects.rs` calls [`UserSockets::disconnect`] on each. Not the table of `sse/until.rs` or
//! `connections/per_user.rs`: a socket is closed through its outbox, with a code, and its task waits for no token.

// ANCHOR: users
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::outbox::Outbox;

/// Who is connected.
#[derive(Debug, Clone)]
pub struct User {
    /// Stable name; limits, presence and rooms count by it.
    pub name: Arc<str>,
    /// May do what only administrators may.
    pub admin: bool,
    /// When the session ends, also for a socket that is open then.
    pub expires: Instant,
}

/// Close code for a session or ticket that has ended, or did not come in time: the client fetches a new credential and
/// reconnects. 4401 is final for clients; a session that was valid a second ago is no reason to stop.
pub const EXPIRED: u16 = 4408;

/// All open sockets by user; clones are the same. Holds nothing for a user without one.
#[derive(Clone)]
pub struct UserSockets {
    max: usize,
    open: Arc<Mutex<HashMap<Arc<str>, Vec<Outbox>>>>,
}

/// One open socket of a user, until it is dropped.
pub struct UserSocket {
    user: Arc<str>,
    outbox: Outbox,
    sockets: UserSockets,
}

impl UserSockets {
    /// At most `max` sockets for each user in this process.
    pub fn new(max: usize) -> Self {
        Self {
            max,
            open: Arc::default(),
        }
    }

    /// Counts a socket, or `None` if the user has as many as allowed.
    pub fn enter(&self, user: &Arc<str>, outbox: &Outbox) -> Option<UserSocket> {
        let mut open = self.lock();
        if self.max == 0 || open.get(user).is_some_and(|all| all.len() >= self.max) {
            return None;
        }
        let all = open.entry(user.clone()).or_default();
        all.push(outbox.clone());
        Some(UserSocket {
            user: user.clone(),
            outbox: outbox.clone(),
            sockets: self.clone(),
        })
    }

    /// Closes all sockets of `user` with `code`: 4401 after a logout, 4403 for a ban, 4408 if a new credential is enough.
    /// Returns how many there were. The user may connect again if the session store still allows it.
    pub fn disconnect(&self, user: &str, code: u16, reason: &'static str) -> usize {
        let all = self.lock().get(user).cloned().unwrap_or_default();
        all.iter().for_each(|outbox| outbox.close(code, reason));
        all.len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Vec<Outbox>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for UserSocket {
    fn drop(&mut self) {
        let mut open = self.sockets.lock();
        let Some(all) = open.get_mut(&self.user) else {
            return;
        };
        all.retain(|outbox| !outbox.is_same(&self.outbox));
        if all.is_empty() {
            open.remove(&self.user);
        }
    }
}
// ANCHOR_END: users
