//! The parts as a response.

// ANCHOR: response
use std::convert::Infallible;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt, stream};

use crate::llm::providers::{ModelError, ModelEvent};
use crate::llm::ui_message_stream::{UiPart, UiWriter};

/// The response: one part an event, `[DONE]` after the last, and what keeps proxies from buffering.
pub fn ui_response<S>(parts: S) -> Response
where
    S: Stream<Item = UiPart> + Send + 'static,
{
    let done = stream::once(async { "[DONE]".to_owned() });
    let lines = parts.map(|part| {
        // Strings and JSON values: this cannot fail; if it did, the client would say so.
        serde_json::to_string(&part).unwrap_or_default()
    });
    let events = lines
        .chain(done)
        .map(|line| Ok::<_, Infallible>(Event::default().data(line)));
    let keep_alive = KeepAlive::new().interval(Duration::from_secs(15));
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    let headers = response.headers_mut();
    let version = HeaderName::from_static("x-vercel-ai-ui-message-stream");
    headers.insert(version, HeaderValue::from_static("v1"));
    // Without `no-transform` a proxy may compress, and hold back what it compresses.
    let cache = HeaderValue::from_static("no-cache, no-store, no-transform");
    headers.insert(header::CACHE_CONTROL, cache);
    headers.insert(
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    );
    response
}

/// The parts of a message that is one model call: a chat without tools of its own.
pub fn ui_parts<S>(message_id: &str, events: S) -> impl Stream<Item = UiPart> + Send + use<S>
where
    S: Stream<Item = Result<ModelEvent, ModelError>> + Send,
{
    let mut first = Vec::new();
    let writer = UiWriter::start(message_id, &mut first);
    let rest = stream::unfold(
        (Box::pin(events), Some(writer)),
        |(mut events, writer)| async {
            let mut writer = writer?;
            let mut out = Vec::new();
            let writer = match events.next().await {
                Some(Ok(event)) => match writer.event(event, &mut out) {
                    None => Some(writer),
                    Some((reason, _)) => {
                        writer.finish(&reason, &mut out);
                        None
                    }
                },
                Some(Err(error)) => {
                    writer.fail(&error, &mut out);
                    None
                }
                None => {
                    writer.fail(&ModelError::Truncated, &mut out);
                    None
                }
            };
            Some((stream::iter(out), (events, writer)))
        },
    );
    stream::iter(first).chain(rest.flatten())
}
// ANCHOR_END: response
