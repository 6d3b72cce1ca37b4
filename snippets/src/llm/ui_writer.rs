//! Turns a model's events into the parts of a UI message stream, in the order that `useChat` accepts.
//!
//! Use it with `ui_message_stream`. Guarantee: every block and every call that begins gets its end. Siblings: `ui_part`, `model_event`,
//! `public_error`.

// ANCHOR: writer
use std::collections::{BTreeMap, HashSet};

use serde_json::{Value, json};

use super::model_event::{FinishReason, ModelEvent, ToolCall, Usage};
use super::public_error::PublicError;
use super::ui_part::UiPart;

/// Turns model events into parts. A delta before its start is an error in the client, so the writer
/// opens and closes every block.
#[derive(Debug, Default)]
pub struct UiWriter {
    blocks: u32,
    open: Option<(Block, String)>,
    calls: BTreeMap<u32, (String, String)>,
    calls_so_far: u32,
    /// Sources that were sent: a provider repeats each for every sentence.
    sources: HashSet<String>,
    /// Of this model call, replaced by each event.
    usage: Usage,
    /// Of all model calls of the message.
    tokens: [Option<u64>; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    Text,
    Reasoning,
}

impl UiWriter {
    /// Begins the message. Send it before the first token: it tells the page that work has begun.
    pub fn start(message_id: &str, out: &mut Vec<UiPart>) -> Self {
        let message_id = message_id.to_owned();
        out.extend([UiPart::Start { message_id }, UiPart::StartStep]);
        Self::default()
    }

    /// Takes one event of the model. At the end of a model call it returns the reason and the calls
    /// to run; call [`UiWriter::tool_result`] for each and [`UiWriter::next_step`], or
    /// [`UiWriter::finish`].
    pub fn event(
        &mut self,
        event: ModelEvent,
        out: &mut Vec<UiPart>,
    ) -> Option<(FinishReason, Vec<ToolCall>)> {
        match event {
            ModelEvent::Heartbeat => {}
            ModelEvent::Other { raw, .. } => {
                let mut found = Vec::new();
                let raw = serde_json::from_str(&raw).unwrap_or_default();
                UiPart::found_in(&raw, &mut found);
                found.retain(|part| match part {
                    UiPart::SourceUrl { url, .. } => self.sources.insert(url.clone()),
                    _ => true,
                });
                out.extend(found);
            }
            ModelEvent::Text(delta) | ModelEvent::Refusal(delta) => {
                let id = self.block(Block::Text, out);
                out.push(UiPart::TextDelta { id, delta });
            }
            ModelEvent::Reasoning(delta) => {
                let id = self.block(Block::Reasoning, out);
                out.push(UiPart::ReasoningDelta { id, delta });
            }
            ModelEvent::ToolCallStart { index, id, name } => {
                self.close(out);
                self.calls_so_far += 1;
                // Ids must be unique within the message; some providers have none.
                let id = match id.is_empty() {
                    true => format!("call-{}", self.calls_so_far),
                    false => id,
                };
                self.calls.insert(index, (id.clone(), name.clone()));
                let (tool_call_id, tool_name) = (id, name);
                out.push(UiPart::ToolInputStart {
                    tool_call_id,
                    tool_name,
                });
            }
            ModelEvent::ToolCallDelta { index, fragment } => {
                if let Some((id, _)) = self.calls.get(&index) {
                    let (tool_call_id, input_text_delta) = (id.clone(), fragment);
                    out.push(UiPart::ToolInputDelta {
                        tool_call_id,
                        input_text_delta,
                    });
                }
            }
            ModelEvent::Usage(usage) => self.usage = usage,
            ModelEvent::Finish { reason, tool_calls } => {
                self.close(out);
                let usage = std::mem::take(&mut self.usage);
                for (sum, tokens) in self.tokens.iter_mut().zip([usage.input, usage.output]) {
                    *sum = tokens.map(|tokens| tokens + sum.unwrap_or(0)).or(*sum);
                }
                return Some((reason, self.release(tool_calls, out)));
            }
        }
        None
    }

    /// Every call that began gets its end: its input, or the reason why there is none.
    fn release(&mut self, released: Vec<ToolCall>, out: &mut Vec<UiPart>) -> Vec<ToolCall> {
        let mut released = released.into_iter();
        let mut runnable = Vec::new();
        for (_, (tool_call_id, tool_name)) in std::mem::take(&mut self.calls) {
            let call = released.next();
            let input = call.as_ref().map(ToolCall::parse::<Value>);
            match (call, input) {
                (Some(mut call), Some(Ok(input))) => {
                    call.id.clone_from(&tool_call_id);
                    runnable.push(call);
                    out.push(UiPart::ToolInputAvailable {
                        tool_call_id,
                        tool_name,
                        input,
                    });
                }
                (call, _) => {
                    let input = json!(call.map(|call| call.arguments).unwrap_or_default());
                    out.push(UiPart::interrupted(&tool_call_id, &tool_name, input));
                }
            }
        }
        runnable
    }

    /// The result of a call; an `Err` is text for the user.
    pub fn tool_result(id: &str, result: Result<Value, String>, out: &mut Vec<UiPart>) {
        let tool_call_id = id.to_owned();
        out.push(match result {
            Ok(output) => UiPart::ToolOutputAvailable {
                tool_call_id,
                output,
            },
            Err(error_text) => UiPart::ToolOutputError {
                tool_call_id,
                error_text,
            },
        });
    }

    /// The call runs when the user approves it, in another request: finish the message with [`FinishReason::ToolCalls`].
    pub fn approval(call: &str, approval: &str, out: &mut Vec<UiPart>) {
        out.push(UiPart::ToolApprovalRequest {
            approval_id: approval.to_owned(),
            tool_call_id: call.to_owned(),
        });
    }

    /// The user declined the call.
    pub fn denied(call: &str, out: &mut Vec<UiPart>) {
        let tool_call_id = call.to_owned();
        out.push(UiPart::ToolOutputDenied { tool_call_id });
    }

    /// The results go back to the model: what follows is its next call.
    pub fn next_step(&mut self, out: &mut Vec<UiPart>) {
        out.extend([UiPart::FinishStep, UiPart::StartStep]);
    }

    /// The message is whole.
    pub fn finish(self, reason: &FinishReason, out: &mut Vec<UiPart>) {
        let finish_reason = match reason {
            FinishReason::Stop => "stop",
            FinishReason::ToolCalls => "tool-calls",
            FinishReason::MaxTokens => "length",
            FinishReason::ContentFilter | FinishReason::Refusal => "content-filter",
            FinishReason::AwaitsClient | FinishReason::Paused | FinishReason::Other(_) => "other",
        };
        let message_metadata = self.metadata();
        out.extend([
            UiPart::FinishStep,
            UiPart::Finish {
                finish_reason,
                message_metadata,
            },
        ]);
    }

    /// Stop arrived over another request while this client still reads. It ignores `abort`, unless it aborted itself: the reason of
    /// `finish` reveals the fragment. `interrupted` is known to the AI SDK 7; 5 and 6 fail the message on it, and take `other`.
    pub fn stop(mut self, finish_reason: &'static str, out: &mut Vec<UiPart>) {
        self.cut(out);
        let reason = "stopped".to_owned();
        let message_metadata = self.metadata();
        let finish = UiPart::Finish {
            finish_reason,
            message_metadata,
        };
        out.extend([UiPart::Abort { reason }, finish]);
    }

    fn metadata(&self) -> Value {
        let [input, output] = self.tokens;
        json!({"usage": {"inputTokens": input, "outputTokens": output}})
    }

    /// The answer failed. No `finish` follows, so nobody can take the fragment for a whole message.
    pub fn fail(mut self, error: PublicError, out: &mut Vec<UiPart>) {
        self.cut(out);
        let error_text = match error.code {
            "rate_limited" | "overloaded" => "The model is busy. Try again in a moment.",
            "too_long" => "The answer was too long.",
            "model_failed" => "The answer failed.",
            _ if error.retryable => UiPart::TRUNCATED,
            _ => "The answer failed.",
        };
        out.push(UiPart::Error { error_text });
    }

    /// Ends what is open: the client keeps a block or a call without an end as `streaming`, and sends half a call back.
    fn cut(&mut self, out: &mut Vec<UiPart>) {
        self.close(out);
        self.release(Vec::new(), out);
    }

    fn block(&mut self, kind: Block, out: &mut Vec<UiPart>) -> String {
        match &self.open {
            Some((open, id)) if *open == kind => id.clone(),
            _ => {
                self.close(out);
                self.blocks += 1;
                let id = self.blocks.to_string();
                self.open = Some((kind, id.clone()));
                out.push(match kind {
                    Block::Text => UiPart::TextStart { id: id.clone() },
                    Block::Reasoning => UiPart::ReasoningStart { id: id.clone() },
                });
                id
            }
        }
    }

    fn close(&mut self, out: &mut Vec<UiPart>) {
        out.extend(self.open.take().map(|(kind, id)| match kind {
            Block::Text => UiPart::TextEnd { id },
            Block::Reasoning => UiPart::ReasoningEnd { id },
        }));
    }
}
// ANCHOR_END: writer
