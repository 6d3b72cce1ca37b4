//! Wrong: a streaming POST that knows its user by a cookie and parses the body as JSON whatever its Content-Type.
//! Harm: a form with `enctype="text/plain"` on any page starts work on the visitor's account, without a preflight.
//! Instead: production/security
//! Probe: cannot see: no check sends another Content-Type than the one it was given

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Request, StatusCode};
use axum::routing::post;
use axum::{Json, Router, middleware};
use serde_json::Value;
use snippets::production::cross_site::refuse_cross_site;
use tower::ServiceExt;

/// What is sent for `<form method="post" enctype="text/plain"><input name='{"q":"x","pad":"' value='"}'>` (HTML, section 4.10.21.8).
fn form_of_another_site() -> Request<Body> {
    Request::post("/chat")
        .header("content-type", "text/plain")
        .header("origin", "https://evil.example")
        .header("sec-fetch-site", "cross-site")
        .header("cookie", "session=alice-1")
        .body(Body::from("{\"q\":\"x\",\"pad\":\"=\"}\r\n"))
        .unwrap()
}

async fn status_and_runs(app: impl FnOnce(Arc<AtomicUsize>) -> Router) -> (StatusCode, usize) {
    let runs = Arc::new(AtomicUsize::new(0));
    let response = app(runs.clone())
        .oneshot(form_of_another_site())
        .await
        .unwrap();
    (response.status(), runs.load(Ordering::SeqCst))
}

fn by_hand(runs: Arc<AtomicUsize>) -> Router {
    let chat = async move |body: Bytes| {
        serde_json::from_slice::<Value>(&body).map_err(|_| StatusCode::BAD_REQUEST)?;
        runs.fetch_add(1, Ordering::SeqCst);
        Ok::<_, StatusCode>("the stream")
    };
    Router::new().route("/chat", post(chat))
}

#[tokio::test]
async fn a_form_of_another_site_starts_the_work() {
    assert_eq!(status_and_runs(by_hand).await, (StatusCode::OK, 1));
}

#[tokio::test]
async fn it_is_refused_by_its_origin_and_by_its_content_type() {
    let behind = |runs| {
        let own: Arc<[HeaderValue]> = [HeaderValue::from_static("https://app.example")].into();
        by_hand(runs).layer(middleware::from_fn_with_state(own, refuse_cross_site))
    };
    assert_eq!(status_and_runs(behind).await, (StatusCode::FORBIDDEN, 0));
    let with_extractor = |runs: Arc<AtomicUsize>| {
        let chat = async move |Json(_): Json<Value>| {
            runs.fetch_add(1, Ordering::SeqCst);
        };
        Router::new().route("/chat", post(chat))
    };
    let refused = (StatusCode::UNSUPPORTED_MEDIA_TYPE, 0);
    assert_eq!(status_and_runs(with_extractor).await, refused);
}
