//! Wrong: `CorsLayer` with `AllowOrigin::mirror_request()` and credentials, since `*` with credentials is refused.
//! Harm: any page that a logged-in visitor opens may read the visitor's stream.
//! Instead: sse/protect
//! Probe: fails sse-cors-credentials

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request};
use axum::routing::get;
use tower::ServiceExt;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::support::wrong::{Probed, Start, Wrong, resumable, resumes};

fn mirror() -> CorsLayer {
    CorsLayer::new().allow_origin(AllowOrigin::mirror_request())
}

pub(crate) const PROBED: Probed = Probed::new(Start::Service(wrong_service)).with(resumes);

pub(crate) fn wrong_service() -> Wrong {
    let (app, publish) = resumable();
    Wrong::publishing(app.layer(mirror().allow_credentials(true)), publish)
}

/// Whether a browser lets a page of `origin` read the answer to a request with cookies.
async fn may_read(cors: CorsLayer, origin: &str) -> bool {
    let app = Router::new()
        .route("/", get(async || "private"))
        .layer(cors);
    let request = Request::get("/")
        .header("origin", origin)
        .body(Body::empty());
    let response = app.oneshot(request.unwrap()).await.unwrap();
    let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
    header("access-control-allow-origin") == Some(origin)
        && header("access-control-allow-credentials") == Some("true")
}

#[tokio::test]
async fn every_origin_may_read() {
    for origin in ["https://app.example", "https://evil.example", "null"] {
        assert!(may_read(mirror().allow_credentials(true), origin).await);
    }
}

#[tokio::test]
async fn only_the_named_origin_may() {
    let named = [HeaderValue::from_static("https://app.example")];
    let exact = || {
        CorsLayer::new()
            .allow_origin(named.clone())
            .allow_credentials(true)
    };
    assert!(may_read(exact(), "https://app.example").await);
    assert!(!may_read(exact(), "https://evil.example").await);
    assert!(!may_read(exact(), "null").await);
}

#[test]
fn a_wildcard_with_credentials_does_not_even_start() {
    let built = std::panic::catch_unwind(|| {
        let any = CorsLayer::new().allow_origin(tower_http::cors::Any);
        let layer = any.allow_credentials(true);
        drop(tower::Layer::layer(&layer, Router::<()>::new()));
    });
    assert!(built.is_err());
}
