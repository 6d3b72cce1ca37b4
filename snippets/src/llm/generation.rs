//! One answer that runs without a reader: a task that writes into a log.
//!
//! Use it with `resume` or `use_chat`, which have the endpoints. Guarantees: the log gets exactly one terminal event, even if the task
//! panics; the answer is stopped by its token, and after a time without readers; everyone who attaches reads the same log from their
//! own position.
//!
//! Needs `public_error`, `sse/log`, `sse/streams`.

// ANCHOR: generation
use std::{pin::pin, sync::Arc, time::Duration};

use futures::{
    StreamExt,
    future::{Future, ready},
    stream,
};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use super::public_error::{Opening, PublicError};
use crate::sse::{
    event::{Event, Ids, LastEventId, Names},
    log::{Begin, Config, Log, Writer},
    streams::{Holding, Source},
};

/// The events of an answer. Dropping it must stop the work.
pub trait Answer: Send + 'static {
    /// Waits until the answer begins, or is refused: then there is no event. Called first; dropped while it waits, it loses nothing.
    fn open(&mut self) -> impl Future<Output = Result<(), PublicError>> + Send {
        ready(Ok(()))
    }

    /// The next event; `None` after the terminal one. A call that is dropped while it waits must lose nothing.
    fn next(&mut self) -> impl Future<Output = Option<Event>> + Send;

    /// The events that end it early: the last one is terminal.
    fn end(&mut self, why: PublicError) -> Vec<Event>;

    /// The terminal event of an answer whose task dies.
    fn broken(&self) -> Option<Event>;
}

/// Events, and the function that makes the terminal event of a failure.
impl<F> Answer for (Opening<Event>, F)
where
    F: Fn(PublicError) -> Option<Event> + Send + 'static,
{
    async fn open(&mut self) -> Result<(), PublicError> {
        if let Opening::Asking(asking) = &mut self.0 {
            self.0 = match asking.await {
                Ok(events) => Opening::Open(events),
                Err(refused) => {
                    self.0 = Opening::Open(stream::empty().boxed());
                    return Err(refused);
                }
            };
        }
        Ok(())
    }

    async fn next(&mut self) -> Option<Event> {
        match &mut self.0 {
            Opening::Open(events) => events.next().await,
            Opening::Asking(_) => None, // it was not opened
        }
    }

    fn end(&mut self, why: PublicError) -> Vec<Event> {
        self.1(why).into_iter().collect()
    }

    fn broken(&self) -> Option<Event> {
        self.1(PublicError::BROKEN)
    }
}

/// One answer.
pub struct Generation {
    log: Arc<Log>,
    readers: watch::Sender<usize>,
    opened: watch::Sender<Option<Result<(), PublicError>>>,
    ended: watch::Sender<bool>,
    /// Cancelled, it stops the model. Later it does nothing.
    pub stop: CancellationToken,
    /// Cancelled, it frees the memory: the answer has ended, and its place is needed.
    pub forget: CancellationToken,
}

impl Generation {
    /// Nothing runs yet. The log holds `max_bytes`: with less than the answer needs, readers get an event called `reset`.
    pub fn new(max_bytes: usize, ids: Ids, reset: &'static str) -> Arc<Self> {
        let config = Config {
            begin: Begin::First, // an answer is useless without its start
            ids,
            names: Names {
                reset,
                ..Names::DEFAULT
            },
            ..Config::complete(usize::MAX, max_bytes)
        };
        Arc::new(Self {
            log: Log::new(config),
            readers: watch::Sender::new(0),
            opened: watch::Sender::new(None),
            ended: watch::Sender::new(false),
            stop: CancellationToken::new(),
            forget: CancellationToken::new(),
        })
    }

    /// Waits until the answer has begun, has ended, or is refused.
    ///
    /// # Errors
    /// The refusal, which is the terminal event of the log as well.
    pub async fn opened(&self) -> Result<(), PublicError> {
        let mut opened = self.opened.subscribe();
        tokio::select! {
            biased;
            found = opened.wait_for(Option::is_some) => found.ok().and_then(|found| *found).unwrap_or(Ok(())),
            () = self.ended() => Ok(()),
        }
    }

    /// Runs to the end of the answer, to [`Generation::stop`], or until nobody has read for `abandon`. `permit` is dropped with the
    /// answer: a task that waits for the end finds it free.
    pub async fn run(&self, answer: impl Answer, permit: impl Send, abandon: Duration) {
        let _ended = Ended(&self.ended);
        let (mut answer, _permit) = (answer, permit);
        // Dropped before the terminal event (a panic, an aborted task), it publishes one.
        let _writer = answer
            .broken()
            .map(|last| Writer::new(self.log.clone(), last));
        let mut abandoned = pin!(self.abandoned(abandon));
        let next = async {
            let opened = answer.open().await;
            self.opened.send_replace(Some(opened));
            opened?;
            while let Some(event) = answer.next().await {
                self.publish(&event);
            }
            Ok(())
        };
        let ended = tokio::select! {
            biased; // a Stop that was sent before the question asks nothing
            () = self.stop.cancelled() => Err(PublicError::STOPPED),
            ended = next => ended,
            () = &mut abandoned => Err(PublicError::ABANDONED),
        };
        let Err(why) = ended else { return };
        let last = answer.end(why);
        drop(answer); // closes the provider's connection
        last.iter().for_each(|event| self.publish(event));
    }

    /// What comes after `cursor`; `None` when the reader has everything.
    pub fn read(self: &Arc<Self>, cursor: &LastEventId) -> Option<impl Source + use<>> {
        let reader = self.log.read(cursor)?;
        Some(Holding(reader, Attached::to(self.clone())))
    }

    /// Whether the terminal event is in the log.
    pub fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Waits until it has ended.
    pub async fn ended(&self) {
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await; // the sender is in `self`
    }

    fn publish(&self, event: &Event) {
        // Refused after the terminal event, which is right for a Stop that comes too late.
        let _ = self.log.publish(event);
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

struct Ended<'a>(&'a watch::Sender<bool>);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}
// ANCHOR_END: guards
