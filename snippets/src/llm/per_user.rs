//! How many answers one user may have open at a time.
//!
//! Promise: a place is held by the stream itself, from before the paid work until the stream is dropped. A `ConcurrencyLimitLayer`
//! lets go when the handler returns, which for a stream is when it begins.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Counts places by user; holds nothing for a user without one. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct PerUser {
    most: usize,
    taken: Arc<Mutex<HashMap<String, usize>>>,
}

/// A place; dropped, it is free again. Move it into the stream.
#[derive(Debug)]
pub struct Place {
    user: String,
    places: PerUser,
}

impl PerUser {
    /// `most` places for each user, in this process.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            taken: Arc::default(),
        }
    }

    /// A place for `user`, while there is one.
    pub fn enter(&self, user: &str) -> Option<Place> {
        let mut taken = self.lock();
        let count = taken.get(user).copied().unwrap_or(0);
        if count >= self.most {
            return None;
        }
        taken.insert(user.to_owned(), count + 1);
        Some(Place {
            user: user.to_owned(),
            places: self.clone(),
        })
    }

    /// Users that have a place, for a gauge.
    pub fn users(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        match taken.get_mut(&self.user) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(taken.remove(&self.user)),
        }
    }
}
