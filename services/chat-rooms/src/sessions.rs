//! The session store: in memory, bounded, each session for the same time. Replace it with your own.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use snippets::websocket::protect::{Accounts, User};
use tokio::time::Instant;

/// Sessions by token.
pub struct Sessions {
    life: Duration,
    max: usize,
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
            by_token: HashMap::new(),
            names: HashSet::new(),
            order: VecDeque::new(),
        }
    }

    pub(crate) fn log_in(&mut self, name: &str) -> Result<String, Refused> {
        self.expire();
        if self.names.contains(name) {
            return Err(Refused::Taken);
        }
        // A session that was ended early is in `order` until its time is over.
        if self.order.len() >= self.max {
            return Err(Refused::Full);
        }
        let token = format!("{:032x}", rand::random::<u128>()); // from a cryptographic generator
        let user = User {
            name: name.into(),
            admin: false,
            expires: Instant::now() + self.life,
        };
        self.names.insert(user.name.clone());
        self.order.push_back((user.expires, token.clone()));
        self.by_token.insert(token.clone(), user);
        Ok(token)
    }

    pub(crate) fn log_out(&mut self, token: &str) {
        if let Some(user) = self.by_token.remove(token) {
            self.names.remove(&user.name);
        }
    }

    pub(crate) fn user(&self, token: &str) -> Option<User> {
        let user = self.by_token.get(token)?;
        (user.expires > Instant::now()).then(|| user.clone())
    }

    fn expire(&mut self) {
        let now = Instant::now();
        while self.order.front().is_some_and(|(until, _)| *until <= now)
            && let Some((_, token)) = self.order.pop_front()
        {
            self.log_out(&token);
        }
    }
}

/// How the guard of the socket asks for a user.
impl Accounts for Mutex<Sessions> {
    fn by_session(&self, cookie: &str) -> Option<User> {
        let sessions = self.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.user(cookie)
    }

    fn by_token(&self, token: &str) -> Option<User> {
        self.by_session(token)
    }
}
