//! The errors that a client may see; and the two parts of a request that every endpoint reads: the user, and JSON.
//!
//! Guarantees: no text of the provider, no key and no internal name is in an error; its code is stable; a body that is not readable is
//! refused with such an error too. Needs no other file.

use std::{convert::Infallible, time::Duration};

use axum::{
    Json,
    extract::{FromRequest, Request, rejection::JsonRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::{future::BoxFuture, stream::BoxStream};
use serde::{Serialize, de::DeserializeOwned};

/// Who asks: your authentication puts it into the request's extensions. Without it the routes return 500.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserId(pub String);

/// Admits a user: what it returns is dropped when the answer has ended; `None` refuses. `PerUser::permits` makes one.
pub type Permits = dyn Fn(&str) -> Option<Box<dyn Send>> + Send + Sync;

/// The events of an answer. While the model has not responded, a refusal is no event yet, and can still be a status.
pub enum Opening<E> {
    /// The model is asked when this is polled.
    Asking(BoxFuture<'static, Result<BoxStream<'static, E>, PublicError>>),
    /// It has responded.
    Open(BoxStream<'static, E>),
}

/// The body of a request as JSON, or the refusal: axum's own would be plain text, with the names of our types in it.
pub struct Body<T>(pub Result<T, PublicError>);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Infallible;

    async fn from_request(request: Request, state: &S) -> Result<Self, Infallible> {
        let read = Json::from_request(request, state).await;
        let refused = |invalid: JsonRejection| PublicError::invalid(invalid.status());
        Ok(Self(read.map(|Json(body)| body).map_err(refused)))
    }
}

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
    /// The request has no idempotency key, or a malformed one.
    pub const KEY: Self = Self::new("invalid_key", StatusCode::BAD_REQUEST, false);
    /// This user has no answer with this key, or none any more.
    pub const UNKNOWN: Self = Self::new("unknown_answer", StatusCode::NOT_FOUND, false);
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
    /// The provider refused for now.
    pub const RATE_LIMITED: Self = Self {
        retry_after: Some(10),
        ..Self::new("rate_limited", StatusCode::TOO_MANY_REQUESTS, true)
    };
    /// The provider has no capacity.
    pub const OVERLOADED: Self = Self {
        retry_after: Some(10),
        ..Self::new("overloaded", StatusCode::SERVICE_UNAVAILABLE, true)
    };
    /// The model or the way to it broke.
    pub const BROKEN: Self = Self::new("model_failed", StatusCode::BAD_GATEWAY, true);
    /// The answer ended before its end.
    pub const TRUNCATED: Self = Self::new("truncated", StatusCode::BAD_GATEWAY, true);
    /// The provider does not take this conversation.
    pub const REJECTED: Self = Self::new("rejected", StatusCode::UNPROCESSABLE_ENTITY, false);
    /// Our key, model or account. Never 401 or 403: a client would log its user out.
    pub const MISCONFIGURED: Self = Self::new("misconfigured", StatusCode::BAD_GATEWAY, false);

    /// The same with the wait that the provider asks for, of at most an hour.
    #[must_use]
    pub fn after(self, wait: Option<Duration>) -> Self {
        let seconds = wait.map(|wait| wait.as_millis().div_ceil(1000).min(3600) as u64);
        Self {
            retry_after: seconds.or(self.retry_after),
            ..self
        }
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
