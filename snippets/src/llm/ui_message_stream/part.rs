//! The parts of the stream.

// ANCHOR: parts
use serde::Serialize;
use serde_json::Value;

/// One part of the stream; the client fails on a `type` that it does not know.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(
    tag = "type",
    rename_all = "kebab-case",
    rename_all_fields = "camelCase"
)]
#[allow(
    missing_docs,
    reason = "named by the protocol: ai-sdk.dev, stream protocol"
)]
pub enum UiPart {
    Start {
        message_id: String,
    },
    /// One model call, with the tools that it made run, is one step.
    StartStep,
    TextStart {
        id: String,
    },
    TextDelta {
        id: String,
        delta: String,
    },
    TextEnd {
        id: String,
    },
    ReasoningStart {
        id: String,
    },
    ReasoningDelta {
        id: String,
        delta: String,
    },
    ReasoningEnd {
        id: String,
    },
    ToolInputStart {
        tool_call_id: String,
        tool_name: String,
    },
    ToolInputDelta {
        tool_call_id: String,
        input_text_delta: String,
    },
    ToolInputAvailable {
        tool_call_id: String,
        tool_name: String,
        input: Value,
    },
    ToolInputError {
        tool_call_id: String,
        tool_name: String,
        input: Value,
        error_text: String,
    },
    ToolOutputAvailable {
        tool_call_id: String,
        output: Value,
    },
    ToolOutputError {
        tool_call_id: String,
        error_text: String,
    },
    FinishStep,
    Finish {
        finish_reason: &'static str,
        message_metadata: Value,
    },
    /// The user stopped the answer; the client has not necessarily hung up.
    Abort {
        reason: String,
    },
    /// The answer failed. The text reaches the user: never the provider's words.
    Error {
        error_text: &'static str,
    },
}
// ANCHOR_END: parts
