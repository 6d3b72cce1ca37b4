//! Backpressure: the reader's pace decides how much is produced.
//!
//! Use [`pages`] (pull) when the response can ask for its own data: no task, no queue, nothing to bound. Use [`pump`] (push into
//! a bounded channel) if producing must continue while the reader is busy, [`byte_channel`] when items differ in size, [`ahead`] when several
//! slow calls must run at once. Promise: what is in memory is bounded by a number that you write down, however slow the reader is.
//!
//! Siblings: `cancel` (`in_background` owns the task of [`pump`]), `pace` (conflation instead of a queue), `slow_consumer` (what
//! to do with a reader that no longer reads).

use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinError,
};
use tokio_util::task::AbortOnDropHandle;

// ANCHOR: pages
/// Reads page after page, each one when the reader asks for it: with a stalled reader no further page is fetched.
///
/// `fetch` gets the cursor of a page and returns its rows and the next cursor, `None` after the last page. The first error ends the stream.
pub fn pages<C, R, E, F, Fut>(first: C, fetch: F) -> impl Stream<Item = Result<R, E>>
where
    F: Fn(C) -> Fut,
    Fut: Future<Output = Result<(R, Option<C>), E>>,
{
    stream::try_unfold((Some(first), fetch), |(cursor, fetch)| async move {
        let Some(cursor) = cursor else {
            return Ok(None);
        };
        let (rows, next) = fetch(cursor).await?;
        Ok(Some((rows, (next, fetch))))
    })
}
// ANCHOR_END: pages

/// Why [`pump`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The source has no more items; all of them are in the channel.
    Source,
    /// The receiver is gone.
    Consumer,
}

// ANCHOR: pump
/// Moves items from `source` into a bounded channel, at the pace of its receiver.
pub async fn pump<S>(mut source: S, to: mpsc::Sender<S::Item>) -> Ended
where
    S: Stream + Unpin,
{
    // Reserve room before taking an item: every item taken from the source then has a place, so dropping this future
    // loses nothing. `to.send(item)` would drop the item that it holds.
    while let Ok(room) = to.reserve().await {
        tokio::select! {
            // The source may be silent for minutes: without this branch, the end of the receiver would go unnoticed.
            () = to.closed() => return Ended::Consumer,
            item = source.next() => match item {
                Some(item) => room.send(item),
                None => return Ended::Source,
            },
        }
    }
    Ended::Consumer
}
// ANCHOR_END: pump

/// Sending half of [`byte_channel`].
#[derive(Clone)]
pub struct ByteSender {
    queue: mpsc::Sender<(Bytes, OwnedSemaphorePermit)>,
    budget: Arc<Semaphore>,
    limit: u32,
}

/// The receiver is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the receiver is gone")]
pub struct Closed;

// ANCHOR: bytes
/// A channel that holds at most `items` chunks and at most `bytes` bytes. A chunk larger than `bytes` passes when the
/// channel is empty.
pub fn byte_channel(
    items: usize,
    bytes: u32,
) -> (ByteSender, impl Stream<Item = Bytes> + Send + Unpin) {
    let (queue, mut taken) = mpsc::channel::<(Bytes, OwnedSemaphorePermit)>(items);
    let sender = ByteSender {
        queue,
        budget: Arc::new(Semaphore::new(bytes as usize)),
        limit: bytes,
    };
    // The permit is dropped with the tuple: a chunk stops counting when the reader has taken it.
    let chunks = stream::poll_fn(move |cx| {
        taken
            .poll_recv(cx)
            .map(|next| next.map(|(chunk, _permit)| chunk))
    });
    (sender, chunks)
}
// ANCHOR_END: bytes

impl ByteSender {
    // ANCHOR: send
    /// Waits until there is room for `chunk`. If this future is dropped while it waits, the chunk is not sent.
    pub async fn send(&self, chunk: Bytes) -> Result<(), Closed> {
        // A wait for more permits than exist would never end.
        let cost = u32::try_from(chunk.len())
            .unwrap_or(u32::MAX)
            .min(self.limit);
        // Reserve the bytes before the slot: waiting for bytes with a slot in hand would hide that the receiver has
        // disconnected.
        let permit = self
            .budget
            .clone()
            .acquire_many_owned(cost)
            .await
            .map_err(|_| Closed)?;
        self.queue.send((chunk, permit)).await.map_err(|_| Closed)
    }
    // ANCHOR_END: send
}

// ANCHOR: ahead
/// Runs up to `at_once` of the futures at a time and yields their results in order; `Err` is a call that panicked.
///
/// `buffered(n)` alone polls its futures only while something polls the stream: while the reader is busy, calls that have started
/// are not polled, and their deadlines pass. As tasks they continue; they are aborted when the stream is dropped. A further call
/// starts when a result is taken.
pub fn ahead<S, T>(calls: S, at_once: usize) -> impl Stream<Item = Result<T, JoinError>>
where
    S: Stream,
    S::Item: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    calls
        .map(|call| AbortOnDropHandle::new(tokio::spawn(call)))
        .buffered(at_once)
}
// ANCHOR_END: ahead
