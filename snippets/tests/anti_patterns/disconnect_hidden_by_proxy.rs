//! Wrong: Caddy with `flush_interval -1`, or HAProxy without `option abortonclose`.
//! Harm: when a client leaves a stream without heartbeats, the application does not notice: the work, and the tokens, continue.
//! Instead: production/proxies
//! Probe: cannot see: seen by the service behind the proxy

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::support::RawClient;
use crate::support::gated::upstream;
use crate::support::proxy::{Kind, Proxy, of_the_book};

/// A client of a quiet stream leaves; with each configuration, does the application notice?
#[tokio::test]
#[ignore = "needs Caddy and HAProxy: run ./check"]
async fn a_disconnect_is_hidden_by_flush_interval_and_without_abortonclose() {
    let caddy = of_the_book(Kind::Caddy);
    let haproxy = of_the_book(Kind::Haproxy);
    for (kind, config) in [
        (
            Kind::Caddy,
            caddy.replace(":3000 {\n", ":3000 {\nflush_interval -1\n"),
        ),
        (
            Kind::Haproxy,
            haproxy.replace("    option abortonclose\n", ""),
        ),
    ] {
        assert_ne!(config, of_the_book(kind));
        let (server, up) = upstream().await;
        let proxy = Proxy::start(kind, &config, server.addr).await;
        let mut client = RawClient::get(proxy.addr, "/events", &[]).await;
        client.read_until("\"n\":1").await;
        drop(client);
        // With the configuration of the book it is noticed within milliseconds (`assert_pattern`).
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(up.open.load(Ordering::SeqCst), 1, "{kind:?}");
    }
}
