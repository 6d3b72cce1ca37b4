//! Authentication by the first message, and the end of a session on an open socket.
//!
//! For clients that can send neither cookie, ticket nor subprotocol. Goes with [`super::protect`] and [`super::serve`].

// ANCHOR: admission
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::ws::Message;
use bytes::Bytes;
use serde::Deserialize;
use tokio::time::Instant;

use super::outbox::Outbox;
use super::protect::User;
use super::serve::Handler;

/// How long a connection may stay unknown.
pub const AUTH_DEADLINE: Duration = Duration::from_secs(5);
/// The first message is a token and nothing else, in bytes. Also set `Limits::message` low on such an endpoint: the library
/// reads up to four times that before anybody is known.
pub const AUTH_MESSAGE: usize = 4096;

/// Close code for a session or ticket that has ended, or did not come in time: the client fetches a new credential and
/// reconnects. 4401 is final for clients; a session that was valid a second ago is no reason to stop.
pub const EXPIRED: u16 = 4408;

/// `{"type":"auth","token":"…"}`, and the heartbeat of a page, which may come before it.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum First {
    Auth { token: String },
    Ping,
}

/// Lets exactly one message through to `verify`; what it admits gets the handler that `start` makes.
pub struct FirstMessage<H, V, S> {
    verify: V,
    start: Option<S>,
    admitted: Option<H>,
}

impl<H, V, S> FirstMessage<H, V, S>
where
    H: Handler,
    V: Fn(&str) -> Option<User> + Send + 'static,
    S: FnOnce(User, &Outbox) -> H + Send + 'static,
{
    /// Call it in the `start` of [`super::serve::Sockets::accept`]: the deadline begins now.
    pub fn new(outbox: &Outbox, verify: V, start: S) -> Self {
        outbox.close_at(
            Instant::now() + AUTH_DEADLINE,
            EXPIRED,
            "authenticate first",
        );
        Self {
            verify,
            start: Some(start),
            admitted: None,
        }
    }
}

impl<H, V, S> Handler for FirstMessage<H, V, S>
where
    H: Handler,
    V: Fn(&str) -> Option<User> + Send + 'static,
    S: FnOnce(User, &Outbox) -> H + Send + 'static,
{
    fn on_message(&mut self, message: Message, outbox: &Outbox) {
        if let Some(handler) = &mut self.admitted {
            return handler.on_message(message, outbox);
        }
        if matches!(&message, Message::Text(text) if text.len() > AUTH_MESSAGE) {
            return outbox.close(1009, "message too big");
        }
        let first = match &message {
            Message::Text(text) => serde_json::from_str(text).ok(),
            _ => None,
        };
        let user = match first {
            Some(First::Ping) => {
                outbox.send(Message::Text(r#"{"type":"pong"}"#.into()));
                return;
            }
            Some(First::Auth { token }) => (self.verify)(&token),
            None => None,
        };
        let user = user.filter(|user| user.expires > Instant::now());
        match (user, self.start.take()) {
            (Some(user), Some(start)) => {
                outbox.close_at(user.expires, EXPIRED, "session expired");
                outbox.send(Message::Text(r#"{"type":"ready"}"#.into()));
                self.admitted = Some(start(user, outbox));
            }
            _ => outbox.close(4401, "not authenticated"),
        }
    }

    fn on_control(&mut self, outbox: &Outbox) {
        if let Some(handler) = &mut self.admitted {
            handler.on_control(outbox);
        }
    }

    fn poll_frames(&mut self, cx: &mut Context<'_>, outbox: &Outbox) -> Poll<Bytes> {
        match &mut self.admitted {
            Some(handler) => handler.poll_frames(cx, outbox),
            None => Poll::Pending,
        }
    }
}
// ANCHOR_END: admission
