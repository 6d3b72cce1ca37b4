//! `GET /metrics` for Prometheus as a route of the service, and request durations that streams do not spoil.
//!
//! Keep `/metrics` off the public address. Goes with `observe.rs`.

use std::time::Duration;

use axum::{
    Router,
    extract::{MatchedPath, Request},
    http::{StatusCode, header::CONTENT_TYPE},
    middleware::Next,
    response::Response,
    routing::get,
};
use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use tokio::time::Instant;

/// From a millisecond to a day: events and streams in one scale.
const SECONDS: [f64; 14] = [
    0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 600.0, 3_600.0, 86_400.0,
];
const MESSAGES: [f64; 7] = [0.0, 1.0, 4.0, 16.0, 64.0, 256.0, 1_024.0];

// ANCHOR: recorder
/// For `metrics::set_global_recorder`, before the first metric is made. It has buckets: without them the exporter
/// writes quantiles, which cannot be added up over instances.
pub fn recorder() -> Result<PrometheusRecorder, BuildError> {
    Ok(PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_depth".to_owned()), &MESSAGES)?
        .build_recorder())
}
// ANCHOR_END: recorder

/// `GET /metrics`. Starts the task that the recorder needs: what histograms record is kept until then, without a
/// bound when nobody scrapes.
pub fn app(handle: PrometheusHandle) -> Router {
    let upkeep = handle.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            upkeep.run_upkeep();
        }
    });
    let scrape = async move || {
        (
            [(CONTENT_TYPE, "text/plain; version=0.0.4")],
            handle.render(),
        )
    };
    Router::new().route("/metrics", get(scrape))
}

// ANCHOR: requests
/// Records `http_request_seconds` of everything but streams: a stream has its headers at once, so that it would count as
/// one of the fastest requests, or is open for hours, so that it would count as the slowest. For `middleware::from_fn`.
pub async fn requests(request: Request, next: Next) -> Response {
    let started = Instant::now();
    // The template of the route, because a path would make a time series per id. Not the method either, which clients
    // can invent.
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned());
    let response = next.run(request).await;
    if !is_stream(&response) {
        let status = response.status().as_u16().to_string();
        metrics::histogram!("http_request_seconds", "route" => route, "status" => status)
            .record(started.elapsed());
    }
    response
}
// ANCHOR_END: requests

fn is_stream(response: &Response) -> bool {
    let kind = response.headers().get(CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or("");
    response.status() == StatusCode::SWITCHING_PROTOCOLS
        || ["text/event-stream", "application/x-ndjson"]
            .iter()
            .any(|stream| kind.starts_with(stream))
}
