//! The request of a browser: who asks, and what it may put into the conversation.
//!
//! Use it with `relay` and `resume`. Guarantee: no message of a client gives the model its instructions, unless you choose so.
//! Needs `public_error`, `upstream`.

// ANCHOR: request
use serde::Deserialize;

use super::{
    public_error::PublicError,
    upstream::{Role, Turn},
};

/// Who asks: your authentication puts it into the request's extensions. Without it the routes return 500.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserId(pub String);

/// The body of the request.
#[derive(Debug, Clone, Deserialize)]
pub struct ChatRequest {
    /// The conversation, oldest first.
    pub messages: Vec<ClientMessage>,
}

/// A message as a client sends it.
#[derive(Debug, Clone, Deserialize)]
pub struct ClientMessage {
    /// `user` and `assistant` are taken; for `system` and `developer` see [`SystemMessages`].
    pub role: String,
    /// The text.
    pub content: String,
}

/// What happens to `system` and `developer` messages of a client. Anyone can send them with curl: a page is no guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SystemMessages {
    /// 422: a page that sends them has a fault, and the user would get another model than its author meant.
    #[default]
    Refuse,
    /// They are left out: for clients that you cannot change.
    Drop,
    /// They become the model's instructions, in place of yours: for services whose users are the authors of the prompts.
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
