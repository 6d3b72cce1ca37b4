//! One producer, many readers: a reader without room is dropped after a limit.
//!
//! Use it where one producer feeds many queues: one slow reader must not set the pace of the others. It bounds what a slow reader
//! costs its producer; the connection of a peer that has stopped reading is closed by `connections/send_deadline`, which every
//! server with long responses needs.
//!
//! Siblings: `backpressure` bounds what a reader costs until then, `deadline` is the same for sources, `tee` for a second reader.

use std::time::Duration;

use tokio::sync::mpsc::{self, error::SendTimeoutError};

/// Why an item was not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Undelivered {
    /// The queue was full for the whole limit: give the reader up (drop its sender).
    #[error("the reader is too slow")]
    Slow,
    /// The reader has left.
    #[error("the reader has left")]
    Gone,
}

// ANCHOR: send
/// Sends to one reader, and waits at most `limit` for room. If one producer serves many readers, use a limit of zero,
/// so that a slow reader does not slow the others.
///
/// # Errors
/// See [`Undelivered`].
pub async fn send_within<T>(
    reader: &mpsc::Sender<T>,
    item: T,
    limit: Duration,
) -> Result<(), Undelivered> {
    reader
        .send_timeout(item, limit)
        .await
        .map_err(|error| match error {
            SendTimeoutError::Timeout(_) => Undelivered::Slow,
            SendTimeoutError::Closed(_) => Undelivered::Gone,
        })
}
// ANCHOR_END: send
