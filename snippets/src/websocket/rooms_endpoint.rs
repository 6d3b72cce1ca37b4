//! The endpoint of the rooms: `join` (with `resume`), `leave`, `publish` with an id that is acknowledged, `ping` for pages.
//! The words of the protocol are in `rooms_protocol`.
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
use serde_json::Value;

use super::outbox::{Outbox, TOO_SLOW};
use super::rooms::{Hub, Membership};
use super::rooms_protocol::{MALFORMED, Named, Reply, Request, SUBPROTOCOL, TEXT_ONLY};
use super::serve::{Handler, Limit, Malformed, Sockets, Upgrade};
use super::users::User;

/// Rooms that one connection may be in.
pub const MAX_ROOMS: usize = 16;
/// Longest name of a room, and longest id of a message, in bytes.
pub const MAX_NAME: usize = 64;

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
    let upgrade = upgrade.protocols([SUBPROTOCOL]);
    if upgrade.is_unknown_protocol() {
        return (StatusCode::BAD_REQUEST, format!("offer {SUBPROTOCOL}")).into_response();
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
            return outbox.close(TEXT_ONLY.0, TEXT_ONLY.1);
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
        let Named { id, room } = serde_json::from_str(&text).unwrap_or_default();
        let short = |value| Value::as_str(value).filter(|value| value.len() <= MAX_NAME);
        let reply = Reply::Error {
            code,
            id: short(&id),
            room: short(&room),
        };
        send(outbox, &reply);
        // Any other refusal depends on the state of the server: the client is not to blame, and must not stop.
        if code.starts_with("invalid_") && self.malformed.is_too_many() {
            outbox.close(MALFORMED.0, MALFORMED.1);
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
                    outbox.close(TOO_SLOW.0, TOO_SLOW.1);
                    return Poll::Pending;
                }
                Poll::Pending => {}
            }
        }
        Poll::Pending
    }
}

fn send(outbox: &Outbox, reply: &Reply<'_>) {
    outbox.send(Message::Text(reply.text().into()));
}
// ANCHOR_END: rooms_endpoint
