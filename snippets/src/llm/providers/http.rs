//! Before the first byte of the stream: everything that is not a 200 with the right type.

// ANCHOR: open
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;

use crate::llm::providers::ModelError;

/// How much of an error's body is kept for the log.
const MAX_ERROR_BODY_BYTES: usize = 4096;

/// Gives the body to [`model_events`](crate::llm::providers::model_events), or says why there is no stream.
///
/// Build the client with `connect_timeout` and `read_timeout`; `timeout` bounds the whole body and
/// would cut a healthy answer.
///
/// # Errors
/// [`ModelError::Status`] for every status but 200; [`ModelError::Malformed`] for another content
/// type, which is how the HTML page of a proxy or login arrives.
pub async fn open(
    mut response: reqwest::Response,
    content_type: &str,
) -> Result<impl Stream<Item = Result<Bytes, reqwest::Error>> + Send + use<>, ModelError> {
    let status = response.status().as_u16();
    let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
    if status == 200 {
        let found = header("content-type").unwrap_or_default();
        let essence = found.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case(content_type) {
            return Err(ModelError::Malformed(format!("content type {found:?}")));
        }
        return Ok(response.bytes_stream());
    }
    let retry_after = header("retry-after")
        .and_then(|seconds| seconds.trim().parse().ok())
        .map(Duration::from_secs);
    let mut body = Vec::new();
    while body.len() < MAX_ERROR_BODY_BYTES {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) | Err(_) => break,
        }
    }
    body.truncate(MAX_ERROR_BODY_BYTES);
    Err(ModelError::Status {
        status,
        retry_after,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}
// ANCHOR_END: open
