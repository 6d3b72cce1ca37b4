//! One log as an event stream, as a WebSocket, and the way to publish: the service of the deployment example.
//!
//! A client of either kind sends where it stopped, and any instance continues from there. Protect `/publish` and
//! `/socket` as `sse/protect.rs` and `websocket/protect.rs` show. Needs `shared_log.rs` and its files, and `websocket/serve.rs`.

// ANCHOR: feed
use std::{future::poll_fn, sync::Arc, time::Duration};

use axum::extract::State;
use axum::extract::ws::Message as Frame;
use axum::http::StatusCode;
use axum::routing::{any, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::shared_log::{self, SharedLog};
use super::store::Store;
use crate::sse::event::{Event, LastEventId, is_token};
use crate::sse::streams::{Source, Streams};
use crate::websocket::outbox::Outbox;
use crate::websocket::serve::{Handler, Sockets, Upgrade};

/// `GET /events`, the same log as a socket at `/socket`, and `POST /publish`.
pub fn app<S: Store>(log: Arc<SharedLog<S>>, streams: Streams, sockets: Sockets) -> Router {
    let publish = async |State((log, _)): State<(Arc<SharedLog<S>>, Sockets)>,
                         Json(data): Json<Value>| {
        let event = Event::new("tick", &data).map_err(|_| StatusCode::BAD_REQUEST)?;
        match log.publish(&event).await {
            Ok(_) => Ok(StatusCode::NO_CONTENT),
            // It may be in the log anyway: a publisher that repeats needs an id of its own.
            Err(_) => Err(StatusCode::SERVICE_UNAVAILABLE),
        }
    };
    let socket = async |State((log, sockets)): State<(Arc<SharedLog<S>>, Sockets)>,
                        upgrade: Upgrade| {
        sockets.accept(upgrade, |_| Feed { log, pump: None })
    };
    Router::new()
        .route("/publish", post(publish))
        .route("/socket", any(socket))
        .with_state((log.clone(), sockets))
        .merge(shared_log::app(log, streams))
}

/// The first message of the client is its cursor: `{"after": ID}` or `{}`. The only other one is its heartbeat,
/// `{"type": "ping"}`: anything else would let a few bytes request the whole log again and again.
struct Feed<S> {
    log: Arc<SharedLog<S>>,
    pump: Option<AbortOnDropHandle<()>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Subscribe {
    after: Option<String>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Heartbeat {
    Ping,
}

/// How often a stream notices that the broker is down.
const BEAT: Duration = Duration::from_secs(1);

impl<S: Store> Handler for Feed<S> {
    fn on_message(&mut self, frame: Frame, outbox: &Outbox) {
        let text = frame.into_text().unwrap_or_default();
        if let Ok(Heartbeat::Ping) = serde_json::from_str(&text) {
            outbox.send(Frame::Text(r#"{"type":"pong"}"#.into()));
            return;
        }
        let (Ok(Subscribe { after }), None) = (serde_json::from_str(&text), &self.pump) else {
            return outbox.close(1008, "subscribe once");
        };
        let cursor = match after {
            None => LastEventId::None,
            Some(id) if is_token(&id, 128) => LastEventId::Id(id),
            Some(_) => LastEventId::Unusable,
        };
        let pump = pump(self.log.clone(), cursor, outbox.clone());
        self.pump = Some(AbortOnDropHandle::new(tokio::spawn(pump)));
    }
}

async fn pump<S: Store>(log: Arc<SharedLog<S>>, cursor: LastEventId, outbox: Outbox) {
    let mut source = match log.read(&cursor).await {
        Ok(Some(source)) => source,
        // The client has the terminal event, and must not reconnect.
        Ok(None) => return outbox.close(1000, "finished"),
        Err(_) => return outbox.close(1013, "try again later"),
    };
    loop {
        let chunk = match timeout(BEAT, poll_fn(|cx| source.poll(cx))).await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return outbox.close(1000, "finished"),
            Err(_) if source.beat().is_some() => return outbox.close(1013, "try again later"),
            Err(_) => continue,
        };
        let blocks = String::from_utf8_lossy(&chunk.bytes);
        for block in blocks.split_terminator("\n\n") {
            let Some(frame) = frame(block) else {
                // Without an id it is not an event of the log: the broker is down.
                return outbox.close(1013, "try again later");
            };
            // Waits for this client alone: it is only a position in the log.
            if !outbox.send_when_room(frame).await {
                return;
            }
        }
        if chunk.last {
            return outbox.close(1000, "finished");
        }
    }
}

/// An event of the log as a message.
fn frame(block: &str) -> Option<Frame> {
    let field = |name| block.lines().find_map(|line| line.strip_prefix(name));
    let data: &RawValue = serde_json::from_str(field("data: ")?).ok()?;
    let wire = json!({"id": field("id: ")?, "event": field("event: ")?, "data": data});
    Some(Frame::Text(wire.to_string().into()))
}
// ANCHOR_END: feed
