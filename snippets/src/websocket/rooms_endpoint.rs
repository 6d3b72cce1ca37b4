//! The protocol of the rooms: `join` (with `resume`), `leave`, `publish` with an id that is acknowledged.
//!
//! Goes with [`super::rooms`], [`super::serve`] and [`super::protect`].

// ANCHOR: rooms_endpoint
use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::State;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::response::Response;
use axum::routing::any;
use axum::{Extension, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::messages::BAD_MESSAGES;
use super::outbox::Outbox;
use super::protect::User;
use super::rooms::{Cursor, Hub, Membership};
use super::serve::{Handler, Sockets};

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
}

/// `/rooms`. The user comes from the authentication in front of it; without one nobody gets in.
pub fn router(sockets: Sockets, hub: Hub) -> Router {
    Router::new()
        .route("/rooms", any(upgrade))
        .with_state((sockets, hub))
}

async fn upgrade(
    State((sockets, hub)): State<(Sockets, Hub)>,
    Extension(user): Extension<User>,
    ws: WebSocketUpgrade,
) -> Response {
    sockets.accept(ws.protocols(["rooms.v1"]), move |_| Member::new(hub, user))
}

/// One connection and the rooms it is in; dropped with the connection, it leaves them.
pub struct Member {
    hub: Hub,
    user: User,
    rooms: HashMap<String, Membership>,
    bad: u32,
}

impl Member {
    /// A connection that is in no room yet.
    pub fn new(hub: Hub, user: User) -> Self {
        Self {
            hub,
            user,
            rooms: HashMap::new(),
            bad: 0,
        }
    }

    /// The user's own rooms are `private/<name>`; all others are open.
    fn may_join(&self, room: &str) -> bool {
        room.strip_prefix("private/")
            .is_none_or(|owner| owner == &*self.user.name)
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
                if self.rooms.len() >= MAX_ROOMS && !self.rooms.contains_key(&room) {
                    return Err("too_many_rooms");
                }
                self.rooms.remove(&room); // joining again is how a client resumes after a gap
                let user: Arc<str> = self.user.name.clone();
                let membership = self.hub.join(&room, &user, outbox, resume.as_ref())?;
                self.rooms.insert(room, membership);
            }
            Request::Leave { room } => {
                self.rooms.remove(&room).ok_or("not_joined")?;
                send(outbox, &json!({ "type": "left", "room": room }));
            }
            Request::Publish { id, room, data } => {
                if id.is_empty() || id.len() > MAX_NAME {
                    return Err("invalid_value");
                }
                let seq = self
                    .rooms
                    .get(&room)
                    .ok_or("not_joined")?
                    .publish(id.clone(), &data);
                send(
                    outbox,
                    &json!({ "type": "ack", "id": id, "room": room, "seq": seq }),
                );
            }
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
        send(
            outbox,
            &json!({ "type": "error", "code": code, "id": short("id"), "room": short("room") }),
        );
        self.bad += u32::from(code != "full");
        if self.bad >= BAD_MESSAGES {
            outbox.close(1008, "too many bad messages");
        }
    }
}

fn send(outbox: &Outbox, value: &Value) {
    outbox.send(Message::Text(value.to_string().into()));
}
// ANCHOR_END: rooms_endpoint
