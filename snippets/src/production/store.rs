//! The interface between the shared log and a broker. `redis_log.rs`, `nats_log.rs` and `postgres_log.rs` implement it;
//! `shared_log.rs` uses it. Needs `sse/{event,cursor}.rs`.

// ANCHOR: store
use crate::sse::{event::Cursor, event::Event};

/// A part of the broker's log, as of one moment.
#[derive(Debug, Clone)]
pub struct Page {
    /// The epoch: differs for each lifetime of the log, and is greater than the previous one.
    pub epoch: u64,
    /// Sequence number of the oldest event that is kept, or of the next one.
    pub head: u64,
    /// Sequence number of the newest event; `head - 1` if none is kept.
    pub tail: u64,
    /// Consecutive events from the requested one.
    pub events: Vec<(u64, Event)>,
}

/// One log of a broker. Sequence numbers start at 1 and have no holes.
pub trait Store: Send + Sync + 'static {
    /// Why the broker failed.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Appends `event`. `Ok` means that the broker has acknowledged it; after an error it may be in the log anyway.
    fn append(&self, event: &Event) -> impl Future<Output = Result<Cursor, Self::Error>> + Send;

    /// Up to `max` events after `seen`, or after those that were trimmed since.
    fn read(&self, seen: u64, max: usize)
    -> impl Future<Output = Result<Page, Self::Error>> + Send;

    /// Returns when there may be an event after `seen`, and sometimes without one. Only the reader of a
    /// [`SharedLog`](super::shared_log::SharedLog) calls it.
    fn wait(&self, epoch: u64, seen: u64) -> impl Future<Output = Result<(), Self::Error>> + Send;
}
// ANCHOR_END: store
