//! `production/security`: what the patterns of this chapter promise, and the facts that its table states.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, Request, StatusCode};
use axum::response::Response;
use axum::routing::post;
use axum::{Extension, Router, middleware};
use futures::StreamExt;
use snippets::connections::crowd::Recheck;
use snippets::connections::listen;
use snippets::production::channels::{Channel, Channels, Reader, app};
use snippets::production::cross_site::refuse_cross_site;
use snippets::sse::event::Cursor;
use snippets::sse::event::Event;
use snippets::sse::log::{self, Log};
use snippets::sse::streams::{Config, Streams};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tower_http::compression::CompressionLayer;
use tower_http::decompression::RequestDecompressionLayer;
use tower_http::limit::RequestBodyLimitLayer;

const HOUR: Duration = Duration::from_secs(3600);

/// Two channels: `a` is read by alice and bob, `m` by mallory.
fn channels() -> Arc<Channels> {
    let channel = |epoch, readers: &[&str]| {
        let readers = readers.iter().map(|name| (*name).to_owned()).collect();
        let log = Log::starting_after(Cursor { epoch, seq: 0 }, log::Config::complete(10, 1_000));
        log.publish(&Event::new("e", &epoch).unwrap()).unwrap();
        Channel { readers, log }
    };
    let all = [
        ("a".to_owned(), channel(1, &["alice", "bob"])),
        ("m".to_owned(), channel(2, &["mallory"])),
    ];
    Arc::new(Channels {
        all: HashMap::from(all).into(),
        streams: Streams::start(Config::default(), CancellationToken::new()),
        recheck: Recheck {
            every: std::time::Duration::from_secs(5),
            ..Recheck::default()
        },
    })
}

async fn read(channels: &Arc<Channels>, reader: &str, channel: &str, cursor: &str) -> Response {
    let request =
        Request::get(format!("/channels/{channel}/events")).header("last-event-id", cursor);
    let app = app(channels.clone()).layer(Extension(Reader(reader.to_owned())));
    app.oneshot(request.body(Body::empty()).unwrap())
        .await
        .unwrap()
}

async fn next(body: &mut axum::body::BodyDataStream) -> String {
    String::from_utf8(body.next().await.unwrap().unwrap().to_vec()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_replay_asks_for_the_right_to_read_again() {
    let channels = channels();
    let cursor = "1-0";
    let ours = read(&channels, "bob", "a", cursor).await;
    assert_eq!(ours.status(), StatusCode::OK);
    let mut open = ours.into_body().into_data_stream();
    next(&mut open).await; // the prelude
    assert!(next(&mut open).await.contains("data: 1\n"));
    // Another's channel is answered like none, with and without another's cursor.
    for (channel, cursor) in [("a", cursor), ("a", ""), ("nothing", cursor)] {
        let refused = read(&channels, "mallory", channel, cursor).await;
        assert_eq!(refused.status(), StatusCode::NOT_FOUND);
    }
    // Another's cursor on one's own channel is a reset.
    let theirs = read(&channels, "mallory", "m", cursor).await;
    let mut body = theirs.into_body().into_data_stream();
    next(&mut body).await;
    assert!(next(&mut body).await.contains("event: reset\n"));
    assert!(next(&mut body).await.contains("data: 2\n"));
    // The right is taken away: the open stream ends in time, and its cursor opens nothing.
    channels
        .all
        .write()
        .unwrap()
        .get_mut("a")
        .unwrap()
        .readers
        .remove("bob");
    let begin = Instant::now();
    let rest = timeout(HOUR, next(&mut open)).await.unwrap();
    assert!(rest.starts_with("event: unauthorized\n"), "{rest}");
    assert!(begin.elapsed() <= Duration::from_secs(5));
    assert!(open.next().await.is_none());
    assert_eq!(
        read(&channels, "bob", "a", cursor).await.status(),
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn requests_of_other_sites_are_refused_before_their_body_is_read() {
    let own: Arc<[HeaderValue]> = [HeaderValue::from_static("https://app.example")].into();
    let app = Router::new()
        .route("/chat", post(async || "started").get(async || "read"))
        .layer(middleware::from_fn_with_state(own, refuse_cross_site));
    let ask = async |method: &str, headers: &[(&str, &str)]| {
        let mut request = Request::builder().method(method).uri("/chat");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        // A body that nobody may ask for.
        let body = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        let response = app.clone().oneshot(request.body(body).unwrap()).await;
        response.unwrap().status().as_u16()
    };
    let cookie = ("cookie", "session=alice-1");
    for (expected, headers) in [
        (200, &[("origin", "https://app.example"), cookie][..]),
        (200, &[("sec-fetch-site", "same-origin"), cookie]),
        // A program with a token of its own.
        (200, &[("authorization", "Bearer alice-1")]),
        (403, &[("origin", "https://evil.example"), cookie]),
        (
            403,
            &[("origin", "https://app.example.evil.example"), cookie],
        ),
        (403, &[("origin", "http://app.example"), cookie]),
        (403, &[("origin", "null"), cookie]),
        (
            403,
            &[
                ("origin", "https://evil.example"),
                ("sec-fetch-site", "same-origin"),
            ],
        ),
        (403, &[("sec-fetch-site", "same-site"), cookie]),
        (403, &[("sec-fetch-site", "cross-site")]),
        (403, &[cookie]),
    ] {
        assert_eq!(ask("POST", headers).await, expected, "{headers:?}");
    }
    assert_eq!(ask("GET", &[("origin", "https://evil.example")]).await, 200);
}

/// `length` zeros, compressed.
async fn bomb(length: usize) -> Bytes {
    let app = Router::new()
        .route("/", axum::routing::get(async move || vec![0_u8; length]))
        .layer(CompressionLayer::new());
    let request = Request::get("/").header("accept-encoding", "gzip");
    let response = app
        .oneshot(request.body(Body::empty()).unwrap())
        .await
        .unwrap();
    assert_eq!(response.headers()["content-encoding"], "gzip");
    axum::body::to_bytes(response.into_body(), usize::MAX)
        .await
        .unwrap()
}

/// 8 MiB arrive as some kilobytes. A limit outside the decompression sees these; the one of the extractor sees what comes out.
#[tokio::test]
async fn a_limit_outside_the_decompression_does_not_stop_a_bomb() {
    const LENGTH: usize = 8 << 20;
    let bomb = bomb(LENGTH).await;
    assert!(bomb.len() < 64 * 1024, "{}", bomb.len());
    let send = async |app: Router| {
        let request = Request::post("/").header("content-encoding", "gzip");
        let request = request.body(Body::from(bomb.clone())).unwrap();
        let response = app.oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        (
            status,
            axum::body::to_bytes(response.into_body(), 100)
                .await
                .unwrap(),
        )
    };
    let route = || Router::new().route("/", post(async |body: Bytes| body.len().to_string()));
    let outside = route()
        .layer(DefaultBodyLimit::disable())
        .layer(RequestDecompressionLayer::new())
        .layer(RequestBodyLimitLayer::new(64 * 1024));
    assert_eq!(send(outside).await, (200, LENGTH.to_string().into()));
    let inside = route()
        .layer(DefaultBodyLimit::max(64 * 1024))
        .layer(RequestDecompressionLayer::new());
    assert_eq!(send(inside).await.0, 413);
}

/// Sends half of a request head; whether the server gives up within an hour.
async fn given_up(addr: std::net::SocketAddr) -> bool {
    let mut slow = TcpStream::connect(addr).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nhost: lo").await.unwrap();
    let mut answer = Vec::new();
    timeout(HOUR, slow.read_to_end(&mut answer)).await.is_ok()
}

/// Nothing is on its way here but the end of the connection, so that the clock may jump.
#[tokio::test(start_paused = true)]
async fn a_request_head_that_never_ends_is_given_up_by_listen_and_not_by_axum() {
    let app = Router::new();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let plain = app.clone();
    tokio::spawn(async move { axum::serve(listener, plain).await });
    assert!(!given_up(addr).await);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let config = listen::Config::default();
    tokio::spawn(listen::serve(
        listener,
        app,
        config,
        CancellationToken::new(),
    ));
    assert!(given_up(addr).await);
}
