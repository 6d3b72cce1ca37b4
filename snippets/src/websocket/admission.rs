//! Authentication by the first message.
//!
//! For clients that can send neither cookie, ticket nor subprotocol. Goes with [`super::protect`] and [`super::serve`].

// ANCHOR: admission
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use axum::extract::ws::Message;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::outbox::{Outbox, message_len};
use super::serve::Handler;
use super::users::{EXPIRED, Unavailable, User};

/// Messages that may come while the first token is verified, each at most [`Admission::most_bytes`] long.
const WAITING: usize = 32;

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
    /// The answer to it, after the handler was made; `None`: none.
    pub ready: Option<fn(&User) -> Value>,
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
            ready: Some(|_| json!({ "type": "ready" })),
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
        // Nothing else of the application is parsed here.
        if text.len() > self.most_bytes || !(text.contains(self.auth) || text.contains(self.ping.0))
        {
            return None;
        }
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

/// Lets exactly one message through to `verify`; what it admits gets the handler that `start` makes. Later the same message with
/// a new token moves the end of the session, and is answered as the first one.
pub struct FirstMessage<H, V, F, S> {
    admission: Admission,
    verify: V,
    verifying: Option<Pin<Box<F>>>,
    /// What comes while the first token is verified.
    waiting: Vec<Message>,
    start: Option<S>,
    admitted: Option<(Arc<str>, H)>,
    /// The connection's task.
    task: Option<Waker>,
}

impl<H, V, F, S> FirstMessage<H, V, F, S>
where
    H: Handler,
    V: Fn(&str) -> F + Send + 'static,
    F: Future<Output = Result<Option<User>, Unavailable>> + Send + 'static,
    S: FnOnce(User, &Outbox) -> H + Send + 'static,
{
    /// Call it in the `start` of [`super::serve::Sockets::accept`]: the deadline begins now, for the answer of `verify` too.
    pub fn new(outbox: &Outbox, admission: Admission, verify: V, start: S) -> Self {
        let (code, reason) = admission.late;
        outbox.close_at(Instant::now() + admission.deadline, code, reason);
        Self {
            admission,
            verify,
            verifying: None,
            waiting: Vec::new(),
            start: Some(start),
            admitted: None,
            task: None,
        }
    }

    /// The first message, or a new token.
    fn verify(&mut self, token: &str, outbox: &Outbox) {
        self.verifying = Some(Box::pin((self.verify)(token)));
        let task = self.task.clone();
        self.poll_verified(
            &mut Context::from_waker(task.as_ref().unwrap_or(Waker::noop())),
            outbox,
        );
    }

    fn poll_verified(&mut self, cx: &mut Context<'_>, outbox: &Outbox) {
        let Some(verifying) = &mut self.verifying else {
            return;
        };
        let Poll::Ready(user) = verifying.as_mut().poll(cx) else {
            return;
        };
        self.verifying = None;
        let admission = self.admission;
        let user = match user {
            Ok(user) => user.filter(|user| user.expires > Instant::now()),
            // A session that is open stays so until its end.
            Err(Unavailable) if self.admitted.is_some() => return,
            Err(Unavailable) => return outbox.close(1013, "try again later"),
        };
        let name = self.admitted.as_ref().map(|(name, _)| name.clone());
        match user {
            Some(user) if name.is_none_or(|name| name == user.name) => {
                outbox.close_at(user.expires, admission.expired.0, admission.expired.1);
                // First what may close it again, such as a limit of sockets.
                let handler = self.start.take().map(|start| start(user.clone(), outbox));
                if let Some(ready) = admission.ready {
                    outbox.send(Message::Text(ready(&user).to_string().into()));
                }
                if let Some(mut handler) = handler {
                    let name = user.name.clone();
                    for message in self.waiting.drain(..) {
                        handler.on_message(message, outbox);
                    }
                    self.admitted = Some((name, handler));
                }
            }
            _ => outbox.close(admission.refused.0, admission.refused.1),
        }
    }
}

impl<H, V, F, S> Handler for FirstMessage<H, V, F, S>
where
    H: Handler,
    V: Fn(&str) -> F + Send + 'static,
    F: Future<Output = Result<Option<User>, Unavailable>> + Send + 'static,
    S: FnOnce(User, &Outbox) -> H + Send + 'static,
{
    fn on_message(&mut self, message: Message, outbox: &Outbox) {
        let admission = self.admission;
        if let Some((_, handler)) = &mut self.admitted {
            return match admission.read(&message) {
                Some(First::Auth(token)) => self.verify(&token, outbox),
                _ => handler.on_message(message, outbox),
            };
        }
        if self.verifying.is_some() {
            if self.waiting.len() == WAITING || message_len(&message) > admission.most_bytes {
                return outbox.close(1013, "wait for the answer to the token");
            }
            return self.waiting.push(message);
        }
        if matches!(&message, Message::Text(text) if text.len() > admission.most_bytes) {
            return outbox.close(1009, "message too big");
        }
        match admission.read(&message) {
            // There is no second attempt.
            _ if self.start.is_none() || outbox.is_closed() => {}
            Some(First::Ping) => drop(outbox.send(admission.message(admission.ping.1))),
            Some(First::Auth(token)) => self.verify(&token, outbox),
            None => outbox.close(admission.refused.0, admission.refused.1),
        }
    }

    fn on_control(&mut self, outbox: &Outbox) {
        if let Some((_, handler)) = &mut self.admitted {
            handler.on_control(outbox);
        }
    }

    fn poll_frames(&mut self, cx: &mut Context<'_>, outbox: &Outbox) -> Poll<Bytes> {
        if !self
            .task
            .as_ref()
            .is_some_and(|task| task.will_wake(cx.waker()))
        {
            self.task = Some(cx.waker().clone());
        }
        self.poll_verified(cx, outbox);
        match &mut self.admitted {
            Some((_, handler)) => handler.poll_frames(cx, outbox),
            None => Poll::Pending,
        }
    }
}
// ANCHOR_END: admission
