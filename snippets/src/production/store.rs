//! What the shared log asks of a broker. `redis_log.rs`, `nats_log.rs` and `postgres_log.rs` do it; `shared_log.rs` uses it.

// ANCHOR: store
use crate::sse::message::Message;

/// A part of the broker's log, as of one moment.
#[derive(Debug, Clone)]
pub struct Page {
    /// Greater each time the log starts anew, such as the time of its creation.
    pub epoch: u64,
    /// Sequence number of the oldest event that is kept, or of the next one.
    pub head: u64,
    /// Sequence number of the newest event; `head - 1` when none is kept.
    pub tail: u64,
    /// Consecutive events from the one that was asked for.
    pub events: Vec<(u64, Message)>,
}

/// What a broker must do. Sequence numbers begin with 1 and have no holes.
pub trait Store: Send + Sync + 'static {
    /// Why the broker did not do it.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Appends `message`. `Ok` means that the broker has acknowledged it; after an error it may be in
    /// the log all the same.
    fn append(&self, message: &Message) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Up to `max` events after `seen`, or after what was trimmed since.
    fn read(&self, seen: u64, max: usize)
    -> impl Future<Output = Result<Page, Self::Error>> + Send;

    /// Returns when there may be something after `seen` in `epoch`, at the latest after a few
    /// seconds. Only the one reader of a process calls it.
    fn wait(&self, epoch: u64, seen: u64) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// One connection may serve several logs of a process.
impl<S: Store> Store for std::sync::Arc<S> {
    type Error = S::Error;

    async fn append(&self, message: &Message) -> Result<(), S::Error> {
        S::append(self, message).await
    }

    async fn read(&self, seen: u64, max: usize) -> Result<Page, S::Error> {
        S::read(self, seen, max).await
    }

    async fn wait(&self, epoch: u64, seen: u64) -> Result<(), S::Error> {
        S::wait(self, epoch, seen).await
    }
}

/// The id of an event, as clients see it.
pub fn id(epoch: u64, sequence: u64) -> String {
    format!("{epoch}-{sequence}")
}
// ANCHOR_END: store
