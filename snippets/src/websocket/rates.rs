//! Rate limits: messages per connection and per user, control frames, and connects per address.
//!
//! Wraps any [`Handler`]; goes with [`super::serve`] and [`super::protect`]. Not counted: bytes (the message limit times the
//! rate bounds them) and fragments.

// ANCHOR: rates
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::ws::Message;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use governor::clock::{Clock, DefaultClock, QuantaInstant};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, NotUntil, Quota, RateLimiter};
use tokio_util::task::AbortOnDropHandle;

use super::admission::expire;
use super::outbox::Outbox;
use super::protect::User;
use super::serve::Handler;

/// After so many checks the keys that are idle are forgotten; governor never forgets one by itself.
const SWEEP_EVERY: usize = 1024;

/// How much is allowed.
#[derive(Debug, Clone, Copy)]
pub struct Quotas {
    /// Messages of one connection.
    pub messages: Quota,
    /// Messages of one user over all connections.
    pub user: Quota,
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
    users: Arc<Keyed<Arc<str>>>,
    addresses: Arc<Keyed<IpAddr>>,
}

struct Keyed<K: Hash + Eq + Clone> {
    limiter: DefaultKeyedRateLimiter<K>,
    checks: AtomicUsize,
}

impl<K: Hash + Eq + Clone> Keyed<K> {
    fn new(quota: Quota) -> Self {
        Self {
            limiter: RateLimiter::keyed(quota),
            checks: AtomicUsize::new(0),
        }
    }

    fn check(&self, key: &K) -> Result<(), NotUntil<QuantaInstant>> {
        if self.checks.fetch_add(1, Ordering::Relaxed) % SWEEP_EVERY == SWEEP_EVERY - 1 {
            self.limiter.retain_recent();
        }
        self.limiter.check_key(key)
    }
}

impl Rates {
    /// One per process.
    pub fn new(quotas: Quotas) -> Self {
        Self {
            quotas,
            users: Arc::new(Keyed::new(quotas.user)),
            addresses: Arc::new(Keyed::new(quotas.connects)),
        }
    }

    /// Puts the limits, and the end of the user's session, before a handler.
    pub fn limit<H: Handler>(&self, user: &User, outbox: &Outbox, handler: H) -> Limited<H> {
        Limited {
            handler,
            user: user.name.clone(),
            users: self.users.clone(),
            messages: RateLimiter::direct(self.quotas.messages),
            control: RateLimiter::direct(self.quotas.control),
            refusals: RateLimiter::direct(self.quotas.refusals),
            _expiry: expire(outbox, user.expires),
        }
    }
}

/// A handler behind its limits.
pub struct Limited<H> {
    handler: H,
    user: Arc<str>,
    users: Arc<Keyed<Arc<str>>>,
    messages: DefaultDirectRateLimiter,
    control: DefaultDirectRateLimiter,
    refusals: DefaultDirectRateLimiter,
    _expiry: AbortOnDropHandle<()>,
}

impl<H: Handler> Handler for Limited<H> {
    fn on_message(&mut self, message: Message, outbox: &Outbox) {
        let allowed = self
            .messages
            .check()
            .and_then(|()| self.users.check(&self.user));
        match allowed {
            Ok(()) => self.handler.on_message(message, outbox),
            // The message is not carried out, and its sender is told when to try again.
            Err(until) if self.refusals.check().is_ok() => {
                let wait = until
                    .wait_time_from(DefaultClock::default().now())
                    .as_millis();
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
    match rates.addresses.check(&network(peer.ip())) {
        Ok(()) => next.run(request).await,
        Err(until) => {
            let seconds = until
                .wait_time_from(DefaultClock::default().now())
                .as_secs()
                + 1;
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
