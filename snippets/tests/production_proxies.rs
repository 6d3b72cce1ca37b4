//! What real proxies do to streams: nginx, Caddy, HAProxy and Envoy run with the configuration files
//! of the book. The defaults that people run are among the wrong twins.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::{SinkExt, StreamExt};

use crate::support::gated::{NGINX_DEFAULT, assert_one_by_one, death_of_upstream, upstream};
use crate::support::proxy::{Kind, Proxy, of_the_book};
use crate::support::raw::End;
use crate::support::{RawClient, eventually, within};

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
    // WebSocket: upgraded, echoed, and its end noticed.
    let url = format!("ws://{}/echo", proxy.addr);
    let (mut socket, _) = within("the upgrade", tokio_tungstenite::connect_async(url))
        .await
        .unwrap();
    socket.send("hello".into()).await.unwrap();
    let answer = within("the echo", socket.next()).await.unwrap().unwrap();
    assert_eq!(answer.into_text().unwrap(), "hello");
    drop(socket);
    up.all_left().await;
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

/// The idle timeout of each proxy, shortened in the file of the book: a quiet stream is cut, one with
/// heartbeats is not.
#[tokio::test]
#[ignore = "needs nginx, HAProxy and Envoy: run ./check"]
async fn an_idle_stream_is_cut_and_heartbeats_keep_it() {
    for (kind, from, to) in [
        (Kind::Nginx, "_timeout 60s", "_timeout 2s"),
        (Kind::Haproxy, " 60s", " 2s"),
        (
            Kind::Envoy,
            "stream_idle_timeout: 60s",
            "stream_idle_timeout: 2s",
        ),
    ] {
        let (server, up) = upstream().await;
        let config = of_the_book(kind).replace(from, to);
        let proxy = Proxy::start(kind, &config, server.addr).await;
        let mut quiet = RawClient::get(proxy.addr, "/events", &[]).await;
        let mut beating = RawClient::get(proxy.addr, "/events?beat=300", &[]).await;
        quiet.read_until("\"n\":1").await;
        beating.read_until("\"n\":1").await;
        let end = quiet.read_to_end().await;
        assert_ne!(end, End::Open, "{kind:?}");
        eventually("the application to notice the cut", || {
            up.open.load(Ordering::SeqCst) == 1
        })
        .await;
        // The one with heartbeats has lived as long, and still gets events.
        up.go.add_permits(1);
        beating.read_until("\"n\":2").await;
    }
}

#[tokio::test]
#[ignore = "needs HAProxy: run ./check"]
async fn haproxy_ignores_a_tunnel_timeout_in_a_frontend() {
    let (server, _up) = upstream().await;
    let shortened = of_the_book(Kind::Haproxy).replace(" 60s", " 1s");
    let alive_after = |config: String| async move {
        let proxy = Proxy::start(Kind::Haproxy, &config, server.addr).await;
        let url = format!("ws://{}/echo", proxy.addr);
        let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        let quiet = tokio::time::timeout(Duration::from_millis(3_000), socket.next()).await;
        quiet.is_err()
    };
    let in_defaults = shortened.replace("timeout tunnel 1s", "timeout tunnel 30s");
    let in_frontend = shortened.replace("    timeout tunnel 1s\n", "").replace(
        "    default_backend",
        "    timeout tunnel 30s\n    default_backend",
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
