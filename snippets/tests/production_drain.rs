//! The end of an instance: out of rotation, closed to new connections, streams and sockets ended in band, deadline.

use std::collections::BTreeMap;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::routing::get;
use axum::serve::ListenerExt;
use futures::{FutureExt, StreamExt};
use snippets::production::drain::{Instance, Plan, bind};
use snippets::production::feed;
use snippets::production::shared_log::{self, SharedLog};
use snippets::sse::event::Event;
use snippets::sse::streams::{Config, Streams};
use snippets::websocket::limits::Limits;
use snippets::websocket::serve::Sockets;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tower::ServiceExt;

use crate::support::memory::Memory;
use crate::support::raw::End;
use crate::support::{RawClient, Transcript, within};

const HOUR: Duration = Duration::from_secs(3600);

type Log = Arc<SharedLog<Memory>>;

async fn log() -> Log {
    let log = SharedLog::start(Memory::new(1000), shared_log::Config::default());
    Arc::new(log.await.unwrap())
}

async fn publish(log: &Log, n: u64) {
    log.publish(&Event::new("tick", &n).unwrap()).await.unwrap();
}

fn at_once() -> Config {
    Config {
        drain_spread: Duration::ZERO,
        ..Config::default()
    }
}

struct Running {
    addr: SocketAddr,
    leave: oneshot::Sender<()>,
    server: JoinHandle<bool>,
}

/// An instance with the feed, and `extra` routes.
async fn start(log: Log, plan: Plan, extra: Router) -> Running {
    let instance = Instance::default();
    let limits = Limits {
        drain_spread: Duration::ZERO,
        ..Limits::default()
    };
    let sockets = Sockets::new(limits, instance.stopping.clone());
    let streams = Streams::start(at_once(), instance.stopping.clone());
    let app = feed::app(log, streams, sockets.clone())
        .merge(instance.ready())
        .merge(extra);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (leave, told) = oneshot::channel::<()>();
    let server = tokio::spawn(async move {
        let rest = async {
            sockets.drained(HOUR).await;
        };
        let told = told.map(drop);
        instance.serve(listener, app, plan, told, rest).await
    });
    Running {
        addr,
        leave,
        server,
    }
}

async fn status(addr: SocketAddr, path: &str) -> u16 {
    let mut client = RawClient::get(addr, path, &[]).await;
    let head = client.read_head().await;
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

/// The notice lasts: the balancer has not looked yet, and sends clients as before.
#[tokio::test]
async fn an_instance_that_leaves_is_not_ready_and_serves_on() {
    let log = log().await;
    let plan = Plan {
        notice: HOUR,
        deadline: HOUR,
    };
    let running = start(log.clone(), plan, Router::new()).await;
    assert_eq!(status(running.addr, "/ready").await, 200);
    let mut open = RawClient::get(running.addr, "/events", &[]).await;
    open.read_until("retry").await;
    running.leave.send(()).unwrap();
    within("the readiness to be gone", async {
        while status(running.addr, "/ready").await != 503 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut late = RawClient::get(running.addr, "/events", &[]).await;
    late.read_until("retry").await;
    publish(&log, 1).await;
    open.read_until("data: 1").await;
    late.read_until("data: 1").await;
    running.server.abort();
}

#[tokio::test]
async fn then_it_takes_no_connections_and_ends_streams_and_sockets_in_band() {
    let log = log().await;
    let plan = Plan {
        notice: Duration::ZERO,
        deadline: HOUR,
    };
    let running = start(log.clone(), plan, Router::new()).await;
    let mut sse = RawClient::get(running.addr, "/events", &[]).await;
    let url = format!("ws://{}/socket", running.addr);
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    futures::SinkExt::send(&mut socket, "{}".into())
        .await
        .unwrap();
    publish(&log, 1).await;
    sse.read_until("data: 1").await;
    let text = within("the event", socket.next())
        .await
        .unwrap()
        .unwrap()
        .into_text()
        .unwrap();
    assert!(text.contains(r#""data":1"#), "{text}");

    running.leave.send(()).unwrap();
    assert_eq!(sse.read_to_end().await, End::Complete);
    assert!(
        sse.body().ends_with("event: restart\ndata: {}\n\n"),
        "{}",
        sse.body()
    );
    let close = within("the close", socket.next()).await.unwrap().unwrap();
    let tokio_tungstenite::tungstenite::Message::Close(Some(frame)) = close else {
        panic!("{close:?}");
    };
    assert_eq!(u16::from(frame.code), 1001);
    assert!(
        within("the end of the socket", socket.next())
            .await
            .is_none()
    );
    assert!(within("the instance", running.server).await.unwrap());
    assert!(tokio::net::TcpStream::connect(running.addr).await.is_err());

    let mut transcript = Transcript::new();
    transcript.request("GET /events HTTP/1.1").response(&sse);
    let text = transcript.finish();
    let epoch = text
        .split("id: ")
        .nth(1)
        .unwrap()
        .split('-')
        .next()
        .unwrap()
        .to_owned();
    insta::with_settings!({filters => vec![(r"retry: \d+", "retry: [1500-4500]")]}, {
        insta::assert_snapshot!("drained", text.replace(&format!("{epoch}-"), "[epoch]-"));
    });
}

#[tokio::test]
async fn a_socket_of_the_feed_ends_with_its_log() {
    let log = log().await;
    let plan = Plan {
        notice: HOUR,
        deadline: HOUR,
    };
    let running = start(log.clone(), plan, Router::new()).await;
    publish(&log, 1).await;
    let done = Event::new("done", &()).unwrap().last();
    log.publish(&done).await.unwrap();
    let mut last = String::new();
    // What the client asks, the events that it gets, and the code of the Close.
    for (asked, events, code) in [
        ("{}", &["tick", "done"][..], 1000),
        (r#"{"after":"LAST"}"#, &[], 1000),
        (r#"{"after":"not an id"}"#, &["reset", "tick", "done"], 1000),
        ("hello", &[], 1008),
        // A heartbeat is not a subscription.
        (r#"{"type":"ping"}"#, &[], 0),
    ] {
        let url = format!("ws://{}/socket", running.addr);
        let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        let asked = asked.replace("LAST", &last);
        futures::SinkExt::send(&mut socket, asked.as_str().into())
            .await
            .unwrap();
        let (mut seen, mut closed) = (Vec::new(), 0);
        while let Some(frame) = within("a frame", socket.next()).await {
            match frame.unwrap() {
                tokio_tungstenite::tungstenite::Message::Text(text) if text.contains("pong") => {
                    break;
                }
                tokio_tungstenite::tungstenite::Message::Text(text) => {
                    let event: serde_json::Value = serde_json::from_str(&text).unwrap();
                    last = event["id"].as_str().unwrap().to_owned();
                    seen.push(event["event"].as_str().unwrap().to_owned());
                }
                tokio_tungstenite::tungstenite::Message::Close(frame) => {
                    closed = u16::from(frame.unwrap().code);
                }
                _ => {}
            }
        }
        assert_eq!(seen, events, "{asked}");
        assert_eq!(closed, code, "{asked}");
    }
    running.server.abort();
}

/// A handler that never ends, and a socket whose peer never answers the Close: neither holds the process.
#[tokio::test]
async fn the_deadline_holds_for_requests_and_for_the_rest() {
    let plan = Plan {
        notice: Duration::ZERO,
        deadline: Duration::from_millis(50),
    };
    let stuck = Router::new().route("/stuck", get(pending::<StatusCode>));
    let running = start(log().await, plan.clone(), stuck).await;
    let mut client = RawClient::get(running.addr, "/stuck", &[]).await;
    client.send_request("GET", "/stuck", &[]).await;
    let mut other = RawClient::get(running.addr, "/events", &[]).await;
    other.read_until("retry").await;
    running.leave.send(()).unwrap();
    assert!(!within("the instance", running.server).await.unwrap());

    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let instance = Instance::default();
    let served = instance.serve(listener, Router::new(), plan, async {}, pending());
    assert!(!within("the instance", served).await);
}

/// When 400 clients of one instance reconnect, in steps of 100 ms after the shutdown began, and the longest time that
/// one of them had no stream. `same` is the `retry` of a server that gives all clients the same. Virtual time.
pub async fn reconnects(
    config: Config,
    same: Option<Duration>,
) -> (BTreeMap<u128, usize>, Duration) {
    let instance = Instance::default();
    let app = {
        let streams = Streams::start(config, instance.stopping.clone());
        snippets::production::shared_log::app(log().await, streams)
    };
    let mut clients = Vec::new();
    for _ in 0..400 {
        let request = Request::get("/events").body(Body::empty()).unwrap();
        clients.push(app.clone().oneshot(request).await.unwrap());
    }
    let began = Instant::now();
    instance.stopping.cancel();
    let clients = clients.into_iter().map(async |client| {
        let body = axum::body::to_bytes(client.into_body(), 100_000)
            .await
            .unwrap();
        let ended = Instant::now();
        let body = String::from_utf8(body.to_vec()).unwrap();
        let retry = body
            .lines()
            .filter_map(|line| line.strip_prefix("retry: "))
            .next_back();
        let retry = Duration::from_millis(retry.unwrap().parse().unwrap());
        tokio::time::sleep(same.unwrap_or(retry)).await;
        (began.elapsed().as_millis() / 100, ended.elapsed())
    });
    let (mut steps, mut longest) = (BTreeMap::new(), Duration::ZERO);
    for (step, outage) in futures::future::join_all(clients).await {
        *steps.entry(step).or_default() += 1;
        longest = longest.max(outage);
    }
    (steps, longest)
}

#[tokio::test(start_paused = true)]
async fn streams_end_one_after_the_other_and_nobody_is_away_for_long() {
    let config = Config {
        retry: Duration::from_millis(660),
        drain_spread: Duration::from_secs(8),
        heartbeat: HOUR,
        ..Config::default()
    };
    let (steps, longest) = reconnects(config, None).await;
    // 400 over 8 s: 5 in each step on average; 25 would be nine standard deviations.
    assert!(steps.values().all(|clients| *clients < 25), "{steps:?}");
    assert!(steps.len() > 60, "{steps:?}");
    assert!(*steps.keys().last().unwrap() <= 90, "{steps:?}");
    assert!(longest <= Duration::from_millis(1010), "{longest:?}");
}

/// A stream that is to end later still gets its events; the end comes at its own time, not one later per event.
#[tokio::test(start_paused = true)]
async fn a_stream_that_waits_for_its_end_gets_events_until_then() {
    let log = log().await;
    let instance = Instance::default();
    let config = Config {
        drain_spread: Duration::from_secs(10),
        heartbeat: HOUR,
        ..at_once()
    };
    let app = snippets::production::shared_log::app(
        log.clone(),
        Streams::start(config, instance.stopping.clone()),
    );
    let request = Request::get("/events").body(Body::empty()).unwrap();
    let body = app.oneshot(request).await.unwrap().into_body();
    let began = Instant::now();
    instance.stopping.cancel();
    let reading = tokio::spawn(async move {
        let body = axum::body::to_bytes(body, 100_000).await.unwrap();
        (String::from_utf8(body.to_vec()).unwrap(), began.elapsed())
    });
    let mut n = 0;
    while !reading.is_finished() {
        n += 1;
        publish(&log, n).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (body, took) = reading.await.unwrap();
    assert!(took <= Duration::from_secs(10), "{took:?}");
    let events = body.matches("event: tick").count() as u64;
    assert!(
        events + 1 >= n.min(took.as_millis() as u64 / 100),
        "{events} of {n} in {took:?}"
    );
    assert!(body.contains("event: restart"), "{body}");
}

/// Nobody accepts: how many connections the kernel keeps.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn tokio_lets_128_connections_wait_and_the_pattern_more() {
    let connects = |addr: SocketAddr| {
        let connects = (0..300).map(|_| tokio::net::TcpStream::connect(addr));
        connects.collect::<futures::stream::FuturesUnordered<_>>()
    };
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let mut waiting = connects(listener.local_addr().unwrap());
    let mut connected = Vec::new();
    while connected.len() < 129 {
        connected.push(
            within("a connection", waiting.next())
                .await
                .unwrap()
                .unwrap(),
        );
    }
    assert!(
        waiting.next().now_or_never().is_none(),
        "the others wait for a place"
    );

    let listener = bind(([127, 0, 0, 1], 0).into()).unwrap();
    let all = connects(listener.local_addr().unwrap()).collect::<Vec<_>>();
    assert!(
        within("all connections", all)
            .await
            .into_iter()
            .all(|connected| connected.is_ok())
    );
}

/// In a process of its own, which has 64 file descriptors and may ask for more.
#[test]
fn a_process_may_raise_its_own_limit_of_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const CHILD: &str = "PRODUCTION_DRAIN_FEW_DESCRIPTORS";
    let open = || {
        let sockets: std::io::Result<Vec<_>> = (0..100)
            .map(|_| std::net::UdpSocket::bind("127.0.0.1:0"))
            .collect();
        sockets.map(|sockets| sockets.len())
    };
    if std::env::var_os(CHILD).is_some() {
        let few = open().unwrap_err();
        assert_eq!(few.raw_os_error(), Some(libc::EMFILE));
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, Some(64));
        let all = Rlimit {
            current: limit.maximum,
            ..limit
        };
        setrlimit(Resource::Nofile, all).unwrap();
        assert_eq!(open().unwrap(), 100);
        return;
    }
    let this = "production_drain::a_process_may_raise_its_own_limit_of_descriptors";
    let status = std::process::Command::new("sh")
        .args(["-c", "ulimit -Sn 64 && exec \"$0\" --exact \"$1\""])
        .arg(std::env::current_exe().unwrap())
        .arg(this)
        .env(CHILD, "1")
        .stdout(std::process::Stdio::null())
        .status();
    assert!(status.unwrap().success());
}

/// What axum hands to hyper: Nagle's algorithm is on, unless the listener turns it off.
#[tokio::test]
async fn axum_leaves_nagle_on() {
    static NODELAY: AtomicBool = AtomicBool::new(true);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let listener = listener.tap_io(|tcp| NODELAY.store(tcp.nodelay().unwrap(), Ordering::SeqCst));
    let app = Router::new().route("/", get(async || "served"));
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    assert_eq!(status(addr, "/").await, 200);
    assert!(!NODELAY.load(Ordering::SeqCst));
    server.abort();
}
