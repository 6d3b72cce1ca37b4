//! One answer that runs without a reader: a task, a log, and what ends it.
//!
//! Promises: the log gets exactly one `done` or `failed`, also when the task panics; it is stopped by its token, and by nobody
//! watching for a time; everyone who attaches reads the same log from their own position.
//!
//! Siblings: `resume` has the endpoints, `relay` the answer, `chat`, `public_error`, `meter`. Other topics: `sse/resume` (the log), `sse/message`.

use std::{sync::Arc, time::Duration};

use futures::{Stream, StreamExt};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{chat::ChatEvent, public_error::PublicError, relay::Relay, upstream::Turn};
use crate::sse::{
    message::{InvalidMessage, LastEventId, Message},
    resume::Log,
};

/// One answer.
pub struct Generation {
    log: Arc<Log>,
    readers: watch::Sender<usize>,
    /// Cancelled, it stops the model. Later it does nothing.
    pub stop: CancellationToken,
}

impl Generation {
    /// Nothing runs yet. The log holds `max_bytes`: with less than the answer needs, readers get a `reset`.
    pub fn new(max_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            log: Arc::new(Log::new(rand::random(), usize::MAX, max_bytes)),
            readers: watch::Sender::new(0),
            stop: CancellationToken::new(),
        })
    }

    /// Runs to the end of the answer, to [`Generation::stop`], or until nobody has read for `abandon`.
    pub async fn run(&self, relay: &Relay, user: &str, turns: Vec<Turn>, abandon: Duration) {
        let log = Finished(&self.log);
        let answer = async {
            match relay.answer(turns, relay.meter(user)).await {
                Ok(mut events) => {
                    while let Some(event) = events.next().await {
                        log.publish(&event);
                    }
                }
                Err(error) => log.publish(&ChatEvent::Failed(error)),
            }
        };
        // The branches that lose are dropped: with `answer`, the provider's connection closes.
        tokio::select! {
            () = answer => {}
            () = self.stop.cancelled() => log.publish(&ChatEvent::Failed(PublicError::STOPPED)),
            () = self.abandoned(abandon) => log.publish(&ChatEvent::Failed(PublicError::ABANDONED)),
        }
    }

    /// What comes after `cursor`; `None` when the reader has everything.
    pub fn read(
        self: &Arc<Self>,
        cursor: &LastEventId,
    ) -> Option<impl Stream<Item = Result<Message, InvalidMessage>> + use<>> {
        let messages = self.log.clone().subscribe(cursor)?;
        let reader = Reader::of(self.clone());
        Some(messages.map(move |message| {
            let _until_the_stream_is_dropped = &reader;
            message
        }))
    }

    async fn abandoned(&self, limit: Duration) {
        let mut readers = self.readers.subscribe();
        loop {
            if readers.wait_for(|count| *count == 0).await.is_err() {
                return;
            }
            if timeout(limit, readers.wait_for(|count| *count > 0))
                .await
                .is_err()
            {
                return;
            }
        }
    }
}

/// One attached reader.
struct Reader(Arc<Generation>);

impl Reader {
    fn of(generation: Arc<Generation>) -> Self {
        generation.readers.send_modify(|count| *count += 1);
        Self(generation)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.readers.send_modify(|count| *count -= 1);
    }
}

/// Dropped before the terminal event (a panic, an aborted task), it publishes one.
struct Finished<'a>(&'a Log);

impl Finished<'_> {
    fn publish(&self, event: &ChatEvent) {
        if let Ok(message) = event.message() {
            // Refused after the terminal event, which is what a Stop that comes too late needs.
            let _ = self.0.publish(message);
        }
    }
}

impl Drop for Finished<'_> {
    fn drop(&mut self) {
        self.publish(&ChatEvent::Failed(PublicError::BROKEN));
    }
}
