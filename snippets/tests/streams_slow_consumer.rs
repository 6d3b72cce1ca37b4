//! Tests of `streams/slow_consumer` and `connections/send_deadline`.

use std::convert::Infallible;
use std::io::ErrorKind;
use std::time::Duration;

use axum::{Router, body::Body, routing::get};
use futures::{StreamExt, stream};
use snippets::connections::send_deadline::{SendDeadline, WithSendDeadline};
use snippets::streams::slow_consumer::{Undelivered, send_within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::support::{stalled_get, within};

const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_peer_that_reads_nothing_loses_its_connection() {
    let (app, ended) = endless();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let limit = Duration::from_millis(200);
    let server = tokio::spawn(axum::serve(WithSendDeadline { listener, limit }, app).into_future());
    let mut reader = stalled_get(addr, "/").await;
    within("the response to be dropped", ended.cancelled()).await;
    // The connection is closed too: what the kernel holds can still be read, and then it ends.
    within("the end", async {
        let mut buffer = vec![0; 64 * 1024];
        while reader.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
    })
    .await;
    server.abort();
}

#[tokio::test(start_paused = true)]
async fn the_limit_counts_from_the_last_byte_accepted() {
    let (ours, mut peer) = tokio::io::duplex(10);
    let mut ours = SendDeadline::new(ours, LIMIT);
    let writer = tokio::spawn(async move {
        let error = ours.write_all(&[0; 100]).await.unwrap_err();
        (error.kind(), Instant::now())
    });
    let began = Instant::now();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(25)).await;
        peer.read_u8().await.unwrap();
    }
    let (kind, at) = writer.await.unwrap();
    assert_eq!(
        (kind, (at - began).as_secs()),
        (ErrorKind::TimedOut, 5 * 25 + 30)
    );
}

#[tokio::test(start_paused = true)]
async fn a_connection_with_nothing_to_send_is_left_alone() {
    let (ours, mut peer) = tokio::io::duplex(10);
    let mut ours = SendDeadline::new(ours, LIMIT);
    ours.write_all(b"0123456789").await.unwrap();
    ours.flush().await.unwrap();
    let echo = tokio::spawn(async move {
        let mut byte = [0];
        ours.read_exact(&mut byte).await.unwrap();
        ours.write_all(&byte).await.unwrap();
    });
    tokio::time::sleep(LIMIT * 20).await;
    peer.write_all(b"!").await.unwrap();
    let mut all = [0; 11];
    peer.read_exact(&mut all).await.unwrap();
    assert_eq!(&all, b"0123456789!");
    echo.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stall_that_ended_does_not_count_for_the_next_one() {
    let (ours, mut peer) = tokio::io::duplex(10);
    let mut ours = SendDeadline::new(ours, LIMIT);
    let mut buffer = [0; 15];
    for _ in 0..3 {
        let write = ours.write_all(&[0; 15]);
        let read = async {
            tokio::time::sleep(Duration::from_secs(20)).await;
            peer.read_exact(&mut buffer).await
        };
        tokio::try_join!(write, async { read.await.map(drop) }).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_without_room_is_given_up_after_the_limit() {
    let (tx, mut rx) = mpsc::channel(1);
    let began = Instant::now();
    assert_eq!(send_within(&tx, 1, LIMIT).await, Ok(()));
    assert_eq!(send_within(&tx, 2, LIMIT).await, Err(Undelivered::Slow));
    assert_eq!(began.elapsed(), LIMIT);
    assert_eq!(
        send_within(&tx, 3, Duration::ZERO).await,
        Err(Undelivered::Slow)
    );
    assert_eq!(began.elapsed().as_secs(), 30);
    assert_eq!(rx.recv().await, Some(1), "what was queued is still there");
    assert_eq!(
        send_within(&tx, 4, Duration::ZERO).await,
        Ok(()),
        "with room, a limit of zero delivers"
    );
    drop(rx);
    assert_eq!(send_within(&tx, 5, LIMIT).await, Err(Undelivered::Gone));
}

#[tokio::test]
async fn one_stalled_reader_does_not_slow_the_others() {
    let mut readers = Vec::new();
    let mut receivers = Vec::new();
    for _ in 0..10 {
        let (tx, rx) = mpsc::channel(8);
        readers.push(tx);
        receivers.push(rx);
    }
    let stalled = receivers.pop().unwrap();
    let mut fast = Vec::new();
    for rx in receivers {
        let items = tokio_stream::wrappers::ReceiverStream::new(rx);
        fast.push(tokio::spawn(items.collect::<Vec<_>>()));
    }
    let mut lost = 0;
    for item in 0..1000 {
        let mut kept = Vec::new();
        for reader in readers {
            match send_within(&reader, item, Duration::ZERO).await {
                Ok(()) => kept.push(reader),
                Err(_) => lost += 1,
            }
        }
        readers = kept;
        tokio::task::yield_now().await; // the others read
    }
    drop(readers);
    assert_eq!(
        (lost, stalled.len()),
        (1, 8),
        "given up with its queue full, at its bound"
    );
    for task in fast {
        assert!(task.await.unwrap().into_iter().eq(0..1000));
    }
}

/// An endless response and a token that is cancelled when it is dropped.
fn endless() -> (Router, CancellationToken) {
    let ended = CancellationToken::new();
    let guard = std::sync::Arc::new(std::sync::Mutex::new(Some(ended.clone().drop_guard())));
    let handler = get(move || async move {
        let held: Option<DropGuard> = guard.lock().unwrap().take();
        Body::from_stream(stream::repeat_with(move || {
            let _ = &held;
            Ok::<_, Infallible>(vec![b'x'; 64 * 1024])
        }))
    });
    (Router::new().route("/", handler), ended)
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn tcp_user_timeout_does_the_same_in_the_kernel() {
    use axum::serve::ListenerExt;
    let (app, ended) = endless();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let listener = listener.tap_io(|socket| {
        let limit = Some(Duration::from_millis(300));
        socket2::SockRef::from(&*socket)
            .set_tcp_user_timeout(limit)
            .unwrap();
    });
    let server = tokio::spawn(axum::serve(listener, app).into_future());
    let _reader = stalled_get(addr, "/").await;
    within("the kernel to give the peer up", ended.cancelled()).await;
    server.abort();
}

/// The limit of this pattern: what stalls here is not the connection.
#[tokio::test]
async fn a_stalled_stream_of_a_live_http2_connection_is_not_noticed() {
    let (app, ended) = endless();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let limit = Duration::from_millis(50);
    let server = tokio::spawn(axum::serve(WithSendDeadline { listener, limit }, app).into_future());
    let client = reqwest::Client::builder()
        .http2_prior_knowledge()
        .build()
        .unwrap();
    let unread = client.get(&url).send().await.unwrap();
    // Two hundred round trips on the same connection, 5 ms apart: the stalled stream outlives twenty limits.
    for _ in 0..200 {
        let head = client.head(&url).send().await.unwrap();
        assert_eq!(head.status(), 200);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!ended.is_cancelled());
    drop(unread);
    within("the stream to be reset by its reader", ended.cancelled()).await;
    server.abort();
}
