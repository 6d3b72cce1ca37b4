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

impl UiPart {
    /// For the user: the message is a fragment.
    pub(super) const TRUNCATED: &str = "The answer was cut off. Try again.";

    /// Keeps in `open` how each part that has begun would end.
    pub(super) fn track(&self, open: &mut Vec<Self>) {
        match self {
            Self::TextStart { id } => open.push(Self::TextEnd { id: id.clone() }),
            Self::ReasoningStart { id } => open.push(Self::ReasoningEnd { id: id.clone() }),
            Self::ToolInputStart {
                tool_call_id,
                tool_name,
            } => open.push(Self::interrupted(tool_call_id, tool_name, Value::from(""))),
            Self::TextEnd { .. } | Self::ReasoningEnd { .. } => open.retain(|end| end != self),
            Self::ToolInputAvailable { tool_call_id, .. }
            | Self::ToolInputError { tool_call_id, .. } => open.retain(
                |end| !matches!(end, Self::ToolInputError { tool_call_id: id, .. } if id == tool_call_id),
            ),
            _ => {}
        }
    }

    /// The end of a call that did not arrive completely, with what arrived of its arguments.
    pub(super) fn interrupted(tool_call_id: &str, tool_name: &str, input: Value) -> Self {
        Self::ToolInputError {
            tool_call_id: tool_call_id.to_owned(),
            tool_name: tool_name.to_owned(),
            input,
            error_text: "the call was not complete".to_owned(),
        }
    }
}
