//! What real proxies do to streams: nginx, Caddy, HAProxy and Envoy run with the configuration files
//! of the book. The defaults that people run are among the wrong twins.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures::{SinkExt, StreamExt};
use hyper_util::rt::TokioIo;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use snippets::connections::listen;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::Message::{self, Ping};
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::support::gated::{
    NGINX_DEFAULT, Upstream, assert_one_by_one, death_of_upstream, upstream,
};
use crate::support::proxy::{Kind, Proxy, of_the_book};
use crate::support::raw::End;
use crate::support::tls::{self, Certificate};
use crate::support::{PATIENCE, RawClient, Server, eventually, within};

async fn assert_pattern(kind: Kind) {
    let (server, up) = upstream().await;
    let proxy = Proxy::start(kind, &of_the_book(kind), server.addr).await;
    // SSE, also for a client that accepts gzip, and NDJSON; the application notices each client that leaves.
    for (path, headers) in [
        ("/events", &[][..]),
        ("/events", &["accept-encoding: gzip, br"]),
        ("/events?ndjson=true", &["accept-encoding: gzip, br"]),
    ] {
        let client = assert_one_by_one(proxy.addr, &up, path, headers).await;
        assert!(!client.head().to_lowercase().contains("content-encoding"));
        drop(client);
        up.all_left().await;
    }
    // The application sees the address that the client asked for, port and all.
    let url = format!("http://{}/host", proxy.addr);
    let seen = reqwest::get(url).await.unwrap().text().await.unwrap();
    assert_eq!(seen, proxy.addr.to_string());
    // And the address of the client: not what it says itself.
    let mut client = RawClient::connect(proxy.addr).await;
    let forged = ["x-forwarded-for: 198.51.100.7", "connection: close"];
    client.send_request("GET", "/forwarded", &forged).await;
    client.read_to_end().await;
    assert_eq!(client.body(), "127.0.0.1", "{kind:?}");
    // WebSocket: upgraded, echoed, and its end noticed.
    let url = format!("ws://{}/echo", proxy.addr);
    let (socket, _) = within("the upgrade", tokio_tungstenite::connect_async(url))
        .await
        .unwrap();
    assert_echo(socket).await;
    up.all_left().await;
}

/// Sends a message, expects it back and nothing before it, and drops the socket.
async fn assert_echo<S>(mut socket: WebSocketStream<S>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    socket.send("hello".into()).await.unwrap();
    let answer = within("the echo", socket.next()).await.unwrap().unwrap();
    assert_eq!(answer.into_text().unwrap(), "hello");
}

#[tokio::test]
#[ignore = "needs nginx: run ./check"]
async fn nginx_with_the_configuration_of_the_book() {
    assert_pattern(Kind::Nginx).await;
}

#[tokio::test]
#[ignore = "needs Caddy: run ./check"]
async fn caddy_with_the_configuration_of_the_book() {
    assert_pattern(Kind::Caddy).await;
}

#[tokio::test]
#[ignore = "needs HAProxy: run ./check"]
async fn haproxy_with_the_configuration_of_the_book() {
    assert_pattern(Kind::Haproxy).await;
}

#[tokio::test]
#[ignore = "needs Envoy: run ./check"]
async fn envoy_with_the_configuration_of_the_book() {
    assert_pattern(Kind::Envoy).await;
}

#[tokio::test]
#[ignore = "needs nginx: run ./check"]
async fn nginx_streams_a_response_with_x_accel_buffering_no() {
    let (server, up) = upstream().await;
    let proxy = Proxy::start(Kind::Nginx, NGINX_DEFAULT, server.addr).await;
    let client = assert_one_by_one(proxy.addr, &up, "/events?accel=true", &[]).await;
    assert!(
        !client.head().to_lowercase().contains("x-accel-buffering"),
        "nginx consumes the header"
    );
}

#[tokio::test]
#[ignore = "needs nginx, HAProxy and Envoy: run ./check"]
async fn a_dead_upstream_is_an_error_with_http_1_1_to_the_upstream() {
    for kind in [Kind::Nginx, Kind::Haproxy, Kind::Envoy] {
        let end = death_of_upstream(kind, &of_the_book(kind)).await;
        assert!(matches!(end, End::Fin | End::Reset), "{kind:?}: {end:?}");
    }
}

/// Quiet SSE, NDJSON and WebSocket behind a proxy, and the same with heartbeats.
struct Idle {
    kind: Kind,
    up: Upstream,
    quiet: Vec<RawClient>,
    quiet_socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    beating: RawClient,
    beating_socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    _running: (Server, Proxy),
}

impl Idle {
    async fn start(kind: Kind, config: &str) -> Self {
        let (server, up) = upstream().await;
        let proxy = Proxy::start(kind, config, server.addr).await;
        let mut quiet = Vec::new();
        for path in ["/events", "/events?ndjson=true"] {
            let mut client = RawClient::get(proxy.addr, path, &[]).await;
            client.read_until("\"n\":1").await;
            quiet.push(client);
        }
        let mut beating = RawClient::get(proxy.addr, "/events?beat=300", &[]).await;
        beating.read_until("\"n\":1").await;
        let url = format!("ws://{}/echo", proxy.addr);
        let (quiet_socket, _) = connect_async(&url).await.unwrap();
        let (beating_socket, _) = connect_async(&url).await.unwrap();
        Self {
            kind,
            up,
            quiet,
            quiet_socket,
            beating,
            beating_socket,
            _running: (server, proxy),
        }
    }

    /// What is quiet is cut and the application notices; what beats has lived as long and still works.
    async fn assert_cut(mut self) {
        let kind = self.kind;
        let cut = async {
            for mut quiet in self.quiet {
                assert_ne!(quiet.read_to_end().await, End::Open, "{kind:?}");
            }
            while let Some(Ok(_)) = within("the socket's end", self.quiet_socket.next()).await {}
        };
        let beats = async {
            let mut beat = tokio::time::interval(Duration::from_millis(300));
            loop {
                beat.tick().await;
                self.beating_socket.send(Ping("".into())).await.unwrap();
                self.beating_socket.next().await.unwrap().unwrap();
            }
        };
        tokio::select! {
            () = cut => {}
            () = beats => {}
        }
        eventually("the application to notice the cuts", || {
            self.up.open.load(Ordering::SeqCst) == 2
        })
        .await;
        self.up.go.add_permits(1);
        self.beating.read_until("\"n\":2").await;
        echoes(&mut self.beating_socket).await;
    }

    /// Neither is cut.
    async fn assert_open(mut self) {
        self.up.go.add_permits(3);
        for quiet in &mut self.quiet {
            quiet.read_until("\"n\":2").await;
        }
        echoes(&mut self.quiet_socket).await;
    }
}

async fn echoes(socket: &mut WebSocketStream<MaybeTlsStream<TcpStream>>) {
    socket.send("still here".into()).await.unwrap();
    loop {
        let answer = within("the echo", socket.next()).await.unwrap().unwrap();
        match answer {
            Message::Text(text) => return assert_eq!(text, "still here"),
            _ => continue,
        }
    }
}

/// The idle timeout of each proxy, shortened in the file of the book; Caddy's file has none, and what is quiet behind it
/// outlives the three others.
#[tokio::test]
#[ignore = "needs nginx, Caddy, HAProxy and Envoy: run ./check"]
async fn an_idle_stream_is_cut_and_heartbeats_keep_it() {
    let without = Idle::start(Kind::Caddy, &of_the_book(Kind::Caddy)).await;
    let shortened = [
        (Kind::Nginx, "_timeout 60s", "_timeout 5s"),
        (Kind::Haproxy, " 60s", " 5s"),
        (
            Kind::Envoy,
            "stream_idle_timeout: 60s",
            "stream_idle_timeout: 5s",
        ),
    ];
    let cuts = shortened.map(async |(kind, from, to)| {
        let config = of_the_book(kind).replace(from, to);
        Idle::start(kind, &config).await.assert_cut().await;
    });
    futures::future::join_all(cuts).await;
    without.assert_open().await;
}

#[tokio::test]
#[ignore = "needs HAProxy: run ./check"]
async fn haproxy_ignores_a_tunnel_timeout_in_a_frontend() {
    let (server, _up) = upstream().await;
    let shortened = of_the_book(Kind::Haproxy).replace(" 60s", " 3s");
    let alive_after = |config: String| async move {
        let proxy = Proxy::start(Kind::Haproxy, &config, server.addr).await;
        let url = format!("ws://{}/echo", proxy.addr);
        let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        let quiet = tokio::time::timeout(Duration::from_secs(9), socket.next()).await;
        quiet.is_err()
    };
    let in_defaults = shortened.replace("timeout tunnel 3s", "timeout tunnel 90s");
    let in_frontend = shortened.replace("    timeout tunnel 3s\n", "").replace(
        "    default_backend",
        "    timeout tunnel 90s\n    default_backend",
    );
    assert!(
        alive_after(in_defaults).await,
        "the tunnel timeout replaces client and server"
    );
    assert!(
        !alive_after(in_frontend).await,
        "in a frontend it does nothing"
    );
}

#[tokio::test]
#[ignore = "needs nginx: run ./check"]
async fn nginx_repeats_a_get_on_another_upstream_but_not_a_post() {
    for (method, expected) in [("GET", 2), ("POST", 1)] {
        let (one, up_one) = upstream().await;
        let (two, up_two) = upstream().await;
        let config = format!(
            "events {{}} http {{ upstream app {{ server {}; server {}; }} server {{ listen 127.0.0.1:8080; location / {{ \
             proxy_read_timeout 1s; proxy_pass http://app; }} }} }}",
            one.addr, two.addr
        );
        let proxy = Proxy::start(Kind::Nginx, &config, one.addr).await;
        let mut client = RawClient::connect(proxy.addr).await;
        client
            .send_request(method, "/silent", &["content-length: 0"])
            .await;
        let head = client.read_head().await;
        assert!(head.starts_with("HTTP/1.1 504"), "{head}");
        let ran = up_one.requests.load(Ordering::SeqCst) + up_two.requests.load(Ordering::SeqCst);
        assert_eq!(ran, expected, "{method}");
    }
}

/// An upstream that reads a request and dies; how many it has read.
async fn dying() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let (addr, read) = (
        listener.local_addr().unwrap(),
        Arc::new(AtomicUsize::new(0)),
    );
    let count = read.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                if socket.read_buf(&mut head).await.is_ok_and(|n| n > 0) {
                    continue;
                }
                break;
            }
            // A proxy that only looks whether somebody listens sends none.
            count.fetch_add(usize::from(!head.is_empty()), Ordering::SeqCst);
            let _ = socket.set_zero_linger();
        }
    });
    (addr, read)
}

/// How often a request runs whose upstream dies before it answers, with two such upstreams and `retries`: GET, POST.
pub async fn runs(kind: Kind, retries: &str) -> [usize; 2] {
    let mut runs = [0, 0];
    for (method, runs) in ["GET", "POST"].into_iter().zip(&mut runs) {
        let (one, read_one) = dying().await;
        let (two, read_two) = dying().await;
        let proxy = Proxy::start(kind, &two_upstreams(kind, two, retries), one).await;
        let mut client = RawClient::connect(proxy.addr).await;
        let headers = ["content-length: 0"];
        client.send_request(method, "/events", &headers).await;
        let head = client.read_head().await;
        assert!(head.starts_with("HTTP/1.1 50"), "{kind:?}: {head}");
        *runs = read_one.load(Ordering::SeqCst) + read_two.load(Ordering::SeqCst);
    }
    runs
}

/// The file of the book with a second upstream, and `retries` where people put them.
fn two_upstreams(kind: Kind, two: SocketAddr, retries: &str) -> String {
    let config = of_the_book(kind);
    match kind {
        Kind::Nginx => config.replace(
            "server 127.0.0.1:3000;",
            &format!("server 127.0.0.1:3000; server {two}; {retries}"),
        ),
        Kind::Caddy => config.replace(
            "reverse_proxy 127.0.0.1:3000 {",
            &format!("reverse_proxy 127.0.0.1:3000 {two} {{\n{retries}"),
        ),
        Kind::Haproxy => config.replace(
            "server one 127.0.0.1:3000",
            &format!("{retries}\n    server one 127.0.0.1:3000\n    server two {two}"),
        ),
        Kind::Envoy => {
            let endpoint = config.find("          - lb_endpoints:").unwrap();
            let second = config[endpoint..]
                .replace("port_value: 3000", &format!("port_value: {}", two.port()));
            config.replace("timeout: 0s", &format!("timeout: 0s{retries}")) + &second
        }
    }
}

#[tokio::test]
#[ignore = "needs nginx, Caddy, HAProxy and Envoy: run ./check"]
async fn who_runs_a_request_again_when_its_upstream_dies_before_the_answer() {
    // Whether the GET and the POST run more than once.
    for (kind, retries, expected) in [
        (Kind::Nginx, "", [true, false]),
        (Kind::Caddy, "", [false, false]),
        (Kind::Caddy, "lb_try_duration 1s", [true, false]),
        (Kind::Haproxy, "", [false, false]),
        (Kind::Envoy, "", [false, false]),
    ] {
        let runs = runs(kind, retries).await;
        let again = runs.map(|n| n > 1);
        assert!(runs.iter().all(|n| *n > 0), "{kind:?} {retries}: {runs:?}");
        assert_eq!(again, expected, "{kind:?} {retries}: {runs:?}");
    }
}

/// A host that has vanished: the kernel keeps no more connections for this listener, so a SYN gets no answer.
async fn vanished() -> (std::net::TcpListener, Vec<TcpStream>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    socket.listen(0).unwrap();
    let listener = std::net::TcpListener::from(socket);
    let addr = listener.local_addr().unwrap();
    let mut full = Vec::new();
    while let Ok(Ok(stream)) =
        tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(addr)).await
    {
        full.push(stream);
    }
    (listener, full)
}

/// With the timeouts of the book a client waits some seconds for the other instance, and not a minute.
#[tokio::test]
#[ignore = "needs nginx, Caddy, HAProxy and Envoy: run ./check"]
async fn a_host_that_has_vanished_is_given_up_in_seconds() {
    let (server, _up) = upstream().await;
    let (gone, _full) = vanished().await;
    let gone = gone.local_addr().unwrap();
    for (kind, retries) in [
        (Kind::Nginx, ""),
        (Kind::Caddy, "lb_policy round_robin\nlb_try_duration 5s"),
        (Kind::Haproxy, "option redispatch 1"),
        (
            Kind::Envoy,
            "\n                            retry_policy: { retry_on: connect-failure }",
        ),
    ] {
        let config = two_upstreams(kind, gone, retries);
        let proxy = Proxy::start(kind, &config, server.addr).await;
        // Both are tried in turn: one of two requests meets the host that is gone.
        for _ in 0..4 {
            let begin = std::time::Instant::now();
            let mut client = RawClient::get(proxy.addr, "/host", &["connection: close"]).await;
            let head = client.read_head().await;
            assert!(head.starts_with("HTTP/1.1 200"), "{kind:?}: {head}");
            let took = begin.elapsed();
            println!("{kind:?}: {took:?}");
            assert!(took < Duration::from_secs(40), "{kind:?}: {took:?}");
        }
    }
}

/// An application that writes as fast as it may: how many bytes were taken from it, and how many of its streams are open.
async fn flood(send: Duration) -> (Server, Arc<AtomicUsize>, Arc<AtomicUsize>) {
    struct Open(Arc<AtomicUsize>);
    impl Drop for Open {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let (taken, open) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let (count, opened) = (taken.clone(), open.clone());
    let events = async move || {
        opened.fetch_add(1, Ordering::SeqCst);
        let here = Open(opened.clone());
        let event = Bytes::from(format!("data: {}\n\n", "x".repeat(16 * 1024)));
        let body = futures::stream::repeat_with(move || {
            let _ = &here;
            count.fetch_add(event.len(), Ordering::SeqCst);
            Ok::<_, std::convert::Infallible>(event.clone())
        });
        (
            [("content-type", "text/event-stream")],
            Body::from_stream(body),
        )
    };
    let sockets = listen::SocketLimits {
        send,
        ..listen::SocketLimits::default()
    };
    let config = listen::Config {
        sockets,
        ..listen::Config::default()
    };
    let app = axum::Router::new().route("/flood", axum::routing::get(events));
    (Server::with(app, config).await, taken, open)
}

/// A client that has read the head, and reads on only when the test says so.
async fn paused(proxy: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    let mut client = within("a connection", socket.connect(proxy)).await.unwrap();
    let request = "GET /flood HTTP/1.1\r\nhost: app.example\r\n\r\n";
    client.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 1024];
    let read = within("the head", client.read(&mut head)).await.unwrap();
    assert!(head[..read].starts_with(b"HTTP/1.1 200"));
    client
}

/// Waits until nothing more is taken.
async fn full(taken: &AtomicUsize) -> usize {
    let (mut last, mut same) = (0, 0);
    eventually("the path to be full", || {
        let now = taken.load(Ordering::SeqCst);
        same = if now == last && now > 0 { same + 1 } else { 0 };
        last = now;
        same == 100
    })
    .await;
    last
}

/// A reader that pauses holds back the application, through each proxy: what waits on the path is bounded, and a pause
/// shorter than every limit costs nothing.
#[tokio::test]
#[ignore = "needs nginx, Caddy, HAProxy and Envoy: run ./check"]
async fn a_reader_that_pauses_holds_back_the_application_through_every_proxy() {
    for kind in [Kind::Nginx, Kind::Caddy, Kind::Haproxy, Kind::Envoy] {
        let (server, taken, open) = flood(PATIENCE).await;
        let proxy = Proxy::start(kind, &of_the_book(kind), server.addr).await;
        let mut client = paused(proxy.addr).await;
        let mut read = 0;
        for _ in 0..3 {
            let waiting = full(&taken).await - read;
            println!("{kind:?}: {} KiB wait on the path", waiting / 1024);
            assert!(waiting < 64 << 20, "{kind:?}: {waiting} bytes");
            // It reads on, and the application writes on.
            let before = taken.load(Ordering::SeqCst);
            let mut some = vec![0; 64 * 1024];
            while taken.load(Ordering::SeqCst) < before + (1 << 20) {
                let more = within("more", client.read(&mut some)).await.unwrap();
                assert!(more > 0, "{kind:?}: the stream has ended");
                read += more;
            }
        }
        assert_eq!(open.load(Ordering::SeqCst), 1, "{kind:?}");
        drop(client);
        eventually("the application to notice", || {
            open.load(Ordering::SeqCst) == 0
        })
        .await;
    }
}

/// One that never reads on is ended by the application's own send deadline behind every proxy, and by those proxies that
/// have a limit for it.
#[tokio::test]
#[ignore = "needs nginx, Caddy, HAProxy and Envoy: run ./check"]
async fn a_reader_that_never_reads_on_is_ended_behind_every_proxy() {
    let short = Duration::from_secs(2);
    let of_the_proxy = |kind| match kind {
        Kind::Nginx => Some((" send_timeout 60s;", " send_timeout 2s;")),
        Kind::Haproxy => Some(("timeout client 60s", "timeout client 2s")),
        Kind::Envoy => Some(("stream_idle_timeout: 60s", "stream_idle_timeout: 2s")),
        Kind::Caddy => None,
    };
    let ended = async |kind: Kind, config: String, send: Duration| {
        let (server, taken, open) = flood(send).await;
        let proxy = Proxy::start(kind, &config, server.addr).await;
        let _client = paused(proxy.addr).await;
        eventually("the application to be rid of it", || {
            taken.load(Ordering::SeqCst) > 0 && open.load(Ordering::SeqCst) == 0
        })
        .await;
    };
    let all = [Kind::Nginx, Kind::Caddy, Kind::Haproxy, Kind::Envoy].map(async |kind| {
        ended(kind, of_the_book(kind), short).await;
        if let Some((from, to)) = of_the_proxy(kind) {
            let config = of_the_book(kind);
            assert!(config.contains(from), "{kind:?}");
            // Not the deadline of the application.
            ended(kind, config.replacen(from, to, 1), 2 * PATIENCE).await;
        }
    });
    futures::future::join_all(all).await;
}

/// 700 streams, started with the usual soft limit of 1,024 descriptors: two each.
#[tokio::test]
#[ignore = "needs nginx: run ./check"]
async fn nginx_raises_its_own_limit_of_descriptors() {
    let config = of_the_book(Kind::Nginx);
    // This process has both ends.
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, all).unwrap();
    let (server, _up) = upstream().await;
    let proxy = Proxy::start_with_descriptors(Kind::Nginx, &config, server.addr, 1_024).await;
    let mut open = Vec::new();
    for n in 0..700 {
        let mut client = RawClient::get(proxy.addr, "/events", &[]).await;
        let head = client.read_head().await;
        assert!(head.starts_with("HTTP/1.1 200"), "{n} open: {head}");
        open.push(client);
    }
}

#[tokio::test]
#[ignore = "needs nginx: run ./check"]
async fn nginx_without_the_upgrade_headers_refuses_a_websocket() {
    let (server, _up) = upstream().await;
    let proxy = Proxy::start(Kind::Nginx, NGINX_DEFAULT, server.addr).await;
    let url = format!("ws://{}/echo", proxy.addr);
    let refused = tokio_tungstenite::connect_async(url).await.unwrap_err();
    let tokio_tungstenite::tungstenite::Error::Http(response) = refused else {
        panic!("{refused:?}");
    };
    assert!(
        matches!(response.status().as_u16(), 400 | 426),
        "{response:?}"
    );
}

/// The file of the book with TLS: event streams over HTTP/2, more than a page has connections, and WebSockets.
async fn assert_secure(kind: Kind, extended: bool) {
    let (server, up) = upstream().await;
    let certificate = Certificate::new();
    let proxy = Proxy::start(kind, &certificate.config(kind), server.addr).await;
    let h2 = certificate.connector("h2");
    // Caddy accepts and resets connections until its configuration is loaded.
    let mut sender = within("HTTP/2", async {
        loop {
            match h2.http2(proxy.addr).await {
                Ok(sender) => break sender,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    })
    .await;
    let mut open = async |path| {
        let response = sender.send_request(tls::get(proxy.addr, path));
        let response = within(path, response).await.unwrap();
        assert_eq!(response.status(), 200, "{kind:?} {path}");
        response.into_body()
    };
    // One event after the other.
    let (mut body, mut seen) = (open("/events").await, String::new());
    for n in 1..=4 {
        tls::read_until(&mut body, &mut seen, &format!("{{\"n\":{n}}}")).await;
        assert!(!seen.contains(&format!("{{\"n\":{}}}", n + 1)));
        up.go.add_permits(1);
    }
    drop(body);
    up.all_left().await;
    // A browser opens six connections to a host over HTTP/1.1.
    let mut many = Vec::new();
    for _ in 0..20 {
        let mut body = open("/events").await;
        tls::read_until(&mut body, &mut String::new(), "{\"n\":1}").await;
        many.push(body);
    }
    for (path, expected) in [
        ("/host", format!("localhost:{}", proxy.addr.port())),
        ("/forwarded", "127.0.0.1".to_owned()),
    ] {
        let mut seen = String::new();
        let mut body = open(path).await;
        tls::read_until(&mut body, &mut seen, &expected).await;
        assert_eq!(seen, expected, "{kind:?}");
    }
    drop(many);
    up.all_left().await;
    // A page opens a WebSocket on a connection of HTTP/1.1.
    let stream = certificate.connect(proxy.addr, "http/1.1").await.unwrap();
    let url = format!("wss://localhost:{}/echo", proxy.addr.port());
    let upgrade = tokio_tungstenite::client_async(url, stream);
    let (socket, _) = within("the upgrade", upgrade).await.unwrap();
    assert_echo(socket).await;
    up.all_left().await;
    // RFC 8441: on the connection of HTTP/2, if the proxy announces it. Its settings have come with the responses above.
    let mut connect = tls::get(proxy.addr, "/echo");
    *connect.method_mut() = http::Method::CONNECT;
    let headers = connect.headers_mut();
    headers.insert("sec-websocket-version", "13".parse().unwrap());
    connect
        .extensions_mut()
        .insert(hyper::ext::Protocol::from_static("websocket"));
    let answer = within("the extended CONNECT", sender.send_request(connect)).await;
    let accepted = answer.as_ref().is_ok_and(|answer| answer.status() == 200);
    assert_eq!(accepted, extended, "{kind:?}: {answer:?}");
    if let (true, Ok(answer)) = (extended, answer) {
        let stream = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
        let socket = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
        assert_echo(socket).await;
        up.all_left().await;
    }
}

#[tokio::test]
#[ignore = "needs nginx: run ./check"]
async fn nginx_with_tls_and_http_2() {
    assert_secure(Kind::Nginx, false).await;
}

#[tokio::test]
#[ignore = "needs Caddy: run ./check"]
async fn caddy_with_tls_and_http_2() {
    assert_secure(Kind::Caddy, false).await;
}

#[tokio::test]
#[ignore = "needs HAProxy: run ./check"]
async fn haproxy_with_tls_and_http_2() {
    assert_secure(Kind::Haproxy, true).await;
}

#[tokio::test]
#[ignore = "needs Envoy: run ./check"]
async fn envoy_with_tls_and_http_2() {
    assert_secure(Kind::Envoy, false).await;
}

/// With `allow_connect` browsers would open their WebSockets over HTTP/2, and each would be refused.
#[tokio::test]
#[ignore = "needs Envoy: run ./check"]
async fn envoy_passes_an_extended_connect_on_without_a_key() {
    let (server, _up) = upstream().await;
    let certificate = Certificate::new();
    let options = "http2_protocol_options: { allow_connect: true }";
    let upgrades = "                upgrade_configs:";
    let config = certificate
        .config(Kind::Envoy)
        .replace(upgrades, &format!("                {options}\n{upgrades}"));
    let proxy = Proxy::start(Kind::Envoy, &config, server.addr).await;
    let mut sender = certificate.connector("h2").http2(proxy.addr).await.unwrap();
    let answer = sender.send_request(tls::get(proxy.addr, "/host")).await;
    assert_eq!(answer.unwrap().status(), 200);
    let mut connect = tls::get(proxy.addr, "/echo");
    *connect.method_mut() = http::Method::CONNECT;
    let headers = connect.headers_mut();
    headers.insert("sec-websocket-version", "13".parse().unwrap());
    connect
        .extensions_mut()
        .insert(hyper::ext::Protocol::from_static("websocket"));
    let mut answer = sender.send_request(connect).await.unwrap();
    assert_eq!(answer.status(), 400);
    let mut seen = String::new();
    tls::read_until(answer.body_mut(), &mut seen, "Sec-WebSocket-Key").await;
}
