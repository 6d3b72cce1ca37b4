//! Wrong: `read_exact(…)`, `send(item)` or `sleep(…)` as a branch of a `select!` in a loop
//! Harm: the losing branch is dropped: half a message is lost, an item is lost, an idle timeout of 10 s never expires
//! Instead: streams/cancel
//! Probe: cannot see: within the service

use std::time::Duration;

use snippets::streams::cancel::{Stop, read_commands};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

#[tokio::test(start_paused = true)]
async fn read_exact_loses_half_a_message() {
    let (mut peer, mut ours) = tokio::io::duplex(64);
    peer.write_all(b"ab").await.unwrap();
    let mut message = [0; 4];
    tokio::select! {
        read = ours.read_exact(&mut message) => { read.unwrap(); }
        () = sleep(Duration::from_secs(1)) => {} // another branch is ready first
    }
    peer.write_all(b"cdefgh").await.unwrap();
    ours.read_exact(&mut message).await.unwrap();
    assert_eq!(
        &message, b"cdef",
        "every later message is read across the border too"
    );
}

#[tokio::test(start_paused = true)]
async fn send_drops_the_item_that_it_holds() {
    let (tx, mut rx) = mpsc::channel(1);
    for item in 0..3 {
        tokio::select! {
            sent = tx.send(item) => sent.unwrap(),
            () = sleep(Duration::from_secs(1)) => {} // a heartbeat is due
        }
    }
    drop(tx);
    assert_eq!(
        (rx.recv().await, rx.recv().await),
        (Some(0), None),
        "1 and 2 are gone"
    );
}

#[tokio::test(start_paused = true)]
async fn a_sleep_made_anew_never_ends() {
    let (tx, mut rx) = mpsc::channel::<()>(1);
    let task = tokio::spawn(async move {
        let mut beats = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                _ = rx.recv() => {}
                _ = beats.tick() => {} // send a heartbeat
                () = sleep(Duration::from_secs(10)) => return, // give an idle peer up
            }
        }
    });
    sleep(Duration::from_secs(24 * 3600)).await;
    assert!(!task.is_finished(), "idle for a day");
    drop(tx);
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn what_lives_outside_the_loop_is_kept() {
    let (mut peer, ours) = tokio::io::duplex(64);
    let (ran, mut lines) = mpsc::unbounded_channel();
    let task = tokio::spawn(async move {
        let run = |line| ran.send(line).unwrap();
        read_commands(
            ours,
            Duration::from_secs(10),
            &CancellationToken::new(),
            run,
        )
        .await
    });
    let began = Instant::now();
    peer.write_all(b"a\nab").await.unwrap();
    sleep(Duration::from_secs(9)).await;
    peer.write_all(b"cd\n").await.unwrap();
    assert_eq!(task.await.unwrap(), Stop::Idle);
    assert_eq!(began.elapsed().as_secs(), 19);
    assert_eq!(
        (lines.recv().await.unwrap(), lines.recv().await.unwrap()),
        ("a".into(), "abcd".into())
    );
}
