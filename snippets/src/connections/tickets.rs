//! Tickets: how an `EventSource` or a page's `WebSocket`, which cannot set a header, proves who it is without a cookie.
//!
//! The page fetches a ticket with its normal credentials, for each attempt, and puts it into the URL. URLs end up in logs and
//! histories, so a ticket is valid once, for seconds, and carries no secret. Guarantees: every instance with the same key
//! accepts it; issuing stores nothing; issuing and redeeming take constant time; one user cannot use up the memory.
//! One instance: [`InMemory`] knows the tickets that were used in its own process. With several instances, give all of them
//! one [`UsedTickets`] on your broker (`redis_tickets.rs`), or a ticket can be used once on each.

// ANCHOR: tickets
use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use futures::future::{BoxFuture, ready};
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::Sha256;
use tokio::time::Instant;

/// Longest time for which a ticket may be valid; used tickets are remembered for this long.
pub const MAX_LIFE: Duration = Duration::from_secs(60);

/// Why a ticket is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// Not issued with this key, or changed: the client must log in.
    #[error("not a ticket of this service")]
    Invalid,
    /// Issued by this service, but too late: the client fetches a new one.
    #[error("the ticket has expired")]
    Expired,
    /// Used before.
    #[error("the ticket has been used")]
    Used,
    /// The user has redeemed as many tickets as one user may: the client retries later.
    #[error("too many tickets of one user")]
    TooMany,
    /// [`UsedTickets`] does not answer: the client retries later.
    #[error("used tickets cannot be checked")]
    Unavailable,
}

/// Where used tickets are remembered.
pub trait UsedTickets: Send + Sync + 'static {
    /// Marks ticket `id` of `user` as used, for at least [`MAX_LIFE`], in one atomic step.
    ///
    /// # Errors
    /// [`TicketError::Used`], [`TicketError::TooMany`] or [`TicketError::Unavailable`].
    fn claim<'a>(&'a self, user: &'a str, id: u128) -> BoxFuture<'a, Result<(), TicketError>>;
}

/// Issues tickets and redeems them. Cloning is cheap.
#[derive(Clone)]
pub struct Tickets {
    key: Hmac<Sha256>,
    life: Duration,
    used: Arc<dyn UsedTickets>,
}

#[derive(Serialize, Deserialize)]
struct Content<C> {
    id: String,
    /// Milliseconds since 1970: instances share no other clock. Keep them within a second of each other.
    until: u64,
    user: String,
    claims: C,
}

impl Tickets {
    /// `key` is a secret of at least 32 random bytes that all instances share. A ticket is valid for `life`, at most
    /// [`MAX_LIFE`].
    pub fn new(key: &[u8; 32], life: Duration, used: Arc<dyn UsedTickets>) -> Self {
        #[allow(clippy::expect_used)] // any length is a valid key of HMAC
        let key = Hmac::new_from_slice(key).expect("a key");
        Self {
            key,
            life: life.min(MAX_LIFE),
            used,
        }
    }

    /// A ticket for `user`. The URL shows `claims` to everyone who reads it: put no credential there.
    ///
    /// # Errors
    /// If `claims` cannot be serialized.
    pub fn issue(&self, user: &str, claims: &impl Serialize) -> Result<String, serde_json::Error> {
        self.issue_at(SystemTime::now(), user, claims)
    }

    /// As [`Tickets::issue`], at the time `now`.
    ///
    /// # Errors
    /// If `claims` cannot be serialized.
    pub fn issue_at(
        &self,
        now: SystemTime,
        user: &str,
        claims: &impl Serialize,
    ) -> Result<String, serde_json::Error> {
        let content = Content {
            id: format!("{:x}", rand::random::<u128>()),
            until: millis(now + self.life),
            user: user.to_owned(),
            claims,
        };
        let content = BASE64.encode(serde_json::to_vec(&content)?);
        let mac = self.mac(&content).finalize().into_bytes();
        Ok(format!("{content}.{}", BASE64.encode(mac)))
    }

    /// The user and the claims of `ticket`, once.
    ///
    /// # Errors
    /// Every variant of [`TicketError`].
    pub async fn redeem<C: DeserializeOwned>(
        &self,
        ticket: &str,
    ) -> Result<(String, C), TicketError> {
        let (content, mac) = ticket.split_once('.').ok_or(TicketError::Invalid)?;
        let sent = BASE64.decode(mac).map_err(|_| TicketError::Invalid)?;
        let mac = self.mac(content);
        mac.verify_slice(&sent).map_err(|_| TicketError::Invalid)?;
        let content = BASE64.decode(content).map_err(|_| TicketError::Invalid)?;
        let content: Content<C> =
            serde_json::from_slice(&content).map_err(|_| TicketError::Invalid)?;
        let id = u128::from_str_radix(&content.id, 16).map_err(|_| TicketError::Invalid)?;
        if content.until <= millis(SystemTime::now()) {
            return Err(TicketError::Expired);
        }
        self.used.claim(&content.user, id).await?;
        Ok((content.user, content.claims))
    }

    fn mac(&self, content: &str) -> Hmac<Sha256> {
        let mut mac = self.key.clone();
        mac.update(content.as_bytes());
        mac
    }
}

impl Default for Tickets {
    /// For one instance: a random key, 30 s, and [`InMemory`].
    fn default() -> Self {
        let used = Arc::new(InMemory::new(100));
        Self::new(&rand::random(), Duration::from_secs(30), used)
    }
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The used tickets of one process.
#[derive(Debug)]
pub struct InMemory {
    max_per_user: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    used: HashSet<u128>,
    by_user: HashMap<Arc<str>, usize>,
    /// All are kept equally long, so the oldest is in front and nothing is searched.
    order: VecDeque<(Instant, u128, Arc<str>)>,
}

impl InMemory {
    /// One user may redeem `max_per_user` tickets within [`MAX_LIFE`]: more than a page needs that reconnects all the time.
    pub fn new(max_per_user: usize) -> Self {
        Self {
            max_per_user,
            table: Mutex::default(),
        }
    }

    fn claim_now(&self, user: &str, id: u128) -> Result<(), TicketError> {
        let now = Instant::now();
        let mut guard = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let table = &mut *guard;
        while table.order.front().is_some_and(|(until, ..)| *until <= now)
            && let Some((_, id, user)) = table.order.pop_front()
        {
            table.used.remove(&id);
            match table.by_user.get_mut(&user) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(table.by_user.remove(&user)),
            }
        }
        if table.used.contains(&id) {
            return Err(TicketError::Used);
        }
        let (user, count) = match table.by_user.get_key_value(user) {
            Some((known, count)) => (known.clone(), *count),
            None => (user.into(), 0),
        };
        if count >= self.max_per_user {
            return Err(TicketError::TooMany);
        }
        table.by_user.insert(user.clone(), count + 1);
        table.used.insert(id);
        table.order.push_back((now + MAX_LIFE, id, user));
        Ok(())
    }
}

impl UsedTickets for InMemory {
    fn claim<'a>(&'a self, user: &'a str, id: u128) -> BoxFuture<'a, Result<(), TicketError>> {
        Box::pin(ready(self.claim_now(user, id)))
    }
}
// ANCHOR_END: tickets
