//! How many streams, sockets or paid answers one user may have open at a time.
//!
//! Use it if one user must not take the places of all others. The stream holds its place from before the work starts until
//! the stream is dropped; a `ConcurrencyLimitLayer` releases when the handler returns, which is when a stream begins.
//! One instance: each process counts for itself, so a user has `max` places on each. It counts and ends nothing, so that
//! work which must outlive its client can hold a place; `sse/until.rs` and `websocket/users.rs` know what to end.

// ANCHOR: per_user
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

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
// ANCHOR_END: per_user
