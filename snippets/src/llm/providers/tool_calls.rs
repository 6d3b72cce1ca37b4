//! Tool calls while they arrive in pieces.

// ANCHOR: tool_calls
use std::collections::BTreeMap;

use crate::llm::providers::{FinishReason, ModelError, ModelEvent, ToolCall};

/// Calls that one answer may hold.
pub const MAX_CALLS: usize = 128;
/// Bytes that the arguments of one answer may take together.
pub const MAX_ARGUMENT_BYTES: usize = 1024 * 1024;

/// Collects calls by index and keeps them until the answer is whole.
#[derive(Debug, Default)]
pub struct ToolCalls {
    calls: BTreeMap<u32, ToolCall>,
    argument_bytes: usize,
}

impl ToolCalls {
    /// The model begins call `index`. Without effect when it has begun already.
    ///
    /// # Errors
    /// [`ModelError::TooLarge`] at the bounds of this module.
    pub fn start(
        &mut self,
        index: u32,
        id: &str,
        name: &str,
        out: &mut Vec<ModelEvent>,
    ) -> Result<(), ModelError> {
        if self.calls.contains_key(&index) {
            return Ok(());
        }
        if self.calls.len() == MAX_CALLS {
            return Err(ModelError::TooLarge {
                what: "the number of tool calls",
                limit: MAX_CALLS,
            });
        }
        let (id, name) = (id.to_owned(), name.to_owned());
        let call = ToolCall {
            id: id.clone(),
            name: name.clone(),
            arguments: String::new(),
        };
        self.calls.insert(index, call);
        out.push(ModelEvent::ToolCallStart { index, id, name });
        Ok(())
    }

    /// A piece of the arguments of call `index`.
    ///
    /// # Errors
    /// When the call has not begun, and at the bounds of this module.
    pub fn push(
        &mut self,
        index: u32,
        fragment: &str,
        out: &mut Vec<ModelEvent>,
    ) -> Result<(), ModelError> {
        let Some(call) = self.calls.get_mut(&index) else {
            let text = format!("arguments for tool call {index}, which has not begun");
            return Err(ModelError::Malformed(text));
        };
        if fragment.is_empty() {
            return Ok(());
        }
        self.argument_bytes += fragment.len();
        if self.argument_bytes > MAX_ARGUMENT_BYTES {
            return Err(ModelError::TooLarge {
                what: "the arguments of the tool calls",
                limit: MAX_ARGUMENT_BYTES,
            });
        }
        call.arguments.push_str(fragment);
        out.push(ModelEvent::ToolCallDelta {
            index,
            fragment: fragment.to_owned(),
        });
        Ok(())
    }

    /// The provider repeats the whole arguments of call `index` at its end.
    ///
    /// # Errors
    /// When they differ from what came in pieces: one of the two is not what the model wrote.
    pub fn complete(
        &mut self,
        index: u32,
        arguments: &str,
        out: &mut Vec<ModelEvent>,
    ) -> Result<(), ModelError> {
        match self.calls.get(&index) {
            Some(call) if call.arguments.is_empty() => self.push(index, arguments, out),
            Some(call) if call.arguments == arguments => Ok(()),
            _ => {
                let text = format!("the pieces of tool call {index} differ from the whole");
                Err(ModelError::Malformed(text))
            }
        }
    }

    /// Whether call `index` has begun.
    pub fn contains(&self, index: u32) -> bool {
        self.calls.contains_key(&index)
    }

    /// The terminal event has arrived: makes [`ModelEvent::Finish`] and releases the calls.
    ///
    /// # Errors
    /// [`ModelError::Malformed`] when the provider says that tools were called and named none
    /// that this decoder knows.
    pub fn finish(&mut self, reason: FinishReason) -> Result<ModelEvent, ModelError> {
        let calls = std::mem::take(&mut self.calls);
        let mut tool_calls: Vec<ToolCall> = calls.into_values().collect();
        // Gemini, Ollama and Responses have no reason of their own for tool calls, and a tool that
        // was forced ends OpenAI's answer with `stop`.
        let reason = match reason {
            FinishReason::Stop if !tool_calls.is_empty() => FinishReason::ToolCalls,
            reason => reason,
        };
        if reason == FinishReason::ToolCalls && tool_calls.is_empty() {
            let text = "the model stopped for tool calls, but made none that is known here";
            return Err(ModelError::Malformed(text.to_owned()));
        }
        // Every other reason means that the model was interrupted, in the middle of them perhaps.
        if reason != FinishReason::ToolCalls {
            tool_calls.clear();
        }
        for call in &mut tool_calls {
            // A tool without parameters: some models write nothing at all, which is not JSON.
            if call.arguments.trim().is_empty() {
                call.arguments = "{}".to_owned();
            }
        }
        Ok(ModelEvent::Finish { reason, tool_calls })
    }
}
// ANCHOR_END: tool_calls
