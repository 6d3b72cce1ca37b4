//! How many streams, sockets or paid answers one user may have open at a time, and whether the user still may.
//!
//! Use it if one user must not take the places of all others. The stream holds its place from before the work starts until
//! the stream is dropped; a `ConcurrencyLimitLayer` releases when the handler returns, which is when a stream begins.
//! One instance: each process counts for itself, so a user has `max` places on each. It counts and ends nothing, so that
//! work which must outlive its client can hold a place; `sse/until.rs` and `websocket/users.rs` know what to end.

// ANCHOR: per_user
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout};

/// Counts places by user; holds nothing for a user without one. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct PerUser {
    max: usize,
    open: Arc<Mutex<HashMap<Arc<str>, usize>>>,
}

/// Admits a user: what it returns is dropped when the work has ended. `None` refuses.
pub type Permits = dyn Fn(&str) -> Option<Box<dyn Send>> + Send + Sync;

/// One place of one user, free again when it is dropped. Move it into the stream.
#[derive(Debug)]
pub struct UserPlace {
    user: Arc<str>,
    places: PerUser,
}

impl PerUser {
    /// At most `max` places for each user in this process.
    pub fn new(max: usize) -> Self {
        Self {
            max,
            open: Arc::default(),
        }
    }

    /// A place for `user`, or `None` while all of them are taken.
    pub fn enter(&self, user: &str) -> Option<UserPlace> {
        let mut open = self.lock();
        let (user, count) = match open.get_key_value(user) {
            Some((known, count)) => (known.clone(), *count),
            None => (user.into(), 0),
        };
        if count >= self.max {
            return None;
        }
        open.insert(user.clone(), count + 1);
        Some(UserPlace {
            user,
            places: self.clone(),
        })
    }

    /// The same as a function, for an endpoint that takes any limit: `llm/relay`, `llm/resume`.
    pub fn permits(&self) -> Arc<Permits> {
        let places = self.clone();
        Arc::new(move |user| Some(Box::new(places.enter(user)?)))
    }

    /// Users that have a place, for a gauge.
    pub fn users(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UserPlace {
    /// The user whose place it is.
    pub fn user(&self) -> &str {
        &self.user
    }
}

impl Drop for UserPlace {
    fn drop(&mut self) {
        let mut open = self.places.lock();
        match open.get_mut(&self.user) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(open.remove(&self.user)),
        }
    }
}

// ANCHOR: recheck
/// How often a session is checked again while a connection is open.
#[derive(Debug, Clone, Copy)]
pub struct Recheck {
    /// Each check begins 0.8 to 1 times this after the last one, so that connections that were opened together are not
    /// checked together.
    pub every: Duration,
    /// Longest time of one check; then it has failed.
    pub deadline: Duration,
    /// How long a connection stays open while all checks fail: a session store that is down must not end every connection.
    pub patience: Duration,
}

/// Why a connection must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// The session is not valid.
    Invalid,
    /// For [`Recheck::patience`], no check was answered.
    Unknown,
}

impl Recheck {
    /// Completes when `valid` returns `Ok(false)`, or when it has failed for too long. Poll it with the connection, as
    /// `sse/until.rs` and `websocket/users.rs` do: while a check waits, events and heartbeats are sent.
    pub async fn over<F, E>(self, valid: impl Fn() -> F) -> Over
    where
        F: Future<Output = Result<bool, E>>,
    {
        let mut answered = Instant::now();
        loop {
            sleep(self.every.mul_f64(rand::random_range(0.8..=1.0))).await;
            match timeout(self.deadline, valid()).await {
                Ok(Ok(true)) => answered = Instant::now(),
                Ok(Ok(false)) => return Over::Invalid,
                _ if answered.elapsed() >= self.patience => return Over::Unknown,
                _ => tracing::warn!("a session cannot be checked"),
            }
        }
    }
}
// ANCHOR_END: recheck

impl Default for Recheck {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(30),
            deadline: Duration::from_secs(5),
            patience: Duration::from_secs(5 * 60),
        }
    }
}
// ANCHOR_END: per_user
