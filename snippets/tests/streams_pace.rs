//! Tests of `streams/pace`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use proptest::prelude::*;
use snippets::streams::pace::{Merge, batches, coalesce, fair, latest, ticker};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    End,
}

impl Merge for Piece {
    fn merge(&mut self, next: Self) -> Result<(), Self> {
        match (self, next) {
            (Self::Text(held), Self::Text(more)) if held.len() + more.len() <= 8 => {
                held.push_str(&more);
                Ok(())
            }
            (_, next) => Err(next),
        }
    }

    fn urgent(&self) -> bool {
        *self == Self::End
    }
}

fn text(text: &str) -> Piece {
    Piece::Text(text.to_owned())
}

/// What arrives when, in milliseconds.
async fn arrivals(source: impl Stream<Item = Piece> + Unpin) -> Vec<(u128, Piece)> {
    let began = Instant::now();
    coalesce(source, Duration::from_millis(30))
        .map(|piece| (began.elapsed().as_millis(), piece))
        .collect()
        .await
}

fn timed(script: &'static [(u64, &'static str)]) -> impl Stream<Item = Piece> + Unpin {
    let (tx, rx) = mpsc::channel(1);
    tokio::spawn(async move {
        for (pause, piece) in script {
            tokio::time::sleep(Duration::from_millis(*pause)).await;
            let piece = if *piece == "." {
                Piece::End
            } else {
                text(piece)
            };
            if tx.send(piece).await.is_err() {
                return;
            }
        }
    });
    ReceiverStream::new(rx)
}

#[tokio::test(start_paused = true)]
async fn the_first_goes_at_once_the_rest_once_a_window() {
    let script = &[
        (500, "a"),
        (9, "b"),
        (9, "c"),
        (9, "d"),
        (9, "e"),
        (100, "f"),
    ];
    let expected = [(500, "a"), (530, "bcd"), (560, "e"), (636, "f")];
    assert_eq!(
        arrivals(timed(script)).await,
        expected.map(|(at, piece)| (at, text(piece)))
    );
}

#[tokio::test(start_paused = true)]
async fn the_end_takes_all_that_is_held_with_it_at_once() {
    let script = &[(10, "a"), (5, "b"), (5, "."), (1000, "late")];
    let expected = [
        (10, text("a")),
        (20, text("b")),
        (20, Piece::End),
        (1020, text("late")),
    ];
    assert_eq!(arrivals(timed(script)).await, expected);
    // A source that ends without a terminal item does not keep the last piece for the window either.
    assert_eq!(
        arrivals(timed(&[(10, "a"), (5, "b")])).await,
        [(10, text("a")), (15, text("b"))]
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_held_has_a_bound() {
    let taken = Arc::new(AtomicUsize::new(0));
    let count = taken.clone();
    let source = stream::repeat_with(move || {
        count.fetch_add(1, SeqCst);
        text("abc")
    });
    let mut pieces = coalesce(source, Duration::from_secs(3600));
    for (taken_then, piece) in [(1, "abc"), (4, "abcabc"), (6, "abcabc")] {
        assert_eq!(pieces.next().await, Some(text(piece)));
        assert_eq!(taken.load(SeqCst), taken_then);
    }
}

proptest! {
    #[test]
    fn coalesce_loses_and_reorders_nothing(pieces in prop::collection::vec((0_u64..50, "[a-z]{0,5}"), 0..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let all: String = pieces.iter().map(|(_, piece)| piece.as_str()).collect();
        let got = runtime.block_on(async move {
            let source = stream::iter(pieces).then(|(pause, piece)| async move {
                tokio::time::sleep(Duration::from_millis(pause)).await;
                text(&piece)
            });
            arrivals(Box::pin(source)).await
        });
        let mut joined = String::new();
        for (_, piece) in got {
            let Piece::Text(piece) = piece else { panic!() };
            prop_assert!(piece.len() <= 8);
            joined.push_str(&piece);
        }
        prop_assert_eq!(joined, all);
    }
}

#[tokio::test(start_paused = true)]
async fn batches_are_full_or_old_enough_and_hold_back_what_comes_alone() {
    let began = Instant::now();
    let script = &[
        (0, "a"),
        (0, "b"),
        (0, "c"),
        (0, "d"),
        (500, "alone"),
        (500, "z"),
    ];
    let got: Vec<_> = batches(timed(script), 3, Duration::from_millis(100))
        .map(|batch| (began.elapsed().as_millis(), batch.len()))
        .collect()
        .await;
    assert_eq!(got[0], (0, 3));
    assert_eq!(got[1].1, 1);
    assert!(
        (600..=602).contains(&got[2].0),
        "{got:?}: the item of 500 ms waited for company"
    );
    assert!(
        (1000..=1001).contains(&got[3].0),
        "{got:?}: the end flushes"
    );
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_skips_states_and_still_gets_the_last() {
    let (state, reader) = watch::channel(0);
    let mut seen = latest(reader);
    assert_eq!(seen.next().await, Some(0));
    for n in 1..=1000 {
        state.send(n).unwrap();
    }
    assert_eq!(seen.next().await, Some(1000));
    state.send(1001).unwrap();
    drop(state);
    assert_eq!((seen.next().await, seen.next().await), (Some(1001), None));
}

#[tokio::test(start_paused = true)]
async fn a_ticker_does_not_burst_after_a_stall() {
    let mut ticks = ticker(Duration::from_millis(50));
    let began = Instant::now();
    ticks.tick().await;
    assert_eq!(
        began.elapsed().as_millis(),
        50,
        "the first one is not at once"
    );
    tokio::time::advance(Duration::from_millis(520)).await;
    let after = Instant::now();
    for expected in [0, 50, 100] {
        ticks.tick().await;
        assert!(after.elapsed().as_millis().abs_diff(expected) <= 1);
    }
}

/// How many items a task takes from an always ready source before the other task of its thread runs.
async fn taken_before_the_other_task_runs(
    source: impl Stream<Item = u32> + Unpin + Send + 'static,
) -> usize {
    let other_ran = Arc::new(AtomicBool::new(false));
    let (ran, mut source) = (other_ran.clone(), source);
    let reader = tokio::spawn(async move {
        let mut taken = 0;
        while source.next().await.is_some() {
            taken += usize::from(!ran.load(SeqCst));
        }
        taken
    });
    tokio::spawn(async move { other_ran.store(true, SeqCst) });
    reader.await.unwrap()
}

#[tokio::test]
async fn a_fair_source_lets_the_other_tasks_run() {
    let taken = taken_before_the_other_task_runs(fair(stream::iter(0..100_000))).await;
    assert!(taken <= 256, "{taken} items without a pause");
}

#[tokio::test(start_paused = true)]
async fn the_default_interval_sends_eleven_at_once_after_a_stall() {
    let mut beats = tokio::time::interval(Duration::from_millis(50));
    beats.tick().await;
    tokio::time::advance(Duration::from_millis(570)).await;
    let stalled_until = Instant::now();
    let mut at_once = 0;
    while stalled_until == Instant::now() {
        beats.tick().await;
        at_once += usize::from(stalled_until == Instant::now());
    }
    assert_eq!(at_once, 11);
}
