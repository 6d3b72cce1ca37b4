//! One call to a model, as a stream.
//!
//! Use it if your service holds the key. Guarantees: dropping the future or the stream closes the provider's connection immediately,
//! even before the provider has answered; the key is in no `Debug` output, error or log line; silence is bounded, the whole is not;
//! the request has no limit on tokens that you did not set, except with Anthropic, which requires one. An answer in the
//! [background](Upstream::background) is continued after a cut; dropping its stream cancels it.
//!
//! The decoder is an argument: copy `openai_chat`, `openai_responses`, `anthropic` or `gemini`, and `model_stream`. Siblings: `http`, `model_event`, `failure`,
//! `public_error`. Other topics: `streams/deadline`.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{
    FutureExt, StreamExt, TryFutureExt, TryStreamExt, future, future::BoxFuture, stream::BoxStream,
};
use reqwest::{
    Client, RequestBuilder, Response, Url,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio_util::task::TaskTracker;

pub use super::model_event::Dialect;
use super::{
    failure::ModelError,
    http,
    model_event::{ModelEvent, Question},
    model_stream::{Body, Kept, Opening},
    public_error::PublicError,
};
use crate::streams::deadline;

/// `max_tokens` of a new [`Upstream`] for Anthropic, which has no default: models since Claude Opus 4 accept it.
pub const ANTHROPIC_MAX_TOKENS: u32 = 32_000;

/// An unused connection is closed after this time: many servers close theirs after 5 s, and a request that meets the close fails.
const POOL_IDLE: Duration = Duration::from_secs(4);

const EVENT_STREAM: &str = "text/event-stream";

/// A model's answer, as it comes.
pub type ModelStream = BoxStream<'static, Result<ModelEvent, ModelError>>;

/// Decodes the body of a response: `|body| model_events(body, OpenAiChat::new(EndRule::default())).boxed()`, with `model_stream` and the
/// decoder of your provider.
pub type Decode = fn(BoxStream<'static, reqwest::Result<Bytes>>) -> ModelStream;

/// Decodes an answer in the background: `|opening, kept| kept_events(opening, OpenAiResponses::default(), kept).boxed()`, with
/// `model_stream`.
pub type DecodeKept = fn(Opening, Kept) -> BoxFuture<'static, Result<ModelStream, ModelError>>;

/// See [`Upstream::model`].
pub type Model = dyn Fn(
        Question,
    ) -> BoxFuture<
        'static,
        Result<BoxStream<'static, Result<ModelEvent, PublicError>>, PublicError>,
    > + Send
    + Sync;

/// A provider, a key, a model, and what is asked of it.
#[derive(Debug, Clone)]
pub struct Upstream {
    client: Client,
    dialect: Dialect,
    base: Url,
    url: Url,
    headers: HeaderMap,
    model: String,
    system: Option<String>,
    fields: Map<String, Value>,
    decode: Decode,
    background: Option<DecodeKept>,
    /// The cancellations of answers in the background that run. At shutdown: close it and wait for it.
    pub cancels: TaskTracker,
}

/// Why there is no [`Upstream`].
#[derive(Debug, thiserror::Error)]
pub enum InvalidUpstream {
    /// The key, or another header, has characters that no header may have.
    #[error("{0} is not a header: remove line breaks and letters beyond ASCII")]
    Header(&'static str),
    /// The base or the path.
    #[error("{0:?} is not an address: write one such as https://api.openai.com")]
    Url(String),
    /// The address is `https`, and this program cannot speak it.
    #[error("reqwest was built without TLS: add its feature `rustls` in Cargo.toml")]
    NoTls,
    /// See [`deadline::client`].
    #[error(transparent)]
    Client(#[from] reqwest::Error),
}

impl Upstream {
    /// `base` is the origin, `https://api.openai.com`; an empty `key` sends none; `silence` bounds each wait for the provider's bytes: twice the
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
        decode: Decode,
    ) -> Result<Self, InvalidUpstream> {
        let client = deadline::client(Duration::from_secs(10), silence, |builder| {
            // A redirect would take the key and the conversation along: reqwest drops `Authorization` then, not `x-api-key`.
            let none = reqwest::redirect::Policy::none();
            builder.redirect(none).pool_idle_timeout(POOL_IDLE)
        })?;
        let gemini = format!("/v1beta/models/{model}:streamGenerateContent?alt=sse");
        let (path, name, value, fields) = match dialect {
            Dialect::OpenAiChat => (
                "/v1/chat/completions",
                "authorization",
                format!("Bearer {key}"),
                json!({ "stream_options": { "include_usage": true } }),
            ),
            Dialect::Anthropic => (
                "/v1/messages",
                "x-api-key",
                key.to_owned(),
                json!({ "max_tokens": ANTHROPIC_MAX_TOKENS }),
            ),
            // The conversation is ours: what the model thought goes back encrypted. A model that does not reason refuses `include`.
            Dialect::OpenAiResponses => (
                "/v1/responses",
                "authorization",
                format!("Bearer {key}"),
                json!({ "store": false, "include": ["reasoning.encrypted_content"] }),
            ),
            Dialect::Gemini => (&*gemini, "x-goog-api-key", key.to_owned(), json!({})),
        };
        let fields = fields.as_object().cloned().unwrap_or_default();
        let base = base.trim_end_matches('/');
        let url = |base: &str| {
            Url::parse(base)
                .ok()
                .filter(Url::has_host)
                .ok_or_else(|| InvalidUpstream::Url(base.to_owned()))
        };
        let upstream = Self {
            client,
            dialect,
            base: url(base)?,
            url: url(&format!("{base}{path}"))?,
            headers: HeaderMap::new(),
            model: model.to_owned(),
            system: None,
            fields,
            decode,
            background: None,
            cancels: TaskTracker::new(),
        };
        if upstream.base.scheme() == "https" && !has_tls() {
            return Err(InvalidUpstream::NoTls);
        }
        let upstream = upstream.header("anthropic-version", "2023-06-01")?;
        match key {
            // A local server, or a key that `header` brings.
            "" => Ok(upstream),
            _ => upstream.header(name, &value),
        }
    }

    /// The same with another path and query, for hosts that differ from `/v1/chat/completions`:
    /// `/openai/deployments/NAME/chat/completions?api-version=…` (Azure), `/v1beta/openai/chat/completions` (Gemini).
    ///
    /// # Errors
    /// [`InvalidUpstream::Url`].
    pub fn path(mut self, path: &str) -> Result<Self, InvalidUpstream> {
        let url = self.base.join(path).ok();
        let same = |url: &Url| url.origin() == self.base.origin();
        self.url = url
            .filter(same)
            .ok_or_else(|| InvalidUpstream::Url(path.to_owned()))?;
        Ok(self)
    }

    /// The same with a header, which no log shows: `api-key` (Azure), `HTTP-Referer` (OpenRouter), `anthropic-beta`.
    ///
    /// # Errors
    /// [`InvalidUpstream::Header`].
    pub fn header(mut self, name: &'static str, value: &str) -> Result<Self, InvalidUpstream> {
        let mut value = HeaderValue::from_str(value).map_err(|_| InvalidUpstream::Header(name))?;
        value.set_sensitive(true);
        let header = HeaderName::try_from(name).map_err(|_| InvalidUpstream::Header(name))?;
        self.headers.insert(header, value);
        Ok(self)
    }

    /// The same with a field of the request's body; null removes it. `max_completion_tokens` (`max_tokens` with most hosts that
    /// are not OpenAI; it counts the reasoning, and an answer that thinks up to it is empty), `reasoning_effort`, `tools`,
    /// `temperature`. A host that refuses `stream_options` gets a null for it, and sends no usage.
    #[must_use]
    pub fn field(mut self, name: &str, value: impl Into<Value>) -> Self {
        match value.into() {
            Value::Null => self.fields.remove(name),
            value => self.fields.insert(name.to_owned(), value),
        };
        self
    }

    /// The same in the background, for OpenAI Responses: the provider stores the answer (`store: true`), and continues it when
    /// the connection is cut. So does this: it requests the rest, up to 6 times without a new event. Closing the connection does
    /// not stop such an answer: dropping its stream sends `POST /v1/responses/{id}/cancel`.
    #[must_use]
    pub fn background(mut self, decode: DecodeKept) -> Self {
        self.background = Some(decode);
        self.field("background", true).field("store", true)
    }

    /// The same with instructions for the model.
    #[must_use]
    pub fn system(mut self, instructions: &str) -> Self {
        self.system = Some(instructions.to_owned());
        self
    }

    /// The same with another model.
    #[must_use]
    pub fn with_model(&self, model: &str) -> Self {
        let mut url = self.url.clone();
        if self.dialect == Dialect::Gemini {
            let (old, new) = (format!("/{}:", self.model), format!("/{model}:"));
            url.set_path(&self.url.path().replace(&old, &new));
        }
        Self {
            model: model.to_owned(),
            url,
            ..self.clone()
        }
    }

    /// The name of the model.
    pub fn model_name(&self) -> &str {
        &self.model
    }

    /// Asks the model; each of `turns` has the form `{"role": "user" | "assistant", "content": …}`. The future ends with the
    /// provider's response headers.
    ///
    /// # Errors
    /// [`ModelError::Status`] and others of [`http::open`]; [`ModelError::Transport`] when there is no answer.
    pub async fn open(&self, turns: &[impl Serialize]) -> Result<ModelStream, ModelError> {
        let turns = turns.iter().map(|turn| json!(turn));
        self.open_messages(turns.collect()).await
    }

    /// The same with messages in the provider's own format: results of tools, images, signatures.
    ///
    /// # Errors
    /// See [`Upstream::open`].
    pub async fn open_messages(&self, messages: Vec<Value>) -> Result<ModelStream, ModelError> {
        let request = self.client.post(self.url.clone());
        let response = self.send(request.json(&self.body(messages)));
        match self.background {
            None => {
                let body = http::open(response.await?, EVENT_STREAM).await?;
                Ok((self.decode)(body.boxed()))
            }
            Some(decode) => decode(opening(response), self.kept()).await,
        }
    }

    fn send(
        &self,
        request: RequestBuilder,
    ) -> impl Future<Output = Result<Response, ModelError>> + Send + use<> {
        let sent = request.headers(self.headers.clone()).send();
        // The URL may name an account, and some providers take the key in it.
        sent.map_err(|error| ModelError::transport(&error.without_url()))
    }

    fn kept(&self) -> Kept {
        let (rest, cancel) = (self.clone(), self.clone());
        let path = |url: &Url, more: &[&str]| {
            let mut url = url.clone();
            if let Ok(mut path) = url.path_segments_mut() {
                path.extend(more);
            }
            url
        };
        Kept {
            rest: Arc::new(move |id, number| {
                let mut url = path(&rest.url, &[id]);
                url.query_pairs_mut()
                    .append_pair("stream", "true")
                    .append_pair("starting_after", &number.to_string());
                opening(rest.send(rest.client.get(url)))
            }),
            cancel: Arc::new(move |id| {
                let url = path(&cancel.url, &[id, "cancel"]);
                let response = cancel.send(cancel.client.post(url));
                async move { http::succeeded(response.await?).await }.boxed()
            }),
            attempts: 6,
            backoff: Duration::from_millis(250),
            tasks: self.cancels.clone(),
        }
    }

    /// The same as a function, which is the model of `relay` and, through it, of `agent`. The provider's text is logged; the client gets
    /// a code.
    pub fn model(&self) -> Arc<Model> {
        let upstream = self.clone();
        Arc::new(move |question| {
            let mut upstream = upstream.clone();
            // Yours first: a client adds to them, and does not remove them.
            if let Some(instructions) = &question.system {
                let all = match &upstream.system {
                    Some(own) => format!("{own}\n\n{instructions}"),
                    None => instructions.clone(),
                };
                upstream = upstream.system(&all);
            }
            if !question.tools.is_empty() {
                upstream = match upstream.dialect {
                    Dialect::Gemini => {
                        let tools = json!([{ "functionDeclarations": question.tools }]);
                        upstream.field("tools", tools)
                    }
                    _ => upstream.field("tools", question.tools),
                };
            }
            let public = |error: ModelError| {
                tracing::warn!(%error, "the model failed");
                PublicError::from(error)
            };
            let opening = async move {
                let events = upstream.open_messages(question.messages).await;
                let events = events.map_err(public)?;
                Ok(events.map(move |event| event.map_err(public)).boxed())
            };
            opening.boxed()
        })
    }

    fn body(&self, mut messages: Vec<Value>) -> Value {
        let mut body = match self.dialect {
            Dialect::Gemini => json!({}), // the path has both
            _ => json!({ "model": self.model, "stream": true }),
        };
        match (self.dialect, &self.system) {
            (Dialect::OpenAiChat, Some(system)) => {
                messages.insert(0, json!({ "role": "system", "content": system }));
            }
            (Dialect::Anthropic, Some(system)) => body["system"] = json!(system),
            (Dialect::OpenAiResponses, Some(system)) => body["instructions"] = json!(system),
            (Dialect::Gemini, Some(system)) => {
                body["systemInstruction"] = json!({ "parts": [{ "text": system }] });
            }
            (_, None) => {}
        }
        let field = match self.dialect {
            Dialect::OpenAiChat | Dialect::Anthropic => "messages",
            Dialect::OpenAiResponses => "input",
            Dialect::Gemini => {
                messages.iter_mut().for_each(as_content);
                "contents"
            }
        };
        body[field] = messages.into();
        for (name, value) in &self.fields {
            body[name] = value.clone();
        }
        body
    }
}

fn opening(
    response: impl Future<Output = Result<Response, ModelError>> + Send + 'static,
) -> Opening {
    let body = async {
        let body = http::open(response.await?, EVENT_STREAM).await?;
        let body = body.map_err(|error| ModelError::transport(&error));
        Ok::<Body, _>(body.boxed())
    };
    body.boxed()
}

/// A turn with a role and a text, as Gemini has it.
fn as_content(turn: &mut Value) {
    if let Some(text) = turn["content"].as_str() {
        let role = if turn["role"] == "assistant" {
            "model"
        } else {
            "user"
        };
        *turn = json!({ "role": role, "parts": [{ "text": text }] });
    }
}

/// Whether reqwest was built with TLS. Without, it refuses `https` in its first poll, before it resolves the name; with TLS it then
/// waits for this resolver, which never answers, and nothing is sent.
fn has_tls() -> bool {
    struct Never;
    impl reqwest::dns::Resolve for Never {
        fn resolve(&self, _: reqwest::dns::Name) -> reqwest::dns::Resolving {
            Box::pin(future::pending())
        }
    }
    let client = Client::builder().no_proxy().dns_resolver(Arc::new(Never));
    let first_poll = |client: Client| client.get("https://tls.invalid").send().now_or_never();
    client
        .build()
        .is_ok_and(|client| first_poll(client).is_none())
}
