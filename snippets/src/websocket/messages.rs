//! A WebSocket endpoint with typed messages.
//!
//! Each message is checked for size, JSON, schema, values and authorization, in this order. Guarantees: the answer to a refused
//! one is a code with its id; too many malformed ones within a minute end the connection; slow work is bounded and ends with
//! it. Needs `serve.rs` and its files; put `protect.rs` before it.

use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::Message;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use axum::{Extension, Router};
use serde::{Deserialize, Serialize};
use serde_json::error::Category;
use tokio::task::JoinSet;

use super::outbox::Outbox;
use super::serve::Malformed;
use super::serve::{Handler, Sockets, Upgrade};
use super::users::User;

/// The schema version is part of the subprotocol's name: a client that speaks another one is refused at the handshake.
pub const SUBPROTOCOL: &str = "demo.v1";
/// Requests of one connection that run at the same time.
pub const MAX_WORK: usize = 4;

// ANCHOR: request
/// What a client may request.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
#[allow(missing_docs)]
pub enum Request {
    Echo {
        id: u64,
        text: String,
    },
    /// Counts to `to`, slowly.
    Count {
        id: u64,
        to: u32,
    },
    /// For administrators.
    Announce {
        id: u64,
        text: String,
    },
}
// ANCHOR_END: request

/// What the server answers.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Reply<'a> {
    Echo { id: u64, text: &'a str },
    Count { id: u64, n: u32 },
    Done { id: u64 },
    Error { id: Option<u64>, code: &'a str },
}

/// `any`, not `get`: over HTTP/2 the handshake is a CONNECT request (RFC 8441), which a `get` route answers with 405.
pub fn router(sockets: Sockets) -> Router {
    Router::new().route("/ws", any(upgrade)).with_state(sockets)
}

async fn upgrade(
    State(sockets): State<Sockets>,
    user: Option<Extension<User>>,
    upgrade: Upgrade,
) -> Response {
    let admin = user.as_ref().is_some_and(|Extension(user)| user.admin);
    let upgrade = upgrade.protocols([SUBPROTOCOL]);
    if upgrade.is_unknown_protocol() {
        return (StatusCode::BAD_REQUEST, "unknown subprotocol").into_response();
    }
    sockets.accept(upgrade, move |_| Endpoint {
        admin,
        malformed: Malformed::default(),
        work: JoinSet::new(),
    })
}

struct Endpoint {
    admin: bool,
    malformed: Malformed,
    /// Ends with the connection: dropping the set aborts its tasks.
    work: JoinSet<()>,
}

/// A request that is not carried out: its id, where it has one, and the code of the answer.
type Refusal = (Option<u64>, &'static str);

// ANCHOR: handle
impl Handler for Endpoint {
    fn on_message(&mut self, message: Message, outbox: &Outbox) {
        let Message::Text(text) = message else {
            return outbox.close(1003, "text only");
        };
        let Err((id, code)) = parse(&text).and_then(|request| self.carry_out(request, outbox))
        else {
            return;
        };
        send(outbox, &Reply::Error { id, code });
        // `busy` and `forbidden` depend on the server's state: they do not mean that the client is broken.
        if code.starts_with("invalid_") && self.malformed.is_too_many() {
            outbox.close(1008, "too many malformed messages");
        }
    }
}

impl Endpoint {
    fn carry_out(&mut self, request: Request, outbox: &Outbox) -> Result<(), Refusal> {
        match request {
            Request::Echo { id, text } => send(outbox, &Reply::Echo { id, text: &text }),
            Request::Count { id, to } => {
                if !(1..=1000).contains(&to) {
                    return Err((Some(id), "invalid_value"));
                }
                while self.work.try_join_next().is_some() {}
                if self.work.len() >= MAX_WORK {
                    return Err((Some(id), "busy"));
                }
                self.work.spawn(count(id, to, outbox.clone()));
            }
            Request::Announce { id, text } => {
                if !self.admin {
                    return Err((Some(id), "forbidden"));
                }
                tracing::info!(text, "announced");
                send(outbox, &Reply::Done { id });
            }
        }
        Ok(())
    }
}
// ANCHOR_END: handle

/// Slow work: it waits for room in the queue, so a peer that reads slowly slows this request and nothing else.
async fn count(id: u64, to: u32, outbox: Outbox) {
    for n in 1..=to {
        tokio::time::sleep(Duration::from_millis(1)).await;
        if !outbox.send_when_room(encode(&Reply::Count { id, n })).await {
            return;
        }
    }
    outbox.send_when_room(encode(&Reply::Done { id })).await;
}

// ANCHOR: parse
fn parse(text: &str) -> Result<Request, Refusal> {
    #[derive(Deserialize)]
    struct Id {
        id: Option<u64>,
    }
    serde_json::from_str(text).map_err(|error| match error.classify() {
        Category::Data => (
            serde_json::from_str::<Id>(text)
                .ok()
                .and_then(|known| known.id),
            "invalid_message",
        ),
        _ => (None, "invalid_json"),
    })
}
// ANCHOR_END: parse

fn encode(reply: &Reply<'_>) -> Message {
    // Cannot fail: no map with keys that are not strings, no failing Serialize.
    Message::Text(serde_json::to_string(reply).unwrap_or_default().into())
}

fn send(outbox: &Outbox, reply: &Reply<'_>) {
    outbox.send(encode(reply));
}
