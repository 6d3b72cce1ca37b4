//! Wrong: reading a source that is always ready (`stream::iter`, a parser over a full buffer) in a task
//! Harm: no other task of that thread runs until the loop has ended: 100,000 items without a heartbeat, a read, a shutdown
//! Instead: streams/pace
//! Probe: cannot see: within the service

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use futures::{Stream, StreamExt, stream};
use snippets::streams::pace::fair;

/// Items that the reader takes before a task that is ready at the same time runs for the first time.
async fn head_start(mut source: impl Stream<Item = u32> + Unpin + Send + 'static) -> usize {
    let heartbeat = Arc::new(AtomicBool::new(false));
    let seen = heartbeat.clone();
    let reader = tokio::spawn(async move {
        let mut before = 0;
        while source.next().await.is_some() {
            before += usize::from(!seen.load(SeqCst));
        }
        before
    });
    tokio::spawn(async move { heartbeat.store(true, SeqCst) });
    reader.await.unwrap()
}

#[tokio::test]
async fn nothing_else_runs() {
    assert_eq!(head_start(stream::iter(0..100_000)).await, 100_000);
}

#[tokio::test]
async fn within_the_budget_it_shares() {
    assert!(head_start(fair(stream::iter(0..100_000))).await <= 256);
}
