//! The request of `useChat`, reduced to what a server may trust.
//!
//! Use it with `use_chat`. Guarantee: only the newest message of the user, or their decisions on calls of tools, are taken. The client's
//! copy of the history, of the model's messages and of the inputs of tools is ignored: anyone can write it.
//!
//! Siblings: `agent_turn`, `public_error`, `ui_message`. Other topics: `sse/event`.

// ANCHOR: request
use serde::Deserialize;
use serde_json::json;

use super::{
    agent_turn::{Decision, Image},
    public_error::PublicError,
    ui_message::Message,
};
use crate::sse::event::is_token;

/// The body of the request, as `DefaultChatTransport` of the AI SDK 5 to 7 writes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UiRequest {
    /// The chat.
    id: String,
    /// The client's copy of the history. The last message is enough: see the chapter for the transport that sends no more.
    #[serde(default)]
    messages: Vec<Message>,
    /// `submit-message` or `regenerate-message`.
    #[serde(default)]
    trigger: String,
    /// With `submit-message`: the message of the user that is replaced.
    #[serde(default)]
    message_id: Option<String>,
}

// ANCHOR: wish
/// What the request asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Wish {
    /// An answer to this message.
    Answer {
        /// The message as the page has it, without unknown fields.
        message: Message,
        /// Its text.
        text: String,
        /// Its pictures.
        images: Vec<Image>,
        /// Whether it replaces the message of the same id and all messages after that.
        edited: bool,
    },
    /// Another answer to the message with this id.
    Again(String),
    /// The decisions on calls of tools in the assistant's message with this id.
    Decide(String, Vec<Decision>),
}
// ANCHOR_END: wish

impl UiRequest {
    /// The id of the chat, and what is wanted.
    ///
    /// # Errors
    /// [`PublicError::PART`] for a part that is neither text nor a picture in the message itself; [`PublicError::MESSAGE`] without a
    /// message or with malformed ids; [`PublicError::ROLE`] for another role.
    pub fn wish(self) -> Result<(String, Wish), PublicError> {
        let mut last = self
            .messages
            .into_iter()
            .last()
            .ok_or(PublicError::MESSAGE)?;
        if !is_token(&self.id, 64) || !is_token(&last.id, 64) {
            return Err(PublicError::MESSAGE);
        }
        let wish = match (last.role.as_str(), self.trigger.as_str()) {
            // `regenerate` removes the answer from the client's copy: the last message is the question.
            ("user", "regenerate-message") => Wish::Again(last.id),
            ("user", _) => {
                let (mut texts, mut images) = (Vec::new(), Vec::new());
                for part in &mut last.parts {
                    let field = |name: &str| part[name].as_str().map(str::to_owned);
                    match (field("type").as_deref(), field("text"), field("url")) {
                        (Some("text"), Some(text), _) => {
                            *part = json!({ "type": "text", "text": text });
                            texts.push(text);
                        }
                        (Some("file"), _, Some(url)) => {
                            let image = picture(&url).ok_or(PublicError::PART)?;
                            *part = json!({ "type": "file", "mediaType": image.media_type, "url": url });
                            images.push(image);
                        }
                        _ => return Err(PublicError::PART),
                    }
                }
                let (text, edited) = (texts.join("\n\n"), self.message_id.is_some());
                if text.is_empty() && images.is_empty() {
                    return Err(PublicError::PART);
                }
                let (id, role, parts) = (last.id, last.role, last.parts);
                let message = Message {
                    id,
                    role,
                    parts,
                    ..Message::default()
                };
                Wish::Answer {
                    message,
                    text,
                    images,
                    edited,
                }
            }
            ("assistant", "submit-message") => {
                let decisions = last.parts.iter().filter_map(|part| {
                    let approval = &part["approval"];
                    Some(Decision {
                        id: approval["id"].as_str()?.to_owned(),
                        approved: approval["approved"].as_bool()?,
                        reason: approval["reason"]
                            .as_str()
                            .map(|text| text.chars().take(1000).collect()),
                    })
                });
                Wish::Decide(last.id, decisions.collect())
            }
            _ => return Err(PublicError::ROLE),
        };
        Ok((self.id, wish))
    }
}

/// A picture in the message itself: with another URL, the user would choose what the provider, or this service, fetches.
fn picture(url: &str) -> Option<Image> {
    let (media_type, base64) = url.strip_prefix("data:")?.split_once(";base64,")?;
    let known = ["image/png", "image/jpeg", "image/webp", "image/gif"].contains(&media_type);
    let clean = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
    (known && base64.bytes().all(clean)).then(|| Image {
        media_type: media_type.to_owned(),
        base64: base64.to_owned(),
    })
}
// ANCHOR_END: request
