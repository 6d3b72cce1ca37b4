//! WebSocket connections: the handshake, the handler of an endpoint, and the open connections of a process.
//!
//! Use it for every server. Guarantees: pings are answered and Close is seen while the peer reads slowly or work is running;
//! the answer to every violation is its close code; a peer that is gone, or does not read, is dropped after a stated time;
//! `drained` waits for the sockets, which `axum::serve` does not. Under `connections/listen.rs` an idle connection costs less
//! memory; it works under `axum::serve` too. Needs `connection.rs`, `outbox.rs` and `connections/crowd.rs`.

use std::future::ready;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::{Error as WsError, error::ProtocolError};
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::outbox::Outbox;
use crate::connections::crowd::{Crowd, Rules};

// ANCHOR: handler
/// What an endpoint does. Its methods are not async: the connection must return to reading immediately, because pongs and Close
/// are only handled while the socket is polled. Spawn slow work and let it answer through the outbox. The handler is
/// dropped as soon as the connection ends; if a method panics, the connection ends.
pub trait Handler: Send + 'static {
    /// A complete message, text or binary, at most [`Limits::message`] long. To end the connection, close the outbox.
    fn on_message(&mut self, message: Message, outbox: &Outbox);

    /// Called for each ping and pong. Pings have been answered already.
    fn on_control(&mut self, _outbox: &Outbox) {}

    /// Returns complete frames ([`super::outbox::text_frame`]) of another source, such as the logs of the
    /// connection's rooms. It is called when the socket can take more bytes, so such a source needs no queue.
    fn poll_frames(&mut self, _cx: &mut Context<'_>, _outbox: &Outbox) -> Poll<Bytes> {
        Poll::Pending
    }
}
// ANCHOR_END: handler

/// Limits of a connection of the user `U`, put around its handler. `()` has none.
pub trait Limit<U>: Clone + Send + Sync + 'static {
    /// The handler within the limits.
    type Limited<H: Handler>: Handler;

    /// Called once for each connection, with its user and its outbound queue.
    fn around<H: Handler>(&self, user: &U, outbox: &Outbox, handler: H) -> Self::Limited<H>;
}

impl<U> Limit<U> for () {
    type Limited<H: Handler> = H;

    fn around<H: Handler>(&self, _: &U, _: &Outbox, handler: H) -> H {
        handler
    }
}

/// Extractor: axum's handshake, and the transport below it.
pub struct Upgrade {
    ws: WebSocketUpgrade,
    transport: OnUpgrade,
}

impl Upgrade {
    /// The subprotocols of the server, best first; one that the client offers is selected.
    pub fn protocols(mut self, protocols: impl IntoIterator<Item = &'static str>) -> Self {
        self.ws = self.ws.protocols(protocols);
        self
    }

    /// The subprotocol that the answer will name.
    pub fn selected_protocol(&self) -> Option<&HeaderValue> {
        self.ws.selected_protocol()
    }

    /// Whether the client offers subprotocols, and none of them is the server's. Accepting it would be 1006 in a browser,
    /// with no reason, again and again: refuse it with 400.
    pub fn is_unknown_protocol(&self) -> bool {
        self.selected_protocol().is_none() && self.ws.requested_protocols().next().is_some()
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Upgrade {
    type Rejection = WebSocketUpgradeRejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let transport = parts.extensions.remove::<OnUpgrade>();
        let dead = hyper::upgrade::on(Request::new(()));
        if transport.is_some() {
            // axum checks the request and writes the answer; its own upgrade finds nothing and ends.
            parts.extensions.insert(dead.clone());
        }
        let ws = WebSocketUpgrade::from_request_parts(parts, state).await?;
        Ok(Self {
            ws,
            transport: transport.unwrap_or(dead),
        })
    }
}

/// Accepts connections and counts the open ones. One per process; clones are the same.
#[derive(Clone)]
pub struct Sockets {
    shared: Arc<Shared>,
    crowd: Crowd,
}

/// What all connections share.
pub struct Shared {
    pub(super) limits: Limits,
    pub(super) observer: Option<Arc<dyn Observe>>,
}

/// Sees every connection come and go, for metrics: `observe.rs`.
pub trait Observe: Send + Sync + 'static {
    /// A socket is open.
    fn opened(&self);
    /// A handshake got 503.
    fn refused(&self);
    /// A socket has ended; `None`: its handler has panicked, or the runtime has ended.
    fn ended(&self, end: Option<End>, lasted: Duration);
}

impl Sockets {
    /// When `shutdown` is cancelled every connection is closed with 1001. Call it inside a runtime.
    pub fn new(limits: Limits, shutdown: CancellationToken) -> Self {
        Self::start(limits, None, shutdown)
    }

    /// As [`Sockets::new`]; `observer` sees every connection.
    pub fn observed(
        limits: Limits,
        observer: Arc<dyn Observe>,
        shutdown: CancellationToken,
    ) -> Self {
        Self::start(limits, Some(observer), shutdown)
    }

    fn start(
        limits: Limits,
        observer: Option<Arc<dyn Observe>>,
        shutdown: CancellationToken,
    ) -> Self {
        let rules = Rules {
            max: limits.sockets,
            heartbeat: limits.ping_every,
            drain_spread: limits.drain_spread,
        };
        Self {
            shared: Arc::new(Shared { limits, observer }),
            crowd: Crowd::start(rules, shutdown),
        }
    }

    // ANCHOR: accept
    /// Answers the handshake and runs the connection; 503 above [`Limits::sockets`] or after the shutdown has begun.
    /// `start` makes the handler once the socket is open.
    pub fn accept<H: Handler>(
        &self,
        upgrade: Upgrade,
        start: impl FnOnce(&Outbox) -> H + Send + 'static,
    ) -> Response {
        // Taken here, so that `drained` also waits for handshakes in progress.
        let Some(place) = self.crowd.enter() else {
            if let Some(observer) = &self.shared.observer {
                observer.refused();
            }
            let retry = rand::random_range(1..=5).to_string();
            let retry = [(header::RETRY_AFTER, retry)];
            return (StatusCode::SERVICE_UNAVAILABLE, retry).into_response();
        };
        let shared = self.shared.clone();
        tokio::spawn(async move {
            let Ok(transport) = upgrade.transport.await else {
                return;
            };
            // In a new task, because a task keeps the memory that it needed for the upgrade until the task ends.
            tokio::spawn(Connection::new(transport, shared, place, start));
        });
        upgrade.ws.on_upgrade(|_| ready(()))
    }
    // ANCHOR_END: accept

    /// Open connections, for a gauge.
    pub fn count(&self) -> usize {
        self.crowd.count()
    }

    /// Waits until all connections have ended, for at most `deadline`; call it after `shutdown`. Returns how many are left.
    pub async fn drained(&self, deadline: Duration) -> usize {
        self.crowd.drained(deadline).await
    }
}

// ANCHOR: limits
/// What the sockets of a process may use, and how long each side may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Open sockets; further handshakes get 503. Keep it below the limit of file descriptors.
    pub sockets: usize,
    /// Largest message accepted, in bytes. The answer to a larger one is Close 1009.
    pub message: usize,
    /// Bound of the queue of answers, in messages.
    pub queue: usize,
    /// Bound of the queue of answers, in bytes.
    pub queue_bytes: usize,
    /// Time between two pings; keep it below half of the shortest idle timeout on the path (proxies: often 60 s).
    pub ping_every: Duration,
    /// A peer from which no byte has arrived for this many ping intervals is dropped.
    pub silent_pings: u32,
    /// Longest time in which a write makes no progress; then the peer is dropped. The kernel reports progress only
    /// once a third of its send buffer is free, so a large buffer makes a slow peer look stuck: bound the buffer with
    /// `SO_SNDBUF`, as `connections/listen.rs` does.
    pub send_deadline: Duration,
    /// How long the peer may take to finish the closing handshake.
    pub close_deadline: Duration,
    /// At shutdown the Close frames are sent evenly within this, so that not all peers reconnect at once.
    pub drain_spread: Duration,
    /// Each connection is closed with 1001 at a random age of 0.8 to 1 times this, checked at pings: its client reconnects, so that
    /// an instance that was added gets its share. `Duration::MAX`: never.
    pub max_age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sockets: 10_000,
            message: 64 * 1024,
            queue: 64,
            queue_bytes: 256 * 1024,
            ping_every: Duration::from_secs(20),
            silent_pings: 3,
            send_deadline: Duration::from_secs(10),
            close_deadline: Duration::from_secs(3),
            drain_spread: Duration::from_secs(2),
            max_age: Duration::MAX,
        }
    }
}
// ANCHOR_END: limits

/// Why a connection ended: one label for logs and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// The peer sent Close.
    PeerClosed,
    /// The outbox was closed with this code.
    WeClosed(u16),
    /// The peer broke the protocol or a limit of the library; it was sent this code.
    Violation(u16),
    /// Nothing was heard for [`Limits::silent_pings`].
    HalfOpen,
    /// A write made no progress for [`Limits::send_deadline`].
    NotReading,
    /// The transport ended without Close.
    Lost,
}

impl From<WsError> for End {
    /// With the close code for it (RFC 6455, 7.4.1).
    fn from(error: WsError) -> Self {
        match error {
            WsError::Capacity(_) => End::Violation(1009),
            WsError::Utf8(_) => End::Violation(1007),
            WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => End::Lost,
            WsError::Protocol(_) => End::Violation(1002),
            WsError::ConnectionClosed => End::PeerClosed,
            _ => End::Lost, // the transport has failed
        }
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut => End::NotReading,
            _ => End::Lost,
        }
    }
}

/// Malformed messages of one connection, with a rate: a client that is open for a week may send one now and then.
#[derive(Debug, Default)]
pub struct Malformed {
    count: u32,
    since: Option<Instant>,
}

impl Malformed {
    /// Malformed messages that a connection may send within [`Malformed::WITHIN`].
    pub const MAX: u32 = 5;
    /// The time within which they are counted.
    pub const WITHIN: Duration = Duration::from_secs(60);

    /// Counts one; true if it is the last one allowed: close with 1008. Such a client is broken, and a retry fixes nothing.
    /// Refusals that depend on the state of the server (not joined, full, too fast) must not be counted here.
    pub fn is_too_many(&mut self) -> bool {
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        if now.duration_since(since) >= Self::WITHIN {
            (self.count, self.since) = (0, Some(now));
        }
        self.count += 1;
        self.count >= Self::MAX
    }
}
