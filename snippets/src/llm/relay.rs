//! The endpoint between a browser and a model.
//!
//! Use it for a chat whose answers belong to one open page; if an answer must survive a reload, use `resume` on top of it.
//! Guarantees: nothing is asked before it is admitted; the response headers are sent within [`Config::head`] and heartbeats follow until
//! the first token; every answer ends with exactly one terminal event; Stop (the client aborts its request) and any other disconnect
//! close the provider's connection at once, even while it is silent or has not answered; a slow reader fills no memory.
//!
//! There is no task and no channel here: the model's stream is in the response body, so dropping the body closes the provider's
//! connection, and polling it reads from there.
//!
//! The model, the limit of a user and the measurement are functions: `upstream` with the decoder of your provider makes the first,
//! `connections/per_user` the second, `meter` the third. Needs `chat`, `public_error`, `model_event`, `sse/streams`, `streams/pace`.
//!
//! ```ignore
//! let decode: Decode = |body| model_events(body, OpenAiChat::default()).boxed(); // sh copy llm/openai_chat, llm/model_stream
//! let upstream = Upstream::new(Dialect::OpenAiChat, base, key, "gpt-5-mini", silence, decode)?; // sh copy llm/upstream
//! let places = PerUser::new(3).permits(); // sh copy connections/per_user
//! let relay = Relay { model: upstream.model(), places, streams, config: Config::default(), shutdown };
//! let router = app(Arc::new(relay)).layer(authentication); // which adds a `UserId` to the request
//! ```

use std::{future::ready, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    extract::{DefaultBodyLimit, State},
    response::{IntoResponse, Response},
    routing::post,
};
use futures::{
    FutureExt, Stream, StreamExt, TryFutureExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use serde_json::json;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    chat::{ChatEvent, ChatRequest, Conversation, Done, Kind, Names, SystemMessages},
    model_event::{FinishReason, ModelEvent, Question, Usage, Watch, Watching},
    public_error::{Body, Opening, Permits, PublicError, UserId},
};
use crate::{
    sse::{
        event::Event,
        streams::{Holding, Produced, Streams},
    },
    streams::pace::coalesce,
};

// ANCHOR: config
/// A model's answer, as it comes. Dropping it closes the connection to the provider.
pub type ModelEvents = BoxStream<'static, Result<ModelEvent, PublicError>>;

/// Asks a model. The future is ready when the provider's response headers have arrived; dropping it closes the connection too.
pub type Model =
    dyn Fn(Question) -> BoxFuture<'static, Result<ModelEvents, PublicError>> + Send + Sync;

/// The contract with your clients: names, statuses and limits, in one place.
#[derive(Clone)]
pub struct Config {
    /// The path of the endpoint.
    pub path: &'static str,
    /// How long the response headers wait for the provider's: a failure before the provider's headers arrive and within
    /// this time becomes a status, any later failure an event. For as many statuses as possible, set it just below the
    /// heartbeat interval of [`Streams`]. The other limits count from the end of this wait.
    pub head: Duration,
    /// Longest silence of the provider. Set it above the pauses of a thinking model. A heartbeat of the provider ends
    /// a silence.
    pub silence: Duration,
    /// Longest time without an event other than a heartbeat: a provider that hangs may send heartbeats forever.
    pub no_content: Duration,
    /// Tokens that arrive within this time after an event was sent are collected and sent as one event; the first
    /// token of an answer never waits.
    pub window: Duration,
    /// Longest answer in time; beyond it `failed` with the code `too_long`.
    pub longest: Duration,
    /// Longest answer in bytes of text, reasoning, arguments and other parts; beyond it `failed` with the code `too_long`.
    /// Raise it for images.
    pub most_bytes: usize,
    /// Largest request in bytes; beyond it 413.
    pub most_request_bytes: usize,
    /// The names of the events.
    pub names: Names,
    /// Policy for instructions that clients send.
    pub system: SystemMessages,
    /// The response for a refusal: its status and its body.
    pub refuse: fn(PublicError) -> Response,
    /// Watches each answer: times, tokens, user.
    pub watch: Arc<Watch>,
}
// ANCHOR_END: config

// ANCHOR: defaults
impl Default for Config {
    fn default() -> Self {
        Self {
            path: "/chat",
            head: Duration::from_millis(500),
            silence: Duration::from_secs(300),
            no_content: Duration::from_secs(10 * 60),
            window: Duration::from_millis(30),
            longest: Duration::from_secs(15 * 60),
            most_bytes: 1024 * 1024,
            most_request_bytes: 256 * 1024,
            names: Names::default(),
            system: SystemMessages::Refuse,
            refuse: IntoResponse::into_response,
            watch: Arc::new(|_| Box::new(|_| ())),
        }
    }
}
// ANCHOR_END: defaults

impl Config {
    /// # Panics
    /// If one of [`Config::names`] is not a name.
    fn checked(&self) {
        if let Err(error) = self.names.check() {
            panic!("Config::names: {error}");
        }
    }
}

// ANCHOR: route
/// Shared by all answers.
#[derive(Clone)]
pub struct Relay {
    /// The model.
    pub model: Arc<Model>,
    /// Open streams and their heartbeat. Start the `Streams` with a `CancellationToken` that you never cancel: at shutdown,
    /// [`Relay::shutdown`] ends the answers, with an event.
    pub streams: Streams,
    /// The limit on concurrent answers of each user.
    pub places: Arc<Permits>,
    /// The contract.
    pub config: Config,
    /// Cancelling it ends every answer with `failed`, code `restart`. To let answers finish first: cancel the token of
    /// `listen::serve`, which stops new connections; wait for the answers; cancel this one before `listen::Config::drain` ends.
    pub shutdown: CancellationToken,
}

/// `POST` on [`Config::path`]: a POST, since a GET that costs money is repeated by every reconnect, prefetch and link check.
///
/// # Panics
/// If one of [`Config::names`] is not valid as an event name. It panics when the service starts, not when the first
/// answer fails.
pub fn app(relay: Arc<Relay>) -> Router {
    relay.config.checked();
    Router::new()
        .route(relay.config.path, post(chat))
        .layer(DefaultBodyLimit::max(relay.config.most_request_bytes))
        .with_state(relay)
}

async fn chat(
    State(relay): State<Arc<Relay>>,
    Extension(UserId(user)): Extension<UserId>,
    Body(request): Body<ChatRequest>,
) -> Response {
    let answer = async {
        // Every refusal that is possible here comes before anything is paid for.
        let request = request?;
        if relay.shutdown.is_cancelled() {
            return Err(PublicError::RESTART);
        }
        let conversation = request.conversation(relay.config.system)?;
        let place = (relay.places)(&user).ok_or(PublicError::BUSY)?;
        let slot = relay.streams.admit().map_err(|_| PublicError::FULL)?;
        let names = relay.config.names;
        let events = relay.answer(&user, conversation).await?;
        let events = Produced::new(events.map(move |event| event.event(&names)));
        Ok(slot.respond(Holding(events, place))) // both permits are free when the body is dropped
    };
    answer.await.unwrap_or_else(relay.config.refuse)
}
// ANCHOR_END: route

// ANCHOR: answer
impl Relay {
    /// Asks the model on behalf of `user`. The future ends when the response headers can be sent.
    ///
    /// # Errors
    /// The provider refused within [`Config::head`].
    pub async fn answer(
        &self,
        user: &str,
        conversation: Conversation,
    ) -> Result<impl Stream<Item = ChatEvent> + Send + Unpin + use<>, PublicError> {
        let mut watch = (self.config.watch)(user);
        let turns = conversation.turns.iter().map(|turn| json!(turn));
        let mut opening = (self.model)(Question {
            system: conversation.system,
            messages: turns.collect(),
            tools: Vec::new(),
        });
        // hyper drops this handler when the client disconnects: the request to the provider is dropped with it.
        let events = match timeout(self.config.head, &mut opening).await {
            Ok(Ok(events)) => events,
            Ok(Err(error)) => {
                watch(Err((error.code, error.provider))); // measured as a failure, not as a disconnect
                return Err(error);
            }
            Err(_) => opening.try_flatten_stream().boxed(),
        };
        let end = Instant::now() + self.config.longest;
        let events = chat_events(self.limited(events, watch, end));
        Ok(coalesce(events.boxed(), self.config.window))
    }
}
// ANCHOR_END: answer

impl Relay {
    /// The same for `resume`, as events, with the function that makes the terminal event of a failure.
    ///
    /// # Errors
    /// [`SystemMessages`], or a wrong name in [`Config::names`].
    #[allow(clippy::type_complexity)]
    pub fn events(
        self: &Arc<Self>,
        user: String,
        request: ChatRequest,
    ) -> Result<
        (
            Opening<Event>,
            impl Fn(PublicError) -> Option<Event> + Send + use<>,
        ),
        PublicError,
    > {
        let conversation = request.conversation(self.config.system)?;
        let (relay, names) = (self.clone(), self.config.names);
        if let Err(error) = names.check() {
            tracing::error!(%error, "Config::names"); // its events would be missing
            return Err(PublicError::MISCONFIGURED);
        }
        let asking = async move {
            let events = relay.answer(&user, conversation).await?;
            let events = events.filter_map(move |event| ready(event.event(&names).ok())); // checked above
            Ok(events.boxed())
        };
        let failed = move |error| ChatEvent::Failed(error).event(&names).ok();
        Ok((Opening::Asking(asking.boxed()), failed))
    }

    /// One call of the model for an agent: for this user, up to this instant, within the same limits, and watched.
    pub fn calls(self: &Arc<Self>) -> Arc<Calls> {
        let relay = self.clone();
        Arc::new(move |user, question, end| {
            let (model, watch) = (relay.model.clone(), (relay.config.watch)(user));
            let opening = async move { model(question).await };
            let events = opening.try_flatten_stream().boxed();
            relay.limited(events, watch, end).boxed()
        })
    }
}

/// See [`Relay::calls`].
pub type Calls = dyn Fn(&str, Question, Instant) -> ModelEvents + Send + Sync;

/// The model's events as the client sees them, up to the one terminal event.
fn chat_events(
    events: impl Stream<Item = Result<ModelEvent, PublicError>> + Send,
) -> impl Stream<Item = ChatEvent> + Send {
    let (mut usage, mut refused) = (Usage::default(), false);
    events.filter_map(move |event| {
        refused |= matches!(event, Ok(ModelEvent::Refusal(_)));
        ready(Some(match event {
            Ok(ModelEvent::Text(text)) => ChatEvent::Delta(Kind::Text, text),
            Ok(ModelEvent::Reasoning(text)) => ChatEvent::Delta(Kind::Reasoning, text),
            Ok(ModelEvent::Refusal(text)) => ChatEvent::Delta(Kind::Refusal, text),
            Ok(ModelEvent::Finish { reason, tool_calls }) => ChatEvent::Done(Arc::new(Done {
                // OpenAI ends a refusal with `stop`.
                reason: match reason {
                    FinishReason::Stop if refused => FinishReason::Refusal,
                    reason => reason,
                },
                tool_calls,
                usage,
            })),
            Err(error) => ChatEvent::Failed(error),
            Ok(ModelEvent::Usage(total)) => {
                usage = total;
                return ready(None);
            }
            Ok(_) => return ready(None),
        }))
    })
}

impl Relay {
    /// The model's events, watched and within the limits of [`Config`], up to `Finish` or the first error. Then the provider's
    /// connection is closed.
    fn limited(
        &self,
        events: ModelEvents,
        watch: Watching,
        end: Instant,
    ) -> impl Stream<Item = Result<ModelEvent, PublicError>> + Send + use<> {
        let (shutdown, most_bytes) = (self.shutdown.clone(), self.config.most_bytes);
        let (silence, no_content) = (self.config.silence, self.config.no_content);
        let start = Some((events, 0, Duration::ZERO, watch));
        stream::unfold(start, move |state| {
            let shutdown = shutdown.clone();
            async move {
                let (mut events, mut bytes, mut waited, mut watch) = state?;
                // The clocks run only while an event is awaited: a slow reader is not the model's silence.
                let since = Instant::now();
                let limits = [
                    (silence, PublicError::SILENT),
                    (no_content.saturating_sub(waited), PublicError::STUCK),
                    (end.saturating_duration_since(since), PublicError::TOO_LONG),
                ];
                let first =
                    |one: (Duration, _), two: (Duration, _)| if two.0 < one.0 { two } else { one };
                let (limit, why) = first(first(limits[0], limits[1]), limits[2]);
                let mut next = tokio::select! {
                    biased;
                    () = shutdown.cancelled() => Err(PublicError::RESTART),
                    next = timeout(limit, events.next()) => match next {
                        Ok(next) => next.unwrap_or(Err(PublicError::TRUNCATED)),
                        Err(_) => Err(why),
                    },
                };
                if let Ok(event) = &next {
                    waited = match event {
                        ModelEvent::Heartbeat => waited + since.elapsed(),
                        _ => Duration::ZERO,
                    };
                    watch(Ok(event));
                    bytes += content(event);
                    if content(event) > 0 && (bytes > most_bytes || Instant::now() >= end) {
                        next = Err(PublicError::TOO_LONG);
                    }
                }
                if let Err(error) = &next {
                    watch(Err((error.code, error.provider)));
                }
                // Without a next state, `events` are dropped, and with them the provider's connection.
                let ended = matches!(next, Err(_) | Ok(ModelEvent::Finish { .. }));
                Some((next, (!ended).then_some((events, bytes, waited, watch))))
            }
        })
        .fuse()
    }
}

/// Bytes of what is kept of an event, or shown.
fn content(event: &ModelEvent) -> usize {
    match event {
        ModelEvent::Text(text) | ModelEvent::Reasoning(text) | ModelEvent::Refusal(text) => {
            text.len()
        }
        ModelEvent::ToolCallDelta { fragment, .. } => fragment.len(),
        ModelEvent::Other { raw, .. } => raw.len(),
        _ => 0,
    }
}
