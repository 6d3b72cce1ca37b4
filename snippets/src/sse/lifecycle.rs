//! Work that is done for one response alone, and ends with it.
//!
//! Use [`produce`] if a stream is fed by work that no other client needs; use `jobs.rs` if the work must be finished
//! without its client. The client's pace limits the work, its disconnect aborts it, and a failure or a panic is the last
//! item. Needs `event.rs` and `streams.rs`, whose `Produced` sends the stream.

// ANCHOR: lifecycle
use futures::{Stream, StreamExt, stream};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::event::Event;

/// Why the work behind a stream has failed.
#[derive(Debug, thiserror::Error)]
pub enum WorkError<E> {
    /// It returned an error.
    #[error("{0}")]
    Failed(E),
    /// It panicked.
    #[error("the work panicked")]
    Panicked,
}

// ANCHOR: produce
/// Runs `work` as a task for one response. At most `capacity` events wait for the client; beyond that `send` waits, and
/// with it the work. Dropping the response aborts the task wherever it waits. (A task that only checks the result of
/// `send` would continue until its next event, which never comes if the upstream is silent.)
///
/// An error or a panic is the last item, so that the stream does not end without a reason.
pub fn produce<E, Work>(
    capacity: usize,
    work: impl FnOnce(mpsc::Sender<Event>) -> Work,
) -> impl Stream<Item = Result<Event, WorkError<E>>> + Unpin
where
    E: Send + 'static,
    Work: Future<Output = Result<(), E>> + Send + 'static,
{
    let (events, received) = mpsc::channel(capacity.max(1));
    let task = AbortOnDropHandle::new(tokio::spawn(work(events)));
    let items = stream::unfold(Some((received, task)), |open| async {
        let (mut received, task) = open?;
        if let Some(event) = received.recv().await {
            return Some((Ok(event), Some((received, task))));
        }
        match task.await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some((Err(WorkError::Failed(error)), None)),
            Err(_) => Some((Err(WorkError::Panicked), None)),
        }
    });
    items.boxed()
}
// ANCHOR_END: produce
// ANCHOR_END: lifecycle
