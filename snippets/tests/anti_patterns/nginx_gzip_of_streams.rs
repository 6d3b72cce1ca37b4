//! Wrong: `gzip_types text/event-stream` in nginx, trusting `Cache-Control: no-transform`.
//! Harm: nginx compresses the stream anyway.
//! Instead: production/proxies
//! Probe: cannot see: compressed, and still event by event

use crate::support::RawClient;
use crate::support::gated::{nginx_with, upstream};
use crate::support::proxy::{Kind, Proxy};

#[tokio::test]
#[ignore = "needs nginx: run ./check"]
async fn nginx_gzip_ignores_no_transform() {
    let (server, up) = upstream().await;
    let config = nginx_with(
        "gzip on; gzip_types text/event-stream; gzip_min_length 0; proxy_http_version 1.1;",
    );
    let proxy = Proxy::start(Kind::Nginx, &config, server.addr).await;
    let headers = ["accept-encoding: gzip"];
    let mut client = RawClient::get(proxy.addr, "/events?accel=true&events=2", &headers).await;
    let head = client.read_head().await.to_lowercase();
    assert!(
        head.contains("cache-control: no-cache, no-transform"),
        "{head}"
    );
    assert!(head.contains("content-encoding: gzip"), "{head}");
    up.go.add_permits(2);
    client.read_to_end().await;
}
