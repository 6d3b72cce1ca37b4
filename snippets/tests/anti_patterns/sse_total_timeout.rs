//! Wrong: `.timeout(…)` of the HTTP client on a stream: it limits the whole body.
//! Harm: a healthy stream is cut after that time, in the middle of an answer.
//! Instead: sse/consume
//! Probe: cannot see: a client

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::StreamBody;
use snippets::sse::consume::EventSource;
use snippets::sse::reconnect::Policy;
use snippets::sse::transports::over_reqwest;
use snippets::sse::wire::Limits;
use tokio::time::Instant;

use crate::support::{Server, within};

/// Within it a busy machine connects and sends the first event.
const TOTAL: Duration = Duration::from_secs(2);

/// An event each 20 ms, for twice the timeout.
fn app() -> Router {
    let ticks = || {
        futures::stream::unfold(Instant::now(), |begin| async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let event = if begin.elapsed() < TOTAL * 2 {
                "data: tick\n\n"
            } else {
                "data: done\n\n"
            };
            Some((
                Ok::<_, Infallible>(http_body::Frame::data(Bytes::from(event))),
                begin,
            ))
        })
    };
    let handler = async move || {
        let body = axum::body::Body::new(StreamBody::new(ticks()));
        ([(CONTENT_TYPE, "text/event-stream")], body)
    };
    Router::new().route("/events", get(handler))
}

#[tokio::test]
async fn a_stream_that_is_well_is_cut() {
    let server = Server::start(app()).await;
    let client = reqwest::Client::builder().timeout(TOTAL).build().unwrap();
    let response = client.get(server.url("/events")).send().await.unwrap();
    let mut chunks = response.bytes_stream();
    let mut text = String::new();
    let error = within("the cut", async {
        loop {
            match chunks.next().await.unwrap() {
                Ok(chunk) => text.push_str(&String::from_utf8_lossy(&chunk)),
                Err(error) => return error,
            }
        }
    })
    .await;
    assert!(error.is_timeout());
    assert!(
        text.starts_with("data: tick") && !text.contains("done"),
        "{text}"
    );
}

#[tokio::test]
async fn with_an_idle_timeout_it_is_read_to_its_end() {
    let server = Server::start(app()).await;
    let policy = Policy {
        idle: Duration::from_secs(60),
        ..Policy::default()
    };
    let connect = over_reqwest(reqwest::Client::new(), server.url("/events"));
    let mut source = EventSource::new(policy, Limits::default(), connect);
    within("the end", async {
        while source.next().await.unwrap().unwrap().data != "done" {}
    })
    .await;
}
