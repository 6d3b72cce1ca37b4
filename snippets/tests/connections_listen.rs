//! `connections/listen`: what it adds to `axum::serve`, and that a client cannot tell the two apart.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::ConnectInfo;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::AppendHeaders;
use axum::routing::{get, post};
use futures::stream;
use proptest::prelude::*;
use snippets::connections::listen::{self, SocketLimits};
use snippets::sse::event::Event;
use snippets::sse::log::{self, Log};
use snippets::sse::resume;
use snippets::sse::streams::{self, Config, Produced, Streams, head};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tower_http::compression::CompressionLayer;
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::trace::TraceLayer;

use crate::support::raw::{End, dechunk};
use crate::support::{RawClient, Server, eventually, stalled_get, within};

/// One route of each kind that a server treats differently.
fn app(streams: Streams) -> Router {
    let events = || {
        let names = ["one", "two", "three"];
        let events = names.map(|name| Event::new(name, &"x".repeat(300)));
        Produced::new(stream::iter(events))
    };
    let respond = move || streams.admit().unwrap().respond(events());
    let cookies = || AppendHeaders([("set-cookie", "a=1"), ("set-cookie", "b=2")]);
    let (one, two, three) = (respond.clone(), respond.clone(), respond.clone());
    let failing = async || {
        let items = [Ok(Bytes::from("data: 1\n\n")), Err("broken")];
        (
            streams::EVENT_STREAM,
            Body::from_stream(stream::iter(items)),
        )
    };
    Router::new()
        .route(
            "/events",
            get(async move || respond())
                .head(head)
                .post(async move || one()),
        )
        .route("/cookies", get(async move || (cookies(), two())))
        .route(
            "/close",
            get(async move || ([("connection", "close")], three())),
        )
        .route(
            "/sized",
            get(async || (streams::EVENT_STREAM, "data: 1\n\n")),
        )
        .route("/failing", get(failing))
        .route("/plain", get(async || "plain"))
        .route("/empty", get(async || StatusCode::NO_CONTENT))
        .route("/echo", post(async |body: Bytes| body))
        .route(
            "/peer",
            get(async |ConnectInfo(peer): ConnectInfo<SocketAddr>| peer.ip().to_string()),
        )
        .layer(CompressionLayer::new())
        .layer(TraceLayer::new_for_http())
        .layer(SetResponseHeaderLayer::overriding(
            HeaderName::from_static("x-bytes"),
            HeaderValue::from_bytes(b"\xe9").unwrap(),
        ))
}

fn open() -> Streams {
    Streams::start(Config::default(), CancellationToken::new())
}

#[derive(Debug, Clone)]
struct Ask {
    method: &'static str,
    path: &'static str,
    version: &'static str,
    headers: Vec<&'static str>,
    body: &'static str,
}

impl Ask {
    fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/{}\r\n", self.method, self.path, self.version);
        for header in ["host: localhost"].iter().chain(&self.headers) {
            text += &format!("{header}\r\n");
        }
        if !self.body.is_empty() {
            text += &format!("content-length: {}\r\n", self.body.len());
        }
        (text + "\r\n" + self.body).into_bytes()
    }
}

fn asks() -> impl Strategy<Value = Vec<Ask>> {
    let method = prop_oneof![5 => Just("GET"), 1 => Just("HEAD"), 1 => Just("POST")];
    let path = prop::sample::select(vec![
        "/events", "/cookies", "/close", "/sized", "/plain", "/empty", "/echo", "/peer", "/404",
    ]);
    let version = prop_oneof![6 => Just("1.1"), 1 => Just("1.0")];
    let header = prop::sample::select(vec![
        "connection: close",
        "Connection: Keep-Alive",
        "connection: x, CLOSE",
        "accept-encoding: gzip",
        "expect: 100-continue",
        "upgrade: h2c",
        "te: trailers",
    ]);
    let headers = prop::collection::vec(header, 0..2);
    let body = prop_oneof![3 => Just(""), 1 => Just("hello")];
    let ask = (method, path, version, headers, body);
    let ask = ask.prop_map(|(method, path, version, headers, body)| Ask {
        method,
        path,
        version,
        headers,
        body,
    });
    prop::collection::vec(ask, 1..6)
}

/// What differs between runs, and between servers that mean the same.
fn normal(response: &[u8]) -> String {
    let text: String = response.iter().map(|b| char::from(*b)).collect();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let mut lines: Vec<_> = head.split("\r\n").collect();
    lines.retain(|line| !line.starts_with("date: "));
    lines[1..].sort_unstable();
    // Four digits each time.
    let body = match body.find("retry: ") {
        Some(at) => format!("{}[retry]{}", &body[..at], &body[at + 11..]),
        None => body.to_owned(),
    };
    format!("{}\n\n{body}", lines.join("\n"))
}

/// Whether `got` starts with a complete response to `method`, and how long it is. `None` while the connection says it.
fn complete(got: &[u8], method: &str) -> Option<usize> {
    let head_len = got.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&got[..head_len]).to_ascii_lowercase();
    if head.starts_with("http/1.1 100") {
        return Some(head_len + complete(&got[head_len..], method)?);
    }
    if method == "HEAD" || head.contains(" 204 ") {
        return Some(head_len);
    }
    if head.contains("transfer-encoding: chunked") {
        let end = got[head_len..]
            .windows(7)
            .position(|w| w == b"\r\n0\r\n\r\n");
        return end.map(|end| head_len + end + 7);
    }
    let length = head
        .lines()
        .find_map(|l| l.strip_prefix("content-length: "));
    let length: usize = length?.parse().ok()?;
    (got.len() >= head_len + length).then_some(head_len + length)
}

/// One request after the other, on one connection for as long as the server keeps it.
async fn talk(addr: SocketAddr, asks: &[Ask]) -> Vec<String> {
    let mut seen = Vec::new();
    let mut connection = TcpStream::connect(addr).await.unwrap();
    for ask in asks {
        let mut got = Vec::new();
        within("a response", async {
            if connection.write_all(&ask.bytes()).await.is_err() {
                seen.push("[reconnect]".to_owned());
                connection = TcpStream::connect(addr).await.unwrap();
                connection.write_all(&ask.bytes()).await.unwrap();
            }
            loop {
                if complete(&got, ask.method) == Some(got.len()) {
                    break;
                }
                if connection.read_buf(&mut got).await.unwrap_or(0) == 0 {
                    break;
                }
            }
        })
        .await;
        let text = normal(&got);
        // Both servers close it now: whether a request was written before is a race.
        let keeps =
            ask.headers.contains(&"Connection: Keep-Alive") && complete(&got, ask.method).is_some();
        if ask.version == "1.0" && keeps {
            connection = TcpStream::connect(addr).await.unwrap();
            seen.push(text);
        } else if ask.version == "1.0" || text.to_ascii_lowercase().contains("\nconnection: close")
        {
            let rest = within("the end", connection.read_buf(&mut Vec::new())).await;
            seen.push(format!("{text}\n[end {}]", rest.unwrap_or(0)));
            connection = TcpStream::connect(addr).await.unwrap();
        } else {
            seen.push(text);
        }
    }
    seen
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// The differential test of the takeover: the same requests get the same bytes, except for the date and the order of headers.
    #[test]
    fn a_client_cannot_tell_it_from_axum(asks in asks()) {
        runtime().block_on(async {
            let app = app(open());
            let (ours, theirs) = (Server::start(app.clone()).await, Server::plain(app).await);
            let (ours, theirs) = (talk(ours.addr, &asks).await, talk(theirs.addr, &asks).await);
            assert_eq!(ours, theirs);
        });
    }

    /// Bytes that are not a request, and requests with something wrong.
    #[test]
    fn nonsense_is_answered_as_axum_answers_it(start in "GET /events HTTP/1.1\r\n|PRI |PRI \\* HTTP/2.0\r\n\r\n|G|", rest in prop::collection::vec(any::<u8>(), 0..60)) {
        runtime().block_on(async {
            let app = app(open());
            let mut answers = Vec::new();
            let http1 = listen::Config { http2: false, ..listen::Config::default() };
            for server in [Server::with(app.clone(), http1).await, Server::plain(app).await] {
                let mut client = TcpStream::connect(server.addr).await.unwrap();
                client.write_all(&[start.as_bytes(), &rest, b"\r\n\r\n"].concat()).await.unwrap();
                client.shutdown().await.unwrap();
                let mut got = Vec::new();
                let _ = within("the end", client.read_to_end(&mut got)).await;
                answers.push(normal(&got));
            }
            // axum also speaks HTTP/2; whether the head was answered before the half-close was seen is a race.
            if !start.starts_with("PRI") && !answers.iter().any(String::is_empty) {
                let first = |answer: &String| answer.lines().next().unwrap_or_default().to_owned();
                assert_eq!(first(&answers[0]), first(&answers[1]));
            }
        });
    }

    /// Requests that are sent without waiting: each response is the right one, in order. After an event stream the connection
    /// may end, with `connection: close`; a client then sends the rest again (RFC 9112, section 9.3.2).
    #[test]
    fn pipelined_requests_are_answered_in_order(asks in asks()) {
        runtime().block_on(async {
            let server = Server::start(app(open())).await;
            let mut client = TcpStream::connect(server.addr).await.unwrap();
            let asks: Vec<_> = asks.into_iter().filter(|ask| !ask.headers.contains(&"upgrade: h2c")).collect();
            let all: Vec<u8> = asks.iter().flat_map(Ask::bytes).collect();
            client.write_all(&all).await.unwrap();
            client.write_all(b"GET /plain HTTP/1.1\r\nconnection: close\r\n\r\n").await.unwrap();
            let mut got = Vec::new();
            let _ = within("the end", client.read_to_end(&mut got)).await;
            let mut rest = &got[..];
            let mut answered = 0;
            for ask in &asks {
                let Some(length) = complete(rest, ask.method) else { break };
                let alone = Server::plain(app(open())).await;
                let expected = talk(alone.addr, std::slice::from_ref(ask)).await;
                let strip = |text: &str| text.split("\n[end").next().unwrap().replace("connection: close\n", "").replace("\nconnection: close", "");
                assert_eq!(strip(&normal(&rest[..length])), strip(&expected[0]));
                answered += 1;
                rest = &rest[length..];
            }
            // The first is never lost.
            assert!(answered >= 1 || asks.is_empty() || asks[0].version == "1.0", "{}", String::from_utf8_lossy(&got));
        });
    }
}

/// Errors in a body, which an event stream of this pack does not have, cut the response.
#[tokio::test]
async fn a_body_that_fails_is_cut() {
    for server in [
        Server::start(app(open())).await,
        Server::plain(app(open())).await,
    ] {
        let mut client = RawClient::get(server.addr, "/failing", &[]).await;
        assert_ne!(client.read_to_end().await, End::Complete);
    }
}

#[tokio::test]
async fn a_connection_is_used_again_after_the_terminal_event() {
    let server = Server::start(app(open())).await;
    let mut client = RawClient::get(server.addr, "/plain", &[]).await;
    client.read_until("plain").await;
    client.received.clear();
    client.end = End::Open;
    client.send_request("GET", "/cookies", &[]).await;
    assert_eq!(client.read_to_end().await, End::Complete);
    assert!(
        client
            .head()
            .contains("set-cookie: a=1\r\nset-cookie: b=2\r\n")
    );
    client.received.clear();
    client.end = End::Open;
    client.send_request("GET", "/plain", &[]).await;
    client.read_until("plain").await;
}

/// What a client sends while it reads is a second request, or nonsense: the stream continues, then the connection ends.
#[tokio::test]
async fn a_client_that_sends_while_it_reads() {
    let log = Log::new(log::Config::complete(8, 1 << 20));
    let streams = open();
    let server = Server::start(resume::app(log.clone(), streams.clone())).await;
    let mut client = RawClient::get(server.addr, "/events", &[]).await;
    client.read_until("retry").await;
    client.send_request("GET", "/events", &[]).await;
    for n in 0..3 {
        log.publish(&Event::new("n", &n).unwrap()).unwrap();
        client.read_until(&format!("data: {n}\n\n")).await;
    }
    log.publish(&Event::new("done", &()).unwrap().last())
        .unwrap();
    assert_eq!(client.read_to_end().await, End::Complete);
    let mut rest = [0; 1];
    let rest = within("the end", client.socket.read(&mut rest)).await;
    assert_eq!(rest.unwrap_or(0), 0, "no second response");

    // A flood ends it at once.
    let log = Log::new(log::Config::complete(8, 1 << 20));
    let server = Server::start(resume::app(log.clone(), streams.clone())).await;
    let mut client = RawClient::get(server.addr, "/events", &[]).await;
    client.read_until("retry").await;
    let _ = client.socket.write_all(&[b'x'; 64 * 1024]).await;
    assert_ne!(client.read_to_end().await, End::Complete);
    eventually("its permit is free", || streams.open() == 0).await;
}

/// A head that does not end, and a connection that sends nothing.
#[tokio::test]
async fn a_request_head_has_its_time() {
    let config = listen::Config {
        head: Duration::from_millis(100),
        ..listen::Config::default()
    };
    let server = Server::with(app(open()), config).await;
    for sent in ["", "GET / HT", "GET /plain HTTP/1.1\r\nhost:"] {
        let mut client = RawClient::connect(server.addr).await;
        client.socket.write_all(sent.as_bytes()).await.unwrap();
        client.read_to_end().await;
        assert!(!client.received.starts_with(b"HTTP/1.1 200"));
    }
    // A stream that is open has no such time.
    let log = Log::new(log::Config::complete(8, 1 << 20));
    let config = listen::Config {
        head: Duration::from_millis(1),
        ..listen::Config::default()
    };
    let server = Server::with(resume::app(log.clone(), open()), config).await;
    let mut client = RawClient::connect(server.addr).await;
    client.send_request("GET", "/events", &[]).await;
    if client.read_some().await {
        tokio::time::sleep(Duration::from_millis(20)).await;
        log.publish(&Event::new("n", &1).unwrap()).unwrap();
        client.read_until("data: 1\n\n").await;
    }
}

#[tokio::test]
async fn request_heads_are_bounded() {
    let server = Server::start(app(open())).await;
    let long = format!("x: {}", "y".repeat(9_000));
    let mut client = RawClient::get(server.addr, "/plain", &[&long]).await;
    client.read_head().await;
    assert_eq!(client.status(), 431);
}

/// A stalled client is cut even if the response is not an event stream.
#[tokio::test]
async fn a_stalled_download_is_cut() {
    let alive = Arc::new(());
    let held = alive.clone();
    let endless = async move || {
        let held = held.clone();
        let chunks = stream::repeat_with(move || {
            let _ = &held;
            Ok::<_, Infallible>(Bytes::from_static(&[b'x'; 16 * 1024]))
        });
        Body::from_stream(chunks)
    };
    let config = listen::Config {
        sockets: SocketLimits {
            send: Duration::from_millis(200),
            ..SocketLimits::default()
        },
        ..listen::Config::default()
    };
    let app = Router::new().route("/endless", get(endless));
    let server = Server::with(app, config).await;
    let stalled = stalled_get(server.addr, "/endless").await;
    eventually("it begins", || Arc::strong_count(&alive) == 3).await;
    eventually("it is cut", || Arc::strong_count(&alive) == 2).await;
    drop(stalled);
}

/// Upgrades work, so that a WebSocket and a stream share the port.
#[tokio::test]
async fn an_upgrade_is_passed_on() {
    let echo = async |upgrade: axum::extract::WebSocketUpgrade| {
        upgrade.on_upgrade(async |mut socket| {
            while let Some(Ok(message)) = socket.recv().await {
                let _ = socket.send(message).await;
            }
        })
    };
    let server = Server::start(Router::new().route("/ws", get(echo)).merge(app(open()))).await;
    let mut client = crate::support::FrameClient::connect(server.addr, "/ws").await;
    client.send_text("hello").await;
    assert_eq!(client.next_text().await, "hello");
}

/// One port, both protocols.
#[tokio::test]
async fn http2_with_prior_knowledge_is_served_too() {
    let server = Server::start(app(open())).await;
    for http2 in [true, false] {
        let client = reqwest::Client::builder();
        let client = match http2 {
            true => client.http2_prior_knowledge(),
            false => client,
        };
        let response = client.build().unwrap().get(server.url("/events"));
        let response = within("a response", response.send()).await.unwrap();
        let version = match http2 {
            true => reqwest::Version::HTTP_2,
            false => reqwest::Version::HTTP_11,
        };
        assert_eq!(response.version(), version);
        let body = within("the body", response.text()).await.unwrap();
        assert_eq!(body.matches("event: ").count(), 3);
    }
}

/// The framing, byte by byte: one chunk for each frame of the body.
#[tokio::test]
async fn frames_are_chunks() {
    let server = Server::start(app(open())).await;
    let mut client = RawClient::get(server.addr, "/events", &["connection: close"]).await;
    client.read_to_end().await;
    let at = client.received.windows(4).position(|w| w == b"\r\n\r\n");
    let (body, complete) = dechunk(&client.received[at.unwrap() + 4..]);
    assert!(complete && body.ends_with(b"\"\n\n"));
}
