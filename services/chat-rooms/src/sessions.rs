//! The session store: in memory, bounded, each session for the same time. Replace it with your own.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use snippets::websocket::users::{Accounts, Unavailable, User};
use tokio::time::Instant;

/// Sessions by token.
pub struct Sessions {
    life: Duration,
    max: usize,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    by_token: HashMap<String, User>,
    names: HashSet<Arc<str>>,
    /// The oldest is in front.
    order: VecDeque<(Instant, String)>,
}

/// Why there is no session.
pub(crate) enum Refused {
    /// Another session has this name.
    Taken,
    /// There are as many sessions as allowed.
    Full,
}

impl Sessions {
    /// At most `max` sessions, each for `life`.
    pub fn new(life: Duration, max: usize) -> Self {
        Self {
            life,
            max,
            table: Mutex::default(),
        }
    }

    pub(crate) fn log_in(&self, name: &str) -> Result<String, Refused> {
        let now = Instant::now();
        let mut table = self.table();
        table.expire(now);
        if table.names.contains(name) {
            return Err(Refused::Taken);
        }
        // A session that was ended early is in `order` until its time is over.
        if table.order.len() >= self.max {
            return Err(Refused::Full);
        }
        let token = format!("{:032x}", rand::random::<u128>()); // from a cryptographic generator
        let user = User {
            name: name.into(),
            admin: false,
            expires: now + self.life,
        };
        table.names.insert(user.name.clone());
        table.order.push_back((user.expires, token.clone()));
        table.by_token.insert(token.clone(), user);
        Ok(token)
    }

    pub(crate) fn log_out(&self, token: &str) {
        self.table().remove(token);
    }

    pub(crate) fn user(&self, token: &str) -> Option<User> {
        let user = self.table().by_token.get(token)?.clone();
        (user.expires > Instant::now()).then_some(user)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn remove(&mut self, token: &str) {
        if let Some(user) = self.by_token.remove(token) {
            self.names.remove(&user.name);
        }
    }

    fn expire(&mut self, now: Instant) {
        while self.order.front().is_some_and(|(until, _)| *until <= now)
            && let Some((_, token)) = self.order.pop_front()
        {
            self.remove(&token);
        }
    }
}

/// How the guard of the socket asks for a user.
impl Accounts for Sessions {
    async fn by_session(&self, cookie: &str) -> Result<Option<User>, Unavailable> {
        Ok(self.user(cookie))
    }

    async fn by_token(&self, token: &str) -> Result<Option<User>, Unavailable> {
        Ok(self.user(token))
    }
}
