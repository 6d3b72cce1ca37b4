//! Wrong: a relay whose clients name the upstream's URL, checked with `starts_with("http://models.example")`.
//! Harm: `http://models.example@127.0.0.1:9000/` passes and reads what only the service can reach.
//! Instead: production/security
//! Probe: cannot see: the probe names no upstream in its requests

use std::collections::HashMap;

use axum::Router;
use axum::routing::get;

use crate::support::{Server, within};

/// What only this machine should be able to read.
async fn internal() -> Server {
    Server::start(Router::new().route("/", get(async || "the internal page"))).await
}

async fn relay(url: &str) -> Option<String> {
    if !url.starts_with("http://models.example") {
        return None;
    }
    let response = reqwest::get(url).await.ok()?;
    response.text().await.ok()
}

#[tokio::test]
async fn a_url_that_passes_the_check_reads_an_internal_page() {
    let internal = internal().await;
    assert_eq!(relay(&internal.url("/")).await, None, "as tested");
    let url = format!("http://models.example@{}/", internal.addr);
    let answer = within("the answer", relay(&url)).await;
    assert_eq!(answer.as_deref(), Some("the internal page"));
}

#[tokio::test]
async fn a_name_from_a_table_names_nothing_else() {
    let internal = internal().await;
    // The client says which; where it is, the service knows.
    let upstreams = HashMap::from([("small", "http://models.example/v1")]);
    let attack = format!("http://models.example@{}/", internal.addr);
    assert_eq!(upstreams.get(attack.as_str()), None);
    assert!(upstreams.contains_key("small"));
}
