//! The protocol of the rooms: `join` (with `resume`), `leave`, `publish` with an id that is acknowledged, `ping` for pages.
//!
//! Guarantee: every refusal names what it refuses, and none that depends on the state of the server ends the connection.
//! Needs `rooms`, `serve` and `users` with their files; goes with `protect` and `rates`.

// ANCHOR: rooms_endpoint
use std::task::{Context, Poll};

use axum::extract::State;
use axum::extract::ws::Message;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use axum::{Extension, Router};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::outbox::Outbox;
use super::rooms::{Cursor, Hub, Membership};
use super::serve::{Handler, Limit, Malformed, Sockets, Upgrade};
use super::users::User;

/// Rooms that one connection may be in.
pub const MAX_ROOMS: usize = 16;
/// Longest name of a room, and longest id of a message, in bytes.
pub const MAX_NAME: usize = 64;

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
#[allow(missing_docs)]
pub enum Request {
    Join {
        room: String,
        resume: Option<Cursor>,
    },
    Leave {
        room: String,
    },
    Publish {
        id: String,
        room: String,
        data: Value,
    },
    /// A page can neither send nor see the ping of the protocol: this is how it knows that the connection works.
    Ping,
}

/// The answers; `joined`, `reset`, `gap`, `presence` and the events come from [`super::rooms`].
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Reply<'a> {
    Pong,
    Left {
        room: &'a str,
    },
    Ack {
        id: &'a str,
        room: &'a str,
        seq: u64,
    },
    Error {
        code: &'a str,
        id: Option<&'a str>,
        room: Option<&'a str>,
    },
}

/// `/rooms`. The user comes from your authentication in front of it, such as `protect`; without one every handshake fails. `limit` bounds what
/// a connection and a user may send: `rates::Rates`, or `()` for nothing but the limits of `sockets`.
pub fn router<L: Limit<User>>(sockets: Sockets, hub: Hub, limit: L) -> Router {
    Router::new()
        .route("/rooms", any(upgrade::<L>))
        .with_state((sockets, hub, limit))
}

async fn upgrade<L: Limit<User>>(
    State((sockets, hub, limit)): State<(Sockets, Hub, L)>,
    Extension(user): Extension<User>,
    upgrade: Upgrade,
) -> Response {
    let upgrade = upgrade.protocols(["rooms.v1"]);
    if upgrade.is_unknown_protocol() {
        return (StatusCode::BAD_REQUEST, "offer rooms.v1").into_response();
    }
    sockets.accept(upgrade, move |outbox| {
        let member = Member::new(hub, user.clone());
        limit.around(&user, outbox, member)
    })
}

/// One connection and the rooms it is in; dropped with the connection, it leaves them.
pub struct Member {
    hub: Hub,
    user: User,
    /// Few: a list takes a fifth of the memory of a map.
    rooms: Vec<Membership>,
    /// The room that is polled first: a busy one must not starve the others.
    next: usize,
    malformed: Malformed,
}

impl Member {
    /// A connection that is in no room yet.
    pub fn new(hub: Hub, user: User) -> Self {
        Self {
            hub,
            user,
            rooms: Vec::new(),
            next: 0,
            malformed: Malformed::default(),
        }
    }

    /// The user's own rooms are `private/<name>`; all others are open.
    fn may_join(&self, room: &str) -> bool {
        room.strip_prefix("private/")
            .is_none_or(|owner| owner == &*self.user.name)
    }

    fn leave(&mut self, room: &str) -> bool {
        let before = self.rooms.len();
        self.rooms.retain(|joined| joined.room() != room);
        self.rooms.len() < before
    }

    fn carry_out(&mut self, request: Request, outbox: &Outbox) -> Result<(), &'static str> {
        match request {
            Request::Join { room, resume } => {
                if room.is_empty() || room.len() > MAX_NAME {
                    return Err("invalid_value");
                }
                if !self.may_join(&room) {
                    return Err("forbidden");
                }
                // Joining again is how a client fills a gap: it is in place, and no coming and going.
                let mut rooms = self.rooms.iter_mut();
                if let Some(joined) = rooms.find(|joined| joined.room() == room) {
                    joined.resume(outbox, resume.as_ref());
                    return Ok(());
                }
                if self.rooms.len() >= MAX_ROOMS {
                    return Err("too_many_rooms");
                }
                let user = &self.user.name;
                let membership = self.hub.join(&room, user, outbox, resume.as_ref())?;
                self.rooms.reserve_exact(1); // most are in one or two: no room for four
                self.rooms.push(membership);
            }
            Request::Leave { room } => {
                if !self.leave(&room) {
                    return Err("not_joined");
                }
                send(outbox, &Reply::Left { room: &room });
            }
            Request::Publish { id, room, data } => {
                if id.is_empty() || id.len() > MAX_NAME {
                    return Err("invalid_value");
                }
                let joined = self.rooms.iter().find(|joined| joined.room() == room);
                let seq = joined.ok_or("not_joined")?.publish(id.clone(), &data)?;
                let reply = Reply::Ack {
                    id: &id,
                    room: &room,
                    seq,
                };
                send(outbox, &reply);
            }
            Request::Ping => send(outbox, &Reply::Pong),
        }
        Ok(())
    }
}

impl Handler for Member {
    fn on_message(&mut self, message: Message, outbox: &Outbox) {
        let Message::Text(text) = message else {
            return outbox.close(1003, "text only");
        };
        let done = serde_json::from_str(&text)
            .map_err(|error| {
                if error.is_data() {
                    "invalid_message"
                } else {
                    "invalid_json"
                }
            })
            .and_then(|request| self.carry_out(request, outbox));
        let Err(code) = done else { return };
        // Echoed, so that the client can tell which of its messages this is about.
        let sent = serde_json::from_str::<Value>(&text).unwrap_or_default();
        let short = |key: &str| {
            sent.get(key)
                .and_then(Value::as_str)
                .filter(|value| value.len() <= MAX_NAME)
        };
        let reply = Reply::Error {
            code,
            id: short("id"),
            room: short("room"),
        };
        send(outbox, &reply);
        // Any other refusal depends on the state of the server: the client is not to blame, and must not stop.
        if code.starts_with("invalid_") && self.malformed.is_too_many() {
            outbox.close(1008, "too many malformed messages");
        }
    }

    fn poll_frames(&mut self, cx: &mut Context<'_>, outbox: &Outbox) -> Poll<Bytes> {
        for offset in 0..self.rooms.len() {
            let at = (self.next + offset) % self.rooms.len();
            match self.rooms[at].poll_frames(cx) {
                Poll::Ready(Some(frames)) => {
                    self.next = at + 1;
                    return Poll::Ready(frames);
                }
                Poll::Ready(None) => {
                    outbox.close(1013, "too slow: reconnect and resume");
                    return Poll::Pending;
                }
                Poll::Pending => {}
            }
        }
        Poll::Pending
    }
}

fn send(outbox: &Outbox, reply: &Reply<'_>) {
    // Cannot fail: all keys are strings.
    let text = serde_json::to_string(reply).unwrap_or_default();
    outbox.send(Message::Text(text.into()));
}
// ANCHOR_END: rooms_endpoint
