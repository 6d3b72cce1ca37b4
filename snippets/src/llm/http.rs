//! Checks the status and the content type of a provider's response, and maps failures to codes for the client.
//!
//! Use it with `model_stream`, if you build the request yourself instead of with `upstream`. Guarantees: an error has its
//! status, the wait that the provider asks for, and the start of its body. Siblings: `failure`, `public_error`.

// ANCHOR: open
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::Stream;
use reqwest::header::HeaderMap;
use serde_json::Value;

use super::{
    failure::{Failure, ModelError},
    public_error::PublicError,
};

/// Length of the part of an error's body that is kept for the log.
const MAX_ERROR_BODY_BYTES: usize = 4096;

/// Gives the body to `model_stream::model_events`, or returns the reason why there is no stream.
///
/// Build the client with `connect_timeout` and `read_timeout`; `timeout` bounds the whole body and
/// would cut a healthy answer.
///
/// # Errors
/// [`ModelError::Status`] for every status but 200; for another content type [`ModelError::Provider`] if the body is an error in
/// JSON, else [`ModelError::Malformed`], which is how the HTML page of a proxy or login arrives.
pub async fn open(
    response: reqwest::Response,
    content_type: &str,
) -> Result<impl Stream<Item = Result<Bytes, reqwest::Error>> + Send + use<>, ModelError> {
    let status = response.status().as_u16();
    let found = response.headers().get("content-type");
    let found = String::from_utf8_lossy(found.map_or(b"", |v| v.as_bytes())).into_owned();
    let essence = found.split(';').next().unwrap_or_default().trim();
    if status == 200 && essence.eq_ignore_ascii_case(content_type) {
        return Ok(response.bytes_stream());
    }
    if status != 200 {
        return Err(refused(response).await);
    }
    let body = start_of(response).await;
    let report = serde_json::from_str::<Value>(&body).unwrap_or_default();
    Err(match report.get("error").or(report.get("detail")) {
        Some(error) if !error.is_null() => ModelError::provider(&report),
        _ => ModelError::Malformed(format!("content type {found:?}: {body}")),
    })
}

/// For a request whose response has no stream.
///
/// # Errors
/// [`ModelError::Status`] for each status that is not 2xx.
pub async fn succeeded(response: reqwest::Response) -> Result<(), ModelError> {
    match response.status().is_success() {
        true => Ok(()),
        false => Err(refused(response).await),
    }
}

async fn refused(response: reqwest::Response) -> ModelError {
    ModelError::Status {
        status: response.status().as_u16(),
        retry_after: retry_after(response.headers(), SystemTime::now()),
        body: start_of(response).await,
    }
}

/// `retry-after-ms` (OpenAI, Azure), else `Retry-After` in seconds or as a date (RFC 9110, section 10.2.3).
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let number = |text: &str| text.trim().parse::<f64>().ok();
    let ms = header("retry-after-ms")
        .and_then(number)
        .map(|ms| ms / 1000.0);
    let value = header("retry-after");
    if let Some(seconds) = ms.or(value.and_then(number)) {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = httpdate::parse_http_date(value?.trim()).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

async fn start_of(mut response: reqwest::Response) -> String {
    let mut body = Vec::new();
    while body.len() < MAX_ERROR_BODY_BYTES {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) | Err(_) => break,
        }
    }
    body.truncate(MAX_ERROR_BODY_BYTES);
    String::from_utf8_lossy(&body).into_owned()
}
// ANCHOR_END: open

impl From<&ModelError> for PublicError {
    fn from(error: &ModelError) -> Self {
        let (wait, provider) = match error {
            ModelError::Status {
                retry_after,
                status,
                ..
            } => (*retry_after, Some(*status)),
            ModelError::Truncated => return Self::TRUNCATED,
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
