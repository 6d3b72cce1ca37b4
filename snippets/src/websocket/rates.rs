//! Rate limits: messages per connection and per user, control frames, and connects per address.
//!
//! Wraps any [`Handler`]; goes with [`super::serve`] and [`super::protect`]. Not counted: bytes (the message limit times the
//! rate bounds them) and fragments.

// ANCHOR: rates
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;

use axum::extract::ws::Message;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};
use tokio_util::task::AbortOnDropHandle;

use super::admission::expire;
use super::outbox::Outbox;
use super::protect::User;
use super::serve::Handler;

/// Keys that a keyed limiter may hold before those that are idle are forgotten; governor never forgets one by itself.
const MAX_KEYS: usize = 10_000;

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
    users: Arc<DefaultKeyedRateLimiter<Arc<str>>>,
    addresses: Arc<DefaultKeyedRateLimiter<IpAddr>>,
}

impl Rates {
    /// One per process.
    pub fn new(quotas: Quotas) -> Self {
        Self {
            quotas,
            users: Arc::new(RateLimiter::keyed(quotas.user)),
            addresses: Arc::new(RateLimiter::keyed(quotas.connects)),
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
    users: Arc<DefaultKeyedRateLimiter<Arc<str>>>,
    messages: DefaultDirectRateLimiter,
    control: DefaultDirectRateLimiter,
    refusals: DefaultDirectRateLimiter,
    _expiry: AbortOnDropHandle<()>,
}

impl<H: Handler> Handler for Limited<H> {
    fn on_message(&mut self, message: Message, outbox: &Outbox) {
        if self.users.len() > MAX_KEYS {
            self.users.retain_recent();
        }
        let allowed = self
            .messages
            .check()
            .and_then(|()| self.users.check_key(&self.user));
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
    if rates.addresses.len() > MAX_KEYS {
        rates.addresses.retain_recent();
    }
    match rates.addresses.check_key(&peer.ip()) {
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
// ANCHOR_END: rates
