//! Wrong: `ConcurrencyLimitLayer` to limit the open streams, `TimeoutLayer` to limit their time.
//! Harm: both layers stop counting when the response headers are ready, which is the start of a stream: any number of streams can stay open for any time.
//! Instead: sse/serve
//! Probe: fails sse-limit-counts-streams

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::response::IntoResponse;
use axum::response::sse::{Event, Sse};
use axum::routing::get;
use futures::StreamExt;
use snippets::sse::jobs::{self, Jobs};
use snippets::sse::streams::{Config, Streams};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower_http::timeout::TimeoutLayer;

use crate::support::wrong::{Probed, Start, Wrong, resumable};
use crate::support::{RawClient, Server};

fn wrong(ticks: &watch::Sender<u32>) -> Router {
    let ticks = ticks.subscribe();
    let events = async move || -> axum::response::Response {
        let events = WatchStream::new(ticks.clone()).map(|n| Event::default().data(n.to_string()));
        Sse::new(events.map(Ok::<_, Infallible>)).into_response()
    };
    let timeout = Duration::from_millis(50);
    Router::new()
        .route("/", get(events))
        .layer(GlobalConcurrencyLimitLayer::new(2))
        .layer(TimeoutLayer::with_status_code(
            StatusCode::REQUEST_TIMEOUT,
            timeout,
        ))
}

pub(crate) const PROBED: Probed =
    Probed::new(Start::Service(wrong_service)).with(|options| options.limit = Some(2));

/// Two streams, says the layer; for `stream-probe`.
pub(crate) fn wrong_service() -> Wrong {
    let (app, publish) = resumable();
    Wrong::publishing(app.layer(GlobalConcurrencyLimitLayer::new(2)), publish)
}

#[tokio::test(start_paused = true)]
async fn ten_streams_pass_a_limit_of_two_and_outlive_the_timeout() {
    let ticks = watch::Sender::new(0);
    let app = wrong(&ticks);
    let mut open = Vec::new();
    for _ in 0..10 {
        let request = Request::get("/").body(Body::empty()).unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        open.push(response.into_body().into_data_stream());
    }
    for stream in &mut open {
        assert_eq!(stream.next().await.unwrap().unwrap(), "data: 0\n\n");
    }
    tokio::time::advance(Duration::from_secs(3600)).await;
    ticks.send_replace(1);
    for stream in &mut open {
        assert_eq!(stream.next().await.unwrap().unwrap(), "data: 1\n\n");
    }
}

#[tokio::test]
async fn a_permit_inside_the_stream_counts_streams() {
    let jobs = Jobs::default();
    let _worker = jobs.insert(1).unwrap();
    let config = Config {
        max_streams: 2,
        ..Config::default()
    };
    let streams = Streams::start(config, CancellationToken::new());
    let server = Server::start(jobs::app(jobs, streams)).await;
    let mut statuses = Vec::new();
    let mut open = Vec::new();
    for _ in 0..10 {
        let mut client = RawClient::get(server.addr, "/jobs/1/events", &[]).await;
        client.read_head().await;
        statuses.push(client.status());
        open.push(client);
    }
    assert_eq!(statuses, [200, 200, 503, 503, 503, 503, 503, 503, 503, 503]);
}
