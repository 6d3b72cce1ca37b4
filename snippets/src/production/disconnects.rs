//! Ends a user's streams and sockets on every instance: after a logout, a ban, or a lost right.
//!
//! Use it with `sse/until.rs` (`Users::disconnect`) and `websocket/users.rs` (`UserSockets::disconnect`), which each know the
//! connections of one process. A disconnect is an event of a log that all instances read, so an instance that cannot reach the
//! broker obeys it later. End the session first: the client reconnects at once. Needs `shared_log.rs` and `sse/wire.rs` with their files.

// ANCHOR: disconnects
use std::{future::poll_fn, sync::Arc, time::Duration};

use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use super::{
    shared_log::{Config, SharedLog},
    store::Store,
};
use crate::sse::{
    event::{Event, LastEventId},
    streams::Source,
    wire::Parser,
};

const NAME: &str = "disconnect";

/// Reads the disconnects of all instances until it is dropped.
pub struct Disconnects<S> {
    log: Arc<SharedLog<S>>,
    _reader: AbortOnDropHandle<()>,
}

impl<S: Store> Disconnects<S> {
    // ANCHOR: start
    /// Calls `obey` with the name of each user, on this instance too. Start it before the first connection is accepted:
    /// it starts with the names that the log has kept, and repeats some of them after a `reset`. A repeated name also
    /// ends connections of a newer, valid session, so close sockets with a code after which clients retry (4408).
    ///
    /// # Errors
    /// If the broker does not answer.
    pub async fn start(store: S, obey: impl Fn(&str) + Send + 'static) -> Result<Self, S::Error> {
        // ANCHOR_END: start
        let log = Arc::new(SharedLog::start(store, Config::default()).await?);
        let reader = tokio::spawn(follow(log.clone(), move |name, data| {
            if name == NAME
                && let Ok(user) = serde_json::from_str::<String>(data)
            {
                obey(&user);
            }
        }));
        Ok(Self {
            log,
            _reader: AbortOnDropHandle::new(reader),
        })
    }

    /// Disconnects `user` on every instance.
    ///
    /// # Errors
    /// If the broker does not acknowledge it: publish it again.
    pub async fn publish(&self, user: &str) -> Result<(), S::Error> {
        // Cannot fail: a string has a JSON form.
        let Ok(event) = Event::new(NAME, user) else {
            return Ok(());
        };
        self.log.publish(&event).await.map(drop)
    }
}

/// Calls `hear` with the name and the data of each event, from the oldest that the log keeps on.
pub(super) async fn follow<S: Store>(log: Arc<SharedLog<S>>, mut hear: impl FnMut(&str, &str)) {
    let mut cursor = LastEventId::None;
    loop {
        // The end of a source is an outage of the broker: continue after the last event.
        if let Ok(Some(mut source)) = log.read(&cursor).await {
            while let Some(chunk) = poll_fn(|cx| source.poll(cx)).await {
                let mut parser = Parser::default();
                let mut events = parser.push(&chunk.bytes);
                while let Ok(Some(event)) = events.next() {
                    if !event.last_event_id.is_empty() {
                        cursor = LastEventId::Id(event.last_event_id.to_owned());
                    }
                    hear(event.event_type, event.data);
                }
                if chunk.last {
                    break;
                }
            }
        }
        sleep(Duration::from_secs(1)).await;
    }
}
// ANCHOR_END: disconnects
