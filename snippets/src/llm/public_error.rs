//! Errors that tell a client what to do, and nothing else.
//!
//! Promise: no text of the provider, no key and no internal name is in it; the code is stable.
//!
//! Sibling: `failure`.

use std::time::Duration;

use axum::{
    Json,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::failure::{Failure, ModelError};

/// What a client may know of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PublicError {
    /// Stable; clients choose their words by it.
    pub code: &'static str,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// Seconds to wait before that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
    /// The status, where the answer has not begun.
    #[serde(skip)]
    pub status: StatusCode,
    /// The provider's own status, for your log and metrics: no client gets it.
    #[serde(skip)]
    pub provider: Option<u16>,
}

impl PublicError {
    const fn new(code: &'static str, status: StatusCode, retryable: bool) -> Self {
        Self {
            code,
            retryable,
            retry_after: None,
            status,
            provider: None,
        }
    }

    /// The request is not what the endpoint reads: 400, 413, 415 or 422.
    pub const fn invalid(status: StatusCode) -> Self {
        Self::new("invalid", status, false)
    }

    /// The user has as many answers open as are allowed.
    pub const BUSY: Self = Self {
        retry_after: Some(5),
        ..Self::new("too_many_chats", StatusCode::TOO_MANY_REQUESTS, true)
    };
    /// The model was silent for too long.
    pub const SILENT: Self = Self::new("model_silent", StatusCode::GATEWAY_TIMEOUT, true);
    /// The model sent heartbeats and no content for too long.
    pub const STUCK: Self = Self::new("model_stuck", StatusCode::GATEWAY_TIMEOUT, true);
    /// The conversation has a role that this service does not take from clients.
    pub const ROLE: Self = Self::new("role_refused", StatusCode::UNPROCESSABLE_ENTITY, false);
    /// The message has a part that this service does not take from clients.
    pub const PART: Self = Self::new("part_refused", StatusCode::UNPROCESSABLE_ENTITY, false);
    /// The request continues a message that this service does not have, or not in this state.
    pub const MESSAGE: Self = Self::new("unknown_message", StatusCode::UNPROCESSABLE_ENTITY, false);
    /// The answer reached a limit of this service.
    pub const TOO_LONG: Self = Self::new("too_long", StatusCode::BAD_GATEWAY, false);
    /// Nobody was reading any more.
    pub const ABANDONED: Self = Self::new("abandoned", StatusCode::BAD_GATEWAY, true);
    /// The idempotency key belongs to another question.
    pub const KEY_REUSED: Self = Self::new("key_reused", StatusCode::UNPROCESSABLE_ENTITY, false);
    /// The service has as many generations as it can hold.
    pub const FULL: Self = Self {
        retry_after: Some(10),
        ..Self::new("full", StatusCode::SERVICE_UNAVAILABLE, true)
    };
    /// The user pressed Stop.
    pub const STOPPED: Self = Self::new("stopped", StatusCode::BAD_GATEWAY, false);
    /// The service is going down.
    pub const RESTART: Self = Self::new("restart", StatusCode::SERVICE_UNAVAILABLE, true);
    const RATE_LIMITED: Self = Self {
        retry_after: Some(10),
        ..Self::new("rate_limited", StatusCode::TOO_MANY_REQUESTS, true)
    };
    const OVERLOADED: Self = Self {
        retry_after: Some(10),
        ..Self::new("overloaded", StatusCode::SERVICE_UNAVAILABLE, true)
    };
    /// The model or the way to it broke.
    pub const BROKEN: Self = Self::new("model_failed", StatusCode::BAD_GATEWAY, true);
    const REJECTED: Self = Self::new("rejected", StatusCode::UNPROCESSABLE_ENTITY, false);
    /// Our key, model or account. Never 401 or 403: a client would log its user out.
    const MISCONFIGURED: Self = Self::new("misconfigured", StatusCode::BAD_GATEWAY, false);

    fn after(self, wait: Option<Duration>) -> Self {
        let seconds = wait.map(|wait| wait.as_millis().div_ceil(1000).min(3600) as u64);
        Self {
            retry_after: seconds.or(self.retry_after),
            ..self
        }
    }
}

impl From<&ModelError> for PublicError {
    fn from(error: &ModelError) -> Self {
        let (wait, provider) = match error {
            ModelError::Status {
                retry_after,
                status,
                ..
            } => (*retry_after, Some(*status)),
            ModelError::Truncated => {
                return Self {
                    code: "truncated",
                    ..Self::BROKEN
                };
            }
            _ => (None, None),
        };
        let public = match error.failure() {
            Failure::RateLimited => Self::RATE_LIMITED.after(wait),
            Failure::Overloaded => Self::OVERLOADED.after(wait),
            Failure::Internal => Self::BROKEN,
            Failure::Rejected => Self::REJECTED,
            // Which of the two is for the log: a client can do nothing about either.
            Failure::Misconfigured | Failure::AccountEmpty => Self::MISCONFIGURED,
        };
        Self { provider, ..public }
    }
}

impl From<ModelError> for PublicError {
    fn from(error: ModelError) -> Self {
        Self::from(&error)
    }
}

impl IntoResponse for PublicError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self)).into_response();
        if let Some(seconds) = self.retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}
