//! Rate limits: messages per connection and per user, bytes and open sockets per user, control frames, connects per address.
//!
//! Wraps any [`Handler`]; goes with [`super::serve`] and [`super::protect`]. A handler never sees fragments, nor a message
//! that is not whole yet: what they may cost is bounded below it, by [`super::throttle`].

// ANCHOR: rates
use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::extract::ws::Message;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use governor::clock::{Clock, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DefaultKeyedStateStore;
use governor::state::{InMemoryState, NotKeyed};
use governor::{NotUntil, Quota, RateLimiter};
use tokio_util::task::AbortOnDropHandle;

use super::admission::expire;
use super::outbox::{Outbox, message_len};
use super::protect::User;
use super::serve::Handler;

/// With the clock of the standard library: governor's default one asks the CPU what it is whenever a limiter is made, and a
/// virtual machine answers that in some 10 µs.
type Limiter<K, S> = RateLimiter<K, S, MonotonicClock, NoOpMiddleware<Instant>>;
type Direct = Limiter<NotKeyed, InMemoryState>;

/// After so many checks the keys that are idle are forgotten; governor never forgets one by itself.
const SWEEP_EVERY: usize = 1024;

/// How much is allowed.
#[derive(Debug, Clone, Copy)]
pub struct Quotas {
    /// Messages of one connection.
    pub messages: Quota,
    /// Messages of one user over all connections.
    pub user: Quota,
    /// Bytes of one user over all connections. A message that is longer than the burst takes the whole burst.
    pub bytes: Quota,
    /// Open sockets of one user; one more is closed with 1013.
    pub sockets: usize,
    /// Pings and pongs of one connection. A pong answers each ping of ours, so stay well above their rate.
    pub control: Quota,
    /// Messages over the limit that are answered with `rate_limited`; then the connection is closed with 1008.
    pub refusals: Quota,
    /// Handshakes of one address.
    pub connects: Quota,
}

impl Default for Quotas {
    fn default() -> Self {
        let per_second = |rate: u32| Quota::per_second(NonZeroU32::MIN.saturating_add(rate - 1));
        Self {
            messages: per_second(20),
            user: per_second(50),
            bytes: per_second(256 * 1024),
            sockets: 20,
            control: per_second(5),
            refusals: Quota::per_minute(NonZeroU32::MIN.saturating_add(19)),
            connects: per_second(5),
        }
    }
}

/// The limits of all connections; clones are the same.
#[derive(Clone)]
pub struct Rates {
    quotas: Quotas,
    users: Arc<Users>,
    addresses: Arc<Keyed<IpAddr>>,
}

/// What the connections of a user have in common.
struct Users {
    messages: Keyed<Arc<str>>,
    bytes: Keyed<Arc<str>>,
    open: Mutex<HashMap<Arc<str>, usize>>,
}

struct Keyed<K: Hash + Eq + Clone> {
    limiter: Limiter<K, DefaultKeyedStateStore<K>>,
    burst: NonZeroU32,
    checks: AtomicUsize,
}

/// Milliseconds until it would be allowed.
type Wait = u128;

impl<K: Hash + Eq + Clone> Keyed<K> {
    fn new(quota: Quota) -> Self {
        Self {
            limiter: RateLimiter::new(quota, Default::default(), MonotonicClock),
            burst: quota.burst_size(),
            checks: AtomicUsize::new(0),
        }
    }

    fn check(&self, key: &K, cells: usize) -> Result<(), Wait> {
        if self.checks.fetch_add(1, Ordering::Relaxed) % SWEEP_EVERY == SWEEP_EVERY - 1 {
            self.limiter.retain_recent();
        }
        let cells = u32::try_from(cells).unwrap_or(u32::MAX);
        let Some(cells) = NonZeroU32::new(cells.min(self.burst.get())) else {
            return Ok(());
        };
        match self.limiter.check_key_n(key, cells) {
            Ok(Err(until)) => Err(wait(&until)),
            _ => Ok(()), // more than the burst was ruled out above
        }
    }
}

fn wait(until: &NotUntil<Instant>) -> Wait {
    until.wait_time_from(MonotonicClock.now()).as_millis()
}

impl Rates {
    /// One per process.
    pub fn new(quotas: Quotas) -> Self {
        Self {
            quotas,
            users: Arc::new(Users {
                messages: Keyed::new(quotas.user),
                bytes: Keyed::new(quotas.bytes),
                open: Mutex::default(),
            }),
            addresses: Arc::new(Keyed::new(quotas.connects)),
        }
    }

    /// Puts the limits, and the end of the user's session, before a handler. A user with too many sockets finds this one
    /// closed.
    pub fn limit<H: Handler>(&self, user: &User, outbox: &Outbox, handler: H) -> Limited<H> {
        let place = Place::take(self.users.clone(), user.name.clone());
        if place.nth > self.quotas.sockets {
            outbox.close(1013, "too many connections");
        }
        let direct = |quota| RateLimiter::direct_with_clock(quota, MonotonicClock);
        Limited {
            handler,
            place,
            messages: direct(self.quotas.messages),
            control: direct(self.quotas.control),
            refusals: direct(self.quotas.refusals),
            _expiry: expire(outbox, user.expires),
        }
    }
}

/// One of the open sockets of a user.
struct Place {
    users: Arc<Users>,
    user: Arc<str>,
    nth: usize,
}

impl Place {
    fn take(users: Arc<Users>, user: Arc<str>) -> Self {
        let mut open = users.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(user.clone()).or_default();
        *count += 1;
        let nth = *count;
        drop(open);
        Self { users, user, nth }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let open = self.users.open.lock();
        let mut open = open.unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.user);
            }
        }
    }
}

/// A handler behind its limits.
pub struct Limited<H> {
    handler: H,
    place: Place,
    messages: Direct,
    control: Direct,
    refusals: Direct,
    _expiry: AbortOnDropHandle<()>,
}

impl<H: Handler> Handler for Limited<H> {
    fn on_message(&mut self, message: Message, outbox: &Outbox) {
        let Place { users, user, .. } = &self.place;
        let allowed = self.messages.check().map_err(|until| wait(&until));
        let allowed = allowed
            .and_then(|()| users.messages.check(user, 1))
            .and_then(|()| users.bytes.check(user, message_len(&message)));
        match allowed {
            Ok(()) => self.handler.on_message(message, outbox),
            // The message is not carried out, and its sender is told when to try again.
            Err(wait) if self.refusals.check().is_ok() => {
                let answer =
                    format!(r#"{{"type":"error","code":"rate_limited","retry_after_ms":{wait}}}"#);
                outbox.send(Message::Text(answer.into()));
            }
            Err(_) => outbox.close(1008, "rate limit"),
        }
    }

    fn on_control(&mut self, outbox: &Outbox) {
        match self.control.check() {
            Ok(()) => self.handler.on_control(outbox),
            Err(_) => outbox.close(1008, "too many control frames"),
        }
    }
}

/// A layer: refuses handshakes of an address over its quota with 429, before anything is allocated for them. Behind a proxy
/// the address is the proxy's: take it from the header that your own proxy sets, and from no other.
pub async fn limit_connects(
    State(rates): State<Rates>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    match rates.addresses.check(&network(peer.ip()), 1) {
        Ok(()) => next.run(request).await,
        Err(wait) => {
            let seconds = wait / 1000 + 1;
            (
                StatusCode::TOO_MANY_REQUESTS,
                [(header::RETRY_AFTER, seconds.to_string())],
            )
                .into_response()
        }
    }
}

/// One customer has a whole /64 of IPv6: count that, not its 2⁶⁴ addresses.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}
// ANCHOR_END: rates
