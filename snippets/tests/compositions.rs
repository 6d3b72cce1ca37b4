//! Every pair of parts that the text combines, and the test that runs the two together with their default settings. A pair
//! that the text recommends and the table does not name fails here, and so does a row whose test does not exist.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use snippets::connections::listen;
use snippets::production::chaos_flow::{Cut, Plan};
use snippets::sse::consume::EventSource;
use snippets::sse::event::Event;
use snippets::sse::log::{self, Log};
use snippets::sse::protect;
use snippets::sse::reconnect::Policy;
use snippets::sse::resume;
use snippets::sse::streams::{self, Streams};
use snippets::sse::transports::over_hyper;
use snippets::sse::wire::Limits;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::proxy::{Kind, Proxy, free_port, of_the_book};
use crate::support::tls::{self, Certificate};
use crate::support::{Server, chaos, eventually, within};

/// One part, the other, and the test of both.
const PAIRS: &[(&str, &str, &str)] = &[
    // Each proxy of the book in front of event streams and of sockets, in the clear and with TLS.
    ("event streams", "nginx.conf", STREAMS),
    ("event streams", "Caddyfile", STREAMS),
    ("event streams", "haproxy.cfg", STREAMS),
    ("event streams", "envoy.yaml", STREAMS),
    ("rooms", "nginx.conf", ROOMS),
    ("rooms", "Caddyfile", ROOMS),
    ("rooms", "haproxy.cfg", ROOMS),
    ("rooms", "envoy.yaml", ROOMS),
    ("event streams", "nginx.conf over HTTP/2", STREAMS),
    ("event streams", "Caddyfile over HTTP/2", STREAMS),
    ("event streams", "haproxy.cfg over HTTP/2", STREAMS),
    ("event streams", "envoy.yaml over HTTP/2", STREAMS),
    (
        "sockets",
        "nginx.conf with TLS",
        "snippets/tests/production_proxies.rs::nginx_with_tls_and_http_2",
    ),
    (
        "sockets",
        "Caddyfile with TLS",
        "snippets/tests/production_proxies.rs::caddy_with_tls_and_http_2",
    ),
    (
        "sockets",
        "haproxy.cfg with TLS",
        "snippets/tests/production_proxies.rs::haproxy_with_tls_and_http_2",
    ),
    (
        "sockets",
        "envoy.yaml with TLS",
        "snippets/tests/production_proxies.rs::envoy_with_tls_and_http_2",
    ),
    // How a page authenticates (choosing.md).
    (
        "SSE (EventSource)",
        "cookie",
        "snippets/typescript/test/sse-browser-facts.test.ts::cannot set a header, and needs an exact origin for credentials",
    ),
    (
        "SSE (EventSource)",
        "ticket",
        "snippets/typescript/test/sse-event-source.test.ts::a url function is called before each request: a ticket is valid once",
    ),
    (
        "SSE over fetch",
        "header",
        "snippets/typescript/test/sse-connect.test.ts::the request is asked for again at each attempt",
    ),
    (
        "NDJSON over fetch",
        "header",
        "snippets/typescript/test/sse-connect.test.ts::the request is asked for again at each attempt",
    ),
    (
        "polling",
        "header",
        "snippets/typescript/test/sse-connect.test.ts::the request is asked for again at each attempt",
    ),
    ("WebSocket", "cookie with Origin check", AUTHENTICATION),
    ("WebSocket", "ticket", AUTHENTICATION),
    ("WebSocket", "subprotocol", AUTHENTICATION),
    (
        "websocket/client",
        "websocket/admission",
        "snippets/typescript/test/rust-patterns.test.ts::the first message authenticates each connection of a page, and a refusal is final",
    ),
    // Each broker as one log and as many topics.
    (
        "shared_log",
        "redis_log",
        "snippets/tests/production_shared_log/with_redis.rs::a_redis_that_loses_events_is_a_reset_for_everyone",
    ),
    (
        "shared_log",
        "nats_log",
        "snippets/tests/production_shared_log/with_nats.rs::a_quiet_log_is_quiet_after_a_burst",
    ),
    (
        "shared_log",
        "postgres_log",
        "snippets/tests/production_shared_log/with_postgres.rs::the_logs_of_a_process_share_five_connections",
    ),
    (
        "topics",
        "redis_log",
        "snippets/tests/production_topics.rs::a_topic_is_published_anywhere_and_read_anywhere",
    ),
    (
        "topics",
        "nats_log",
        "snippets/tests/production_topics_socket.rs::a_socket_resumes_on_another_instance_and_over_a_restart_of_nats",
    ),
    (
        "topics",
        "postgres_log",
        "snippets/tests/production_topics_socket.rs::a_socket_resumes_on_another_instance_through_postgres",
    ),
    (
        "presence",
        "redis_log",
        "snippets/tests/production_topics_socket.rs::presence_is_that_of_all_instances_over_a_restart_of_redis",
    ),
    (
        "presence",
        "nats_log",
        "snippets/tests/production_topics_socket.rs::presence_is_that_of_all_instances_over_a_restart_of_nats",
    ),
    (
        "presence",
        "postgres_log",
        "snippets/tests/production_topics_socket.rs::presence_is_that_of_all_instances_through_postgres",
    ),
    // Each client and each limit that the chapters put before it.
    (
        "sse/consume",
        "rate",
        "snippets/tests/sse_consume.rs::which_statuses_are_tried_again",
    ),
    (
        "sse/consume",
        "connections",
        "snippets/tests/sse_consume.rs::retry_after_is_waited_for_within_a_bound",
    ),
    (
        "sse/consume",
        "session",
        "snippets/tests/compositions.rs::a_client_outlives_its_session_and_the_limit_of_its_user",
    ),
    (
        "sse/consume",
        "queue",
        "snippets/tests/compositions.rs::a_client_outlives_a_queue_that_overflows",
    ),
    ("websocket/client", "rate", AUTHENTICATION),
    (
        "websocket/client",
        "connections",
        "snippets/tests/websocket_pairs.rs::the_client_outlives_a_server_that_is_full",
    ),
    (
        "websocket/client",
        "session",
        "snippets/tests/websocket_pairs.rs::the_client_outlives_a_session_that_expires",
    ),
    (
        "websocket/client",
        "queue",
        "snippets/tests/websocket_client.rs::a_slow_application_is_resumed_and_loses_nothing",
    ),
    (
        "sse/connect.ts",
        "rate",
        "snippets/typescript/test/sse-connect.test.ts::asks again after these statuses and no others",
    ),
    (
        "sse/connect.ts",
        "connections",
        "snippets/typescript/test/sse-connect.test.ts::waits at least as long as Retry-After says",
    ),
    (
        "sse/connect.ts",
        "session",
        "snippets/typescript/test/sse-connect.test.ts::a token that has expired is renewed once, and a refused new one is final",
    ),
    (
        "sse/connect.ts",
        "queue",
        "snippets/typescript/test/sse-connect.test.ts::a cursor that the log no longer holds brings a reset event",
    ),
    (
        "sse/event-source.ts",
        "rate",
        "snippets/typescript/test/sse-event-source.test.ts::comes back after a 429 and a 503 with its cursor in the query",
    ),
    (
        "sse/event-source.ts",
        "connections",
        "snippets/typescript/test/sse-event-source.test.ts::comes back after a 429 and a 503 with its cursor in the query",
    ),
    (
        "sse/event-source.ts",
        "session",
        "snippets/typescript/test/sse-event-source.test.ts::a url function is called before each request: a ticket is valid once",
    ),
    (
        "sse/event-source.ts",
        "queue",
        "snippets/typescript/test/sse-event-source.test.ts::reads sse/resume over a shutdown of the streams",
    ),
    (
        "websocket/client.ts",
        "rate",
        "snippets/typescript/test/websocket-client.test.ts::what the server refuses for its rate is sent again, no faster than it allows",
    ),
    (
        "websocket/client.ts",
        "connections",
        "snippets/typescript/test/websocket-client.test.ts::an expired session and a rate limit are retried, the latter later",
    ),
    (
        "websocket/client.ts",
        "session",
        "snippets/typescript/test/websocket-client.test.ts::says after which close code it waits, for a page that must get a new token",
    ),
    (
        "websocket/client.ts",
        "queue",
        "snippets/typescript/test/websocket-client.test.ts::too many unhandled messages end the connection, and it resumes",
    ),
    (
        "websocket/rooms.ts",
        "rate",
        "snippets/typescript/test/rust-patterns.test.ts::45 messages typed offline and 16 rooms pass the default quotas, and the client never stops",
    ),
    (
        "websocket/rooms.ts",
        "connections",
        "snippets/typescript/test/websocket-rooms.test.ts::the rooms outlive %s",
    ),
    (
        "websocket/rooms.ts",
        "session",
        "snippets/typescript/test/websocket-rooms.test.ts::the rooms outlive %s",
    ),
    (
        "websocket/rooms.ts",
        "queue",
        "snippets/typescript/test/websocket-rooms.test.ts::the rooms outlive %s",
    ),
    // What the head of a file says that it goes with.
    ("sse/consume", "sse/reconnect", STREAMS),
    ("sse/consume", "sse/wire", STREAMS),
    ("sse/consume", "sse/transports", STREAMS),
    ("production/chaos", "production/chaos_connection", STREAMS),
    ("production/chaos", "production/chaos_flow", STREAMS),
    (
        "production/scrape",
        "production/observe",
        "snippets/tests/production_observe.rs::every_way_to_open_and_to_close_a_stream_is_counted",
    ),
    (
        "production/wakes",
        "production/redis_log",
        "snippets/tests/production_topics.rs::two_thousand_topics_share_two_connections",
    ),
    (
        "production/wakes",
        "production/postgres_log",
        "snippets/tests/production_shared_log/with_postgres.rs::the_logs_of_a_process_share_five_connections",
    ),
    (
        "websocket/rooms_endpoint",
        "websocket/protect",
        AUTHENTICATION,
    ),
    (
        "websocket/rooms_endpoint",
        "websocket/rates",
        AUTHENTICATION,
    ),
    (
        "websocket/binary",
        "websocket/serve",
        "snippets/tests/websocket_binary.rs::each_version_is_kept_to_and_none_is_no_default",
    ),
    (
        "websocket/admission",
        "websocket/protect",
        "snippets/tests/websocket_protect.rs::first_message_over_a_socket",
    ),
    (
        "websocket/admission",
        "websocket/serve",
        "snippets/tests/websocket_protect.rs::first_message_over_a_socket",
    ),
    ("websocket/protect", "websocket/serve", AUTHENTICATION),
    ("websocket/protect", "connections/tickets", AUTHENTICATION),
    (
        "sse/use-event-stream",
        "sse/event-source",
        "snippets/typescript/test/streams-react.test.ts::two components under StrictMode share one connection, which a change of route keeps",
    ),
    (
        "sse/use-event-stream",
        "streams/shared-store",
        "snippets/typescript/test/streams-react.test.ts::two components under StrictMode share one connection, which a change of route keeps",
    ),
    (
        "sse/connect",
        "sse/event-stream",
        "snippets/typescript/test/sse-connect.test.ts::connect reads sse/resume over a shutdown without gap or duplicate",
    ),
    (
        "websocket/use-websocket",
        "websocket/client",
        "snippets/typescript/test/streams-react.test.ts::two components under StrictMode share one socket; the last one closes it",
    ),
    (
        "websocket/use-websocket",
        "streams/shared-store",
        "snippets/typescript/test/streams-react.test.ts::two components under StrictMode share one socket; the last one closes it",
    ),
    (
        "websocket/node-server",
        "websocket/client",
        "snippets/typescript/test/websocket-node.test.ts::the page's client authenticates, is answered, and returns after an expired session",
    ),
    (
        "websocket/rooms",
        "websocket/client",
        "snippets/typescript/test/rust-patterns.test.ts::events reach every member once and in order over a restart of the server",
    ),
    (
        "websocket/rooms",
        "websocket/outbox",
        "snippets/typescript/test/rust-patterns.test.ts::45 messages typed offline and 16 rooms pass the default quotas, and the client never stops",
    ),
];

const STREAMS: &str = "snippets/tests/compositions.rs::event_streams_behind_every_proxy";
const ROOMS: &str =
    "snippets/tests/websocket_pairs.rs::every_proxy_passes_the_rooms_through_a_cut_and_a_restart";
const AUTHENTICATION: &str =
    "snippets/tests/websocket_pairs.rs::every_pair_survives_its_own_limits_a_cut_and_a_restart";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn names(folder: &str) -> Vec<String> {
    let files = std::fs::read_dir(root().join(folder)).unwrap();
    let mut names: Vec<String> = files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The parts that the head of `path` (`topic/name.ext`) says it goes with.
fn goes_with(path: &str, text: &str) -> Vec<String> {
    let head = text.lines().take_while(|line| line.starts_with("//"));
    let head: Vec<&str> = head
        .map(|line| line.trim_start_matches(['/', '!', ' ']))
        .collect();
    let head = head.join(" ");
    let topic = path.split('/').next().unwrap();
    let mut all = Vec::new();
    for (_, rest) in head
        .match_indices("oes with")
        .map(|(at, found)| head.split_at(at + found.len()))
    {
        let end = [". ", "; "].iter().filter_map(|end| rest.find(end)).min();
        let sentence = &rest[..end.unwrap_or(rest.len())];
        for name in sentence.split('`').skip(1).step_by(2) {
            let name = name.trim_start_matches("super::");
            let name = name
                .strip_suffix(".rs")
                .or(name.strip_suffix(".ts"))
                .unwrap_or(name);
            all.push(if name.contains('/') {
                name.to_owned()
            } else {
                format!("{topic}/{name}")
            });
        }
    }
    all
}

/// The pairs that the text recommends.
fn recommended() -> BTreeSet<(String, String)> {
    let mut pairs = BTreeSet::new();
    let mut pair = |left: &str, right: &str| pairs.insert((left.to_owned(), right.to_owned()));
    for file in names("book/src/production/proxies") {
        if file.ends_with(".svg") || file == "tls.conf" {
            continue;
        }
        pair("event streams", &file);
        pair("rooms", &file);
        pair("event streams", &format!("{file} over HTTP/2"));
        pair("sockets", &format!("{file} with TLS"));
    }
    let choosing = std::fs::read_to_string(root().join("book/src/choosing.md")).unwrap();
    let row = |begin: &str| -> Vec<String> {
        let line = choosing
            .lines()
            .find(|line| line.starts_with(begin))
            .unwrap();
        let cells = line.trim_matches('|').split('|').skip(1);
        cells.map(|cell| cell.trim().to_owned()).collect()
    };
    let methods = row("| authentication in a page |");
    for (transport, methods) in row("| | SSE (EventSource) |").iter().zip(methods) {
        for method in methods.replace(" or ", ", ").split(", ") {
            pair(transport, method);
        }
    }
    for file in names("snippets/src/production") {
        let Some(broker) = file.strip_suffix(".rs") else {
            continue;
        };
        if broker.ends_with("_log") && broker != "shared_log" {
            for part in ["shared_log", "topics", "presence"] {
                pair(part, broker);
            }
        }
    }
    // Each client: a file that reconnects.
    for (folder, end) in [("snippets/src", ""), ("snippets/typescript/src", ".ts")] {
        for topic in ["sse", "websocket"] {
            let inside = format!("{folder}/{topic}");
            for file in names(&inside) {
                let path = root().join(&inside).join(&file);
                // Its first paragraph says so, or what it is instead.
                let text = std::fs::read_to_string(path).unwrap();
                let first = text
                    .lines()
                    .take_while(|line| line.len() > 3 && line.starts_with("//"));
                let first = first.collect::<Vec<_>>().join(" ");
                let is_client = [
                    "reconnects",
                    "browser's EventSource",
                    "resumed without a gap",
                ]
                .iter()
                .any(|mark| first.contains(mark));
                if !is_client || first.contains("without a transport") {
                    continue;
                }
                let client = format!("{topic}/{}{end}", file.split('.').next().unwrap());
                for limit in ["rate", "connections", "session", "queue"] {
                    pair(&client, limit);
                }
            }
        }
    }
    for folder in ["snippets/src", "snippets/typescript/src"] {
        for topic in names(folder) {
            let inside = format!("{folder}/{topic}");
            if !root().join(&inside).is_dir() {
                continue;
            }
            for file in names(&inside) {
                let path = root().join(&inside).join(&file);
                let Ok(text) = std::fs::read_to_string(path) else {
                    continue;
                };
                let name = format!("{topic}/{}", file.split('.').next().unwrap());
                for other in goes_with(&name, &text) {
                    pair(&name, &other);
                }
            }
        }
    }
    pairs
}

#[test]
fn the_table_names_every_pair_that_the_text_recommends() {
    let named: BTreeSet<(String, String)> = PAIRS
        .iter()
        .map(|(left, right, _)| ((*left).to_owned(), (*right).to_owned()))
        .collect();
    assert_eq!(named.len(), PAIRS.len(), "a pair is named twice");
    let recommended = recommended();
    let missing: Vec<_> = recommended.difference(&named).collect();
    assert!(
        missing.is_empty(),
        "add these pairs and their tests: {missing:?}"
    );
}

#[test]
fn every_pair_has_a_test_that_exists() {
    for (left, right, proof) in PAIRS {
        let (file, test) = proof.split_once("::").unwrap();
        let text = std::fs::read_to_string(root().join(file));
        let text = text.unwrap_or_else(|error| panic!("{left} × {right}: {file}: {error}"));
        let found = match file.ends_with(".rs") {
            true => text.contains(&format!("fn {test}")),
            // `test("…")`, or a row of `test.each([…])("…")`.
            false => text.contains(&format!("(\"{test}")),
        };
        assert!(found, "{left} × {right}: no test {test} in {file}");
    }
}

/// An instance of the service with the defaults of every part.
struct Instance {
    log: Arc<Log>,
    streams: Streams,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Instance {
    /// On `at`, where an earlier one may have been.
    async fn start(at: SocketAddr) -> Self {
        let listener = within("the port", async {
            loop {
                match TcpListener::bind(at).await {
                    Ok(listener) => break listener,
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        });
        let (listener, stop) = (listener.await, CancellationToken::new());
        let log = Log::new(log::Config::complete(1_000, 1 << 20));
        let streams = Streams::start(streams::Config::default(), stop.clone());
        let app = resume::app(log.clone(), streams.clone());
        let config = listen::Config::default();
        let serving = tokio::spawn({
            let stop = stop.clone();
            async move {
                let _ = listen::serve(listener, app, config, stop).await;
            }
        });
        Self {
            log,
            streams,
            stop,
            serving,
        }
    }

    /// As at a deploy: the streams end in band.
    async fn end(self) {
        self.stop.cancel();
        within("the end of the instance", self.serving)
            .await
            .unwrap();
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Incoming>, String>> + Send>>;

/// Sends the requests of `sse/consume`, and counts the refusals.
fn connect(
    addr: SocketAddr,
    secure: Option<&Certificate>,
    refused: Arc<AtomicUsize>,
) -> impl FnMut(HeaderMap) -> Answer + use<> {
    let connector = secure.map(|certificate| certificate.connector("h2"));
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let mut plain = over_hyper(client, format!("http://{addr}/events").parse().unwrap());
    move |headers| {
        let (refused, connector) = (refused.clone(), connector.clone());
        let plain = connector.is_none().then(|| plain(headers.clone()));
        Box::pin(async move {
            let response = match (plain, connector) {
                (Some(response), _) => response.await.map_err(|error| error.to_string()),
                (None, Some(connector)) => {
                    let sender = connector.http2(addr).await;
                    let mut sender = sender.map_err(|error| error.to_string())?;
                    let mut request = tls::get(addr, "/events");
                    *request.headers_mut() = headers;
                    let response = sender.send_request(request).await;
                    response.map_err(|error| error.to_string())
                }
                (None, None) => unreachable!("one of the two"),
            }?;
            if response.status() == StatusCode::SERVICE_UNAVAILABLE {
                refused.fetch_add(1, Ordering::SeqCst);
            }
            Ok(response)
        })
    }
}

/// The waits of the client double with each failure, and nothing here shortens them.
const LONG: Duration = Duration::from_secs(300);

/// Connect, publish, cut, overload, recovery, restart, and leave.
async fn event_streams(kind: Kind, secure: bool) {
    let pair = format!("event streams × {kind:?}, HTTP/2: {secure}");
    let at = free_port();
    let first = Instance::start(at).await;
    let certificate = secure.then(Certificate::new);
    let config = match &certificate {
        Some(certificate) => certificate.config(kind),
        None => of_the_book(kind),
    };
    let proxy = Proxy::start(kind, &config, at).await;
    let network = chaos(proxy.addr, 0, |_| Plan::default()).await;
    let refused = Arc::new(AtomicUsize::new(0));
    let connect = connect(network.addr(), certificate.as_ref(), refused.clone());
    let mut client = EventSource::new(Policy::default(), Limits::default(), connect);
    let mut next = async || loop {
        let event = tokio::time::timeout(LONG, client.next()).await;
        let event = event.unwrap_or_else(|_| panic!("{pair}: no event"));
        let event = event.unwrap_or_else(|error| panic!("{pair}: {error}"));
        let event = event.unwrap_or_else(|| panic!("{pair}: the stream has finished"));
        if ["tick", "reset"].contains(&event.event_type.as_str()) {
            break (event.event_type, event.data);
        }
    };
    let tick = |n: u64| ("tick".to_owned(), n.to_string());
    let publish = |log: &Arc<Log>, n: u64| {
        log.publish(&Event::new("tick", &json!(n)).unwrap())
            .unwrap();
    };
    for n in 1..=3 {
        publish(&first.log, n);
        assert_eq!(next().await, tick(n), "{pair}");
    }
    // Cut. When the proxy has passed that on, others take all permits.
    network.refuse(true).await;
    network.cut_all(Cut::Reset);
    let mut held = Vec::new();
    let most = streams::Config::default().max_streams;
    eventually(&pair, || {
        held.extend(std::iter::from_fn(|| first.streams.admit().ok()));
        held.len() == most
    })
    .await;
    network.refuse(false).await;
    for n in 4..=6 {
        publish(&first.log, n);
    }
    let release = async {
        let begun = std::time::Instant::now();
        while refused.load(Ordering::SeqCst) == 0 {
            assert!(begun.elapsed() < LONG, "{pair}: not refused");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        held.clear();
    };
    let (event, ()) = tokio::join!(next(), release);
    assert_eq!(event, tick(4), "{pair}");
    for n in 5..=6 {
        assert_eq!(next().await, tick(n), "{pair}");
    }
    // Restarted at the same address: another log, which the cursor does not belong to.
    first.end().await;
    let second = Instance::start(at).await;
    let (name, _) = next().await;
    assert_eq!(name, "reset", "{pair}");
    publish(&second.log, 7);
    assert_eq!(next().await, tick(7), "{pair}");
    drop(client);
    eventually(&pair, || second.streams.open() == 0).await;
}

/// 429 while the user's streams are taken; then a session that ends, and another one, with the cursor of the first.
#[tokio::test]
async fn a_client_outlives_its_session_and_the_limit_of_its_user() {
    let recheck = Duration::from_millis(20);
    let service = crate::sse_protect::service(10, 1, recheck);
    service.sessions.start("first", "ada");
    let app = protect::app(service.clone(), Vec::new(), |log, cursor| log.read(cursor));
    let server = Server::start(app).await;
    let token = Arc::new(Mutex::new("first"));
    let asked = Arc::new(AtomicUsize::new(0));
    let (now, count) = (token.clone(), asked.clone());
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let mut send = over_hyper(client, server.url("/events").parse().unwrap());
    let connect = move |mut headers: HeaderMap| {
        count.fetch_add(1, Ordering::SeqCst);
        let bearer = format!("Bearer {}", now.lock().unwrap());
        headers.insert("authorization", bearer.parse().unwrap());
        send(headers)
    };
    let mut taken = Some(service.per_user.enter("ada").unwrap());
    let mut client = EventSource::new(Policy::default(), Limits::default(), connect);
    let mut next = async || loop {
        let event = within("an event", client.next()).await;
        let event = event
            .unwrap_or_else(|error| panic!("{error}"))
            .expect("no end");
        if event.event_type != "ping" {
            break (event.event_type, event.data);
        }
    };
    service
        .log
        .publish(&Event::new("tick", &1).unwrap())
        .unwrap();
    let release = async {
        eventually("a refusal", || asked.load(Ordering::SeqCst) >= 1).await;
        taken = None;
    };
    let (event, ()) = tokio::join!(next(), release);
    assert_eq!(event, ("tick".to_owned(), "1".to_owned()));
    // The session ends; the application logs in again, and the client continues.
    service.sessions.start("second", "ada");
    *token.lock().unwrap() = "second";
    service.sessions.end("first");
    assert_eq!(next().await.0, "unauthorized");
    service
        .log
        .publish(&Event::new("tick", &2).unwrap())
        .unwrap();
    assert_eq!(next().await, ("tick".to_owned(), "2".to_owned()));
}

/// More waits for it than its queue holds: the response ends, and the client reconnects with its cursor.
#[tokio::test]
async fn a_client_outlives_a_queue_that_overflows() {
    const EVENTS: u64 = 2_000;
    let config = log::Config {
        queue: 32,
        slow: log::Slow::End,
        ..log::Config::complete(EVENTS as usize, 256 << 20)
    };
    let log = Log::new(config);
    let streams = Streams::start(streams::Config::default(), CancellationToken::new());
    let server = Server::start(resume::app(log.clone(), streams.clone())).await;
    let opened = Arc::new(AtomicUsize::new(0));
    let count = opened.clone();
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let mut send = over_hyper(client, server.url("/events").parse().unwrap());
    let connect = move |headers| {
        count.fetch_add(1, Ordering::SeqCst);
        send(headers)
    };
    let mut client = EventSource::new(Policy::default(), Limits::default(), connect);
    let much = "x".repeat(16 * 1024);
    let publish = |n: u64| {
        log.publish(&Event::new("tick", &json!([n, much])).unwrap())
            .unwrap()
    };
    publish(1);
    for n in 1..=EVENTS {
        let event = loop {
            let event = within("an event", client.next()).await.unwrap().unwrap();
            if event.event_type == "tick" {
                break event;
            }
        };
        assert!(event.data.starts_with(&format!("[{n},")), "{n}");
        if n == 1 {
            // More than the buffers of the path hold, while nobody reads.
            for n in 2..=EVENTS {
                publish(n);
            }
            eventually("the slow stream to end", || streams.open() == 0).await;
        }
    }
    assert!(opened.load(Ordering::SeqCst) >= 2);
}

#[tokio::test]
#[ignore = "needs nginx, Caddy, HAProxy and Envoy: run ./check"]
async fn event_streams_behind_every_proxy() {
    let kinds = [Kind::Nginx, Kind::Caddy, Kind::Haproxy, Kind::Envoy];
    let all = kinds.map(|kind| [false, true].map(|secure| event_streams(kind, secure)));
    futures::future::join_all(all.into_iter().flatten()).await;
}
