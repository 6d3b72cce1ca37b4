//! Wrong: `ClientBuilder::timeout` (or `RequestBuilder::timeout`) on a request whose response is a stream
//! Harm: it spans the whole body: when the time is up, a healthy stream is cut in the middle
//! Instead: streams/deadline
//! Probe: cannot see: a client

use std::convert::Infallible;
use std::time::Duration;

use axum::{Router, body::Body, routing::get};
use futures::StreamExt;
use snippets::streams::deadline::client;
use tokio_stream::wrappers::IntervalStream;

use crate::support::{Server, within};

const LIMIT: Duration = Duration::from_millis(100);

/// Ten chunks, one each 20 ms: nearly twice the limit, never silent for as long as that.
async fn healthy() -> Server {
    let app = Router::new().route(
        "/",
        get(async || {
            let ticks = IntervalStream::new(tokio::time::interval(Duration::from_millis(20)));
            Body::from_stream(ticks.take(10).map(|_| Ok::<_, Infallible>("tick ")))
        }),
    );
    Server::start(app).await
}

async fn read(client: reqwest::Client, server: &Server) -> Result<String, reqwest::Error> {
    within("the answer", async {
        client.get(server.url("/")).send().await?.text().await
    })
    .await
}

#[tokio::test]
async fn a_healthy_stream_is_cut() {
    let server = healthy().await;
    let client = reqwest::Client::builder().timeout(LIMIT).build().unwrap();
    // reqwest names it a body or decoding error whose source is the timeout.
    let error = read(client, &server).await.unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
}

/// The limit here is what a machine under load may need between two chunks; the point is that the whole lasts longer.
#[tokio::test]
async fn a_limit_on_silence_lets_it_pass() {
    let server = healthy().await;
    let client = client(Duration::from_secs(60), Duration::from_secs(60), |more| {
        more
    })
    .unwrap();
    assert_eq!(read(client, &server).await.unwrap(), "tick ".repeat(10));
}
