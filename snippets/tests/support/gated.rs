//! An upstream whose streams go on only when a test lets them, and what proxies do to it.
//!
//! Buffering is shown without a clock: the upstream sends the next event only after the test has
//! received the one before, so a proxy that holds an event back hangs the test.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::{any, get};
use tokio::sync::Semaphore;

use super::{RawClient, Server, eventually};
use testkit::proxy::{Kind, Proxy};
use testkit::raw::End;

/// What the upstream of a test knows and waits for.
#[derive(Clone)]
pub struct Upstream {
    /// One permit lets the stream go on by one event.
    pub go: Arc<Semaphore>,
    pub requests: Arc<AtomicUsize>,
    pub open: Arc<AtomicUsize>,
    pub ended: Arc<AtomicBool>,
}

impl Upstream {
    /// Waits until the application has noticed that every client left.
    pub async fn all_left(&self) {
        eventually("the application to notice that the clients left", || {
            self.open.load(Ordering::SeqCst) == 0
        })
        .await;
        self.go.forget_permits(usize::MAX);
    }
}

#[derive(serde::Deserialize)]
struct Options {
    #[serde(default)]
    accel: bool,
    #[serde(default)]
    ndjson: bool,
    /// Milliseconds between heartbeats; none without it.
    beat: Option<u64>,
    /// Ends the stream after this many events, with an error if `die`.
    events: Option<u32>,
    #[serde(default)]
    die: bool,
}

struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn events(State(up): State<Upstream>, Query(o): Query<Options>) -> Response {
    up.requests.fetch_add(1, Ordering::SeqCst);
    up.open.fetch_add(1, Ordering::SeqCst);
    let open = Open(up.open.clone());
    let mut response = Response::builder()
        .header(
            "content-type",
            if o.ndjson {
                "application/x-ndjson"
            } else {
                "text/event-stream"
            },
        )
        .header("cache-control", "no-cache, no-transform");
    if o.accel {
        response = response.header("x-accel-buffering", "no");
    }
    let body = async_stream::stream! {
        let _open = open;
        for n in 1.. {
            if o.ndjson {
                yield Ok(Bytes::from(format!("{{\"n\":{n}}}\n")));
            } else {
                yield Ok(Bytes::from(format!("id: {n}\ndata: {{\"n\":{n}}}\n\n")));
            }
            if let Some(beat) = o.beat {
                let beat = Duration::from_millis(beat);
                while tokio::time::timeout(beat, up.go.acquire()).await.map(|p| p.unwrap().forget()).is_err() {
                    yield Ok(Bytes::from_static(b": beat\n\n"));
                }
            } else {
                up.go.acquire().await.unwrap().forget();
            }
            if o.events == Some(n) {
                break;
            }
        }
        up.ended.store(true, Ordering::SeqCst);
        if o.die {
            yield Err(std::io::Error::other("the process was killed"));
        }
    };
    response.body(Body::from_stream(body)).unwrap()
}

async fn echo(State(up): State<Upstream>, ws: WebSocketUpgrade) -> Response {
    ws.on_upgrade(async move |mut socket| {
        up.open.fetch_add(1, Ordering::SeqCst);
        let _open = Open(up.open.clone());
        while let Some(Ok(message)) = socket.recv().await {
            if matches!(message, Message::Text(_)) && socket.send(message).await.is_err() {
                break;
            }
        }
    })
}

/// Counts the request, then never answers: the test drops the connection.
async fn silent(State(up): State<Upstream>) -> Result<Response, Infallible> {
    up.requests.fetch_add(1, Ordering::SeqCst);
    std::future::pending().await
}

pub async fn upstream() -> (Server, Upstream) {
    let up = Upstream {
        go: Arc::new(Semaphore::new(0)),
        requests: Arc::default(),
        open: Arc::default(),
        ended: Arc::default(),
    };
    let app = Router::new()
        .route("/events", get(events).post(events))
        .route("/echo", any(echo))
        .route("/silent", get(silent).post(silent))
        .route("/host", get(host))
        .route("/forwarded", get(forwarded))
        .with_state(up.clone());
    (Server::start(app).await, up)
}

/// The client's address, as the proxy says it.
async fn forwarded(headers: HeaderMap) -> Vec<u8> {
    let values = headers.get_all("x-forwarded-for").iter();
    let values: Vec<&[u8]> = values.map(|value| value.as_bytes()).collect();
    values.join(&b", "[..])
}

/// The Host that the application sees.
async fn host(headers: HeaderMap) -> Vec<u8> {
    headers
        .get("host")
        .map_or(Vec::new(), |host| host.as_bytes().to_vec())
}

/// Every event arrives before the upstream makes the next one.
pub async fn assert_one_by_one(
    proxy: SocketAddr,
    up: &Upstream,
    path: &str,
    headers: &[&str],
) -> RawClient {
    let mut client = RawClient::get(proxy, path, headers).await;
    let data = |n: u32| format!("{{\"n\":{n}}}");
    for n in 1..=4 {
        client.read_until(&data(n)).await;
        assert!(!client.body().contains(&data(n + 1)));
        up.go.add_permits(1);
    }
    client
}

/// The first byte arrives only after the upstream has ended the whole response.
pub async fn assert_buffers(proxy: SocketAddr, up: &Upstream, path: &str) {
    let mut client = RawClient::get(proxy, path, &[]).await;
    eventually("the request to reach the upstream", || {
        up.requests.load(Ordering::SeqCst) > 0
    })
    .await;
    up.go.add_permits(1);
    // The event is with the proxy now; let it have every chance to pass it on.
    let early = tokio::time::timeout(Duration::from_millis(700), client.read_some()).await;
    assert!(early.is_err(), "received early: {}", client.body());
    up.go.add_permits(100);
    client.read_until("\"n\":3").await;
    assert!(up.ended.load(Ordering::SeqCst));
}

/// How a client sees the death of the upstream in the middle of a stream.
pub async fn death_of_upstream(kind: Kind, config: &str) -> End {
    let (server, up) = upstream().await;
    let proxy = Proxy::start(kind, config, server.addr).await;
    let mut client = RawClient::get(proxy.addr, "/events?accel=true&events=2&die=true", &[]).await;
    client.read_until("\"n\":1").await;
    up.go.add_permits(1);
    client.read_until("\"n\":2").await;
    up.go.add_permits(1);
    client.read_to_end().await
}

pub const NGINX_DEFAULT: &str = "events {} http { server { listen 127.0.0.1:8080; location / { proxy_pass http://127.0.0.1:3000; } } }";

pub fn nginx_with(directives: &str) -> String {
    NGINX_DEFAULT.replacen("proxy_pass", &format!("{directives} proxy_pass"), 1)
}
