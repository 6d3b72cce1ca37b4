//! The message that a page has after the parts of a UI message stream, for a history on the server.
//!
//! Use it with `use_chat`. Sibling: `ui_part`.

// ANCHOR: message
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::ui_part::UiPart;

/// A message as `useChat` has it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Unique in the chat.
    pub id: String,
    /// `user` or `assistant`.
    pub role: String,
    /// Its parts.
    #[serde(default)]
    pub parts: Vec<Value>,
    /// Of an assistant's message: the usage.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub metadata: Value,
}

impl Message {
    /// An empty message of the assistant.
    pub fn assistant(id: &str) -> Self {
        let (id, role) = (id.to_owned(), "assistant".to_owned());
        Self {
            id,
            role,
            ..Self::default()
        }
    }

    /// Takes a part that is sent to the page.
    pub fn apply(&mut self, part: &UiPart) {
        match part {
            UiPart::StartStep => self.parts.push(json!({ "type": "step-start" })),
            UiPart::TextStart { .. } => self.open("text"),
            UiPart::ReasoningStart { .. } => self.open("reasoning"),
            UiPart::TextDelta { delta, .. } | UiPart::ReasoningDelta { delta, .. } => {
                // Parts may have come since: a source, a file.
                if let Some(part) = self.last(|part| part["state"] == "streaming")
                    && let Value::String(text) = &mut part["text"]
                {
                    text.push_str(delta);
                }
            }
            UiPart::TextEnd { .. } | UiPart::ReasoningEnd { .. } => {
                if let Some(part) = self.last(|part| part["state"] == "streaming") {
                    part["state"] = json!("done");
                }
            }
            UiPart::ToolInputStart { tool_call_id: id, tool_name } => self.parts.push(json!({
                "type": format!("tool-{tool_name}"), "toolCallId": id, "state": "input-streaming" })),
            UiPart::ToolInputAvailable { tool_call_id, input, .. } => {
                self.tool(tool_call_id, json!({ "state": "input-available", "input": input }));
            }
            UiPart::ToolInputError { tool_call_id, input, error_text, .. } => self.tool(
                tool_call_id,
                json!({ "state": "output-error", "input": input, "errorText": error_text }),
            ),
            UiPart::ToolApprovalRequest { approval_id, tool_call_id } => self.tool(
                tool_call_id,
                json!({ "state": "approval-requested", "approval": { "id": approval_id } }),
            ),
            UiPart::ToolOutputAvailable { tool_call_id, output } => {
                self.tool(tool_call_id, json!({ "state": "output-available", "output": output }));
            }
            UiPart::ToolOutputError { tool_call_id, error_text } => {
                self.tool(tool_call_id, json!({ "state": "output-error", "errorText": error_text }));
            }
            UiPart::ToolOutputDenied { tool_call_id } => {
                self.tool(tool_call_id, json!({ "state": "output-denied" }));
            }
            UiPart::SourceUrl { .. } | UiPart::File { .. } => self.parts.push(json!(part)),
            UiPart::Data { transient: true, .. } => {}
            UiPart::Data { kind, id, data, .. } => {
                let same = |part: &Value| part["type"] == *kind && part["id"] == json!(id);
                match self.last(same).filter(|_| id.is_some()) {
                    Some(part) => part["data"] = data.clone(),
                    None => {
                        let mut part = json!({ "type": kind, "data": data });
                        if let Some(id) = id {
                            part["id"] = json!(id);
                        }
                        self.parts.push(part);
                    }
                }
            }
            UiPart::Finish { message_metadata, .. } => self.describe(message_metadata),
            UiPart::Raw(raw) => match raw["type"].as_str().unwrap_or_default() {
                "source-document" | "reasoning-file" | "custom" => self.parts.push(raw.clone()),
                "message-metadata" => self.describe(&raw["messageMetadata"]),
                "reset-step" => {
                    let start = self.parts.iter().rposition(|part| part["type"] == "step-start");
                    self.parts.truncate(start.map_or(0, |at| at + 1));
                }
                "tool-output-available" => self.tool(
                    raw["toolCallId"].as_str().unwrap_or_default(),
                    json!({ "state": "output-available", "output": raw["output"], "preliminary": raw["preliminary"] }),
                ),
                _ => {}
            },
            UiPart::Start { .. }
            | UiPart::ToolInputDelta { .. }
            | UiPart::FinishStep
            | UiPart::Abort { .. }
            | UiPart::Error { .. } => {}
        }
    }

    /// The user decided on the call that waits for this approval.
    pub fn decide(&mut self, approval: &str, approved: bool) {
        if let Some(part) = self.last(|part| part["approval"]["id"] == approval) {
            part["state"] = json!("approval-responded");
            part["approval"]["approved"] = json!(approved);
        }
    }

    fn describe(&mut self, metadata: &Value) {
        match (&mut self.metadata, metadata) {
            (Value::Object(old), Value::Object(new)) => old.extend(new.clone()),
            (old, new) => old.clone_from(new),
        }
    }

    fn open(&mut self, kind: &str) {
        self.parts
            .push(json!({ "type": kind, "text": "", "state": "streaming" }));
    }

    fn tool(&mut self, id: &str, change: Value) {
        let (part, Value::Object(change)) = (self.last(|part| part["toolCallId"] == id), change)
        else {
            return;
        };
        let Some(part) = part else { return };
        change
            .into_iter()
            .for_each(|(name, value)| part[name] = value);
    }

    fn last(&mut self, is: impl Fn(&Value) -> bool) -> Option<&mut Value> {
        self.parts.iter_mut().rev().find(|part| is(part))
    }
}
// ANCHOR_END: message
