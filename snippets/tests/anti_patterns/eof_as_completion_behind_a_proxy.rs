//! Wrong: a client that treats the end of the response as the end of the stream.
//! Harm: behind nginx with HTTP/1.0 to the upstream (its default before 1.29.7) and behind Caddy 2.6.2, the response of an upstream that died looks complete.
//! Instead: production/proxies
//! Probe: cannot see: a client

use crate::support::gated::{death_of_upstream, nginx_with};
use crate::support::proxy::{Kind, of_the_book};
use crate::support::raw::End;

#[tokio::test]
#[ignore = "needs nginx and Caddy: run ./check"]
async fn a_dead_upstream_looks_like_a_complete_response() {
    // HTTP/1.0 to the upstream: the end of the connection is the end of the body.
    let plain = death_of_upstream(Kind::Nginx, &nginx_with("proxy_http_version 1.0;")).await;
    assert_eq!(plain, End::Complete);
    let caddy = death_of_upstream(Kind::Caddy, &of_the_book(Kind::Caddy)).await;
    assert_eq!(caddy, End::Complete, "Caddy 2.6.2");
}
