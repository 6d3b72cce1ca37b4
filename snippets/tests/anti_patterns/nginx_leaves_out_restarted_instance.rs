//! Wrong: Two instances in nginx's `upstream` without `max_fails=0`, restarted one after the other.
//! Harm: The first is left out by nginx for 10 s after its restart; if the second restarts within that time, clients get 502, which ends an EventSource permanently.
//! Instead: production/deploy
//! Probe: cannot see: two instances and a proxy

use std::net::SocketAddr;

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::support::RawClient;
use crate::support::proxy::{Kind, Proxy, free_port};

async fn start(addr: SocketAddr) -> tokio::task::JoinHandle<()> {
    let listener = TcpListener::bind(addr).await.unwrap();
    let app = Router::new().route("/", get(async || "served"));
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() })
}

async fn stop(instance: tokio::task::JoinHandle<()>) {
    instance.abort();
    let _ = instance.await;
}

/// The worst status that clients get while the instances are restarted one after the other.
async fn rolling_restart(parameters: &str) -> u16 {
    let addrs = [free_port(), free_port()];
    let config = format!(
        "events {{}} http {{ upstream app {{ server {} {parameters}; server {} {parameters}; }} server {{ listen 127.0.0.1:8080; \
         location / {{ proxy_pass http://app; }} }} }}",
        addrs[0], addrs[1]
    );
    let mut instances = [start(addrs[0]).await, start(addrs[1]).await];
    let proxy = Proxy::start(Kind::Nginx, &config, addrs[0]).await;
    let mut worst = 0;
    for (instance, addr) in instances.iter_mut().zip(addrs) {
        stop(std::mem::replace(instance, tokio::spawn(async {}))).await;
        // Each upstream is tried at least once.
        for _ in 0..4 {
            let mut client = RawClient::get(proxy.addr, "/", &[]).await;
            let status = client
                .read_head()
                .await
                .split(' ')
                .nth(1)
                .unwrap()
                .parse()
                .unwrap();
            worst = worst.max(status);
        }
        *instance = start(addr).await;
    }
    for instance in instances {
        stop(instance).await;
    }
    worst
}

#[tokio::test]
#[ignore = "needs nginx: run ./check"]
async fn a_rolling_restart_is_a_502_unless_failures_are_not_counted() {
    assert_eq!(rolling_restart("").await, 502);
    assert_eq!(rolling_restart("max_fails=0").await, 200);
}
