//! Pace: merges or skips items if the source is faster than the reader needs.
//!
//! [`coalesce`] merges many small items without losing any (tokens, log lines): the first goes out at once, the rest merged, at
//! most one per window. [`latest`] when only the newest state matters (progress, prices). [`ticker`] for heartbeats. [`fair`] for a
//! source that is always ready. Promise: no added latency for the first item, nothing lost but what conflation leaves out.
//!
//! Sibling: `backpressure`. `llm/relay` coalesces tokens with this file.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::{
    Stream, StreamExt, ready,
    stream::{self, Fuse},
};
use tokio::{
    sync::watch,
    task::coop,
    time::{Instant, Interval, MissedTickBehavior, Sleep},
};
use tokio_stream::wrappers::WatchStream;

// ANCHOR: merge
/// Items that [`coalesce`] may join.
pub trait Merge: Sized {
    /// Appends `next`, or returns it if the two must stay apart: they differ in kind, or would be too large together.
    /// The limit on size bounds what [`coalesce`] holds.
    fn merge(&mut self, next: Self) -> Result<(), Self>;

    /// Whether the item must be sent immediately, after all that was held before it: an end, an error.
    fn urgent(&self) -> bool;
}
// ANCHOR_END: merge

/// Merges items: an item after a pause goes out at once, those that follow are held and merged until `window` has passed.
pub fn coalesce<S>(source: S, window: Duration) -> impl Stream<Item = S::Item> + Unpin
where
    S: Stream + Unpin,
    S::Item: Merge + Unpin,
{
    Coalesce {
        source: source.fuse(),
        window,
        held: None,
        apart: None,
        opens: Instant::now(),
        wake: Box::pin(tokio::time::sleep(window)),
    }
}

struct Coalesce<S: Stream> {
    source: Fuse<S>,
    window: Duration,
    held: Option<S::Item>,
    /// What could not be merged with `held`; nothing more is read until `held` is out.
    apart: Option<S::Item>,
    /// When the next item may go out. Compared directly: a `sleep` ends up to a millisecond late, also one that is over already.
    opens: Instant,
    wake: Pin<Box<Sleep>>,
}

impl<S> Stream for Coalesce<S>
where
    S: Stream + Unpin,
    S::Item: Merge + Unpin,
{
    type Item = S::Item;

    // ANCHOR: coalesce
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let this = &mut *self;
        loop {
            if let Some(held) = &this.held {
                let must = held.urgent() || this.apart.is_some() || this.source.is_done();
                let now = Instant::now();
                if must || now >= this.opens || this.wake.as_mut().poll(cx).is_ready() {
                    this.opens = now + this.window;
                    this.wake.as_mut().reset(this.opens);
                    return Poll::Ready(std::mem::replace(&mut this.held, this.apart.take()));
                }
            }
            match this.source.poll_next_unpin(cx) {
                Poll::Ready(Some(item)) => match &mut this.held {
                    None => this.held = Some(item),
                    Some(held) => this.apart = held.merge(item).err(),
                },
                Poll::Ready(None) if this.held.is_none() => return Poll::Ready(None),
                Poll::Ready(None) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }
    // ANCHOR_END: coalesce
}

/// Lists of up to `most` items for a sink that takes lists (a database, a bulk API); one that is not full waits at most `longest`.
/// It delays every item that arrives alone by `longest`: for a reader who watches use [`coalesce`].
pub fn batches<S: Stream>(
    source: S,
    most: usize,
    longest: Duration,
) -> impl Stream<Item = Vec<S::Item>> {
    // Named in full: `futures::StreamExt` has methods of the same names with other meanings.
    tokio_stream::StreamExt::chunks_timeout(source, most, longest)
}

/// The newest value, then the newest one each time the reader returns: one slot for each reader, however far behind it is. The
/// last value is delivered even if the sender is dropped right after it.
pub fn latest<T: Clone + Send + Sync + 'static>(
    state: watch::Receiver<T>,
) -> impl Stream<Item = T> + Unpin {
    WatchStream::new(state)
}

// ANCHOR: ticker
/// Ticks every `period`, the first time after one `period`. After a stall it leaves out the missed ticks, which the default
/// (`Burst`) sends all at once. Panics if `period` is zero.
pub fn ticker(period: Duration) -> Interval {
    let mut ticks = tokio::time::interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
// ANCHOR_END: ticker

// ANCHOR: fair
/// Lets the other tasks of the thread run when `source` is always ready, by taking part in tokio's cooperative budget.
pub fn fair<S: Stream + Unpin>(mut source: S) -> impl Stream<Item = S::Item> + Unpin {
    stream::poll_fn(move |cx| {
        let budget = ready!(coop::poll_proceed(cx));
        let next = source.poll_next_unpin(cx);
        if next.is_ready() {
            budget.made_progress();
        }
        next
    })
}
// ANCHOR_END: fair
