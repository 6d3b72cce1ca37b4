//! One answer that runs without a reader: a task, a log, and its ends.
//!
//! Use it with `resume`, which has the endpoints. Guarantees: the log gets exactly one terminal event, even if the task panics; the answer
//! is stopped by its token, and after a time without readers; everyone who attaches reads the same log from their own position.
//!
//! Needs `relay`, `chat`, `public_error`, `sse/log`, `sse/streams`.

// ANCHOR: generation
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::StreamExt;
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    chat::{ChatEvent, Names},
    public_error::PublicError,
    relay::Relay,
    request::Conversation,
};
use crate::sse::{
    event::LastEventId,
    log::{Begin, Config, Log, Writer},
    streams::{Holding, Source},
};

/// One answer.
pub struct Generation {
    log: Arc<Log>,
    names: Names,
    readers: watch::Sender<usize>,
    ended: AtomicBool,
    /// Cancelled, it stops the model. Later it does nothing.
    pub stop: CancellationToken,
    /// Cancelled, it frees the memory: the answer has ended, and its place is needed.
    pub forget: CancellationToken,
}

impl Generation {
    /// Nothing runs yet. The log holds `max_bytes`: with less than the answer needs, readers get a `reset`.
    pub fn new(max_bytes: usize, names: Names) -> Arc<Self> {
        let config = Config {
            begin: Begin::First, // an answer is useless without its start
            ..Config::complete(usize::MAX, max_bytes)
        };
        Arc::new(Self {
            log: Log::new(config),
            names,
            readers: watch::Sender::new(0),
            ended: AtomicBool::new(false),
            stop: CancellationToken::new(),
            forget: CancellationToken::new(),
        })
    }

    /// Runs to the end of the answer, to [`Generation::stop`], or until nobody has read for `abandon`.
    pub async fn run(
        &self,
        relay: &Relay,
        user: &str,
        conversation: Conversation,
        abandon: Duration,
    ) {
        let _ended = Ended(&self.ended);
        let broken = ChatEvent::Failed(PublicError::BROKEN).event(&self.names);
        // Dropped before the terminal event (a panic, an aborted task), it publishes one.
        let _writer = broken.map(|broken| Writer::new(self.log.clone(), broken));
        let answer = async {
            match relay.answer(user, conversation).await {
                Ok(mut events) => {
                    while let Some(event) = events.next().await {
                        self.publish(&event);
                    }
                }
                Err(error) => self.publish(&ChatEvent::Failed(error)),
            }
        };
        // The branches that lose are dropped: with `answer`, the provider's connection closes.
        tokio::select! {
            biased; // a Stop that was sent before the question asks nothing
            () = self.stop.cancelled() => self.publish(&ChatEvent::Failed(PublicError::STOPPED)),
            () = answer => {}
            () = self.abandoned(abandon) => self.publish(&ChatEvent::Failed(PublicError::ABANDONED)),
        }
    }

    /// What comes after `cursor`; `None` when the reader has everything.
    pub fn read(self: &Arc<Self>, cursor: &LastEventId) -> Option<impl Source + use<>> {
        let reader = self.log.read(cursor)?;
        Some(Holding(reader, Attached::to(self.clone())))
    }

    /// Whether the terminal event is in the log.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    fn publish(&self, event: &ChatEvent) {
        if let Ok(event) = event.event(&self.names) {
            // Refused after the terminal event, which is right for a Stop that comes too late.
            let _ = self.log.publish(&event);
        }
    }

    async fn abandoned(&self, limit: Duration) {
        let mut readers = self.readers.subscribe();
        loop {
            if readers.wait_for(|count| *count == 0).await.is_err() {
                return;
            }
            let attached = timeout(limit, readers.wait_for(|count| *count > 0));
            if attached.await.is_err() {
                return;
            }
        }
    }
}
// ANCHOR_END: generation

// ANCHOR: guards
/// One attached reader.
struct Attached(Arc<Generation>);

impl Attached {
    fn to(generation: Arc<Generation>) -> Self {
        generation.readers.send_modify(|count| *count += 1);
        Self(generation)
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.0.readers.send_modify(|count| *count -= 1);
    }
}

struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
// ANCHOR_END: guards
