//! The response to a request that a service refuses, in the shape of the reader's contract.
//!
//! Use it in a service whose clients agree on bodies of refusals: the service says why, and one function of its settings makes
//! the response. The services of the pack use it.

// ANCHOR: refusal
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::http::{StatusCode, header::RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// Why a request is refused.
#[derive(Debug, Clone, Copy)]
pub struct Refusal {
    /// The status; `EventSource` stops permanently at every one of them.
    pub status: StatusCode,
    /// One of the codes of the service.
    pub code: &'static str,
    /// When to try again.
    pub retry: Option<Duration>,
}

impl Refusal {
    /// A refusal that is final until something else changes.
    pub const fn new(status: StatusCode, code: &'static str) -> Self {
        Self {
            status,
            code,
            retry: None,
        }
    }

    /// A refusal for now.
    pub const fn later(status: StatusCode, code: &'static str, retry: Duration) -> Self {
        Self {
            status,
            code,
            retry: Some(retry),
        }
    }

    /// The value of `Retry-After`: whole seconds, at least one.
    pub fn retry_seconds(&self) -> Option<u64> {
        let retry = self.retry?;
        Some((retry.as_millis().div_ceil(1000) as u64).max(1))
    }

    /// The response with `status` and `body`, and `Retry-After` in whole seconds.
    pub fn with(self, status: StatusCode, body: &Value) -> Response {
        let mut response = (status, Json(body)).into_response();
        if let Some(seconds) = self.retry_seconds() {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// A body that cannot be read: `too_large` or `invalid`, with the status that axum gives it.
impl From<JsonRejection> for Refusal {
    fn from(rejection: JsonRejection) -> Self {
        let status = rejection.status();
        let code = match status {
            StatusCode::PAYLOAD_TOO_LARGE => "too_large",
            _ => "invalid",
        };
        Self::new(status, code)
    }
}

/// With `{"code"}`.
impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        self.with(self.status, &json!({ "code": self.code }))
    }
}
// ANCHOR_END: refusal
