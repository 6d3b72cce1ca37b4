//! Refuses requests that another site made the user's browser send, before their body is read.
//!
//! Cookies go along with a form that any page submits (without `SameSite`, or from a sibling subdomain), and a form with
//! `enctype="text/plain"` can send JSON without a preflight: the answer cannot be read, but the work is done and paid for.

// ANCHOR: cross_site
use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

/// For `axum::middleware::from_fn_with_state`, with the origins of your own pages, such as `https://app.example`.
pub async fn refuse_cross_site(
    State(origins): State<Arc<[HeaderValue]>>,
    request: Request,
    next: Next,
) -> Response {
    // GET and HEAD start no work (`prod-proxy-repeat`); CORS decides who may read their responses.
    if request.method().is_safe() || from_own_page(request.headers(), &origins) {
        next.run(request).await
    } else {
        StatusCode::FORBIDDEN.into_response()
    }
}

fn from_own_page(headers: &HeaderMap, origins: &[HeaderValue]) -> bool {
    match (headers.get(header::ORIGIN), headers.get("sec-fetch-site")) {
        // Compared as a whole: `null` and `https://app.example.evil.example` do not match.
        (Some(origin), _) => origins.contains(origin),
        (None, Some(site)) => site == "same-origin",
        // Not a current browser. Such a client decides itself what it sends, unless the request carries a browser's
        // cookie.
        (None, None) => !headers.contains_key(header::COOKIE),
    }
}
// ANCHOR_END: cross_site
