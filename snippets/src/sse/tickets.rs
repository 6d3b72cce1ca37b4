//! Tickets: how an `EventSource`, which cannot set a header, proves who it is without a cookie.
//!
//! The page asks for a ticket with its normal credentials and puts it into the URL of the stream. URLs
//! end up in logs and histories, so a ticket is good once, for seconds, and for one user. For one
//! process; with several, keep the tickets where all of them look (`SET ... EX` and `GETDEL` in Redis).

// ANCHOR: tickets
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Longest life of a ticket.
pub const MAX_LIFE: Duration = Duration::from_secs(60);

/// The tickets that have been issued and not used.
#[derive(Debug)]
pub struct Tickets<User> {
    life: Duration,
    max: usize,
    max_per_user: usize,
    issued: Mutex<HashMap<String, (User, Instant)>>,
}

impl<User: PartialEq> Tickets<User> {
    /// Tickets that live for `life`, at most [`MAX_LIFE`]. At most `max` wait to be used, and
    /// `max_per_user` of one user, who could otherwise keep all others out.
    pub fn new(life: Duration, max: usize, max_per_user: usize) -> Self {
        Self {
            life: life.min(MAX_LIFE),
            max,
            max_per_user,
            issued: Mutex::new(HashMap::new()),
        }
    }

    /// A new ticket for `user`, or `None` while too many wait to be used.
    pub fn issue(&self, user: User) -> Option<String> {
        let now = Instant::now();
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        issued.retain(|_, (_, until)| *until > now);
        let own = issued.values().filter(|(owner, _)| *owner == user).count();
        if issued.len() >= self.max || own >= self.max_per_user {
            return None;
        }
        // 128 bits of a cryptographic generator: not to be guessed within a minute.
        let ticket = format!("{:032x}", rand::random::<u128>());
        issued.insert(ticket.clone(), (user, now + self.life));
        Some(ticket)
    }

    /// The user of `ticket`, once: it is gone afterwards, also when it came too late.
    pub fn redeem(&self, ticket: &str) -> Option<User> {
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        let (user, until) = issued.remove(ticket)?;
        (until > Instant::now()).then_some(user)
    }
}
// ANCHOR_END: tickets
