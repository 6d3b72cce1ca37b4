//! The words of the rooms on the wire: names, fields and close codes of `rooms.v1`.
//!
//! For other words, change this file; messages with other fields also need `rooms_endpoint.rs` and `rooms.rs`. `rooms.ts` has the
//! same words for the client. Closes for slow peers and for limits are in `outbox.rs` and `rates::Quotas`.

// ANCHOR: rooms_protocol
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::sse::event::Reason;

/// The subprotocol that a client offers.
pub const SUBPROTOCOL: &str = "rooms.v1";
/// The Close for the fifth malformed message within a minute: such a client is broken, and a retry fixes nothing.
pub const MALFORMED: (u16, &str) = (1008, "too many malformed messages");
/// The Close for a message that is not text.
pub const TEXT_ONLY: (u16, &str) = (1003, "text only");

/// Where a member left off. Sequence numbers count only within one epoch: in a room that was freed, or after a restart, they
/// start at 1 again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// From the answer to the join; absent without `Rules::epochs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<String>,
    /// The last event that was processed.
    pub seq: u64,
}

/// What a client sends. A field that is not here is refused as `invalid_message`.
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

/// What the server sends, except for events.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Reply<'a> {
    /// To a join: the events after `seq` follow.
    Joined(Entry<'a>),
    /// The same, if the client's cursor cannot be used: it drops its state.
    Reset(Entry<'a>),
    /// Events that a slow member has missed, if the room skips them.
    Gap {
        room: &'a str,
        from: u64,
        to: u64,
    },
    /// Who is present now; only the newest counts.
    Presence {
        room: &'a str,
        count: usize,
        users: Vec<&'a str>,
    },
    Left {
        room: &'a str,
    },
    Ack {
        id: &'a str,
        room: &'a str,
        seq: u64,
    },
    /// A message that is not carried out, named by what the client sent.
    Error {
        code: &'a str,
        id: Option<&'a str>,
        room: Option<&'a str>,
    },
    Pong,
}

/// The place of a member in a room.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct Entry<'a> {
    pub room: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<&'a str>,
    pub seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Users who are present, and some of their names; absent without `Rules::presence`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub users: Option<Vec<&'a str>>,
}

impl Reply<'_> {
    /// The text of the message.
    pub fn text(&self) -> String {
        // Cannot fail: all keys are strings.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// An event, as its text before and after its sequence number: it is encoded once for all members.
pub fn event(room: &str, user: &str, data: &Value) -> (String, String) {
    (
        format!(r#"{{"type":"message","room":{},"seq":"#, json!(room)),
        format!(r#","user":{},"data":{data}}}"#, json!(user)),
    )
}

/// The `id` and `room` of any message, for the answer that refuses it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Named {
    pub id: Value,
    pub room: Value,
}
// ANCHOR_END: rooms_protocol
