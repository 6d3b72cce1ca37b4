//! Wrong: copying an answer into an unbounded channel for the database
//! Harm: a database that stalls makes the process hold the whole answer a second time: 16 MiB for one reader
//! Instead: streams/tee
//! Probe: cannot see: within the service

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use snippets::streams::tee::{Copied, WhenFull, tee};
use tokio::sync::mpsc;

use crate::support::Gauge;

const CHUNK: usize = 16 * 1024;
const CHUNKS: usize = 1024;

fn answer(gauge: &Gauge) -> impl Stream<Item = Bytes> + Unpin {
    let gauge = gauge.clone();
    stream::repeat_with(move || gauge.chunk(CHUNK)).take(CHUNKS)
}

#[tokio::test]
async fn the_copy_holds_the_whole_answer() {
    let gauge = Gauge::default();
    let (tx, _database_that_stalls) = mpsc::unbounded_channel();
    let mut read = Box::pin(answer(&gauge).inspect(move |chunk| {
        let _ = tx.send(chunk.clone());
    }));
    while read.next().await.is_some() {}
    assert_eq!(gauge.alive(), CHUNK * CHUNKS);
}

#[tokio::test]
async fn with_a_bound_it_holds_the_bound() {
    let gauge = Gauge::default();
    let (tx, mut database_that_stalls) = mpsc::channel(8);
    let mut read = Box::pin(tee(answer(&gauge), tx, WhenFull::GiveUp));
    while read.next().await.is_some() {}
    assert_eq!(gauge.alive(), CHUNK * 8);
    let mut last = None;
    while let Some(item) = database_that_stalls.recv().await {
        last = Some(item);
    }
    assert_ne!(
        last,
        Some(Copied::End),
        "and it knows that it has not all of it"
    );
}
