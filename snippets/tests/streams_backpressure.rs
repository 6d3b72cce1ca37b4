//! Tests of `streams/backpressure`.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use axum::{Router, body::Body, routing::get};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use snippets::streams::backpressure::{Closed, Ended, ahead, byte_channel, pages, pump};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::support::{Gauge, Server, eventually, settled, stalled_get, within};

/// What hyper 1 holds for one response (about 408 KiB), and the chunks of 64 KiB that are on their way into and out of it.
const HYPER: usize = 640 * 1024;

/// Ends when every other task waits for something (the clock is paused: it moves only then).
async fn all_idle() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn a_page_is_fetched_when_it_is_asked_for() {
    let fetched = Arc::new(AtomicUsize::new(0));
    let count = fetched.clone();
    let rows = pages(0_u32, move |cursor| {
        count.fetch_add(1, SeqCst);
        async move { Ok::<_, Infallible>((cursor * 10, (cursor < 3).then_some(cursor + 1))) }
    });
    let mut rows = std::pin::pin!(rows);
    assert_eq!(fetched.load(SeqCst), 0);
    assert_eq!(rows.try_next().await, Ok(Some(0)));
    assert_eq!(fetched.load(SeqCst), 1);
    assert_eq!(rows.try_collect::<Vec<_>>().await, Ok(vec![10, 20, 30]));
    assert_eq!(fetched.load(SeqCst), 4);
}

#[tokio::test]
async fn the_first_error_ends_the_pages() {
    let rows = pages(0, |cursor| async move {
        if cursor == 1 {
            Err("down")
        } else {
            Ok((cursor, Some(cursor + 1)))
        }
    });
    assert_eq!(rows.collect::<Vec<_>>().await, [Ok(0), Err("down")]);
}

#[tokio::test]
async fn a_stalled_reader_stops_the_pages() {
    let gauge = Gauge::default();
    let made = gauge.clone();
    let app = Router::new().route(
        "/pages",
        get(|| async move {
            Body::from_stream(pages(0, move |page| {
                let chunk = gauge.chunk(64 * 1024);
                async move { Ok::<_, Infallible>((chunk, (page < 1023).then_some(page + 1))) }
            }))
        }),
    );
    let server = Server::start(app).await;
    let _reader = stalled_get(server.addr, "/pages").await;
    let alive = settled("the pages to stop", 1, || made.alive()).await;
    assert!(
        alive <= HYPER,
        "{alive} bytes in memory of one stalled reader"
    );
    assert!(
        made.made() < 32 << 20,
        "{} bytes of 64 MiB were made",
        made.made()
    );
}

#[tokio::test(start_paused = true)]
async fn pump_takes_no_item_that_has_no_room() {
    let taken = Arc::new(AtomicUsize::new(0));
    let count = taken.clone();
    let source = stream::iter(0..100).inspect(move |_| {
        count.fetch_add(1, SeqCst);
    });
    let (tx, mut rx) = mpsc::channel(4);
    let task = tokio::spawn(pump(source, tx));
    all_idle().await;
    assert_eq!(taken.load(SeqCst), 4, "as many as the channel holds");
    rx.recv().await.unwrap();
    all_idle().await;
    assert_eq!(taken.load(SeqCst), 5, "one more for each one read");
    // Cancelled now, everything that was taken is still delivered.
    task.abort();
    let mut rest = Vec::new();
    while let Some(item) = rx.recv().await {
        rest.push(item);
    }
    assert_eq!(rest, [1, 2, 3, 4]);
}

#[tokio::test]
async fn pump_ends_with_its_receiver_while_the_source_is_silent() {
    let (tx, rx) = mpsc::channel::<u8>(1);
    let task = tokio::spawn(pump(stream::pending(), tx));
    drop(rx);
    assert_eq!(within("pump", task).await.unwrap(), Ended::Consumer);
}

#[tokio::test]
async fn what_is_queued_arrives_after_the_sender_is_gone() {
    let (tx, mut rx) = mpsc::channel(4);
    assert_eq!(
        pump(stream::iter(["last", "words"]), tx).await,
        Ended::Source
    );
    assert_eq!(rx.recv().await, Some("last"));
    assert_eq!(rx.recv().await, Some("words"));
    assert_eq!(rx.recv().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_byte_channel_is_bounded_in_bytes() {
    let gauge = Gauge::default();
    let (tx, mut chunks) = byte_channel(1000, 1000);
    let made = gauge.clone();
    tokio::spawn(async move {
        for _ in 0..100 {
            tx.send(gauge.chunk(300)).await.unwrap();
        }
    });
    all_idle().await;
    assert_eq!(
        made.alive(),
        1200,
        "three in the channel and the one that waits"
    );
    let mut read = 0;
    while let Some(chunk) = chunks.next().await {
        read += chunk.len();
        assert!(made.alive() <= 1500);
    }
    assert_eq!((read, made.alive()), (30_000, 0));
}

#[tokio::test(start_paused = true)]
async fn a_chunk_above_the_limit_passes_alone() {
    let (tx, mut chunks) = byte_channel(8, 100);
    tokio::spawn(async move {
        tx.send(Bytes::from(vec![0; 60])).await.unwrap();
        tx.send(Bytes::from(vec![0; 5000])).await.unwrap();
        tx.send(Bytes::new()).await.unwrap();
    });
    assert_eq!(chunks.next().await.map(|chunk| chunk.len()), Some(60));
    assert_eq!(chunks.next().await.map(|chunk| chunk.len()), Some(5000));
    assert_eq!(chunks.next().await.map(|chunk| chunk.len()), Some(0));
    assert_eq!(chunks.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_byte_sender_that_waits_learns_that_the_reader_left() {
    let (tx, chunks) = byte_channel(8, 100);
    tx.send(Bytes::from(vec![0; 100])).await.unwrap();
    let waiting = tokio::spawn(async move { tx.send(Bytes::from(vec![0; 100])).await });
    all_idle().await;
    assert!(!waiting.is_finished());
    drop(chunks);
    assert_eq!(waiting.await.unwrap(), Err(Closed));
}

#[tokio::test]
async fn a_stalled_reader_costs_the_byte_channel_its_limit() {
    const LIMIT: u32 = 256 * 1024;
    let gauge = Gauge::default();
    let made = gauge.clone();
    let app = Router::new().route(
        "/chunks",
        get(|| async move {
            let (tx, chunks) = byte_channel(1024, LIMIT);
            tokio::spawn(async move {
                for _ in 0..1024 {
                    if tx.send(gauge.chunk(64 * 1024)).await.is_err() {
                        break;
                    }
                }
            });
            Body::from_stream(chunks.map(Ok::<_, Infallible>))
        }),
    );
    let server = Server::start(app).await;
    let reader = stalled_get(server.addr, "/chunks").await;
    let alive = settled("the producer to stop", LIMIT as usize, || made.alive()).await;
    assert!(alive <= LIMIT as usize + HYPER, "{alive} bytes");
    drop(reader);
    eventually("the producer to learn that the reader left", || {
        made.alive() == 0
    })
    .await;
    assert!(
        made.made() < 32 << 20,
        "{} bytes of 64 MiB were made",
        made.made()
    );
}

#[tokio::test(start_paused = true)]
async fn ahead_runs_its_calls_while_the_reader_is_busy() {
    let began = Instant::now();
    let calls = stream::iter([100_u64, 100, 100]).map(|ms| async move {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        Instant::now()
    });
    let mut done = std::pin::pin!(ahead(calls, 2));
    let mut lasted = Vec::new();
    while let Some(ended) = done.next().await {
        lasted.push((ended.unwrap() - began).as_millis());
        tokio::time::sleep(Duration::from_millis(400)).await; // the reader is busy
    }
    // Both that were running went on; the third began when the reader came back, at 500.
    assert_eq!(lasted, [100, 100, 600]);
}

#[tokio::test]
async fn ahead_is_bounded_keeps_the_order_and_reports_a_panic() {
    let running = Arc::new(AtomicUsize::new(0));
    let calls = stream::iter(0..20).map(|n| {
        let running = running.clone();
        async move {
            let at_once = running.fetch_add(1, SeqCst) + 1;
            tokio::task::yield_now().await;
            running.fetch_sub(1, SeqCst);
            assert!(n != 19, "the last one panics");
            (n, at_once)
        }
    });
    let all: Vec<_> = ahead(calls, 3).collect().await;
    assert!(all[19].as_ref().is_err_and(|error| error.is_panic()));
    let values: Vec<_> = all.into_iter().flatten().collect();
    assert!(values.iter().map(|(n, _)| *n).eq(0..19));
    assert!(values.iter().all(|(_, at_once)| *at_once <= 3));
}

#[tokio::test(start_paused = true)]
async fn ahead_dropped_aborts_its_calls() {
    let finished = Arc::new(AtomicUsize::new(0));
    let count = finished.clone();
    let calls = stream::iter(0..2).map(move |_| {
        let count = count.clone();
        async move {
            tokio::time::sleep(Duration::from_secs(5)).await;
            count.fetch_add(1, SeqCst);
        }
    });
    let mut done = Box::pin(ahead(calls, 2));
    assert!(
        tokio::time::timeout(Duration::from_secs(1), done.next())
            .await
            .is_err()
    );
    drop(done);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(finished.load(SeqCst), 0);
}
