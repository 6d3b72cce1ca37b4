//! The worked examples of the prompts (`book/src/prompts/`): three services as people write them, with
//! `worked/planted.json` naming each planted defect and what shows it, and the designs that came out.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::HeaderValue;
use axum::middleware::map_response;
use axum::response::Response;
use futures::{FutureExt as _, StreamExt as _};
use serde_json::{Value, json};
use snippets::connections::tickets::Tickets;
use snippets::llm::scripted_model::{Reply, Script, ScriptedModel};
use snippets::websocket::protect::Guard;
use snippets::websocket::users::{Accounts, Unavailable, User};
use stream_probe::{Client, Kind, Options, Publish};
use testkit::{eventually, proxy, within};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::{assert_failed, options, probe};

mod chat;
mod feed;
mod ledger_client;
mod mended_feed;
mod report;
mod support_chat;

async fn start(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    addr
}

fn post(addr: SocketAddr, path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: {addr}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// One order for each call of the probe.
fn orders(addr: SocketAddr) -> Publish {
    use std::io::{Read as _, Write as _};
    let request = post(addr, "/orders", r#"{"status":"placed"}"#);
    Publish::Call(Arc::new(move |_| {
        let mut socket = std::net::TcpStream::connect(addr).unwrap();
        socket.write_all(request.as_bytes()).unwrap();
        socket.read_exact(&mut [0; 12]).unwrap();
    }))
}

/// A connection on which `request` was sent.
async fn send(addr: SocketAddr, request: &str) -> TcpStream {
    let mut socket = TcpStream::connect(addr).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    socket
}

async fn get(addr: SocketAddr, path: &str) -> TcpStream {
    send(
        addr,
        &format!("GET {path} HTTP/1.1\r\nhost: {addr}\r\n\r\n"),
    )
    .await
}

/// Reads until `needle` has come; what was read.
async fn until(socket: &mut TcpStream, needle: &str) -> String {
    let mut seen = String::new();
    let mut buffer = [0; 4096];
    while !seen.contains(needle) {
        let read = within(needle, socket.read(&mut buffer)).await.unwrap();
        assert_ne!(read, 0, "the end before {needle:?}: {seen}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    seen
}

// --- feed.rs ------------------------------------------------------------------

/// The checks that the probe runs on the feed before and after: what needs minutes is left out.
fn feed_options(addr: SocketAddr) -> Options {
    let mut options = options(addr, "/events");
    options.resumable = true;
    options.client = Client::EventSource;
    options.connects = 10;
    options.heartbeat = Some(Duration::from_secs(2));
    options.skip = vec!["sse-stalled-*".to_owned()];
    options.publish = orders(addr);
    options
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_probe_fails_the_feed() {
    let addr = start(feed::app(feed::Feed::new())).await;
    let report = probe(Kind::Sse, &feed_options(addr)).await;
    assert_failed(&report, &planted_for_probe("feed.rs"));
}

#[tokio::test]
async fn a_dashboard_that_lags_is_not_told() {
    let feed = feed::Feed::new();
    let addr = start(feed::app(feed.clone())).await;
    let mut socket = get(addr, "/events").await;
    until(&mut socket, "\r\n\r\n").await;
    // On this one thread the stream is not polled until the loop is over.
    for id in 1..=100 {
        feed.orders
            .send((id, json!({ "status": "placed" })))
            .unwrap();
    }
    let seen = until(&mut socket, "id: 100\n").await;
    assert!(
        !seen.contains("id: 36\n") && seen.contains("id: 37\n"),
        "{seen}"
    );
    assert_eq!(
        seen.matches("event: ").count(),
        64,
        "no reset among them: {seen}"
    );
}

#[tokio::test]
async fn one_order_with_a_line_break_cuts_every_dashboard() {
    let feed = feed::Feed::new();
    let addr = start(feed::app(feed.clone())).await;
    let mut dashboards = [get(addr, "/events").await, get(addr, "/events").await];
    for socket in &mut dashboards {
        until(socket, "\r\n\r\n").await;
    }
    feed.orders.send((1, json!({ "status": "a\nb" }))).unwrap();
    // Once for each of them: an event is encoded anew for every subscriber.
    for socket in &mut dashboards {
        let mut rest = Vec::new();
        within("the end", socket.read_to_end(&mut rest))
            .await
            .unwrap();
        assert!(!rest.ends_with(b"0\r\n\r\n"), "cut, not ended");
    }
}

#[tokio::test]
async fn a_limit_of_fifty_lets_sixty_streams_in() {
    let feed = feed::Feed::new();
    let addr = start(feed::app(feed.clone())).await;
    let mut dashboards = Vec::new();
    for _ in 0..60 {
        let mut socket = get(addr, "/events").await;
        until(&mut socket, "200 OK").await;
        dashboards.push(socket);
    }
    assert_eq!(feed.orders.receiver_count(), 60);
}

#[tokio::test]
async fn a_deploy_waits_for_the_dashboards() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let feed = feed::Feed::new();
    let stop = CancellationToken::new();
    let mut served = tokio::spawn(feed::serve(
        listener,
        feed.clone(),
        stop.clone().cancelled_owned(),
    ));
    let mut socket = get(addr, "/events").await;
    until(&mut socket, "\r\n\r\n").await;
    stop.cancel();
    eventually("the listener to be closed", || {
        std::net::TcpStream::connect(addr).is_err()
    })
    .await;
    // An hour later, by tokio's clock, it still waits, and the stream has not been told.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(3600)).await;
    assert!((&mut served).now_or_never().is_none());
    assert_eq!(feed.orders.receiver_count(), 1);
    drop(socket);
    tokio::time::resume();
    within("the server to end", served).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_stalled_dashboard_keeps_its_stream_for_a_day() {
    let feed = feed::Feed::new();
    let addr = start(feed::app(feed.clone())).await;
    let mut socket = get(addr, "/events").await;
    until(&mut socket, "\r\n\r\n").await;
    // It reads no more. What the kernel and hyper take is bounded; then the stream is polled no more,
    // and the channel's 64 places fill up.
    let order = json!({ "status": "placed", "note": "x".repeat(1 << 20) });
    let mut id = 0;
    within("the stream to stall", async {
        while feed.orders.len() < 64 {
            id += 1;
            feed.orders.send((id, order.clone())).unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(24 * 3600)).await;
    tokio::task::yield_now().await;
    assert_eq!(feed.orders.receiver_count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_probe_fails_nothing_of_the_mended_feed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let dashboards = vec![HeaderValue::from_static("https://shop.example")];
    let stop = CancellationToken::new();
    let app = mended_feed::app(dashboards, stop.clone());
    let served = tokio::spawn(mended_feed::serve(listener, app, stop.clone()));
    let mut options = feed_options(addr);
    // Every 15 s: the pattern's own tests wait for it in paused time.
    options.skip.push("sse-heartbeat*".to_owned());
    let report = probe(Kind::Sse, &options).await;
    assert_failed(&report, &[]);
    let mut socket = get(addr, "/events").await;
    until(&mut socket, "retry").await;
    stop.cancel();
    until(&mut socket, "0\r\n\r\n").await;
    within("the server to end", served).await.unwrap();
}

#[tokio::test]
async fn the_ledger_books_each_order_once_over_restarts() {
    use snippets::sse::event::Cursor;
    use snippets::sse::event::Event;
    use snippets::sse::log::{self, Log};
    use snippets::sse::resume;
    use snippets::sse::streams::{Config, Streams};
    let start_at = Cursor { epoch: 1, seq: 0 };
    let log = Log::starting_after(start_at, log::Config::complete(100, 1 << 20));
    let ledger = Arc::new(Mutex::new(ledger_client::Ledger::default()));
    // From the beginning; without a cursor a reader begins at the tail.
    ledger.lock().unwrap().cursor = "1-0".to_owned();
    let mut reader = None;
    for (first, last) in [(1, 3), (4, 6)] {
        // The ledger is killed in the middle, and begins again with what it has stored.
        reader.take().inspect(JoinHandle::abort);
        let streams = Streams::start(Config::default(), CancellationToken::new());
        let addr = start(resume::app(log.clone(), streams)).await;
        for n in first..=last {
            log.publish(&Event::new("order", &n).unwrap()).unwrap();
        }
        let (url, own) = (format!("http://{addr}/events"), ledger.clone());
        reader = Some(tokio::spawn(async move {
            ledger_client::follow(&url, &own).await
        }));
        eventually("the orders", || ledger.lock().unwrap().orders.len() == last).await;
    }
    log.publish(&Event::new("done", &()).unwrap().last())
        .unwrap();
    let end = within("204", reader.unwrap()).await.unwrap();
    assert!(end.is_ok(), "{end:?}");
    let ledger = ledger.lock().unwrap();
    let mut booked: Vec<&String> = ledger.orders.values().collect();
    booked.sort();
    assert_eq!(booked, ["1", "2", "3", "4", "5", "6"]);
    assert_eq!((ledger.cursor.as_str(), ledger.reloads), ("1-7", 0));
}

// --- chat.rs ------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_probe_fails_the_chat() {
    let upstream = proxy::free_port();
    let addr = start(chat::app(&format!("http://{upstream}")).unwrap()).await;
    let mut options = options(addr, "/chat");
    options.method = "POST".to_owned();
    options.body = Some(br#"{"messages":[{"role":"user","content":"hello"}]}"#.to_vec());
    options.upstream = Some(upstream);
    options.heartbeat = Some(Duration::from_secs(2));
    let report = probe(Kind::Llm, &options).await;
    assert_failed(&report, &planted_for_probe("chat.rs"));
}

/// A provider of the tests, the relay in front of it, and a question to it.
async fn ask(script: Script) -> (TcpStream, ScriptedModel) {
    let model = ScriptedModel::new(script);
    let provider = start(model.router()).await;
    let relay = start(chat::app(&format!("http://{provider}")).unwrap()).await;
    let body =
        r#"{"messages":[{"role":"system","content":"obey"},{"role":"user","content":"hi"}]}"#;
    (send(relay, &post(relay, "/chat", body)).await, model)
}

#[tokio::test]
async fn a_provider_that_writes_bytewise_loses_every_token() {
    let text = Script::reply(Reply::text("one two three"))
        .apply("bytes")
        .unwrap();
    let (mut page, _model) = ask(text).await;
    let seen = until(&mut page, "event: done").await;
    assert_eq!(seen.matches("event: token").count(), 0, "{seen}");
}

#[tokio::test]
async fn an_answer_at_its_limit_ends_like_a_whole_one() {
    let (mut page, _model) = ask(Script::reply(Reply::text("one two three"))
        .apply("length")
        .unwrap())
    .await;
    let seen = until(&mut page, "event: done").await;
    assert!(
        seen.ends_with("event: done\ndata: {}\n\n\r\n") || seen.contains("data: {}"),
        "{seen}"
    );
    assert!(!seen.contains("length"), "{seen}");
}

#[tokio::test]
async fn a_caller_can_write_the_system_message() {
    let (mut page, model) = ask(Script::reply(Reply::text("ok"))).await;
    until(&mut page, "event: done").await;
    let request = &model.exchanges()[0].request;
    assert_eq!(request["messages"][0]["role"], "system", "{request}");
}

#[tokio::test]
async fn an_unreachable_provider_is_named_to_the_caller() {
    let provider = proxy::free_port();
    let relay = start(chat::app(&format!("http://{provider}")).unwrap()).await;
    let mut page = send(relay, &post(relay, "/chat", r#"{"messages":[]}"#)).await;
    let seen = until(&mut page, "chat/completions").await;
    assert!(seen.contains(&format!("{}", provider.port())), "{seen}");
}

#[tokio::test]
async fn an_answer_of_more_than_a_minute_is_cut_and_called_done() {
    let slow = Script {
        pace: Duration::from_secs(2),
        ..Script::reply(Reply::text(&"word ".repeat(60)))
    };
    let (mut page, _model) = ask(slow).await;
    until(&mut page, "event: token").await;
    // From here the clock runs ahead whenever everybody waits.
    tokio::time::pause();
    let mut seen = String::new();
    let mut buffer = [0; 4096];
    while !seen.contains("event: done") {
        let read = page.read(&mut buffer).await.unwrap();
        assert_ne!(read, 0, "{seen}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    let tokens = seen.matches("event: token").count();
    assert!(tokens < 40, "{tokens} of 60 words, and then done");
}

// --- report.rs ----------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_probe_fails_the_report() {
    let addr = start(report::app(report::Billed::default())).await;
    let mut options = options(addr, "/reports/q3");
    options.client = Client::EventSource;
    options.connects = 0;
    let report = probe(Kind::Sse, &options).await;
    assert_failed(&report, &planted_for_probe("report.rs"));
}

#[tokio::test]
async fn each_reconnect_and_each_head_is_billed() {
    let billed = report::Billed::default();
    let addr = start(report::app(billed.clone())).await;
    for (times, last) in [(1, "0\r\n\r\n"), (2, "data: 1\n\n")] {
        let mut page = get(addr, "/reports/q3").await;
        let seen = until(&mut page, last).await;
        assert!(seen.starts_with("HTTP/1.1 200"), "{seen}");
        // Complete, with the name of the terminal event and no data.
        assert!(times == 2 || seen.contains("event: done\n\n"), "{seen}");
        assert_eq!(billed.0.load(Ordering::Relaxed), times);
    }
    let mut checker = send(
        addr,
        &format!("HEAD /reports/q3 HTTP/1.1\r\nhost: {addr}\r\n\r\n"),
    )
    .await;
    until(&mut checker, "200 OK").await;
    assert_eq!(billed.0.load(Ordering::Relaxed), 3);
}

/// The report, of which the second page is written only when `gate` is cancelled.
fn gated(report: Router, gate: CancellationToken) -> Router {
    report.layer(map_response(move |response: Response| {
        let gate = gate.clone();
        async move {
            let (parts, body) = response.into_parts();
            let pages = body.into_data_stream().enumerate();
            let pages = pages.then(move |(n, page)| {
                let gate = gate.clone();
                async move {
                    if n > 0 {
                        gate.cancelled().await;
                    }
                    page
                }
            });
            Response::from_parts(parts, Body::from_stream(pages))
        }
    }))
}

/// A reader of the report at `addr`, who receives the first page before the second is written, or nothing.
async fn read_report(addr: SocketAddr, headers: &str, gate: &CancellationToken, at_once: bool) {
    let request =
        format!("GET /reports/q3 HTTP/1.1\r\nhost: {addr}\r\n{headers}connection: close\r\n\r\n");
    let mut reader = send(addr, &request).await;
    let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
    if at_once {
        // A slow machine only makes it more likely that nothing comes in this time.
        let read = tokio::time::timeout(Duration::from_secs(1), reader.read(&mut buffer)).await;
        assert!(
            read.is_err(),
            "{headers:?}: {read:?} bytes came before the second page"
        );
    } else {
        // The headers, and something of the body.
        let body = |seen: &[u8]| {
            let head = seen.windows(4).position(|w| w == b"\r\n\r\n");
            head.is_some_and(|at| seen.len() > at + 4)
        };
        while !body(&seen) {
            let read = within("the first page", reader.read(&mut buffer))
                .await
                .unwrap();
            assert_ne!(read, 0, "the end before the first page");
            seen.extend_from_slice(&buffer[..read]);
        }
    }
    gate.cancel();
    while within("the report", reader.read(&mut buffer))
        .await
        .unwrap()
        > 0
    {}
}

#[tokio::test]
#[ignore = "needs nginx: run ./check"]
async fn behind_its_nginx_the_report_arrives_all_at_once() {
    const GZIP: &str = "accept-encoding: gzip\r\n";
    let report = || report::app(report::Billed::default());
    let with_header = || {
        report().layer(map_response(async |mut response: Response| {
            let no = HeaderValue::from_static("no");
            response.headers_mut().insert("x-accel-buffering", no);
            response
        }))
    };
    // The application on its own.
    let gate = CancellationToken::new();
    let app = start(gated(report(), gate.clone())).await;
    read_report(app, GZIP, &gate, false).await;
    let config = std::fs::read_to_string(folder().join("report.nginx")).unwrap();
    let cases = [
        // One by one for curl, all at once for a browser; with the default of 1.0 for both.
        (report(), "gzip on;", "", false),
        (report(), "gzip on;", GZIP, true),
        (report(), "proxy_http_version 1.0;", "", true),
        // Each of the changes fixes it, and the header does without any.
        (report(), "gzip on; proxy_buffering off;", GZIP, false),
        (report(), "gzip off;", GZIP, false),
        (with_header(), "gzip on;", GZIP, false),
    ];
    let runs = cases.map(|(app, directives, headers, at_once)| {
        let own = config.replace("gzip on;", directives);
        let config = match directives.contains("1.0") {
            true => own.replace("proxy_http_version 1.1;", ""),
            false => own,
        };
        async move {
            let gate = CancellationToken::new();
            let app = start(gated(app, gate.clone())).await;
            let nginx = proxy::Proxy::start(proxy::Kind::Nginx, &config, app).await;
            println!("{directives} {headers}");
            read_report(nginx.addr, headers, &gate, at_once).await;
        }
    });
    futures::future::join_all(runs).await;
}

// --- support_chat.rs ------------------------------------------------------------

struct OneAgent;

impl Accounts for OneAgent {
    async fn by_session(&self, cookie: &str) -> Result<Option<User>, Unavailable> {
        let agent = || User {
            name: "agent".into(),
            admin: false,
            expires: tokio::time::Instant::now() + Duration::from_secs(3600),
        };
        Ok((cookie == "s1").then(agent))
    }

    async fn by_token(&self, _: &str) -> Result<Option<User>, Unavailable> {
        Ok(None)
    }
}

#[tokio::test]
async fn the_support_chat_lets_its_own_pages_in_and_closes_with_1001() {
    let stop = CancellationToken::new();
    let sockets = support_chat::sockets(stop.clone());
    let guard = Guard {
        origins: Arc::new(["https://shop.example".to_owned()]),
        cookie: "__Host-sid",
        subprotocols: &["rooms.v1"],
        accounts: Arc::new(OneAgent),
        tickets: Tickets::default(),
        sockets: sockets.clone(),
        allowed: |_| true,
    };
    let addr = start(support_chat::app(sockets, guard)).await;
    let handshake = |origin: &str| {
        format!(
            "GET /rooms HTTP/1.1\r\nhost: {addr}\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: rooms.v1\r\norigin: {origin}\r\ncookie: __Host-sid=s1\r\n\r\n"
        )
    };
    let mut foreign = send(addr, &handshake("https://evil.example")).await;
    until(&mut foreign, " 403 ").await;
    let mut page = send(addr, &handshake("https://shop.example")).await;
    until(&mut page, "sec-websocket-protocol: rooms.v1").await;
    stop.cancel();
    // Close, its length, and 1001 in network order.
    let mut seen = Vec::new();
    while !seen
        .windows(4)
        .any(|w| w[0] == 0x88 && w[2..] == 1001_u16.to_be_bytes())
    {
        let mut buffer = [0; 256];
        let read = within("1001", page.read(&mut buffer)).await.unwrap();
        assert_ne!(read, 0, "{seen:?}");
        seen.extend_from_slice(&buffer[..read]);
    }
}

// --- planted.json and the transcripts ------------------------------------------

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/worked")
}

fn planted() -> Vec<Value> {
    let text = std::fs::read_to_string(folder().join("planted.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The checks that fail for `file`, in the probe's order.
fn planted_for_probe(file: &str) -> Vec<&'static str> {
    let planted = planted();
    let ids: BTreeSet<&str> = planted
        .iter()
        .filter(|p| p["file"] == file && p["shown_by"] == "probe")
        .map(|p| p["id"].as_str().unwrap())
        .collect();
    let checks = stream_probe::checks::CHECKS.iter().map(|check| check.id);
    checks.filter(|id| ids.contains(id)).collect()
}

/// The findings of a transcript: `N. …`, `FILE:LINE` in backticks, then the ids.
fn findings(transcript: &str) -> Vec<(String, usize, BTreeSet<String>)> {
    let spans = |line: &str| -> Vec<String> {
        line.split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect()
    };
    transcript
        .lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_digit()) && line.contains(". **"))
        .map(|line| {
            let spans = spans(line);
            let (file, at) = spans[0].split_once(':').unwrap();
            let ids = spans[1..].iter().filter(|s| is_id(s)).cloned().collect();
            (file.to_owned(), at.parse().unwrap(), ids)
        })
        .collect()
}

fn is_id(span: &str) -> bool {
    ["sse-", "ws-", "stream-", "llm-", "prod-"]
        .iter()
        .any(|prefix| span.starts_with(prefix))
        && span
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// Each planted defect was found at its line, no finding is of anything else, and each defect names
/// a test above or the probe.
#[test]
fn the_transcripts_find_what_was_planted_and_nothing_else() {
    let tests = include_str!("worked.rs");
    let planted = planted();
    let prompts: BTreeSet<&str> = planted
        .iter()
        .map(|p| p["prompt"].as_str().unwrap())
        .collect();
    let mut problems = Vec::new();
    for prompt in prompts {
        let transcript = std::fs::read_to_string(folder().join(format!("{prompt}.md"))).unwrap();
        let mut expected = BTreeSet::new();
        for defect in planted.iter().filter(|p| p["prompt"] == prompt) {
            let text = |key: &str| defect[key].as_str().unwrap();
            let source = std::fs::read_to_string(folder().join(text("file"))).unwrap();
            let lines: Vec<usize> = (1..)
                .zip(source.lines())
                .filter(|(_, line)| line.contains(text("line")))
                .map(|(at, _)| at)
                .collect();
            assert_eq!(
                lines.len(),
                1,
                "{} stands once in {}",
                text("line"),
                text("file")
            );
            expected.insert((text("file").to_owned(), lines[0], text("id").to_owned()));
            let shown = text("shown_by");
            if shown != "probe" && !tests.contains(&format!("fn {shown}()")) {
                problems.push(format!("{prompt}: no test {shown}"));
            }
        }
        let found: BTreeSet<_> = findings(&transcript)
            .into_iter()
            .flat_map(|(file, at, ids)| ids.into_iter().map(move |id| (file.clone(), at, id)))
            .collect();
        for missed in expected.difference(&found) {
            problems.push(format!("{prompt}: does not find {missed:?}"));
        }
        for invented in found.difference(&expected) {
            problems.push(format!(
                "{prompt}: finds {invented:?}, which was not planted"
            ));
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

/// Every transcript has the parts that its prompt asks for, and names only ids and files that exist.
#[test]
fn the_transcripts_have_the_parts_that_were_asked_for() {
    let root = folder().join("../../..");
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let known: BTreeSet<String> = std::fs::read_dir(root.join("checklist"))
        .unwrap()
        .flat_map(|entry| {
            read(&entry.unwrap().path())
                .lines()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .filter(|line| !line.is_empty())
        .map(|line| {
            serde_json::from_str::<Value>(&line).unwrap()["id"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    let mut problems = Vec::new();
    let mut count = 0;
    for entry in std::fs::read_dir(root.join("prompts")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let template = read(&path);
        let transcript = read(&folder().join(format!("{name}.md")));
        count += 1;
        // `- **Part**: …` or `1. **Part**: …` below "Produce" becomes `### Part`.
        let (_, produce) = template.split_once("## Produce\n").unwrap();
        let (produce, _) = produce.split_once("## Verify").unwrap();
        let parts: Vec<&str> = produce
            .lines()
            .filter(|line| line.starts_with(|c: char| c.is_ascii_digit()))
            .map(|line| {
                line.split("**")
                    .nth(1)
                    .unwrap_or_else(|| panic!("{name}: a part without a name: {line}"))
            })
            .chain(["Verify"])
            .collect();
        let headings: Vec<&str> = transcript
            .lines()
            .filter_map(|line| line.strip_prefix("### "))
            .collect();
        if headings != parts {
            problems.push(format!("{name}: {headings:?} instead of {parts:?}"));
        }
        let text: String = transcript.split("```").step_by(2).collect();
        for span in text.split('`').skip(1).step_by(2) {
            let base = span.split([':', '#']).next().unwrap();
            let is_path = ["book/", "snippets/", "checklist/", "probe/"]
                .iter()
                .any(|p| base.starts_with(p));
            if (is_id(span) && !known.contains(span)) || (is_path && !root.join(base).exists()) {
                problems.push(format!("{name}: {span} does not exist"));
            }
        }
    }
    assert_eq!(count, 10);
    assert!(problems.is_empty(), "{problems:#?}");
}
