use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::routing::get;
use futures::{StreamExt, stream};
use snippets::sse::jobs::{self, Jobs};
use snippets::sse::lifecycle::{Drained, WorkError, produce, serve_until};
use snippets::sse::message::Message;
use snippets::sse::serve::{Config, Streams};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::ServiceExt;

use crate::support::raw::End;
use crate::support::{RawClient, Server, Transcript, eventually, within};

fn exact() -> Config {
    Config {
        retry_min: Duration::from_millis(2000),
        retry_spread: Duration::ZERO,
        ..Config::default()
    }
}

fn message(name: &str) -> Message {
    Message::new(name, &()).unwrap()
}

/// Serves `jobs` with `drain`, opens one stream, and returns what a shutdown does to both.
async fn shut_down(app: impl FnOnce(Streams) -> Router, drain: Duration) -> (RawClient, Drained) {
    let shutdown = CancellationToken::new();
    let streams = Streams::new(exact(), shutdown.clone());
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let server = tokio::spawn(serve_until(
        listener,
        app(streams.clone()),
        shutdown.clone(),
        drain,
    ));
    let mut client = RawClient::get(addr, "/jobs/1/events", &[]).await;
    client.read_until("retry").await;
    shutdown.cancel();
    assert!(
        streams.admit().is_err(),
        "no new stream after the shutdown began"
    );
    let drained = within("the server to end", server).await.unwrap().unwrap();
    (client, drained)
}

#[tokio::test]
async fn a_shutdown_ends_every_stream_in_band() {
    let jobs = Jobs::default();
    let _worker = jobs.insert(1);
    let hour = Duration::from_secs(3600);
    let (mut client, drained) = shut_down(|streams| jobs::app(jobs, streams), hour).await;
    assert_eq!(drained, Drained::Complete);
    assert_eq!(client.read_to_end().await, End::Complete);
    let restart = "event: restart\nretry: 2000\ndata: {}\n\n";
    assert!(client.body().ends_with(restart), "{}", client.body());
}

#[tokio::test]
async fn a_stream_that_does_not_listen_ends_with_the_deadline() {
    let deaf = || async {
        let quiet = stream::once(async { Ok(axum::body::Bytes::from("retry: 1\n\n")) });
        Body::from_stream(quiet.chain(stream::pending::<Result<_, Infallible>>()))
    };
    let app = Router::new().route("/jobs/1/events", get(deaf));
    let (_client, drained) = shut_down(|_| app, Duration::from_millis(50)).await;
    assert_eq!(drained, Drained::DeadlinePassed);
}

#[tokio::test]
async fn transcript() {
    let jobs = Jobs::default();
    let _worker = jobs.insert(1);
    let hour = Duration::from_secs(3600);
    let (mut client, _) = shut_down(|streams| jobs::app(jobs, streams), hour).await;
    client.read_to_end().await;
    let mut transcript = Transcript::new();
    transcript
        .request("GET /jobs/1/events HTTP/1.1\nhost: localhost")
        .response(&client);
    insta::assert_snapshot!("sse_lifecycle", transcript.finish());
}

#[derive(Clone, Copy, Debug)]
enum Leave {
    Fin,
    Reset,
    HalfClose,
}

/// A stream that is quiet, and a client that goes in each of the three ways.
#[tokio::test]
async fn a_client_that_leaves_a_quiet_stream_is_noticed() {
    for leave in [Leave::Fin, Leave::Reset, Leave::HalfClose] {
        let jobs = Jobs::default();
        let _worker = jobs.insert(1);
        let streams = Streams::new(Config::default(), CancellationToken::new());
        let server = Server::start(jobs::app(jobs, streams.clone())).await;
        let mut client = RawClient::get(server.addr, "/jobs/1/events", &[]).await;
        client.read_until("percent").await;
        assert_eq!(streams.open(), 1);
        let still_reading = match leave {
            Leave::Fin => {
                drop(client);
                None
            }
            Leave::Reset => {
                client.socket.set_zero_linger().unwrap();
                drop(client);
                None
            }
            // Only the client's sending side: it would still read. hyper takes it for a disconnect.
            Leave::HalfClose => {
                client.socket.shutdown().await.unwrap();
                Some(client)
            }
        };
        eventually(&format!("{leave:?} to be noticed"), || streams.open() == 0).await;
        drop(still_reading);
    }
}

/// Work that waits for an upstream which says nothing, and tells when it is dropped.
async fn silent_upstream(_guard: DropGuard) -> Result<(), Infallible> {
    std::future::pending().await
}

#[tokio::test]
async fn the_work_is_cancelled_while_it_waits_for_a_silent_upstream() {
    let cancelled = CancellationToken::new();
    let streams = Streams::new(Config::default(), CancellationToken::new());
    let handler = {
        let cancelled = cancelled.clone();
        async move || {
            let guard = cancelled.clone().drop_guard();
            let work = produce(8, |messages| async move {
                let _ = messages.send(message("thinking")).await;
                silent_upstream(guard).await
            });
            streams.admit().map(|slot| slot.respond(work))
        }
    };
    let server = Server::start(Router::new().route("/", get(handler))).await;
    let mut client = RawClient::get(server.addr, "/", &[]).await;
    client.read_until("event: thinking").await;
    assert!(!cancelled.is_cancelled());
    drop(client);
    within("the work to be cancelled", cancelled.cancelled()).await;
}

#[tokio::test]
async fn failures_of_the_work_are_its_last_item() {
    let failing = produce(8, async |messages| {
        let _ = messages.send(message("a")).await;
        Err("no quota")
    });
    let items: Vec<_> = within("the items", failing.collect()).await;
    assert!(matches!(&items[0], Ok(m) if m.name() == "a"));
    assert!(matches!(&items[1], Err(WorkError::Failed("no quota"))));
    assert_eq!(items.len(), 2);

    let panicking = produce(8, async |messages| -> Result<(), Infallible> {
        let _ = messages.send(message("a")).await;
        panic!("a bug")
    });
    let items: Vec<_> = within("the items", panicking.collect()).await;
    assert!(matches!(items[..], [Ok(_), Err(WorkError::Panicked)]));

    let fine = produce(8, async |messages| -> Result<(), Infallible> {
        let _ = messages.send(message("a").last()).await;
        Ok(())
    });
    let items: Vec<_> = within("the items", fine.collect()).await;
    assert!(matches!(&items[..], [Ok(m)] if m.is_last()));
}

/// The work runs no further ahead of the client than the capacity.
#[tokio::test]
async fn a_slow_client_slows_the_work() {
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = sent.clone();
    let work = produce(4, async move |messages| -> Result<(), Infallible> {
        while messages.send(message("n")).await.is_ok() {
            counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
        Ok(())
    });
    let sent = || sent.load(std::sync::atomic::Ordering::SeqCst);
    eventually("the queue to be full", || sent() == 4).await;
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    assert_eq!(sent(), 4);
    let mut work = Box::pin(work);
    work.next().await;
    eventually("one more", || sent() == 5).await;
}

/// 400 clients of one process that restarts, as EventSource behaves: each waits the `retry` it was
/// given. Virtual time, so that the machine's speed does not matter.
async fn reconnects(config: Config) -> BTreeMap<u128, usize> {
    const CLIENTS: usize = 400;
    let shutdown = CancellationToken::new();
    let jobs = Jobs::default();
    let _worker = jobs.insert(1);
    let app = jobs::app(jobs, Streams::new(config, shutdown.clone()));
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let request = Request::get("/jobs/1/events").body(Body::empty()).unwrap();
        clients.push(app.clone().oneshot(request).await.unwrap());
    }
    shutdown.cancel();
    let restarted = tokio::time::Instant::now();
    let waits = clients.into_iter().map(async |client| {
        let body = axum::body::to_bytes(client.into_body(), 10_000)
            .await
            .unwrap();
        let body = String::from_utf8(body.to_vec()).unwrap();
        let retry = body
            .lines()
            .filter_map(|line| line.strip_prefix("retry: "))
            .last();
        tokio::time::sleep(Duration::from_millis(retry.unwrap().parse().unwrap())).await;
        restarted.elapsed().as_millis() / 100
    });
    let mut buckets = BTreeMap::new();
    for bucket in futures::future::join_all(waits).await {
        *buckets.entry(bucket).or_default() += 1;
    }
    buckets
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_the_clients_come_back_one_after_the_other() {
    let spread = reconnects(Config::default()).await;
    // 400 over 4 s: 10 in each 100 ms on average. 40 would be ten standard deviations.
    let busiest = spread.values().max().unwrap();
    assert!(*busiest < 40, "{spread:?}");
    // Without the spread, all of them in the same moment.
    let together = reconnects(exact()).await;
    assert_eq!(together.into_iter().collect::<Vec<_>>(), [(20, 400)]);
}

#[tokio::test]
async fn connects_and_disconnects_leave_nothing_behind() {
    let jobs = Jobs::default();
    let _worker = jobs.insert(1);
    let streams = Streams::new(
        Config {
            max_streams: 50,
            ..Config::default()
        },
        CancellationToken::new(),
    );
    let server = Server::start(jobs::app(jobs, streams.clone())).await;
    for _ in 0..4 {
        let open = stream::iter(0..50).then(async |_| {
            let mut client = RawClient::get(server.addr, "/jobs/1/events", &[]).await;
            client.read_until("percent").await;
            client
        });
        let open: Vec<_> = open.collect().await;
        assert_eq!(streams.open(), 50);
        drop(open);
        eventually("all places to be free", || streams.open() == 0).await;
    }
}
