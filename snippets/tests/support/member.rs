//! A member of a room without a socket.

use std::task::{Context, Poll, Waker};

use axum::extract::ws::Message;
use serde_json::{Value, json};
use snippets::websocket::outbox::Outbox;
use snippets::websocket::rooms::{Hub, Membership};
use snippets::websocket::rooms_protocol::Cursor;

use super::Frame;

/// What the connection of a member would send is taken from here.
pub struct Member {
    pub place: Membership,
    pub outbox: Outbox,
}

impl Member {
    pub fn join(hub: &Hub, room: &str, user: &str, resume: Option<&Cursor>) -> Self {
        Self::try_join(hub, room, user, resume).unwrap()
    }

    pub fn try_join(
        hub: &Hub,
        room: &str,
        user: &str,
        resume: Option<&Cursor>,
    ) -> Result<Self, &'static str> {
        let outbox = Outbox::new(1000, 1 << 20);
        let place = hub.join(room, &user.into(), &outbox, resume)?;
        Ok(Self { place, outbox })
    }

    pub fn publish(&self, id: &str, data: impl Into<Value>) -> u64 {
        self.place.publish(id.into(), &data.into()).unwrap()
    }

    /// All that it would have been sent by now.
    pub fn take(&mut self) -> Vec<Value> {
        let mut all = answers(&self.outbox);
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(frames) = self.place.poll_frames(&mut cx) {
            match frames {
                Some(frames) => all.extend(decode(&frames)),
                None => {
                    all.push(json!({ "close": 1013 }));
                    break;
                }
            }
        }
        all
    }

    /// The same, without presence.
    pub fn events(&mut self) -> Vec<Value> {
        let mut all = self.take();
        all.retain(|message| message["type"] != "presence");
        all
    }
}

/// What is queued for a peer.
pub fn answers(outbox: &Outbox) -> Vec<Value> {
    let messages = std::iter::from_fn(|| outbox.pop());
    let json = |message| match message {
        Message::Text(text) => serde_json::from_str(&text).unwrap(),
        Message::Close(Some(close)) => {
            json!({ "close": close.code, "reason": close.reason.as_str() })
        }
        other => panic!("{other:?}"),
    };
    messages.map(json).collect()
}

/// The text frames in `bytes`.
pub fn decode(mut bytes: &[u8]) -> Vec<Value> {
    let mut all = Vec::new();
    while let Some((frame, len)) = Frame::decode(bytes) {
        all.push(serde_json::from_str(frame.text_payload()).unwrap());
        bytes = &bytes[len..];
    }
    assert!(bytes.is_empty(), "a part of a frame");
    all
}
