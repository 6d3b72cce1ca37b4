//! Ends an open stream when it is no longer allowed: its session is over, or its user is disconnected.
//!
//! Use it for every stream that needed a permission to be opened, since a stream outlives that decision. [`Until`] ends a
//! stream in band when any future completes; `Recheck` of `connections/crowd.rs` is such a future for a check that is
//! repeated (a session store, in memory or behind a network); [`Users`] is one for a logout that must take effect immediately. The maximum age of
//! `streams.rs` remains the last resort. Needs `streams.rs` with its files.

// ANCHOR: until
use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll},
};

use tokio_util::sync::CancellationToken;

use super::{
    event::Event,
    streams::{Chunk, Own, Source},
};

/// `source`, until `over` completes with the terminal event. A busy source does not delay it.
pub struct Until<S> {
    source: S,
    over: Pin<Box<dyn Future<Output = Event> + Send>>,
}

impl<S> Until<S> {
    /// What `over` holds is dropped with the stream: put the user's permit into it.
    pub fn new(source: S, over: impl Future<Output = Event> + Send + 'static) -> Self {
        Self {
            source,
            over: Box::pin(over),
        }
    }
}

impl<S: Source> Source for Until<S> {
    // ANCHOR: poll
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Chunk>> {
        if let Poll::Ready(last) = self.over.as_mut().poll(cx) {
            return Poll::Ready(Some(Chunk::from(&last.last())));
        }
        self.source.poll(cx)
    }
    // ANCHOR_END: poll

    fn id(&self) -> Option<String> {
        self.source.id()
    }

    fn beat(&mut self) -> Option<Event> {
        self.source.beat()
    }

    fn own(&mut self, what: Own) -> Option<Chunk> {
        self.source.own(what)
    }
}

/// The users that have open streams in this process (`production/disconnects.rs`: in all). It keeps nothing of a user without one.
/// Cloning is cheap. Unlike `connections/per_user.rs` it has no limit, and one token per user ends streams that no permit counts.
#[derive(Clone, Default)]
pub struct Users(Arc<Mutex<Table>>);

type Table = HashMap<Arc<str>, Weak<CancellationToken>>;

impl Users {
    /// Completes when `user` is disconnected.
    pub fn disconnected(&self, user: &str) -> impl Future<Output = ()> + Send + use<> {
        let mut table = self.table();
        let (user, token) = match table.get_key_value(user) {
            Some((user, token)) => (user.clone(), token.upgrade()),
            None => (user.into(), None),
        };
        let token = token.unwrap_or_else(|| {
            let token = Arc::new(CancellationToken::new());
            table.insert(user.clone(), Arc::downgrade(&token));
            token
        });
        let member = Member {
            users: self.clone(),
            user,
            token: Some(token),
        };
        async move {
            if let Some(token) = &member.token {
                token.cancelled().await;
            }
        }
    }

    /// Ends all streams of `user` in this process. End the session first: the client reconnects.
    pub fn disconnect(&self, user: &str) {
        if let Some(token) = self.table().remove(user).and_then(|token| token.upgrade()) {
            token.cancel();
        }
    }

    /// The number of users that have a stream, for a gauge.
    pub fn count(&self) -> usize {
        self.table().len()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One stream of one user.
struct Member {
    users: Users,
    user: Arc<str>,
    token: Option<Arc<CancellationToken>>,
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut table = self.users.table();
        self.token = None;
        // Kept if another stream of the user, also of after a disconnect, still has a token.
        if table
            .get(&self.user)
            .is_some_and(|token| token.strong_count() == 0)
        {
            table.remove(&self.user);
        }
    }
}
// ANCHOR_END: until
