//! Wrong: `retry-on all-retryable-errors` in HAProxy, or Envoy's `retry_on: reset`, for all methods.
//! Harm: a POST whose upstream dies before it answers runs four times in all with HAProxy 2.6, twice with Envoy, each paid for.
//! Instead: production/proxies
//! Probe: cannot see: between the proxy and the service

use crate::production_proxies::runs;
use crate::support::proxy::Kind;

const ALL: &str = "retry-on all-retryable-errors";

/// Below `timeout: 0s` of the book's file.
fn policy(more: &str) -> String {
    format!("\n                            retry_policy: {{ retry_on: \"reset\"{more} }}")
}

#[tokio::test]
#[ignore = "needs HAProxy and Envoy: run ./check"]
async fn a_post_runs_again() {
    assert_eq!(runs(Kind::Haproxy, ALL).await, [4, 4]);
    assert_eq!(runs(Kind::Envoy, &policy("")).await, [2, 2]);
}

#[tokio::test]
#[ignore = "needs HAProxy and Envoy: run ./check"]
async fn retries_for_get_alone() {
    let but_post = format!("{ALL}\n    http-request disable-l7-retry if METH_POST");
    assert_eq!(runs(Kind::Haproxy, &but_post).await, [4, 1]);
    let get =
        r#", retriable_request_headers: [{ name: ":method", string_match: { exact: "GET" } }]"#;
    assert_eq!(runs(Kind::Envoy, &policy(get)).await, [2, 1]);
}
