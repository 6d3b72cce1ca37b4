//! The order feed on the pack's patterns: resume, limit, deadlines for stalled readers, shutdown in band.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::Value;
use snippets::sse::listen::{self, Listener, SocketLimits};
use snippets::sse::message::Message;
use snippets::sse::resume::{self, Log};
use snippets::sse::serve::{Config, Streams};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::cors::CorsLayer;

/// What a dashboard may be away for: at 100 orders a minute, a night.
const KEPT_ORDERS: usize = 100_000;
const KEPT_BYTES: usize = 64 << 20;

/// `epoch` differs at every start, so that a cursor of an earlier process becomes a `reset`.
pub fn app(epoch: u64, dashboards: Vec<HeaderValue>, shutdown: CancellationToken) -> Router {
    let log = Arc::new(Log::new(epoch, KEPT_ORDERS, KEPT_BYTES));
    let streams = Streams::new(Config::default(), shutdown);
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
    match Message::new("order", &order).map(|order| log.publish(order)) {
        Ok(Ok(())) => StatusCode::ACCEPTED,
        Ok(Err(_)) | Err(_) => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

/// Older than the streams may become: a connection that is left after it is dropped.
const MAX_AGE: Duration = Duration::from_secs(60 * 60);
/// Below what the orchestrator waits before it kills.
const DRAIN: Duration = Duration::from_secs(20);

/// Until `shutdown` is cancelled, which ends every stream in band.
pub async fn serve(listener: TcpListener, app: Router, shutdown: CancellationToken) {
    let listener = Listener::new(listener, SocketLimits::default());
    listen::serve(listener, app, MAX_AGE, shutdown, DRAIN).await;
}
