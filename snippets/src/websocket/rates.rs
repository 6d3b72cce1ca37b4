//! Rate limits: messages per connection and per user, bytes and open sockets per user, control frames, connects per address.
//!
//! Wraps any [`Handler`]. Guarantees: a refusal names the message that it refuses (`id`, `room`) and when to send it again;
//! a connection that is closed for load is closed with 1013 by default, so no client stops permanently because of a limit.
//! One instance: each process counts for itself. A handler sees no fragments and no incomplete messages: [`super::throttle`]
//! bounds those. Needs `serve.rs`, `protect.rs`, `admission.rs`, `users.rs` and `connections/client_ip.rs`.

use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use axum::extract::ws::Message;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use governor::clock::{Clock, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DefaultKeyedStateStore;
use governor::state::{InMemoryState, NotKeyed};
use governor::{NotUntil, Quota, RateLimiter};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::outbox::{Outbox, message_len};
use super::serve::{Handler, Limit};
use super::users::{EXPIRED, User, UserSocket, UserSockets};
use crate::connections::client_ip::ClientIp;

/// With the clock of the standard library: governor's default one asks the CPU what it is whenever a limiter is made, and a
/// virtual machine answers that in some 10 µs.
type Limiter<K, S> = RateLimiter<K, S, MonotonicClock, NoOpMiddleware<Instant>>;
type Direct = Limiter<NotKeyed, InMemoryState>;

/// After so many checks the keys that are idle are forgotten; governor never forgets one on its own.
const SWEEP_EVERY: usize = 1024;

// ANCHOR: quotas
/// The limits.
#[derive(Debug, Clone, Copy)]
pub struct Quotas {
    /// Messages of one connection.
    pub messages: Quota,
    /// Messages of one user over all connections.
    pub user: Quota,
    /// Bytes of one user over all connections. A message that is longer than the burst uses up the whole burst.
    pub bytes: Quota,
    /// Open sockets of one user; one more is closed with `too_many`.
    pub sockets: usize,
    /// Pings and pongs of one connection. The peer sends a pong for each of our pings, so stay well above the rate of
    /// our pings.
    pub control: Quota,
    /// Refusals of one connection with `refusal`; beyond them it is closed with `too_fast`. Allow more than a client
    /// has in flight, because all that it sends at once after a reconnect may be refused. `None`: never closed.
    pub refusals: Option<Quota>,
    /// Handshakes of one address, which may be an office or a mobile network with thousands of users.
    pub connects: Quota,
    /// Makes the answer to a message over the limit, from the message and the milliseconds until it would be allowed.
    /// [`refusal`] has `rate_limited`.
    pub refusal: fn(&Message, u64) -> String,
    /// The Close for a socket above `sockets`. A code that stops your client permanently turns a burst into an outage.
    pub too_many: (u16, &'static str),
    /// The Close for a client that exceeds `refusals` or `control`.
    pub too_fast: (u16, &'static str),
}
// ANCHOR_END: quotas

impl Default for Quotas {
    fn default() -> Self {
        // ANCHOR: defaults
        let per_second = |rate: u32| Quota::per_second(NonZeroU32::MIN.saturating_add(rate - 1));
        Self {
            messages: per_second(20),
            user: per_second(50),
            bytes: per_second(256 * 1024),
            sockets: 20,
            control: per_second(5),
            refusals: Some(Quota::per_minute(NonZeroU32::MIN.saturating_add(149))),
            connects: per_second(20).allow_burst(NonZeroU32::MIN.saturating_add(199)),
            refusal,
            too_many: (1013, "too many connections"),
            too_fast: (1013, "rate limit"),
        }
        // ANCHOR_END: defaults
    }
}

/// The limits of all connections; clones are the same.
#[derive(Clone)]
pub struct Rates {
    users: Arc<Users>,
    sockets: UserSockets,
    addresses: Arc<Keyed<IpAddr>>,
}

/// What the connections of a user have in common.
struct Users {
    messages: Keyed<Arc<str>>,
    bytes: Keyed<Arc<str>>,
    quotas: Quotas,
}

impl Users {
    fn close(&self, outbox: &Outbox) {
        let (code, reason) = self.quotas.too_fast;
        outbox.close(code, reason);
    }
}

struct Keyed<K: Hash + Eq + Clone> {
    limiter: Limiter<K, DefaultKeyedStateStore<K>>,
    burst: NonZeroU32,
    checks: AtomicUsize,
}

/// Milliseconds until it would be allowed.
type Wait = u64;

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
    let wait = until.wait_time_from(MonotonicClock.now());
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX) + 1 // rounded up: not a moment too early
}

impl Rates {
    /// One per process.
    pub fn new(quotas: Quotas) -> Self {
        Self {
            users: Arc::new(Users {
                messages: Keyed::new(quotas.user),
                bytes: Keyed::new(quotas.bytes),
                quotas,
            }),
            sockets: UserSockets::new(quotas.sockets),
            addresses: Arc::new(Keyed::new(quotas.connects)),
        }
    }

    /// Closes all sockets of a user in this process: see [`UserSockets::disconnect`].
    pub fn disconnect(&self, user: &str, code: u16, reason: &'static str) -> usize {
        self.sockets.disconnect(user, code, reason)
    }

    /// Puts the limits, and the end of the user's session, before a handler. A user with too many sockets finds this one
    /// closed.
    pub fn limit<H: Handler>(&self, user: &User, outbox: &Outbox, handler: H) -> Limited<H> {
        let quotas = &self.users.quotas;
        let place = self.sockets.enter(&user.name, outbox);
        if place.is_none() {
            let (code, reason) = quotas.too_many;
            outbox.close(code, reason);
        }
        // A socket outlives the token that it was opened with. For a logout: `Rates::disconnect`.
        outbox.close_at(user.expires, EXPIRED, "session expired");
        let direct = |quota| RateLimiter::direct_with_clock(quota, MonotonicClock);
        Limited {
            handler,
            users: self.users.clone(),
            user: user.name.clone(),
            _place: place,
            messages: direct(quotas.messages),
            control: direct(quotas.control),
            refusals: quotas.refusals.map(direct),
        }
    }
}

/// A handler behind its limits.
pub struct Limited<H> {
    handler: H,
    users: Arc<Users>,
    user: Arc<str>,
    _place: Option<UserSocket>,
    messages: Direct,
    control: Direct,
    refusals: Option<Direct>,
}

impl Limit<User> for Rates {
    type Limited<H: Handler> = Limited<H>;

    fn around<H: Handler>(&self, user: &User, outbox: &Outbox, handler: H) -> Limited<H> {
        self.limit(user, outbox, handler)
    }
}

impl<H: Handler> Handler for Limited<H> {
    // ANCHOR: check
    fn on_message(&mut self, message: Message, outbox: &Outbox) {
        let Self { users, user, .. } = self;
        let allowed = self.messages.check().map_err(|until| wait(&until));
        let allowed = allowed
            .and_then(|()| users.messages.check(user, 1))
            .and_then(|()| users.bytes.check(user, message_len(&message)));
        match allowed {
            Ok(()) => self.handler.on_message(message, outbox),
            Err(wait)
                if self
                    .refusals
                    .as_ref()
                    .is_none_or(|left| left.check().is_ok()) =>
            {
                outbox.send(Message::Text((users.quotas.refusal)(&message, wait).into()));
            }
            Err(_) => users.close(outbox),
        }
    }
    // ANCHOR_END: check

    fn on_control(&mut self, outbox: &Outbox) {
        match self.control.check() {
            Ok(()) => self.handler.on_control(outbox),
            Err(_) => self.users.close(outbox),
        }
    }

    fn poll_frames(&mut self, cx: &mut Context<'_>, outbox: &Outbox) -> Poll<Bytes> {
        self.handler.poll_frames(cx, outbox)
    }
}

/// Names the message by its `id` and `room`, so that its sender can send it again: nothing of it was carried out.
pub fn refusal(message: &Message, wait: u64) -> String {
    #[derive(Default, Deserialize)]
    struct Names<'a> {
        #[serde(borrow)]
        id: Option<&'a RawValue>,
        #[serde(borrow)]
        room: Option<&'a RawValue>,
    }
    #[derive(Serialize)]
    struct Refusal<'a> {
        r#type: &'static str,
        code: &'static str,
        id: Option<&'a RawValue>,
        room: Option<&'a RawValue>,
        retry_after_ms: Wait,
    }
    // ANCHOR: refusal
    let names: Names<'_> = match message {
        Message::Text(text) => serde_json::from_str(text).unwrap_or_default(),
        _ => Names::default(),
    };
    // A string or a number, not a document.
    let short =
        |value: &&RawValue| value.get().len() <= 130 && !value.get().starts_with(['[', '{']);
    let refusal = Refusal {
        r#type: "error",
        code: "rate_limited",
        id: names.id.filter(short),
        room: names.room.filter(short),
        retry_after_ms: wait,
    };
    serde_json::to_string(&refusal).unwrap_or_default()
    // ANCHOR_END: refusal
}

// ANCHOR: connects
/// A layer: refuses handshakes of an address over its quota with 429, before anything is allocated for them. Behind proxies,
/// add [`crate::connections::client_ip::TrustedProxies`] outside of it, or all clients count as one.
pub async fn limit_connects(
    State(rates): State<Rates>,
    client: ClientIp,
    request: Request,
    next: Next,
) -> Response {
    match rates.addresses.check(&client.network(), 1) {
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
// ANCHOR_END: connects
