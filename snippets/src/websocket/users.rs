//! The user of a socket: who, until when, how many sockets, and how to close all of them.
//!
//! [`Accounts`] is your session store; [`Rechecked`] asks it again while a socket is open.
//! One instance: `production/disconnects.rs` calls [`UserSockets::disconnect`] on each. Not the table of `sse/until.rs` or
//! `connections/per_user.rs`: a socket is closed through its outbox, with a code, and its task waits for no token.

// ANCHOR: users
use std::collections::HashMap;
use std::future::ready;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::extract::ws::Message;
use bytes::Bytes;
use tokio::time::Instant;

use super::outbox::Outbox;
use super::serve::{Handler, Limit};
use crate::connections::crowd::{Over, Recheck};

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

/// The session store does not answer.
#[derive(Debug, Clone, Copy)]
pub struct Unavailable;

/// The session store of the application: in memory, in a database, or behind a network.
pub trait Accounts: Send + Sync + 'static {
    /// The user of a session cookie that is valid now.
    fn by_session(
        &self,
        cookie: &str,
    ) -> impl Future<Output = Result<Option<User>, Unavailable>> + Send;

    /// The user of an access token that is valid now.
    fn by_token(
        &self,
        token: &str,
    ) -> impl Future<Output = Result<Option<User>, Unavailable>> + Send;

    /// Whether the session of an open socket is valid still, for [`Rechecked`].
    fn is_valid(&self, user: &User) -> impl Future<Output = Result<bool, Unavailable>> + Send {
        ready(Ok(user.expires > Instant::now()))
    }
}

// ANCHOR: rechecked
/// A [`Limit`] that wraps another one and checks the session of each open socket again. The check is polled with the
/// connection, so messages and heartbeats pass while it waits.
#[derive(Debug)]
pub struct Rechecked<L, A> {
    /// `rates::Rates`, or `()`.
    pub limit: L,
    /// See [`Accounts::is_valid`].
    pub accounts: Arc<A>,
    /// How often.
    pub recheck: Recheck,
}

impl<L: Limit<User>, A: Accounts> Limit<User> for Rechecked<L, A> {
    type Limited<H: Handler> = L::Limited<Checked<H>>;

    fn around<H: Handler>(&self, user: &User, outbox: &Outbox, handler: H) -> Self::Limited<H> {
        let (accounts, recheck, of) = (self.accounts.clone(), self.recheck, user.clone());
        let over = async move { recheck.over(|| accounts.is_valid(&of)).await };
        let over = Some(Box::pin(over) as Pin<Box<_>>);
        self.limit.around(user, outbox, Checked { handler, over })
    }
}

/// A handler whose session is checked.
pub struct Checked<H> {
    handler: H,
    over: Option<Pin<Box<dyn Future<Output = Over> + Send>>>,
}

impl<H: Handler> Handler for Checked<H> {
    fn on_message(&mut self, message: Message, outbox: &Outbox) {
        self.handler.on_message(message, outbox);
    }

    fn on_control(&mut self, outbox: &Outbox) {
        self.handler.on_control(outbox);
    }

    fn poll_frames(&mut self, cx: &mut Context<'_>, outbox: &Outbox) -> Poll<Bytes> {
        if let Some(over) = &mut self.over
            && let Poll::Ready(over) = over.as_mut().poll(cx)
        {
            self.over = None;
            // After either code the client retries. If its session is over, it gets no new ticket.
            match over {
                Over::Invalid => outbox.close(EXPIRED, "session expired"),
                Over::Unknown => outbox.close(1013, "try again later"),
            }
        }
        self.handler.poll_frames(cx, outbox)
    }
}
// ANCHOR_END: rechecked

impl<L: Clone, A> Clone for Rechecked<L, A> {
    fn clone(&self) -> Self {
        Self {
            limit: self.limit.clone(),
            accounts: self.accounts.clone(),
            recheck: self.recheck,
        }
    }
}

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
