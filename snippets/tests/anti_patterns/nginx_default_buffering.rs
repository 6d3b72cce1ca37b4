//! Wrong: nginx in front of a stream with nothing but `proxy_pass`: HTTP/1.0 to the upstream (the default before 1.29.7) and buffering.
//! Harm: nothing arrives, not even the response headers, until the response ends; `X-Accel-Buffering: no` helps through one nginx only, which consumes it.
//! Instead: production/proxies
//! Probe: cannot see: needs a proxy: production_proxies.rs shows what arrives

use crate::support::gated::{
    NGINX_DEFAULT, assert_buffers, assert_one_by_one, nginx_with, upstream,
};
use crate::support::proxy::{Kind, Proxy};

#[tokio::test]
#[ignore = "needs nginx: run ./check"]
async fn nginx_by_default_buffers_until_the_response_ends() {
    let (server, up) = upstream().await;
    let proxy = Proxy::start(Kind::Nginx, NGINX_DEFAULT, server.addr).await;
    assert_buffers(proxy.addr, &up, "/events?events=3").await;
}

#[tokio::test]
#[ignore = "needs nginx: run ./check"]
async fn a_second_nginx_buffers_again_unless_the_header_is_passed_on() {
    let (server, up) = upstream().await;
    let inner = Proxy::start(Kind::Nginx, NGINX_DEFAULT, server.addr).await;
    let outer = Proxy::start(Kind::Nginx, NGINX_DEFAULT, inner.addr).await;
    assert_buffers(outer.addr, &up, "/events?accel=true&events=3").await;

    let (server, up) = upstream().await;
    let config = nginx_with("proxy_pass_header X-Accel-Buffering;");
    let inner = Proxy::start(Kind::Nginx, &config, server.addr).await;
    let outer = Proxy::start(Kind::Nginx, NGINX_DEFAULT, inner.addr).await;
    assert_one_by_one(outer.addr, &up, "/events?accel=true", &[]).await;
}
