//! Wrong: a token in the URL of an EventSource, with the default `TraceLayer::new_for_http()`.
//! Harm: its span contains the complete URI: anyone who can read this log or a proxy's can open the user's stream while the token is valid.
//! Instead: sse/protect
//! Probe: cannot see: a log

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::routing::get;
use tower::ServiceExt;
use tower_http::trace::TraceLayer;

use crate::sse_protect::{HOUR, Logged, app, ask, service, ticket};

#[tokio::test]
async fn the_default_span_logs_the_token() {
    let (logged, _guard) = Logged::here();
    let app = Router::new()
        .route("/events", get(async || "the user's events"))
        .layer(TraceLayer::new_for_http());
    let request = Request::get("/events?token=s3cret").body(Body::empty());
    app.oneshot(request.unwrap()).await.unwrap();
    assert!(logged.text().contains("token=s3cret"), "{}", logged.text());
}

#[tokio::test]
async fn a_ticket_is_not_logged() {
    let (logged, _guard) = Logged::here();
    let app = app(&service(10, 10, HOUR));
    let ticket = ticket(&app, "alice-1").await;
    let response = ask(&app, "GET", &format!("/events?ticket={ticket}"), &[]).await;
    assert_eq!(response.status(), 200);
    let text = logged.text();
    assert!(text.contains("path=\"/events\""), "{text}");
    assert!(!text.contains(&ticket), "{text}");
    assert!(!text.contains("alice-1"), "{text}");
}
