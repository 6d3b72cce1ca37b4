//! Wrong: a GET route whose handler starts the work, with `get(handler)` alone.
//! Harm: axum runs the handler for HEAD too: a link checker or a proxy's probe starts (and pays for) work that nobody reads.
//! Instead: sse/lifecycle
//! Probe: cannot see: axum answers HEAD well, whatever the handler has begun

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::response::sse::{Event, Sse};
use axum::routing::{MethodRouter, get};
use futures::stream;
use snippets::sse::streams;
use tower::ServiceExt;

/// How often the handler ran for one HEAD request.
async fn runs(route: impl FnOnce(MethodRouter) -> MethodRouter) -> usize {
    let started = Arc::new(AtomicUsize::new(0));
    let counter = started.clone();
    let handler = get(async move || {
        counter.fetch_add(1, Ordering::Relaxed);
        Sse::new(stream::iter([Ok::<_, Infallible>(
            Event::default().data("a paid token"),
        )]))
    });
    let app = Router::new().route("/", route(handler));
    let request = Request::head("/").body(Body::empty()).unwrap();
    let response = app.oneshot(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    started.load(Ordering::Relaxed)
}

#[tokio::test]
async fn head_runs_the_handler_of_get() {
    assert_eq!(runs(|route| route).await, 1);
}

#[tokio::test]
async fn a_head_handler_answers_instead() {
    assert_eq!(runs(|route| route.head(streams::head)).await, 0);
}
