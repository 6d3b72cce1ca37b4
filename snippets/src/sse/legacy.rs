//! Goes as soon as its last callers have moved to the core.

use std::{fmt::Debug, io, time::Duration};

use axum::{
    Router,
    serve::{Listener, ListenerExt},
};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use futures::{Stream, stream};
use serde::Serialize;
use tokio::sync::watch;

use super::message::{InvalidMessage, LastEventId, Message};

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

/// How [`serve_until`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Every response was finished.
    Complete,
    /// The deadline came first; what is left ends with the runtime (`Runtime::shutdown_timeout`, since
    /// returning from `main` also waits for blocking tasks).
    DeadlinePassed,
}

/// Serves `app` until `shutdown` is cancelled, then gives open responses `drain` to finish. On its
/// own, axum's graceful shutdown waits for an open stream for ever.
pub async fn serve_until(
    listener: TcpListener,
    app: Router,
    shutdown: CancellationToken,
    drain: Duration,
) -> io::Result<Drained> {
    // Events are small writes: Nagle's algorithm would hold them back for an acknowledgement.
    let listener = listener.tap_io(|tcp| drop(tcp.set_nodelay(true)));
    serve_on(listener, app, shutdown, drain).await
}

/// As [`serve_until`], on a listener that prepares its connections itself: that of `listen.rs` also
/// cuts peers that have stopped reading.
pub async fn serve_on<L>(
    listener: L,
    app: Router,
    shutdown: CancellationToken,
    drain: Duration,
) -> io::Result<Drained>
where
    L: Listener,
    L::Addr: Debug,
{
    let serve =
        axum::serve(listener, app).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let deadline = async {
        shutdown.cancelled().await;
        tokio::time::sleep(drain).await;
    };
    tokio::select! {
        served = serve.into_future() => served.map(|()| Drained::Complete),
        () = deadline => Ok(Drained::DeadlinePassed),
    }
}

/// See `until.rs`.
pub fn while_valid(
    messages: impl Stream<Item = Result<Message, InvalidMessage>> + Send + 'static,
    every: Duration,
    valid: impl Fn() -> bool + Send + 'static,
) -> impl Stream<Item = Result<Message, InvalidMessage>> + Send + 'static {
    let mut checks = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
    checks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let open = Some((Box::pin(messages), checks, valid));
    futures::stream::unfold(open, |open| async {
        let (mut messages, mut checks, valid) = open?;
        loop {
            tokio::select! {
                biased; // A busy stream must not put off the check.
                _ = checks.tick() => if !valid() {
                    let last = Message::new("unauthorized", &serde_json::json!({"code": "unauthorized"}));
                    return Some((last.map(Message::last), None));
                },
                next = futures::StreamExt::next(&mut messages) => return Some((next?, Some((messages, checks, valid)))),
            }
        }
    })
}
