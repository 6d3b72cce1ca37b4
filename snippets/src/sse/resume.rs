//! Replay after a reconnect, without a gap, a duplicate, or a silence about either.
//!
//! Use it where each event counts; where the newest state is enough, `jobs.rs` is simpler. A bounded
//! log holds the events, and a subscriber is only a position in it, so nothing is queued per client,
//! and replay and live delivery are one read. A subscriber that cannot go on from where it was (the
//! log was trimmed, also while it was connected and slow; another epoch; a position that does not
//! exist; garbage) gets a `reset` event first. The log is in memory: a restart resets every client.
//! Where that must not be, use `production/shared_log.rs`, also with one instance. Needs `message.rs` and `serve.rs`.

// ANCHOR: resume
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use futures::{Stream, stream};
use serde::Serialize;
use tokio::sync::watch;

use super::{
    message::{InvalidMessage, LastEventId, Message},
    serve::{self, Streams},
};

/// A bounded log of events with ids `EPOCH-SEQUENCE`.
#[derive(Debug)]
pub struct Log {
    epoch: String,
    max_events: usize,
    max_bytes: usize,
    ring: Mutex<Ring>,
    /// Sequence number of the newest event; 0 before the first.
    tail: watch::Sender<u64>,
}

#[derive(Debug)]
struct Ring {
    /// Sequence number of the oldest event that is kept, or of the next one.
    head: u64,
    bytes: usize,
    events: VecDeque<Message>,
}

/// Why an event was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// It would push out the whole log and still not fit.
    #[error("an event of {size} bytes does not fit into a log of {max} bytes")]
    TooLarge {
        /// Bytes of its name and data.
        size: usize,
        /// The log's bound.
        max: usize,
    },
    /// The terminal event has been published.
    #[error("the log is finished")]
    Finished,
    /// See [`InvalidMessage`].
    #[error(transparent)]
    Invalid(#[from] InvalidMessage),
}

/// Why a client must throw away what it has built from earlier events (and load a snapshot, where
/// there is one). It goes on after the id of the `reset` event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reset {
    /// The log no longer holds the event after the client's.
    Trimmed,
    /// The id is from another life of the log; its numbers mean something else.
    Epoch,
    /// The id is newer than the log: waiting for it to catch up would be silence, then a gap.
    Ahead,
    /// Not an id of this log.
    Invalid,
}

impl Log {
    /// `epoch` must differ each time the log starts anew: `rand::random()`. Older events go when one of the bounds is passed.
    pub fn new(epoch: u64, max_events: usize, max_bytes: usize) -> Self {
        Self {
            epoch: format!("{epoch:016x}"),
            max_events: max_events.max(1),
            max_bytes,
            ring: Mutex::new(Ring {
                head: 1,
                bytes: 0,
                events: VecDeque::new(),
            }),
            tail: watch::channel(0).0,
        }
    }

    /// Appends `message` and wakes the subscribers. After one that is [`Message::last`] the log is finished.
    pub fn publish(&self, message: Message) -> Result<(), PublishError> {
        let (size, max) = (message.size(), self.max_bytes);
        if size > max {
            return Err(PublishError::TooLarge { size, max });
        }
        let mut ring = self.ring();
        if ring.finished() {
            return Err(PublishError::Finished);
        }
        let sequence = ring.tail() + 1;
        let message = message.with_id(self.id(sequence))?;
        ring.bytes += size;
        ring.events.push_back(message);
        while ring.events.len() > self.max_events || ring.bytes > max {
            ring.bytes -= ring.events.pop_front().map_or(0, |oldest| oldest.size());
            ring.head += 1;
        }
        // Under the lock, so that the number never goes back.
        self.tail.send_replace(sequence);
        Ok(())
    }

    /// Everything after `cursor`, then what comes, up to the terminal event. Without a cursor it begins
    /// with the first event ever, or, once that is trimmed, with a `reset`: what is kept is no longer
    /// all, so a new client needs the snapshot too. `None`: the client has the terminal event, answer 204.
    pub fn subscribe(
        self: Arc<Self>,
        cursor: &LastEventId,
    ) -> Option<impl Stream<Item = Result<Message, InvalidMessage>> + use<>> {
        let start = {
            let ring = self.ring();
            let start = self.locate(cursor, ring.tail());
            if ring.finished() && start == Ok(ring.tail()) {
                return None;
            }
            start
        };
        let tail = self.tail.subscribe();
        Some(stream::unfold(Some((self, tail, start)), |state| async {
            let (log, mut tail, position) = state?;
            let (message, position) = match position {
                Ok(seen) => {
                    // Looks at the number before it waits: an event published meanwhile is not missed.
                    tail.wait_for(|tail| *tail > seen).await.ok()?;
                    log.read_after(seen)
                }
                Err(reason) => log.reset(reason, &log.ring()),
            };
            let end = message.as_ref().map_or(true, Message::is_last);
            Some((message, (!end).then_some((log, tail, Ok(position)))))
        }))
    }

    fn locate(&self, cursor: &LastEventId, tail: u64) -> Result<u64, Reset> {
        let id = match cursor {
            LastEventId::None => return Ok(0),
            LastEventId::Id(id) => id,
            LastEventId::Unusable => return Err(Reset::Invalid),
        };
        let (epoch, sequence) = id.split_once('-').ok_or(Reset::Invalid)?;
        // `u64::from_str` alone would take "+5" as well.
        if !sequence.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Reset::Invalid);
        }
        let sequence = sequence.parse().map_err(|_| Reset::Invalid)?;
        match sequence {
            _ if epoch != self.epoch => Err(Reset::Epoch),
            _ if sequence > tail => Err(Reset::Ahead),
            _ => Ok(sequence),
        }
    }

    /// The event after `seen`, which has been published, and its number.
    fn read_after(&self, seen: u64) -> (Result<Message, InvalidMessage>, u64) {
        let ring = self.ring();
        let kept = (seen + 1).checked_sub(ring.head);
        match kept.and_then(|index| ring.events.get(index as usize)) {
            Some(message) => (Ok(message.clone()), seen + 1),
            None => self.reset(Reset::Trimmed, &ring),
        }
    }

    fn reset(&self, reason: Reset, ring: &Ring) -> (Result<Message, InvalidMessage>, u64) {
        let position = ring.head - 1;
        let message = Message::new("reset", &serde_json::json!({ "reason": reason }))
            .and_then(|message| message.with_id(self.id(position)));
        (message, position)
    }

    fn id(&self, sequence: u64) -> String {
        format!("{}-{sequence}", self.epoch)
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn tail(&self) -> u64 {
        self.head + self.events.len() as u64 - 1
    }

    fn finished(&self) -> bool {
        self.events.back().is_some_and(Message::is_last)
    }
}

/// `GET /events`.
pub fn app(log: Arc<Log>, streams: Streams) -> Router {
    Router::new()
        .route("/events", get(events).head(serve::head))
        .with_state((log, streams))
}

async fn events(
    State((log, streams)): State<(Arc<Log>, Streams)>,
    last_event_id: LastEventId,
) -> Response {
    let Some(messages) = log.subscribe(&last_event_id) else {
        return StatusCode::NO_CONTENT.into_response();
    };
    match streams.admit() {
        Ok(slot) => slot.respond(messages),
        Err(refused) => refused.into_response(),
    }
}
// ANCHOR_END: resume
