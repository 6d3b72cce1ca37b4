//! WebSocket connections: the handshake, the handler of an endpoint, and the open connections of a process.
//!
//! Use it for every server. Guarantees: pings are answered and Close is seen while the peer reads slowly or work is running;
//! the answer to every violation is its close code; a peer that is gone, or does not read, is dropped after a stated time;
//! `drained` waits for the sockets, which `axum::serve` does not. Under `connections/listen.rs` an idle connection costs less
//! memory; it works under `axum::serve` too. Needs `connection.rs`, `limits.rs`, `outbox.rs` and `connections/crowd.rs`.

// ANCHOR: serve
use std::future::ready;
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
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::limits::{End, Limits};
use super::outbox::Outbox;
use crate::connections::crowd::{Crowd, Rules};

/// What an endpoint does. It is not async: the connection must go back to reading at once, because pongs and Close are
/// only handled while the socket is polled. Spawn slow work and let it answer through the outbox. The value is dropped as soon as
/// the connection ends; if it panics, the connection ends.
pub trait Handler: Send + 'static {
    /// One whole message, text or binary, at most [`Limits::message`] long. To end the connection, close the outbox.
    fn on_message(&mut self, message: Message, outbox: &Outbox);

    /// A ping or pong has come. Pings are answered already.
    fn on_control(&mut self, _outbox: &Outbox) {}

    /// Whole frames ([`super::outbox::text_frame`]) from elsewhere: the logs of the rooms that the connection is in. It is
    /// called when the socket has room, so such a source queues nothing.
    fn poll_frames(&mut self, _cx: &mut Context<'_>, _outbox: &Outbox) -> Poll<Bytes> {
        Poll::Pending
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

    /// Answers the handshake and runs the connection; 503 above [`Limits::sockets`] or after the shutdown has begun.
    /// `start` makes the handler once the socket is open.
    pub fn accept<H: Handler>(
        &self,
        upgrade: Upgrade,
        start: impl FnOnce(&Outbox) -> H + Send + 'static,
    ) -> Response {
        // From here on: `drained` also waits for handshakes in progress.
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
            // A task of its own: the one that has waited for the upgrade keeps room for all that it ever held.
            tokio::spawn(Connection::new(transport, shared, place, start));
        });
        upgrade.ws.on_upgrade(|_| ready(()))
    }

    /// Open connections, for a gauge.
    pub fn count(&self) -> usize {
        self.crowd.count()
    }

    /// Waits until all connections have ended, for at most `deadline`; call it after `shutdown`. Returns how many are left.
    pub async fn drained(&self, deadline: Duration) -> usize {
        self.crowd.drained(deadline).await
    }
}
// ANCHOR_END: serve
