//! Authentication by the first message.
//!
//! For clients that can send neither cookie, ticket nor subprotocol. Goes with [`super::protect`] and [`super::serve`].

// ANCHOR: admission
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::ws::Message;
use bytes::Bytes;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::outbox::Outbox;
use super::serve::Handler;
use super::users::{EXPIRED, User};

/// The contract of the first message: `{"type":"auth","token":"…"}`, which is answered with `{"type":"ready"}`.
#[derive(Debug, Clone, Copy)]
pub struct Admission {
    /// How long a connection may stay unknown.
    pub deadline: Duration,
    /// Largest first message in bytes: it is a token and nothing else. Also set `Limits::message` low on such an endpoint: the
    /// library reads up to four times that before the user is known.
    pub most_bytes: usize,
    /// The field that names the kind of a message.
    pub tag: &'static str,
    /// The kind of the first message.
    pub auth: &'static str,
    /// Its only other field: the token.
    pub token: &'static str,
    /// The answer to it; `None`: none.
    pub ready: Option<&'static str>,
    /// The heartbeat of a page, which may come before it, and the answer.
    pub ping: (&'static str, &'static str),
    /// Close code and reason for a message that is not the first one, or whose token is not valid.
    pub refused: (u16, &'static str),
    /// Close code and reason at the deadline.
    pub late: (u16, &'static str),
    /// Close code and reason at the end of the session.
    pub expired: (u16, &'static str),
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(5),
            most_bytes: 4096,
            tag: "type",
            auth: "auth",
            token: "token",
            ready: Some("ready"),
            ping: ("ping", "pong"),
            refused: (4401, "not authenticated"),
            late: (EXPIRED, "authenticate first"),
            expired: (EXPIRED, "session expired"),
        }
    }
}

enum First {
    Auth(String),
    Ping,
}

impl Admission {
    /// A message with the expected fields and no others.
    fn read(&self, message: &Message) -> Option<First> {
        let Message::Text(text) = message else {
            return None;
        };
        let fields: Map<String, Value> = serde_json::from_str(text).ok()?;
        let kind = fields.get(self.tag)?.as_str()?;
        if kind == self.ping.0 && fields.len() == 1 {
            return Some(First::Ping);
        }
        let token = fields.get(self.token)?.as_str()?;
        (kind == self.auth && fields.len() == 2).then(|| First::Auth(token.to_owned()))
    }

    fn message(&self, kind: &str) -> Message {
        let fields = Map::from_iter([(self.tag.to_owned(), kind.into())]);
        Message::Text(Value::Object(fields).to_string().into())
    }
}

/// Lets exactly one message through to `verify`; what it admits gets the handler that `start` makes.
pub struct FirstMessage<H, V, S> {
    admission: Admission,
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
    pub fn new(outbox: &Outbox, admission: Admission, verify: V, start: S) -> Self {
        let (code, reason) = admission.late;
        outbox.close_at(Instant::now() + admission.deadline, code, reason);
        Self {
            admission,
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
        let admission = self.admission;
        if matches!(&message, Message::Text(text) if text.len() > admission.most_bytes) {
            return outbox.close(1009, "message too big");
        }
        let user = match admission.read(&message) {
            Some(First::Ping) => {
                outbox.send(admission.message(admission.ping.1));
                return;
            }
            Some(First::Auth(token)) => (self.verify)(&token),
            None => None,
        };
        let user = user.filter(|user| user.expires > Instant::now());
        match (user, self.start.take()) {
            (Some(user), Some(start)) => {
                outbox.close_at(user.expires, admission.expired.0, admission.expired.1);
                if let Some(ready) = admission.ready {
                    outbox.send(admission.message(ready));
                }
                self.admitted = Some(start(user, outbox));
            }
            _ => outbox.close(admission.refused.0, admission.refused.1),
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
