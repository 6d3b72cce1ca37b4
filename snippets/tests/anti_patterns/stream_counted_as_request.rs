//! Wrong: One histogram of request durations, streams included, as a middleware around `next.run` records it.
//! Harm: A stream is recorded when its headers are sent: one that stays open for an hour is among the fastest requests and pulls every quantile down.
//! Instead: production/observe
//! Probe: cannot see: a metric

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::get;
use futures::{StreamExt, stream};
use http_body_util::BodyExt;
use snippets::production::scrape;
use snippets::sse::event::Event;
use snippets::sse::streams::{Config, Produced, Streams};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

async fn naive(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let response = next.run(request).await;
    metrics::histogram!("naive_seconds").record(started.elapsed());
    response
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_an_hour_counts_as_an_instant() {
    let recorder = scrape::recorder().unwrap();
    let handle = recorder.handle();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let config = Config {
        max_age: Duration::from_secs(86_400),
        ..Config::default()
    };
    let streams = Streams::start(config, CancellationToken::new());
    let hour = async move || {
        let end = stream::once(async {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            Event::new("done", &()).map(Event::last)
        });
        streams.admit().unwrap().respond(Produced::new(end.boxed()))
    };
    let slow = async || tokio::time::sleep(Duration::from_secs(2)).await;
    let app = Router::new()
        .route("/events", get(hour))
        .route("/slow", get(slow))
        .layer(from_fn(naive))
        .layer(from_fn(scrape::requests));
    for path in ["/events", "/slow"] {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        response.into_body().collect().await.unwrap();
    }
    let text = handle.render();
    let has = |line: &str| text.lines().any(|sample| sample == line);
    // Half of all requests took less than a millisecond, it says.
    assert!(has("naive_seconds_bucket{le=\"0.001\"} 1"), "{text}");
    assert!(
        has("naive_seconds_sum 2") && has("naive_seconds_count 2"),
        "{text}"
    );
    assert!(
        has("http_request_seconds_count{route=\"/slow\",status=\"200\"} 1"),
        "{text}"
    );
    assert!(!text.contains("route=\"/events\""), "{text}");
}
