//! The order feed on the pack's patterns: resume, limit, deadlines for stalled readers, shutdown in band.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::Value;
use snippets::connections::listen;
use snippets::sse::event::Event;
use snippets::sse::log::{self, Log};
use snippets::sse::resume;
use snippets::sse::streams::{Config, Streams};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::cors::CorsLayer;

/// What a dashboard may be away for: at 100 orders a minute, a night.
const KEPT_ORDERS: usize = 100_000;
const KEPT_BYTES: usize = 64 << 20;

/// The log's epoch differs at every start, so that a cursor of an earlier process becomes a `reset`.
pub fn app(dashboards: Vec<HeaderValue>, shutdown: CancellationToken) -> Router {
    let log = Log::new(log::Config::complete(KEPT_ORDERS, KEPT_BYTES));
    let streams = Streams::start(Config::default(), shutdown);
    let orders = Router::new().route("/orders", post(place));
    let cors = CorsLayer::new()
        .allow_origin(dashboards)
        .allow_credentials(true)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([HeaderName::from_static("last-event-id")]);
    resume::app(log.clone(), streams)
        .merge(orders.with_state(log))
        .layer(cors)
}

async fn place(State(log): State<Arc<Log>>, Json(order): Json<Value>) -> StatusCode {
    // One name for all: a status that comes from outside is data, never a field.
    match Event::new("order", &order).map(|order| log.publish(&order)) {
        Ok(Ok(_)) => StatusCode::ACCEPTED,
        Ok(Err(_)) | Err(_) => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

/// Below what the orchestrator waits before it kills.
const DRAIN: Duration = Duration::from_secs(20);

/// Until `shutdown` is cancelled, which ends every stream in band.
pub async fn serve(listener: TcpListener, app: Router, shutdown: CancellationToken) {
    let config = listen::Config {
        drain: DRAIN,
        ..listen::Config::default()
    };
    listen::serve(listener, app, config, shutdown).await;
}
