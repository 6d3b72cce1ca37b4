//! Errors inside a stream, in the shapes that providers write them.

use super::json::Json;
use crate::llm::failure::{Failure, ModelError};

/// The failure that `record` reports: `error` with text or an object, `{"object": "error"}`, `{"detail": …}` (FastAPI), an event
/// named `error`, a list with an error (Google).
pub fn failure_in(name: &str, record: &Json<'_>) -> Option<ModelError> {
    let error = record.get("error");
    let typed = |field: &str| record.get(field).text() == Some("error");
    // An answer has an empty object or `false` there with some hosts.
    let reported = !error.is_empty() && *error != Json::Bool(false);
    let wrapped = record.items().first().map(|first| first.get("error"));
    let flat = name == "error" || typed("object") || typed("type");
    let detail = !record.get("detail").is_empty() && record.get("choices").is_empty();
    let listed = wrapped.is_some_and(|error| !error.is_empty());
    (reported || flat || detail || listed).then(|| ModelError::provider(&record.to_value()))
}

/// A finish reason that says that the provider gave up: the answer is not whole.
pub fn gave_up(reason: &str) -> Option<ModelError> {
    let failure = match reason {
        "error" | "abort" | "cancelled" | "failed" => Failure::Internal,
        "insufficient_system_resource" | "overloaded" | "engine_overloaded" => Failure::Overloaded,
        _ => return None,
    };
    Some(ModelError::Provider {
        failure,
        code: reason.to_owned(),
        message: "the provider ended the answer".to_owned(),
    })
}
