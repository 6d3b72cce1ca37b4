//! Cancellation: in Rust dropping is cancelling, and a response body is dropped when its reader leaves.
//!
//! Keep everything that must end with the reader inside the body ([`in_background`] does so for a task), count how streams end
//! with [`observed`], and move what must not end with the reader into a task of its own ([`finish`]). [`read_commands`] shows the
//! only kinds of future that a `select!` loop may hold.
//!
//! Siblings: `backpressure` (`pump`). See also `llm/resume` for work that outlives its reader on purpose.

use std::{
    panic::resume_unwind,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt, Stream, StreamExt, ready, stream};
use tokio::{io::AsyncRead, sync::mpsc, time::Instant};
use tokio_util::{
    codec::{FramedRead, LinesCodec},
    sync::CancellationToken,
    task::AbortOnDropHandle,
    task::TaskTracker,
};

use super::backpressure::pump;

// ANCHOR: background
/// Reads `source` in a task of its own, at most `ahead` items ahead of the reader. When the returned stream is dropped, the task
/// ends, even while the source is silent.
pub fn in_background<S>(source: S, ahead: usize) -> impl Stream<Item = S::Item> + Unpin
where
    S: Stream + Send + Unpin + 'static,
    S::Item: Send,
{
    let (tx, mut rx) = mpsc::channel(ahead);
    // Dropping a `JoinHandle` detaches its task. This handle aborts it: the source is dropped, its connection closed.
    let mut task = Some(AbortOnDropHandle::new(tokio::spawn(pump(source, tx))));
    stream::poll_fn(move |cx| {
        let item = ready!(rx.poll_recv(cx));
        if item.is_none()
            && let Some(running) = &mut task
        {
            let ended = ready!(running.poll_unpin(cx));
            task = None;
            // A source that panicked has not ended: an end here would look like a complete answer.
            if let Some(panic) = ended.err().and_then(|error| error.try_into_panic().ok()) {
                resume_unwind(panic);
            }
        }
        Poll::Ready(item)
    })
}
// ANCHOR_END: background

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It yielded its last item.
    Completed,
    /// It was dropped before: the reader left, a deadline cut it, the server is going down.
    Cancelled,
}

/// What [`observed`] reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// How the stream ended.
    pub outcome: Outcome,
    /// Items yielded.
    pub items: u64,
    /// From construction to the end.
    pub lasted: Duration,
}

/// Calls `report` exactly once, when the stream has ended or is dropped: the place for metrics, and for whatever else is held by
/// the stream (permits, guards), which is dropped with it.
pub fn observed<S: Stream + Unpin>(
    source: S,
    report: impl FnOnce(Report) + Unpin,
) -> impl Stream<Item = S::Item> + Unpin {
    Observed {
        source,
        items: 0,
        since: Instant::now(),
        report: Some(report),
    }
}

struct Observed<S, R: FnOnce(Report)> {
    source: S,
    items: u64,
    since: Instant,
    report: Option<R>,
}

impl<S, R: FnOnce(Report)> Observed<S, R> {
    fn end(&mut self, outcome: Outcome) {
        if let Some(report) = self.report.take() {
            report(Report {
                outcome,
                items: self.items,
                lasted: self.since.elapsed(),
            });
        }
    }
}

// ANCHOR: observed
impl<S: Stream + Unpin, R: FnOnce(Report) + Unpin> Stream for Observed<S, R> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        if self.report.is_none() {
            return Poll::Ready(None); // fused: a compression layer polls once more after the end
        }
        let next = self.source.poll_next_unpin(cx);
        match &next {
            Poll::Ready(Some(_)) => self.items += 1,
            Poll::Ready(None) => self.end(Outcome::Completed),
            Poll::Pending => {}
        }
        next
    }
}

// `Drop` is the only code that runs when the reader disconnects: code after the pending `.await` does not.
impl<S, R: FnOnce(Report)> Drop for Observed<S, R> {
    fn drop(&mut self) {
        self.end(Outcome::Cancelled);
    }
}
// ANCHOR_END: observed

// ANCHOR: finish
/// Runs `work` to its end even if the caller is dropped. A handler is dropped at an `.await` when its client disconnects, which may
/// be halfway through two writes. At shutdown, call `tracker.close()` and await `tracker.wait()`, which waits for running work.
///
/// # Errors
/// The work panicked.
pub async fn finish<T: Send + 'static>(
    tracker: &TaskTracker,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, tokio::task::JoinError> {
    tracker.spawn(work).await
}
// ANCHOR_END: finish

/// Why [`read_commands`] ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Stop {
    /// The peer closed its side, or sent a line longer than 64 KiB.
    Peer,
    /// Nothing arrived for the idle time.
    Idle,
    /// `shutdown` was cancelled.
    Shutdown,
}

// ANCHOR: commands
/// Reads lines until the peer ends, is silent for `idle`, or the service shuts down.
///
/// A `select!` drops the branches that lose. So each branch must be a future that loses nothing when dropped (`next()` of a
/// [`FramedRead`], which keeps a partial line in its buffer; `recv()`, `reserve()`, `cancelled()`), or one that is created outside
/// the loop and only borrowed in it. Do not create `read_exact`, `read_line`, `send(item)` or `sleep(…)` inside the loop.
pub async fn read_commands(
    peer: impl AsyncRead + Unpin,
    idle: Duration,
    shutdown: &CancellationToken,
    mut run: impl FnMut(String),
) -> Stop {
    let mut lines = FramedRead::new(peer, LinesCodec::new_with_max_length(64 * 1024));
    let silence = tokio::time::sleep(idle);
    tokio::pin!(silence); // outside the loop: created at each turn, it would never elapse next to a busy branch
    loop {
        tokio::select! {
            // Checked in this order, because a peer that always has a line ready must not delay the shutdown.
            biased;
            () = shutdown.cancelled() => return Stop::Shutdown,
            line = lines.next() => match line {
                Some(Ok(line)) => {
                    silence.as_mut().reset(Instant::now() + idle);
                    run(line);
                }
                // Not a `Some(Ok(line)) = …` pattern: a pattern that does not match disables its branch, and the loop
                // continues without a peer.
                Some(Err(_)) | None => return Stop::Peer,
            },
            () = &mut silence => return Stop::Idle,
        }
    }
}
// ANCHOR_END: commands
