//! One call to a model, as a stream.
//!
//! Use it where your service holds the key. Promises: dropping the future or the stream closes the provider's connection at once,
//! also before the provider has answered; the key is in no `Debug` output, error or log line; silence is bounded, the whole is not.
//!
//! Siblings: `providers`. Other topics: `streams/deadline`.

use std::{pin::Pin, time::Duration};

use futures::Stream;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::providers::{
    ModelError, ModelEvent, anthropic::Anthropic, http, model_events, openai_chat::OpenAiChat,
};
use crate::streams::deadline;

/// A model's answer, as it comes.
pub type ModelStream = Pin<Box<dyn Stream<Item = Result<ModelEvent, ModelError>> + Send>>;

/// Which format the provider speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// `POST /v1/chat/completions`: OpenAI and the many servers that follow it.
    OpenAiChat,
    /// `POST /v1/messages`.
    Anthropic,
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

/// A provider, a key and a model.
#[derive(Debug, Clone)]
pub struct Upstream {
    client: reqwest::Client,
    dialect: Dialect,
    url: String,
    model: String,
    max_tokens: u32,
}

/// Why there is no [`Upstream`].
#[derive(Debug, thiserror::Error)]
pub enum InvalidUpstream {
    /// The key has characters that no header may have.
    #[error("the key is not a header value")]
    Key,
    /// See [`deadline::client`].
    #[error(transparent)]
    Client(#[from] reqwest::Error),
}

impl Upstream {
    /// `base` is the origin, `https://api.openai.com`; `silence` bounds each wait for the provider's bytes: twice the
    /// relay's, whose own limit then comes first and names the reason.
    ///
    /// # Errors
    /// See [`InvalidUpstream`].
    pub fn new(
        dialect: Dialect,
        base: &str,
        key: &str,
        model: &str,
        silence: Duration,
    ) -> Result<Self, InvalidUpstream> {
        let (path, name, value) = match dialect {
            Dialect::OpenAiChat => (
                "/v1/chat/completions",
                "authorization",
                format!("Bearer {key}"),
            ),
            Dialect::Anthropic => ("/v1/messages", "x-api-key", key.to_owned()),
        };
        let mut key = HeaderValue::from_str(&value).map_err(|_| InvalidUpstream::Key)?;
        key.set_sensitive(true); // `Debug` of the client shows its headers
        let headers = HeaderMap::from_iter([
            (HeaderName::from_static(name), key),
            (
                HeaderName::from_static("anthropic-version"),
                HeaderValue::from_static("2023-06-01"),
            ),
        ]);
        let client = deadline::client(Duration::from_secs(10), silence, |builder| {
            // A redirect would take the key and the conversation along: reqwest drops `Authorization` then, not `x-api-key`.
            let none = reqwest::redirect::Policy::none();
            builder.default_headers(headers).redirect(none)
        })?;
        let url = format!("{}{path}", base.trim_end_matches('/'));
        Ok(Self {
            client,
            dialect,
            url,
            model: model.to_owned(),
            max_tokens: 4096,
        })
    }

    /// The same with another model.
    #[must_use]
    pub fn with_model(&self, model: &str) -> Self {
        Self {
            model: model.to_owned(),
            ..self.clone()
        }
    }

    /// Asks the model. The future ends with the provider's response head.
    ///
    /// # Errors
    /// [`ModelError::Status`] and others of [`http::open`]; [`ModelError::Transport`] when there is no answer.
    pub async fn open(&self, turns: &[Turn]) -> Result<ModelStream, ModelError> {
        let request = self.client.post(&self.url).json(&self.body(turns));
        // The URL may name an account, and some providers take the key in it.
        let response = request
            .send()
            .await
            .map_err(|error| ModelError::Transport(error.without_url().to_string()))?;
        let body = http::open(response, "text/event-stream").await?;
        Ok(match self.dialect {
            Dialect::OpenAiChat => Box::pin(model_events(body, OpenAiChat::default())),
            Dialect::Anthropic => Box::pin(model_events(body, Anthropic::default())),
        })
    }

    fn body(&self, turns: &[Turn]) -> Value {
        let mut body = json!({ "model": self.model, "stream": true, "messages": turns });
        match self.dialect {
            Dialect::OpenAiChat => {
                body["max_completion_tokens"] = self.max_tokens.into();
                body["stream_options"] = json!({ "include_usage": true });
            }
            Dialect::Anthropic => body["max_tokens"] = self.max_tokens.into(),
        }
        body
    }
}
