//! Live orders for the dashboards of our shops.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::{Stream, StreamExt};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};

pub struct Feed {
    pub orders: broadcast::Sender<(u64, Value)>,
    last_id: Mutex<u64>,
}

impl Feed {
    pub fn new() -> Arc<Self> {
        let (orders, _) = broadcast::channel(64);
        Arc::new(Self {
            orders,
            last_id: Mutex::new(0),
        })
    }
}

pub fn app(feed: Arc<Feed>) -> Router {
    let cors = CorsLayer::new()
        .allow_origin(AllowOrigin::mirror_request())
        .allow_credentials(true);
    Router::new()
        .route("/events", get(follow))
        .layer(GlobalConcurrencyLimitLayer::new(50))
        .route("/orders", post(place))
        .layer(cors)
        .with_state(feed)
}

async fn place(State(feed): State<Arc<Feed>>, Json(order): Json<Value>) -> StatusCode {
    let mut id = feed.last_id.lock().unwrap_or_else(PoisonError::into_inner);
    *id += 1;
    let _ = feed.orders.send((*id, order));
    StatusCode::ACCEPTED
}

async fn follow(
    State(feed): State<Arc<Feed>>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let events = BroadcastStream::new(feed.orders.subscribe())
        .filter_map(|order| async { order.ok() })
        .map(|(id, order)| {
            let status = order["status"].as_str().unwrap_or("order");
            let event = Event::default().id(id.to_string()).event(status);
            Ok(event.data(order.to_string()))
        });
    Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(1)))
}

pub async fn serve(
    listener: TcpListener,
    feed: Arc<Feed>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    axum::serve(listener, app(feed))
        .with_graceful_shutdown(stop)
        .await
}
