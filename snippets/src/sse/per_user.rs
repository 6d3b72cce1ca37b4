//! Open streams of each user, counted for as long as they are open. Used by `protect.rs`.

// ANCHOR: per_user
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// A limit on the open streams of each user. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct PerUser {
    max: usize,
    open: Arc<Mutex<HashMap<String, usize>>>,
}

/// One stream of one user, until it is dropped.
#[derive(Debug)]
pub struct UserSlot {
    user: String,
    open: Arc<Mutex<HashMap<String, usize>>>,
}

impl PerUser {
    /// At most `max` streams for each user; at least one.
    pub fn new(max: usize) -> Self {
        Self {
            max: max.max(1),
            open: Arc::default(),
        }
    }

    /// A place for one more stream of `user`. Keep it inside the stream.
    pub fn admit(&self, user: &str) -> Option<UserSlot> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(user.to_owned()).or_default();
        (*count < self.max).then(|| {
            *count += 1;
            UserSlot {
                user: user.to_owned(),
                open: self.open.clone(),
            }
        })
    }

    /// How many users have a stream open: what the table holds.
    pub fn users(&self) -> usize {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.len()
    }
}

impl UserSlot {
    /// Whose stream it is.
    pub fn user(&self) -> &str {
        &self.user
    }
}

impl Drop for UserSlot {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.user);
            }
        }
    }
}
// ANCHOR_END: per_user
