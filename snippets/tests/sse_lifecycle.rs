use std::collections::BTreeMap;
use std::convert::Infallible;
use std::process::Stdio;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::routing::get;
use futures::{StreamExt, stream};
use http_body_util::BodyExt;
use snippets::connections::listen::{self, serve};
use snippets::sse::event::Event;
use snippets::sse::jobs::{self, Jobs, Progress};
use snippets::sse::lifecycle::{WorkError, produce};
use snippets::sse::streams::{Config, Produced, Streams};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::ServiceExt;

use crate::support::raw::End;
use crate::support::transcript::sse_filters;
use crate::support::{RawClient, Server, Transcript, eventually, within};

/// All at once, so that no test waits.
fn at_once() -> Config {
    Config {
        drain_spread: Duration::ZERO,
        ..Config::default()
    }
}

fn draining(drain: Duration) -> listen::Config {
    listen::Config {
        drain,
        ..listen::Config::default()
    }
}

const HOUR: Duration = Duration::from_secs(3600);
const RESTART: &str = "event: restart\ndata: {}\n\n";

fn event(name: &str) -> Event {
    Event::new(name, &()).unwrap()
}

/// Serves `app` with `drain`, opens one stream, and returns what a shutdown does to it, and how many connections it leaves.
async fn shut_down(app: impl FnOnce(Streams) -> Router, drain: Duration) -> (RawClient, usize) {
    let shutdown = CancellationToken::new();
    let streams = Streams::start(at_once(), shutdown.clone());
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let app = app(streams.clone());
    let server = tokio::spawn(serve(listener, app, draining(drain), shutdown.clone()));
    let mut client = RawClient::get(addr, "/jobs/1/events", &[]).await;
    client.read_until("retry").await;
    shutdown.cancel();
    assert!(
        streams.admit().is_err(),
        "no new stream after the shutdown began"
    );
    let left = within("the server to end", server).await.unwrap();
    (client, left)
}

#[tokio::test]
async fn a_shutdown_ends_every_stream_in_band() {
    let jobs = Jobs::default();
    let _worker = jobs.insert(1).unwrap();
    let (mut client, left) = shut_down(|streams| jobs::app(jobs, streams), HOUR).await;
    assert_eq!(left, 0);
    assert_eq!(client.read_to_end().await, End::Complete);
    assert!(client.body().ends_with(RESTART), "{}", client.body());
}

/// The same under plain `axum::serve`, whose graceful shutdown waits for the streams: `Streams` ends them.
#[tokio::test]
async fn a_shutdown_under_plain_axum() {
    let shutdown = CancellationToken::new();
    let jobs = Jobs::default();
    let _worker = jobs.insert(1).unwrap();
    let app = jobs::app(jobs, Streams::start(at_once(), shutdown.clone()));
    let mut server = Server::plain(app).await;
    let mut client = RawClient::get(server.addr, "/jobs/1/events", &[]).await;
    client.read_until("retry").await;
    shutdown.cancel();
    within("the server to end", server.begin_shutdown())
        .await
        .unwrap();
    assert_eq!(client.read_to_end().await, End::Complete);
    assert!(client.body().ends_with(RESTART), "{}", client.body());
}

/// Virtual time, and bodies without sockets: 1,000 streams end evenly within the spread, none is forgotten.
#[tokio::test(start_paused = true)]
async fn a_shutdown_is_spread() {
    let shutdown = CancellationToken::new();
    let streams = Streams::start(Config::default(), shutdown.clone());
    let bodies: Vec<_> = (0..1_000)
        .map(|n| {
            // Every second one is never without an event.
            let events = match n % 2 {
                0 => stream::pending().left_stream(),
                _ => stream::repeat_with(|| Ok::<_, Infallible>(event("busy"))).right_stream(),
            };
            streams
                .admit()
                .unwrap()
                .respond(Produced::new(events))
                .into_body()
        })
        .collect();
    let ends = bodies.into_iter().map(async |mut body| {
        let begun = tokio::time::Instant::now();
        let mut last = Default::default();
        while let Some(Ok(frame)) = body.frame().await {
            last = frame.into_data().unwrap();
            // A socket: a busy stream does not run in no time.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(last.ends_with(RESTART.as_bytes()), "{last:?}"); // after what was ready
        begun.elapsed().as_millis() / 1000
    });
    shutdown.cancel();
    let mut seconds = BTreeMap::new();
    for second in futures::future::join_all(ends).await {
        *seconds.entry(second).or_insert(0) += 1;
    }
    for second in 0..5 {
        let ended = seconds.get(&second).copied().unwrap_or(0);
        assert!((150..=250).contains(&ended), "{seconds:?}");
    }
    assert_eq!(streams.drained(HOUR).await, 0);
}

/// A connection without a request has nothing to finish.
#[tokio::test]
async fn idle_connections_end_with_the_shutdown() {
    let stop = CancellationToken::new();
    let jobs = Jobs::default();
    let app = jobs::app(jobs, Streams::start(at_once(), stop.clone()));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let config = listen::Config {
        head: HOUR,
        ..draining(HOUR)
    };
    let server = tokio::spawn(serve(listener, app, config, stop.clone()));
    let mut fresh = RawClient::connect(addr).await;
    let mut used = RawClient::get(addr, "/jobs/1/events", &[]).await;
    used.read_head().await;
    assert_eq!(used.status(), 404);
    stop.cancel();
    assert_eq!(within("the server", server).await.unwrap(), 0);
    assert!(!fresh.read_some().await && !used.read_some().await);
}

/// One HTTP/2 connection with three streams.
#[tokio::test]
async fn a_shutdown_ends_every_stream_of_an_http2_connection() {
    let shutdown = CancellationToken::new();
    let jobs = Jobs::default();
    let _worker = jobs.insert(1).unwrap();
    let app = jobs::app(jobs, Streams::start(at_once(), shutdown.clone()));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}/jobs/1/events", listener.local_addr().unwrap());
    let server = tokio::spawn(serve(listener, app, draining(HOUR), shutdown.clone()));
    let client = reqwest::Client::builder()
        .http2_prior_knowledge()
        .build()
        .unwrap();
    let mut open = Vec::new();
    for _ in 0..3 {
        let response = client.get(&url).send().await.unwrap();
        assert_eq!(response.version(), reqwest::Version::HTTP_2);
        open.push(response);
    }
    shutdown.cancel();
    for response in open {
        let body = within("the end of a stream", response.text())
            .await
            .unwrap();
        assert!(body.ends_with(RESTART), "{body}");
    }
    drop(client);
    let left = within("the server to end", server).await.unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_stream_that_does_not_listen_ends_with_the_deadline() {
    let deaf = || async {
        let quiet = stream::once(async { Ok(axum::body::Bytes::from("retry: 1\n\n")) });
        Body::from_stream(quiet.chain(stream::pending::<Result<_, Infallible>>()))
    };
    let app = Router::new().route("/jobs/1/events", get(deaf));
    let (_client, left) = shut_down(|_| app, Duration::from_millis(50)).await;
    assert_eq!(left, 1, "the connection that is left ends with the runtime");
}

#[tokio::test]
async fn transcript() {
    let jobs = Jobs::default();
    let _worker = jobs.insert(1).unwrap();
    let (mut client, _) = shut_down(|streams| jobs::app(jobs, streams), HOUR).await;
    client.read_to_end().await;
    let mut transcript = Transcript::new();
    transcript
        .request("GET /jobs/1/events HTTP/1.1\nhost: localhost")
        .response(&client);
    insta::with_settings!({filters => sse_filters()}, {
        insta::assert_snapshot!("sse_lifecycle", transcript.finish());
    });
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
        let _worker = jobs.insert(1).unwrap();
        let streams = Streams::start(Config::default(), CancellationToken::new());
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
        if let Some(mut client) = still_reading {
            assert_ne!(client.read_to_end().await, End::Complete);
        }
    }
}

/// Before the response there is no stream: the handler itself is dropped where it waits.
#[tokio::test]
async fn a_handler_is_dropped_with_its_client() {
    let begun = CancellationToken::new();
    let dropped = CancellationToken::new();
    let handler = {
        let (begun, dropped) = (begun.clone(), dropped.clone());
        async move || {
            let _dropped = dropped.drop_guard();
            begun.cancel();
            std::future::pending::<()>().await
        }
    };
    let server = Server::start(Router::new().route("/", get(handler))).await;
    let client = RawClient::get(server.addr, "/", &[]).await;
    within("the handler to begin", begun.cancelled()).await;
    assert!(!dropped.is_cancelled());
    drop(client);
    within("the handler to be dropped", dropped.cancelled()).await;
}

/// Work that waits for an upstream which says nothing, and tells when it is dropped.
async fn silent_upstream(_guard: DropGuard) -> Result<(), Infallible> {
    std::future::pending().await
}

#[tokio::test]
async fn the_work_is_cancelled_while_it_waits_for_a_silent_upstream() {
    let cancelled = CancellationToken::new();
    let streams = Streams::start(Config::default(), CancellationToken::new());
    let handler = {
        let cancelled = cancelled.clone();
        async move || {
            let guard = cancelled.clone().drop_guard();
            let work = produce(8, |messages| async move {
                let _ = messages.send(event("thinking")).await;
                silent_upstream(guard).await
            });
            streams
                .admit()
                .map(|slot| slot.respond(Produced::new(work)))
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
        let _ = messages.send(event("a")).await;
        Err("no quota")
    });
    let items: Vec<_> = within("the items", failing.collect()).await;
    assert!(matches!(&items[0], Ok(m) if m.name() == "a"));
    assert!(matches!(&items[1], Err(WorkError::Failed("no quota"))));
    assert_eq!(items.len(), 2);

    let panicking = produce(8, async |messages| -> Result<(), Infallible> {
        let _ = messages.send(event("a")).await;
        panic!("a bug")
    });
    let items: Vec<_> = within("the items", panicking.collect()).await;
    assert!(matches!(items[..], [Ok(_), Err(WorkError::Panicked)]));

    let fine = produce(8, async |messages| -> Result<(), Infallible> {
        let _ = messages.send(event("a").last()).await;
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
        while messages.send(event("n")).await.is_ok() {
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
    let _worker = jobs.insert(1).unwrap();
    let app = jobs::app(jobs, Streams::start(config, shutdown.clone()));
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
            .next_back();
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
    // 400 over 3 s even if all end at once: 14 in each 100 ms on average. 45 would be eight standard deviations.
    for config in [Config::default(), at_once()] {
        let spread = reconnects(config).await;
        let busiest = spread.values().max().unwrap();
        assert!(*busiest < 45, "{spread:?}");
    }
}

#[tokio::test]
async fn connects_and_disconnects_leave_nothing_behind() {
    let jobs = Jobs::default();
    let _worker = jobs.insert(1).unwrap();
    let streams = Streams::start(
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

/// The server of the next test, in a process of its own: its file descriptors are limited. Each line
/// on its standard input is a new percentage; it ends with its input.
fn serve_with_few_descriptors() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _entered = runtime.enter();
    let jobs = Jobs::default();
    let worker = jobs.insert(1).unwrap();
    let streams = Streams::start(Config::default(), CancellationToken::new());
    let listener = runtime
        .block_on(TcpListener::bind(("127.0.0.1", 0)))
        .unwrap();
    println!("\nport {}", listener.local_addr().unwrap().port());
    let app = jobs::app(jobs, streams);
    runtime.spawn(serve(
        listener,
        app,
        listen::Config::default(),
        CancellationToken::new(),
    ));
    for line in std::io::stdin().lines() {
        let percent = line.unwrap().parse().unwrap();
        worker.set(Progress { percent }).unwrap();
    }
}

const CHILD: &str = "SSE_LIFECYCLE_FEW_DESCRIPTORS";

/// More clients than file descriptors: whoever is in is served on, the others wait without an answer
/// until somebody leaves.
#[test]
fn open_streams_survive_a_lack_of_file_descriptors() {
    if std::env::var_os(CHILD).is_some() {
        return serve_with_few_descriptors();
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(more_clients_than_descriptors());
}

async fn more_clients_than_descriptors() {
    const LIMIT: usize = 64;
    let this = "sse_lifecycle::open_streams_survive_a_lack_of_file_descriptors";
    let mut server = tokio::process::Command::new("sh")
        .args([
            "-c",
            "ulimit -n \"$1\" && exec \"$0\" --exact \"$2\" --nocapture",
        ])
        .arg(std::env::current_exe().unwrap())
        .args([&LIMIT.to_string(), this])
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut input = server.stdin.take().unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let port = within("the port", async {
        loop {
            let line = lines.next_line().await.unwrap().expect("a port");
            if let Some(port) = line.strip_prefix("port ") {
                return port.parse::<u16>().unwrap();
            }
        }
    })
    .await;
    let addr = (std::net::Ipv4Addr::LOCALHOST, port).into();

    // LIMIT connections cannot all have a descriptor: the listener and others have some.
    let mut first = RawClient::get(addr, "/jobs/1/events", &[]).await;
    first.read_until("\"percent\":0}").await;
    let mut clients = Vec::new();
    for _ in 1..LIMIT {
        clients.push(RawClient::get(addr, "/jobs/1/events", &[]).await);
    }
    input.write_all(b"50\n").await.unwrap();
    first.read_until("\"percent\":50}").await;
    // Connected, and without an answer: it waits in the listener's queue.
    let waits = clients.last().unwrap().socket.try_read(&mut [0; 1]);
    assert_eq!(waits.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    // Some leave, and all others are served.
    clients.drain(..LIMIT / 2);
    for client in &mut clients {
        client.read_until("\"percent\":50}").await;
    }
    input.write_all(b"100\n").await.unwrap();
    for client in clients.iter_mut().chain([&mut first]) {
        assert_eq!(client.read_to_end().await, End::Complete);
    }
    drop(input);
    assert!(within("the server", server.wait()).await.unwrap().success());
}
