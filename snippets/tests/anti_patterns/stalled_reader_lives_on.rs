//! Wrong: trusting heartbeats, `TimeoutLayer` or `ResponseBodyTimeoutLayer` to end a response whose reader has stopped reading
//! Harm: the response, its buffers and its file descriptor stay allocated for as long as the peer stays connected; no layer reacts
//! Instead: streams/slow_consumer
//! Probe: cannot see: how long a stalled reader may live is not on the wire

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::StatusCode;
use axum::{Router, body::Body, routing::get};
use futures::stream;
use snippets::connections::send_deadline::WithSendDeadline;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower_http::timeout::{ResponseBodyTimeoutLayer, TimeoutLayer};

use crate::support::{Gauge, Server, settled, stalled_get, within};

const LIMIT: Duration = Duration::from_millis(100);

/// An endless response; the token is cancelled when it is dropped.
fn app(gauge: Gauge) -> (Router, CancellationToken) {
    let ended = CancellationToken::new();
    let guard = Arc::new(Mutex::new(Some(ended.clone().drop_guard())));
    let handler = get(move || async move {
        let held: Option<DropGuard> = guard.lock().unwrap().take();
        let endless = stream::repeat_with(move || {
            let _ = &held;
            Ok::<_, Infallible>(gauge.chunk(16 * 1024))
        });
        Body::from_stream(endless)
    });
    let app = Router::new()
        .route("/", handler)
        .layer(TimeoutLayer::with_status_code(
            StatusCode::GATEWAY_TIMEOUT,
            LIMIT,
        ))
        .layer(ResponseBodyTimeoutLayer::new(LIMIT));
    (app, ended)
}

#[tokio::test]
async fn no_timeout_layer_ends_it() {
    let gauge = Gauge::default();
    let (app, ended) = app(gauge.clone());
    let server = Server::start(app).await;
    let _reader = stalled_get(server.addr, "/").await;
    // It stands still for at least 250 ms, more than twice the limit of both layers.
    let alive = settled("the response to stand still", 1, || gauge.alive()).await;
    assert!(
        alive > 0,
        "{alive} bytes wait for a reader that will not come"
    );
    assert!(!ended.is_cancelled(), "the response lives on");
}

#[tokio::test]
async fn a_limit_on_the_connection_ends_it() {
    let gauge = Gauge::default();
    let (app, ended) = app(gauge.clone());
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let serve = axum::serve(
        WithSendDeadline {
            listener,
            limit: LIMIT,
        },
        app,
    );
    let server = tokio::spawn(serve.into_future());
    let _reader = stalled_get(addr, "/").await;
    within("the response to end", ended.cancelled()).await;
    crate::support::eventually("its buffers to be freed", || gauge.alive() == 0).await;
    server.abort();
}
