//! Tests of `streams/tee`.

use std::time::Duration;

use futures::{StreamExt, stream};
use snippets::streams::tee::{Copied, WhenFull, tee};
use tokio::sync::mpsc;

async fn all<T>(mut copy: mpsc::Receiver<T>) -> Vec<T> {
    let mut items = Vec::new();
    while let Some(item) = copy.recv().await {
        items.push(item);
    }
    items
}

fn complete(to: u32) -> Vec<Copied<u32>> {
    (0..to).map(Copied::Item).chain([Copied::End]).collect()
}

#[tokio::test]
async fn both_readers_get_everything() {
    for full in [WhenFull::Wait, WhenFull::GiveUp] {
        let (tx, copy) = mpsc::channel(2);
        let copy = tokio::spawn(all(copy));
        let answer = tee(stream::iter(0..50), tx, full).then(async |item| {
            tokio::task::yield_now().await; // the copy's reader keeps up
            item
        });
        assert!(
            Box::pin(answer)
                .collect::<Vec<_>>()
                .await
                .into_iter()
                .eq(0..50)
        );
        assert_eq!(copy.await.unwrap(), complete(50));
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_copy_holds_the_answer_back() {
    let (tx, copy) = mpsc::channel(2);
    let mut answer = Box::pin(tee(stream::iter(0..50), tx, WhenFull::Wait));
    assert_eq!(
        (answer.next().await, answer.next().await),
        (Some(0), Some(1))
    );
    assert!(
        tokio::time::timeout(Duration::from_secs(60), answer.next())
            .await
            .is_err()
    );
    let copy = tokio::spawn(all(copy));
    assert!(
        answer.collect::<Vec<_>>().await.into_iter().eq(2..50),
        "the wait that was dropped lost nothing"
    );
    assert_eq!(copy.await.unwrap(), complete(50));
}

#[tokio::test]
async fn a_copy_that_was_given_up_does_not_look_complete() {
    let (tx, copy) = mpsc::channel(2);
    let answer = tee(stream::iter(0..50), tx, WhenFull::GiveUp);
    assert_eq!(answer.collect::<Vec<_>>().await.len(), 50);
    assert_eq!(all(copy).await, [Copied::Item(0), Copied::Item(1)]);
}

#[tokio::test]
async fn the_answer_outlives_its_copy_but_not_the_other_way_round() {
    for full in [WhenFull::Wait, WhenFull::GiveUp] {
        let (tx, copy) = mpsc::channel(2);
        drop(copy);
        assert_eq!(
            tee(stream::iter(0..50), tx, full)
                .collect::<Vec<_>>()
                .await
                .len(),
            50
        );

        let (tx, copy) = mpsc::channel(8);
        let mut answer = Box::pin(tee(stream::iter(0..50), tx, full));
        assert_eq!(answer.next().await, Some(0));
        drop(answer); // the reader left
        assert_eq!(all(copy).await, [Copied::Item(0)], "no End: incomplete");
    }
}
