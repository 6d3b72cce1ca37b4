//! The format between browser and relay: the question, and the events of its answer.
//!
//! Use it with `relay`. Guarantee: no message of a client gives the model its instructions, unless you choose so.
//!
//! By default `text`, `reasoning` and `refusal` carry `{"text"}` to append; then exactly one of `done` and `failed`. None is called `error`:
//! `EventSource` fires its own `error` listeners for an event of that name, so a page could not tell it from a lost connection.
//!
//! Siblings: `public_error`, `model_event`. Other topics: `sse/event`, `streams/pace`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    model_event::{FinishReason, ToolCall, Usage},
    public_error::PublicError,
};
use crate::{
    sse::event::{Event, InvalidEvent},
    streams::pace::Merge,
};

/// Largest text of one event, in bytes, when tokens are merged.
const MAX_TEXT: usize = 4096;

/// The names of the events, for contracts that have others. `llm/chat-events.ts` is the same table in TypeScript.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names {
    /// `{"text"}` to append to the answer.
    pub text: &'static str,
    /// `{"text"}` to append to the reasoning.
    pub reasoning: &'static str,
    /// `{"text"}` that the model says in place of an answer.
    pub refusal: &'static str,
    /// Terminal: the answer is complete.
    pub done: &'static str,
    /// Terminal: the answer is not complete.
    pub failed: &'static str,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            text: "text",
            reasoning: "reasoning",
            refusal: "refusal",
            done: "done",
            failed: "failed",
        }
    }
}

impl Names {
    /// Call it at the start, so that no name fails when an answer does.
    ///
    /// # Errors
    /// If one of them is not a name.
    pub fn check(&self) -> Result<(), InvalidEvent> {
        let all = [
            self.text,
            self.reasoning,
            self.refusal,
            self.done,
            self.failed,
        ];
        all.iter()
            .try_for_each(|name| Event::unreserved(name, &()).map(drop))
    }
}

/// One event of the answer.
#[derive(Debug, Clone, PartialEq)]
pub enum ChatEvent {
    /// Append to the answer (`text`), the reasoning or the refusal.
    Delta(Kind, String),
    /// The answer is whole: the last event.
    Done(Arc<Done>),
    /// The answer is not whole: the last event.
    Failed(PublicError),
}

/// What a delta belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The answer.
    Text,
    /// The model's reasoning.
    Reasoning,
    /// What the model says in place of an answer.
    Refusal,
}

/// How an answer ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    /// Why the model stopped.
    pub reason: FinishReason,
    /// Complete calls, to be executed by the service: the browser gets their names only.
    pub tool_calls: Vec<ToolCall>,
    /// Token counts.
    pub usage: Usage,
}

impl ChatEvent {
    /// The event as it is sent.
    ///
    /// # Errors
    /// If one of `names` is not a name: see [`Names::check`].
    pub fn event(&self, names: &Names) -> Result<Event, InvalidEvent> {
        match self {
            Self::Delta(kind, text) => {
                let name = match kind {
                    Kind::Text => names.text,
                    Kind::Reasoning => names.reasoning,
                    Kind::Refusal => names.refusal,
                };
                Event::unreserved(name, &json!({ "text": text }))
            }
            Self::Done(done) => {
                let reason = match &done.reason {
                    FinishReason::Stop => "stop",
                    FinishReason::ToolCalls => "tool_calls",
                    FinishReason::AwaitsClient => "awaits_client",
                    FinishReason::MaxTokens => "max_tokens",
                    FinishReason::ContentFilter => "content_filter",
                    FinishReason::Refusal => "refusal",
                    FinishReason::Paused => "paused",
                    FinishReason::Other(_) => "other",
                };
                let tools: Vec<&str> = done
                    .tool_calls
                    .iter()
                    .map(|call| call.name.as_str())
                    .collect();
                let (input, output) = (done.usage.input, done.usage.output);
                let data = json!({ "reason": reason, "tools": tools, "usage": { "input": input, "output": output } });
                Event::unreserved(names.done, &data).map(Event::last)
            }
            Self::Failed(error) => Event::unreserved(names.failed, error).map(Event::last),
        }
    }

    /// Whether nothing follows.
    pub fn is_last(&self) -> bool {
        !matches!(self, Self::Delta(..))
    }
}

impl Merge for ChatEvent {
    fn merge(&mut self, next: Self) -> Result<(), Self> {
        match (self, next) {
            (Self::Delta(kind, text), Self::Delta(same, more))
                if *kind == same && text.len() + more.len() <= MAX_TEXT =>
            {
                text.push_str(&more);
                Ok(())
            }
            (_, next) => Err(next),
        }
    }

    fn urgent(&self) -> bool {
        self.is_last()
    }
}

// ANCHOR: request
/// The body of the request.
#[derive(Debug, Clone, Hash, Deserialize)]
pub struct ChatRequest {
    /// The conversation, oldest first.
    pub messages: Vec<ClientMessage>,
}

/// A message as a client sends it.
#[derive(Debug, Clone, Hash, Deserialize)]
pub struct ClientMessage {
    /// `user` and `assistant` are taken; for `system` and `developer` see [`SystemMessages`].
    pub role: String,
    /// The text.
    pub content: String,
}

/// One message of the conversation. There is no system role: what a browser sends must not give the model its instructions.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Turn {
    /// Who said it.
    pub role: Role,
    /// What was said.
    pub content: String,
}

/// See [`Turn::role`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The user of the chat.
    User,
    /// The model, earlier.
    Assistant,
}

/// What happens to `system` and `developer` messages of a client. Anyone can send them with curl: a page is no guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SystemMessages {
    /// 422: a page that sends them has a fault, and the user would get another model than its author meant.
    #[default]
    Refuse,
    /// They are left out: for clients that you cannot change.
    Drop,
    /// They become instructions for the model, after yours: for services whose users are the authors of the prompts.
    Pass,
}

/// A conversation for a model.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Conversation {
    /// The client's instructions, with [`SystemMessages::Pass`] only.
    pub system: Option<String>,
    /// What was said.
    pub turns: Vec<Turn>,
}

impl ChatRequest {
    /// The conversation that `policy` allows.
    ///
    /// # Errors
    /// If there is a message with another role.
    pub fn conversation(self, policy: SystemMessages) -> Result<Conversation, PublicError> {
        let mut conversation = Conversation::default();
        for ClientMessage { role, content } in self.messages {
            let role = match (role.as_str(), policy) {
                ("user", _) => Role::User,
                ("assistant", _) => Role::Assistant,
                ("system" | "developer", SystemMessages::Drop) => continue,
                ("system" | "developer", SystemMessages::Pass) => {
                    let system = conversation.system.get_or_insert_default();
                    if !system.is_empty() {
                        system.push_str("\n\n");
                    }
                    system.push_str(&content);
                    continue;
                }
                _ => return Err(PublicError::ROLE),
            };
            conversation.turns.push(Turn { role, content });
        }
        Ok(conversation)
    }
}
// ANCHOR_END: request
