//! Tests of `streams/cancel`.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::{Router, body::Body, routing::get};
use futures::{FutureExt, Stream, StreamExt, stream};
use snippets::streams::cancel::{
    Outcome, Report, Stop, finish, in_background, observed, read_commands,
};
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::support::{RawClient, Server, within};

/// A stream that yields once and is then silent; the token is cancelled when the stream is dropped.
fn silent() -> (
    impl Stream<Item = &'static str> + Send + Unpin,
    CancellationToken,
) {
    struct Held<S>(S, #[expect(dead_code)] DropGuard);
    impl<S: Stream + Unpin> Stream for Held<S> {
        type Item = S::Item;
        fn poll_next(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<S::Item>> {
            self.0.poll_next_unpin(cx)
        }
    }
    let dropped = CancellationToken::new();
    let source = stream::iter(["first"]).chain(stream::pending());
    (Held(source, dropped.clone().drop_guard()), dropped)
}

/// A server whose one answer is `source`.
async fn serve_once(source: impl Stream<Item = &'static str> + Send + 'static) -> Server {
    let source = Arc::new(Mutex::new(Some(source)));
    let answer = move || async move {
        let source = source.lock().unwrap().take().unwrap();
        Body::from_stream(source.map(Ok::<_, Infallible>))
    };
    Server::start(Router::new().route("/", get(answer))).await
}

#[tokio::test]
async fn a_reader_that_leaves_drops_a_silent_source() {
    let dropped = Arc::new(Mutex::new(Vec::new()));
    let (plain, background) = (dropped.clone(), dropped.clone());
    let chunks = |source| StreamExt::map(source, Ok::<_, Infallible>);
    let app = Router::new()
        .route(
            "/plain",
            get(move || async move {
                let (source, token) = silent();
                plain.lock().unwrap().push(token);
                Body::from_stream(chunks(source.boxed()))
            }),
        )
        .route(
            "/background",
            get(move || async move {
                let (source, token) = silent();
                background.lock().unwrap().push(token);
                Body::from_stream(chunks(in_background(source, 4).boxed()))
            }),
        );
    let server = Server::start(app).await;
    for path in ["/plain", "/background"] {
        let mut client = RawClient::get(server.addr, path, &[]).await;
        client.read_until("first").await;
        let token = dropped.lock().unwrap().pop().unwrap();
        assert!(!token.is_cancelled());
        drop(client);
        within("the source to be dropped", token.cancelled()).await;
    }
}

#[tokio::test]
async fn dropping_a_reqwest_body_closes_the_connection_behind_it() {
    let (source, token) = silent();
    let upstream = serve_once(source).await;
    let mut body = reqwest::get(upstream.url("/"))
        .await
        .unwrap()
        .bytes_stream();
    assert_eq!(body.next().await.unwrap().unwrap(), "first");
    drop(body);
    within("the upstream to see it", token.cancelled()).await;
}

#[tokio::test]
async fn the_background_delivers_all_and_passes_a_panic_on() {
    assert!(
        in_background(stream::iter(0..100), 4)
            .collect::<Vec<_>>()
            .await
            .into_iter()
            .eq(0..100)
    );
    let source = stream::iter(0..3).inspect(|n| assert!(*n != 2, "the source panics"));
    let mut items = in_background(source, 8);
    assert_eq!((items.next().await, items.next().await), (Some(0), Some(1)));
    // An end here would look like a complete answer.
    assert!(
        std::panic::AssertUnwindSafe(items.next())
            .catch_unwind()
            .await
            .is_err()
    );
    assert_eq!(items.next().await, None);
}

fn reports() -> (Arc<Mutex<Vec<Report>>>, impl FnOnce(Report) + Unpin + Send) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let add = seen.clone();
    (seen, move |report| add.lock().unwrap().push(report))
}

#[tokio::test(start_paused = true)]
async fn every_stream_reports_once_how_it_ended() {
    let (seen, report) = reports();
    let mut items = observed(stream::iter(0..3), report);
    while items.next().await.is_some() {}
    assert_eq!(items.next().await, None, "fused");
    drop(items);
    let lasted = Duration::ZERO;
    assert_eq!(
        *seen.lock().unwrap(),
        [Report {
            outcome: Outcome::Completed,
            items: 3,
            lasted
        }]
    );

    let (seen, report) = reports();
    let mut items = observed(stream::iter(0..3), report);
    items.next().await;
    tokio::time::advance(Duration::from_secs(7)).await;
    drop(items);
    let lasted = Duration::from_secs(7);
    assert_eq!(
        *seen.lock().unwrap(),
        [Report {
            outcome: Outcome::Cancelled,
            items: 1,
            lasted
        }]
    );
}

#[tokio::test]
async fn finish_goes_on_when_its_caller_is_dropped() {
    let tracker = TaskTracker::new();
    let (go, wait) = oneshot::channel::<()>();
    let (done, saved) = oneshot::channel();
    let work = async move {
        wait.await.unwrap();
        done.send("saved").unwrap();
    };
    // The caller starts the work and is dropped at once, as a handler is whose client leaves.
    assert!(finish(&tracker, work).now_or_never().is_none());
    go.send(()).unwrap();
    assert_eq!(within("the work", saved).await, Ok("saved"));
    tracker.close();
    within("the tracker", tracker.wait()).await;
    assert_eq!(finish(&tracker, async { 7 }).await.unwrap(), 7);
}

/// Starts `read_commands` with an idle time of 10 s.
fn start() -> (
    tokio::io::DuplexStream,
    mpsc::UnboundedReceiver<String>,
    CancellationToken,
    tokio::task::JoinHandle<Stop>,
) {
    let (peer, ours) = tokio::io::duplex(64);
    let (ran, commands) = mpsc::unbounded_channel();
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    let task = tokio::spawn(async move {
        read_commands(ours, Duration::from_secs(10), &token, |line| {
            ran.send(line).unwrap()
        })
        .await
    });
    (peer, commands, shutdown, task)
}

#[tokio::test(start_paused = true)]
async fn half_a_line_survives_the_other_branches() {
    let (mut peer, mut commands, _shutdown, _task) = start();
    peer.write_all(b"one\ntw").await.unwrap();
    assert_eq!(commands.recv().await.unwrap(), "one");
    tokio::time::sleep(Duration::from_secs(9)).await;
    peer.write_all(b"o\n").await.unwrap();
    assert_eq!(commands.recv().await.unwrap(), "two");
}

#[tokio::test(start_paused = true)]
async fn the_idle_time_counts_from_the_last_line() {
    let (mut peer, mut commands, _shutdown, task) = start();
    let began = tokio::time::Instant::now();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(6)).await;
        peer.write_all(b"x\n").await.unwrap();
        commands.recv().await.unwrap();
    }
    assert_eq!(task.await.unwrap(), Stop::Idle);
    assert_eq!(began.elapsed().as_secs(), 40);
}

#[tokio::test(start_paused = true)]
async fn the_loop_ends_with_its_peer_and_with_the_service() {
    let (peer, _commands, _shutdown, task) = start();
    drop(peer);
    assert_eq!(task.await.unwrap(), Stop::Peer);

    let (mut peer, _commands, _shutdown, task) = start();
    let flood = async { while peer.write_all(&[b'x'; 1000]).await.is_ok() {} };
    assert_eq!(
        tokio::join!(task, flood).0.unwrap(),
        Stop::Peer,
        "a line without end"
    );

    let (mut peer, mut commands, shutdown, task) = start();
    let busy = tokio::spawn(async move { while peer.write_all(b"x\n").await.is_ok() {} });
    commands.recv().await.unwrap();
    shutdown.cancel();
    assert_eq!(
        within("the shutdown beside a busy peer", task)
            .await
            .unwrap(),
        Stop::Shutdown
    );
    busy.await.unwrap();
}

#[tokio::test]
async fn a_client_that_closes_its_sending_half_counts_as_gone() {
    let (source, token) = silent();
    let server = serve_once(source).await;
    let mut client = RawClient::get(server.addr, "/", &[]).await;
    client.read_until("first").await;
    client.socket.shutdown().await.unwrap();
    within("the source to be dropped", token.cancelled()).await;
}

#[tokio::test]
async fn blocking_work_goes_on_when_its_handle_is_dropped() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (began, running) = oneshot::channel();
    let (done, ended) = oneshot::channel();
    let work = tokio::task::spawn_blocking(move || {
        began.send(()).unwrap();
        wait.recv().unwrap();
        done.send(()).unwrap();
    });
    running.await.unwrap();
    work.abort();
    drop(work);
    go.send(()).unwrap();
    within("the closure to end", ended).await.unwrap();
}
