//! Wrong: Envoy's default route timeout in front of a stream.
//! Harm: every stream is cut after 15 s, heartbeats or not: the timeout is for the complete response.
//! Instead: production/proxies
//! Probe: cannot see: after 15 s, in the proxy: a longer --budget reports the cut as sse-ends-cleanly

use std::time::{Duration, Instant};

use crate::support::RawClient;
use crate::support::gated::upstream;
use crate::support::proxy::{Kind, Proxy, of_the_book};
use crate::support::raw::End;

#[tokio::test]
#[ignore = "needs Envoy: run ./check"]
async fn envoy_cuts_every_stream_after_15_seconds_by_default() {
    let (server, _up) = upstream().await;
    let config = of_the_book(Kind::Envoy).replace("                            timeout: 0s\n", "");
    assert_ne!(config, of_the_book(Kind::Envoy));
    let proxy = Proxy::start(Kind::Envoy, &config, server.addr).await;
    let started = Instant::now();
    let mut client = RawClient::get(proxy.addr, "/events?beat=500", &[]).await;
    client.read_until("\"n\":1").await;
    let end = tokio::time::timeout(Duration::from_secs(60), client.read_to_end()).await;
    let lived = started.elapsed();
    assert_ne!(end.unwrap(), End::Complete);
    assert!(lived >= Duration::from_secs(14), "{lived:?}");
}
