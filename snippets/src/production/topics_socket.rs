//! Many topics over one WebSocket: `subscribe` with a cursor, `unsubscribe`, and the events of all of them.
//!
//! Use it if a page follows many topics that are published on any instance: rooms, orders, prices. If a page follows few,
//! use one event stream for each. A subscription is a position in its topic's log, so nothing is queued for a slow client, a busy topic does
//! not starve the others, and the client resumes each topic on any instance. A refusal names its topic and leaves the
//! others alone. Needs `topics.rs`, `presence.rs`, `sse/wire.rs` and `websocket/{serve,users}.rs` with their files; put `websocket/protect.rs` before it.

// ANCHOR: topics_socket
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use axum::{
    Extension, Router,
    extract::{State, ws::Message},
    routing::any,
};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    presence::{Presence, Present},
    store::Store,
    topics::{TopicError, TopicReader, Topics},
};
use crate::{
    sse::{
        event::{LastEventId, is_token},
        log_reader::Reader,
        streams::Source,
        wire::Parser,
    },
    websocket::{
        outbox::{Outbox, text_frame},
        serve::{Handler, Limit, Malformed, Sockets, Upgrade},
        users::User,
    },
};

/// Subscriptions of one connection.
pub const MAX_TOPICS: usize = 100;
/// Longest name of a topic, in bytes.
pub const MAX_NAME: usize = 64;

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Request {
    /// `after` is the id of the last event of this topic that the client has.
    Subscribe {
        topic: String,
        after: Option<String>,
    },
    Unsubscribe {
        topic: String,
    },
    Ping,
}

/// Whether a user may read a topic: checked at each `subscribe`, and at each ping of an open connection.
pub type MayRead = Arc<dyn Fn(&User, &str) -> bool + Send + Sync>;

/// `/topics`. The user comes from your authentication in front of it; `limit` is `rates::Rates`, or `()`. With `presence`,
/// each subscription is followed by `presence` messages, which say who else has one.
pub fn router<S: Store, L: Limit<User>>(
    sockets: Sockets,
    topics: Arc<Topics<S>>,
    presence: Option<Presence>,
    may_read: MayRead,
    limit: L,
) -> Router {
    type Parts<S> = (Arc<Topics<S>>, Option<Presence>, MayRead);
    let upgrade = async move |State((topics, presence, may_read)): State<Parts<S>>,
                              Extension(user): Extension<User>,
                              upgrade: Upgrade| {
        sockets.accept(upgrade, move |outbox| {
            let reader = Subscriptions {
                topics,
                presence,
                may_read,
                user: user.clone(),
                open: Vec::new(),
                next: 0,
                task: None,
                malformed: Malformed::default(),
            };
            limit.around(&user, outbox, reader)
        })
    };
    Router::new()
        .route("/topics", any(upgrade))
        .with_state((topics, presence, may_read))
}

/// One connection; dropped with it, its topics have one reader less.
struct Subscriptions<S: Store> {
    topics: Arc<Topics<S>>,
    presence: Option<Presence>,
    may_read: MayRead,
    user: User,
    open: Vec<Subscription<S>>,
    /// The topic that is polled first.
    next: usize,
    /// The connection's task: a message that is not answered at once does not wake it.
    task: Option<Waker>,
    malformed: Malformed,
}

struct Subscription<S: Store> {
    topic: String,
    reader: Reading<S>,
    /// From the moment when it is open.
    present: Option<(Present, Option<Reader>)>,
}

type Opened<S> = Result<Option<TopicReader<S>>, TopicError<<S as Store>::Error>>;

enum Reading<S: Store> {
    Opening(Pin<Box<dyn Future<Output = Opened<S>> + Send>>),
    Open(TopicReader<S>),
}

impl<S: Store> Subscriptions<S> {
    fn carry_out(&mut self, request: Request, outbox: &Outbox) -> Result<(), &'static str> {
        match request {
            Request::Subscribe { topic, after } => {
                let valid = topic.split(':').all(|part| is_token(part, MAX_NAME));
                if !valid || topic.len() > MAX_NAME {
                    return Err("invalid_topic");
                }
                if !(self.may_read)(&self.user, &topic) {
                    return Err("forbidden");
                }
                // Subscribing again continues after another cursor.
                self.open.retain(|open| open.topic != topic);
                if self.open.len() >= MAX_TOPICS {
                    return Err("too_many_topics");
                }
                let cursor = match after {
                    None => LastEventId::None,
                    Some(id) if is_token(&id, 128) => LastEventId::Id(id),
                    Some(_) => LastEventId::Unusable,
                };
                let (topics, name) = (self.topics.clone(), topic.clone());
                let opening = Box::pin(async move { topics.read(&name, &cursor).await });
                let reader = Reading::Opening(opening);
                self.open.push(Subscription {
                    topic,
                    reader,
                    present: None,
                });
                self.task.take().into_iter().for_each(Waker::wake);
            }
            Request::Unsubscribe { topic } => {
                let before = self.open.len();
                self.open.retain(|open| open.topic != topic);
                if self.open.len() == before {
                    return Err("not_subscribed");
                }
                send(outbox, &json!({"type": "unsubscribed", "topic": topic}));
            }
            Request::Ping => send(outbox, &json!({"type": "pong"})),
        }
        Ok(())
    }
}

impl<S: Store> Handler for Subscriptions<S> {
    fn on_message(&mut self, message: Message, outbox: &Outbox) {
        let Message::Text(text) = message else {
            return outbox.close(1003, "text only");
        };
        let request = serde_json::from_str(&text).map_err(|_| "invalid_message");
        let done = request.and_then(|request| self.carry_out(request, outbox));
        let Err(code) = done else { return };
        let sent = serde_json::from_str::<Value>(&text).unwrap_or_default();
        let topic = sent["topic"]
            .as_str()
            .filter(|topic| topic.len() <= MAX_NAME);
        send(
            outbox,
            &json!({"type": "error", "code": code, "topic": topic}),
        );
        // Any other refusal depends on the state of the server.
        if code.starts_with("invalid_") && self.malformed.is_too_many() {
            outbox.close(1008, "too many malformed messages");
        }
    }

    fn on_control(&mut self, outbox: &Outbox) {
        let (may_read, user) = (&self.may_read, &self.user);
        self.open.retain(|open| {
            let may = may_read(user, &open.topic);
            if !may {
                let topic = &open.topic;
                send(
                    outbox,
                    &json!({"type": "error", "code": "forbidden", "topic": topic}),
                );
            }
            may
        });
        // The broker has not answered for too long: it is the same one for all topics.
        let down = self.open.iter_mut().any(|open| match &mut open.reader {
            Reading::Open(reader) => reader.beat().is_some(),
            Reading::Opening(_) => false,
        });
        if down {
            outbox.close(1013, "try again later");
        }
    }

    fn poll_frames(&mut self, cx: &mut Context<'_>, _: &Outbox) -> Poll<Bytes> {
        self.task = Some(cx.waker().clone());
        for offset in 0..self.open.len() {
            let at = (self.next + offset) % self.open.len();
            let enter = |topic: &str| {
                let presence = self.presence.as_ref()?;
                let present = presence.enter(topic, &self.user.name);
                Some((present, presence.watch(topic)))
            };
            if let Poll::Ready((frames, over)) = self.open[at].poll(cx, enter) {
                self.next = at + 1;
                if over {
                    self.open.remove(at);
                }
                return Poll::Ready(frames);
            }
        }
        Poll::Pending
    }
}

impl<S: Store> Subscription<S> {
    /// Whole frames, and whether they are the last ones of this topic.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        enter: impl FnOnce(&str) -> Option<(Present, Option<Reader>)>,
    ) -> Poll<(Bytes, bool)> {
        let topic = &self.topic;
        let frame = |message: Value| text_frame(&message.to_string());
        let refused = |code| frame(json!({"type": "error", "code": code, "topic": topic}));
        let finished = || frame(json!({"type": "finished", "topic": topic}));
        let reader = match &mut self.reader {
            Reading::Open(reader) => reader,
            Reading::Opening(opening) => match ready!(opening.as_mut().poll(cx)) {
                Ok(Some(reader)) => {
                    let subscribed =
                        json!({"type": "subscribed", "topic": topic, "id": reader.id()});
                    self.reader = Reading::Open(reader);
                    self.present = enter(topic);
                    return Poll::Ready((frame(subscribed), false));
                }
                Ok(None) => return Poll::Ready((finished(), true)),
                Err(TopicError::Full) => return Poll::Ready((refused("full"), true)),
                Err(TopicError::Broker(_)) => return Poll::Ready((refused("unavailable"), true)),
            },
        };
        let who = self.present.as_mut().and_then(|(_, who)| who.as_mut());
        let who = who.map_or(Poll::Pending, |who| who.poll(cx));
        let (presence, chunk) = match who {
            Poll::Ready(Some(chunk)) => (true, chunk),
            _ => match ready!(reader.poll(cx)) {
                Some(chunk) => (false, chunk),
                None => return Poll::Ready((finished(), true)),
            },
        };
        let (mut frames, mut parser) = (Vec::new(), Parser::default());
        let mut events = parser.push(&chunk.bytes);
        while let Ok(Some(event)) = events.next() {
            if event.last_event_id.is_empty() {
                // Not an event of the log: the broker is down.
                frames.extend_from_slice(&refused("unavailable"));
                return Poll::Ready((frames.into(), true));
            }
            let data = serde_json::from_str(event.data);
            if presence {
                let who: Value = data.unwrap_or_default();
                frames.extend_from_slice(&frame(json!({
                    "type": "presence", "topic": topic, "count": who["count"], "users": who["users"],
                })));
                continue;
            }
            frames.extend_from_slice(&frame(json!({
                "type": "event", "topic": topic, "id": event.last_event_id, "event": event.event_type,
                "data": data.unwrap_or_else(|_| Value::from(event.data)),
            })));
        }
        if chunk.last {
            frames.extend_from_slice(&finished());
        }
        Poll::Ready((frames.into(), chunk.last))
    }
}

fn send(outbox: &Outbox, message: &Value) {
    outbox.send(Message::Text(message.to_string().into()));
}
// ANCHOR_END: topics_socket
