//! `connections/client_ip`: the client behind trusted proxies, and nobody else's word for it.

use std::net::{IpAddr, SocketAddr};

use axum::extract::ConnectInfo;
use axum::routing::get;
use axum::{Extension, Router};
use http::{HeaderMap, HeaderValue};
use snippets::connections::client_ip::{ClientIp, Network, TrustedProxies};
use snippets::connections::listen;
use tower::ServiceExt;

use crate::support::{RawClient, Server};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn client(peer: &str, lines: &[&str]) -> IpAddr {
    let networks = ["10.0.0.0/8", "192.0.2.7", "2001:db8:aa::/48"];
    let proxies = TrustedProxies::new(networks.map(|network| network.parse().unwrap()));
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append("x-forwarded-for", HeaderValue::from_str(line).unwrap());
    }
    proxies.client(ip(peer), &headers)
}

#[test]
fn the_last_address_that_no_proxy_of_ours_has_counts() {
    for (peer, lines, expected) in [
        // Without a proxy of ours in front, the header is the client's invention.
        ("203.0.113.5", &["198.51.100.1"][..], "203.0.113.5"),
        ("10.1.1.1", &["198.51.100.1"], "198.51.100.1"),
        ("10.1.1.1", &["1.1.1.1, 198.51.100.1"], "198.51.100.1"),
        (
            "10.1.1.1",
            &["1.1.1.1, 198.51.100.1, 10.2.2.2, 192.0.2.7"],
            "198.51.100.1",
        ),
        // Several lines are one list (RFC 9110, 5.3).
        (
            "10.1.1.1",
            &["1.1.1.1", "198.51.100.1", "10.2.2.2"],
            "198.51.100.1",
        ),
        ("10.1.1.1", &["10.3.3.3, 10.2.2.2"], "10.3.3.3"),
        ("10.1.1.1", &[], "10.1.1.1"),
        ("10.1.1.1", &["not an address"], "10.1.1.1"),
        ("10.1.1.1", &["198.51.100.1, not an address"], "10.1.1.1"),
        ("10.1.1.1", &["198.51.100.1:4711"], "198.51.100.1"),
        ("10.1.1.1", &["[2001:db8:1::1]:4711"], "2001:db8:1::1"),
        ("2001:db8:aa::1", &["2001:db8:bb::1"], "2001:db8:bb::1"),
        ("::ffff:10.1.1.1", &["::ffff:198.51.100.1"], "198.51.100.1"),
        ("192.0.2.8", &["198.51.100.1"], "192.0.2.8"),
    ] {
        assert_eq!(client(peer, lines), ip(expected), "{peer} {lines:?}");
    }
    // A long list costs no more than a short one, and is not believed.
    let long = vec!["10.0.0.1"; 1000].join(",");
    assert_eq!(client("10.1.1.1", &[&long]), ip("10.0.0.1"));
}

#[test]
fn networks_are_parsed_exactly() {
    for (network, inside, outside) in [
        ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
        ("10.0.0.0/31", "10.0.0.1", "10.0.0.2"),
        ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
        ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::1"),
        ("::1", "::1", "::2"),
    ] {
        let network: Network = network.parse().unwrap();
        assert!(network.contains(ip(inside)) && !network.contains(ip(outside)));
    }
    assert!(
        "0.0.0.0/0"
            .parse::<Network>()
            .unwrap()
            .contains(ip("1.2.3.4"))
    );
    for wrong in [
        "",
        "10.0.0.0/33",
        "::/129",
        "10.0.0.0/",
        "10.0.0.0/x",
        "host",
        "10.0.0/8",
    ] {
        assert!(wrong.parse::<Network>().is_err(), "{wrong}");
    }
}

fn app() -> Router {
    let proxies = TrustedProxies::new(["127.0.0.0/8".parse().unwrap()]);
    Router::new()
        .route("/", get(async |ClientIp(ip): ClientIp| ip.to_string()))
        .layer(Extension(proxies))
}

async fn ask(addr: SocketAddr) -> String {
    let headers = ["x-forwarded-for: 198.51.100.1", "connection: close"];
    let mut client = RawClient::get(addr, "/", &headers).await;
    while client.read_some().await {}
    String::from_utf8_lossy(&client.received).into_owned()
}

#[tokio::test]
async fn works_under_every_server_that_knows_its_peers() {
    let server = Server::start(app()).await;
    assert!(ask(server.addr).await.ends_with("198.51.100.1"));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await
        .unwrap();
    let addr = listener.local_addr().unwrap();
    let config = listen::Config::default();
    tokio::spawn(listen::serve(listener, app(), config, Default::default()));
    assert!(ask(addr).await.ends_with("198.51.100.1"));
    // A server that does not is a mistake in `main`, and no reason to count all clients as one.
    let request = http::Request::get("/")
        .body(axum::body::Body::empty())
        .unwrap();
    assert_eq!(app().oneshot(request).await.unwrap().status(), 500);
    let mut request = http::Request::get("/")
        .body(axum::body::Body::empty())
        .unwrap();
    let peer = ConnectInfo(SocketAddr::from(([203, 0, 113, 5], 1)));
    request.extensions_mut().insert(peer);
    assert_eq!(app().oneshot(request).await.unwrap().status(), 200);
}
