//! Tool calls while they arrive in pieces.
//!
//! Providers agree on little: pieces come by index, by id, by neither; some give every parallel call the index 0; some repeat the
//! id, the name or the whole arguments. Guarantee: pieces of two calls are never merged, and a call that is sent again is not run
//! twice. Siblings: `decode` has the other bounds.

// ANCHOR: tool_calls
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::llm::{
    failure::ModelError,
    model_event::{FinishReason, ModelEvent, ToolCall},
};

/// Calls that one answer may hold.
pub const MAX_CALLS: usize = 128;
/// Bytes that the arguments of one answer may take together.
pub const MAX_ARGUMENT_BYTES: usize = 1024 * 1024;

/// A piece of a call, with whatever the provider wrote to it. Empty strings are `None`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Piece<'a> {
    /// The provider's number of the call, of its block or of its item.
    pub index: Option<u64>,
    /// The id that a result must name.
    pub id: Option<&'a str>,
    /// The tool.
    pub name: Option<&'a str>,
    /// Append to the arguments.
    pub arguments: &'a str,
    /// The input is text instead of JSON (OpenAI's custom tools).
    pub custom: bool,
}

#[derive(Debug, Default)]
struct Call {
    index: Option<u64>,
    call: ToolCall,
    custom: bool,
    announced: bool,
    /// The provider has given the arguments whole: later pieces repeat them.
    whole: bool,
}

/// Collects calls in the order in which they began and keeps them until the answer is whole.
#[derive(Debug, Default)]
pub struct ToolCalls {
    calls: Vec<Call>,
    argument_bytes: usize,
}

impl ToolCalls {
    /// Takes a piece; the first one of a call begins it.
    ///
    /// # Errors
    /// [`ModelError::TooLarge`] at the bounds of this module.
    pub fn piece(&mut self, piece: Piece<'_>, out: &mut Vec<ModelEvent>) -> Result<(), ModelError> {
        let at = self.place(piece)?;
        let call = &mut self.calls[at];
        let arguments = &mut call.call.arguments;
        let repeats = call.whole
            || (piece.name.is_some() && piece.arguments == arguments && is_whole(arguments));
        // Some hosts begin every call with `{}`, and then send its pieces.
        if !repeats && arguments == "{}" && piece.arguments.trim_start().starts_with('{') {
            arguments.clear();
        }
        let known = arguments.len();
        if !repeats {
            self.argument_bytes += piece.arguments.len();
            if self.argument_bytes > MAX_ARGUMENT_BYTES {
                return Err(ModelError::TooLarge {
                    what: "the arguments of the tool calls",
                    limit: MAX_ARGUMENT_BYTES,
                });
            }
            arguments.push_str(piece.arguments);
        }
        let begun = call.announced;
        if !begun && !call.call.name.is_empty() {
            call.announced = true;
            out.push(ModelEvent::ToolCallStart {
                index: at as u32, // below `MAX_CALLS`
                id: call.call.id.clone(),
                name: call.call.name.clone(),
            });
        }
        let new = if begun { known } else { 0 };
        let fragment = call.call.arguments.get(new..).unwrap_or_default();
        if call.announced && !fragment.is_empty() {
            out.push(ModelEvent::ToolCallDelta {
                index: at as u32,
                fragment: fragment.to_owned(),
            });
        }
        Ok(())
    }

    /// The provider gives the whole arguments of a call, at once or after their pieces.
    ///
    /// # Errors
    /// As [`ToolCalls::piece`], and [`ModelError::Malformed`] when pieces and whole are two different texts of JSON: one of them is
    /// not what the model wrote.
    pub fn whole(&mut self, piece: Piece<'_>, out: &mut Vec<ModelEvent>) -> Result<(), ModelError> {
        let arguments = "";
        // A repeated id is a repeated call here, whatever its number is.
        let known = self
            .calls
            .iter()
            .any(|call| Some(&*call.call.id) == piece.id);
        let index = piece.index.filter(|_| !known);
        let piece = Piece { index, ..piece };
        let at = self.place(Piece { arguments, ..piece })?;
        let (pieces, whole) = (&self.calls[at].call.arguments, piece.arguments);
        let parse = |text: &str| serde_json::from_str::<Value>(text).ok();
        match (parse(pieces), parse(whole)) {
            (Some(pieces), Some(whole)) if pieces != whole && !self.calls[at].custom => {
                let text = format!("the pieces of tool call {at} differ from the whole");
                return Err(ModelError::Malformed(text));
            }
            // A piece was lost: the whole has it.
            (None, _) if whole.len() > pieces.len() => {
                let lost = whole.strip_prefix(pieces.as_str());
                if lost.is_none() {
                    self.calls[at].call.arguments.clear();
                }
                let arguments = lost.unwrap_or(whole);
                self.piece(Piece { arguments, ..piece }, out)?;
            }
            _ => self.piece(Piece { arguments, ..piece }, out)?,
        }
        self.calls[at].whole = true;
        Ok(())
    }

    /// Whether a call with the provider's number `index` has begun.
    pub fn contains(&self, index: u64) -> bool {
        self.calls.iter().any(|call| call.index == Some(index))
    }

    /// Whether no call has begun.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// The answer is whole: makes [`ModelEvent::Finish`] and releases the calls.
    ///
    /// # Errors
    /// [`ModelError::Malformed`] when the provider reports tool calls and this decoder knows none, or when one has no name.
    pub fn finish(&mut self, reason: FinishReason) -> Result<ModelEvent, ModelError> {
        let calls = std::mem::take(&mut self.calls);
        // Gemini, Ollama and Responses have no reason of their own for tool calls, and a tool that
        // was forced ends OpenAI's answer with `stop`.
        let reason = match reason {
            FinishReason::Stop if !calls.is_empty() => FinishReason::ToolCalls,
            reason => reason,
        };
        if reason == FinishReason::ToolCalls && calls.is_empty() {
            let text = "the model stopped for tool calls, but made none that is known here";
            return Err(ModelError::Malformed(text.to_owned()));
        }
        // Every other reason means that the model was interrupted, in the middle of them perhaps.
        let released = matches!(reason, FinishReason::ToolCalls | FinishReason::AwaitsClient);
        let mut tool_calls = Vec::new();
        for Call {
            mut call, custom, ..
        } in calls.into_iter().filter(|_| released)
        {
            if call.name.is_empty() {
                return Err(ModelError::Malformed("a tool call without a name".into()));
            }
            if custom {
                call.arguments = Value::String(call.arguments).to_string();
            } else if call.arguments.trim().is_empty() {
                // A tool without parameters: some models write nothing at all, which is not JSON.
                call.arguments = "{}".to_owned();
            }
            tool_calls.push(call);
        }
        Ok(ModelEvent::Finish { reason, tool_calls })
    }

    /// The call to which `piece` belongs, which begins with it perhaps.
    fn place(&mut self, piece: Piece<'_>) -> Result<usize, ModelError> {
        let at = match self.find(piece) {
            Some(at) => at,
            None if self.calls.len() == MAX_CALLS => {
                return Err(ModelError::TooLarge {
                    what: "the number of tool calls",
                    limit: MAX_CALLS,
                });
            }
            None => {
                self.calls.push(Call {
                    index: piece.index,
                    custom: piece.custom,
                    ..Call::default()
                });
                self.calls.len() - 1
            }
        };
        let ToolCall { id, name, .. } = &mut self.calls[at].call;
        for (text, new) in [(id, piece.id), (name, piece.name)] {
            if text.is_empty() {
                text.push_str(new.unwrap_or_default());
            }
        }
        Ok(at)
    }

    fn find(&self, piece: Piece<'_>) -> Option<usize> {
        let newest = self.calls.len().checked_sub(1);
        let last = |is: &dyn Fn(&Call) -> bool| self.calls.iter().rposition(is);
        let by_id = piece.id.and_then(|id| last(&|call| call.call.id == id));
        let by_index = piece
            .index
            .and_then(|index| last(&|call| call.index == Some(index)));
        let found = match (piece.index, piece.id) {
            // With one index for all, the id decides.
            (Some(_), Some(id)) if by_index.is_some_and(|at| self.calls[at].call.id != id) => {
                by_id.or(by_index)
            }
            (Some(_), _) if by_index.is_some() => by_index,
            (Some(_), _) if piece.name.is_some() => None,
            (Some(_), _) => by_id,
            (None, Some(_)) => by_id.or(newest.filter(|_| piece.name.is_none())),
            (None, None) => newest,
        };
        found.filter(|at| !self.calls[*at].ends_before(piece))
    }
}

impl Call {
    /// Whether `piece` begins another call. Without a name it does not: ids alone change from piece to piece with some hosts.
    fn ends_before(&self, piece: Piece<'_>) -> bool {
        let Some(name) = piece.name else { return false };
        let ToolCall {
            id,
            name: own,
            arguments,
        } = &self.call;
        let other_id = !id.is_empty() && piece.id.is_some_and(|new| new != id);
        let other_name = !own.is_empty() && own != name && piece.id.is_none_or(|new| new != id);
        // One who repeats itself is the same call; one who says more after the end is not.
        let more = !piece.arguments.trim().is_empty() && piece.arguments != arguments;
        other_id || other_name || (more && is_whole(arguments) && arguments != "{}")
    }
}

fn is_whole(arguments: &str) -> bool {
    arguments.trim_start().starts_with('{')
        && arguments.trim_end().ends_with('}')
        && serde_json::from_str::<IgnoredAny>(arguments).is_ok()
}
// ANCHOR_END: tool_calls
