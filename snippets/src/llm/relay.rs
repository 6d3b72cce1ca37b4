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
//! Needs `request`, `chat`, `public_error`, `upstream`, `connections/per_user`, `meter`, `model_event`, `failure`, `sse/streams`, `streams/pace`, `streams/deadline`.

// ANCHOR: config
use std::{future::ready, sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    extract::{DefaultBodyLimit, State, rejection::JsonRejection},
    response::{IntoResponse, Response},
    routing::post,
};
use futures::{FutureExt, Stream, StreamExt, TryFutureExt, stream};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    chat::{ChatEvent, Done, Kind, Names},
    failure::ModelError,
    meter::{Meter, Report},
    model_event::{ModelEvent, Usage},
    public_error::PublicError,
    request::{ChatRequest, Conversation, SystemMessages, UserId},
    upstream::{ModelStream, Upstream},
};
use crate::{
    connections::per_user::PerUser,
    sse::streams::{Holding, Produced, Streams},
    streams::{
        deadline::{until_silent, until_stuck},
        pace::coalesce,
    },
};

/// The contract with your clients: names, statuses and limits, in one place.
#[derive(Clone)]
pub struct Config {
    /// The path of the endpoint.
    pub path: &'static str,
    /// How long the response headers wait for the provider's: a failure within this time becomes a status, a later one an event.
    /// If your contract wants statuses, set it just below the heartbeat of [`Streams`]. The other limits begin after it.
    pub head: Duration,
    /// Longest silence of the provider. Above the pauses of a thinking model; its heartbeats end a silence.
    pub silence: Duration,
    /// Longest time without content: a provider that hangs may send heartbeats forever.
    pub no_content: Duration,
    /// Tokens within this time of the last event are sent together; the first never waits.
    pub window: Duration,
    /// Longest answer in time: a budget, not a sign of failure.
    pub longest: Duration,
    /// Longest answer in bytes of text.
    pub most_bytes: usize,
    /// Largest request in bytes; beyond it 413.
    pub most_request_bytes: usize,
    /// The names of the events.
    pub names: Names,
    /// Policy for instructions that clients send.
    pub system: SystemMessages,
    /// The response for a refusal: its status and its body.
    pub refuse: fn(PublicError) -> Response,
    /// Receives the times, tokens and user of each answer.
    pub report: Report,
}

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
            report: Arc::new(|measured| tracing::info!(?measured, "answer")),
        }
    }
}
// ANCHOR_END: config

impl Config {
    /// # Panics
    /// If one of [`Config::names`] is not a name.
    pub(super) fn checked(&self) {
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
    pub upstream: Upstream,
    /// Open streams and their heartbeat. Start it with a token that is never cancelled: [`Relay::shutdown`] ends answers in band.
    pub streams: Streams,
    /// Permits of the users.
    pub places: PerUser,
    /// The contract.
    pub config: Config,
    /// Cancelled, it ends every answer with `failed`, code `restart`. To let answers finish first, cancel it after the token of
    /// `listen`, and before the end of `listen::Config::drain`.
    pub shutdown: CancellationToken,
}

/// `POST` on [`Config::path`]: a POST, since a GET that costs money is repeated by every reconnect, prefetch and link check.
///
/// # Panics
/// If one of [`Config::names`] is not a name: at the start, not when the first answer fails.
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
    request: Result<Json<ChatRequest>, JsonRejection>,
) -> Response {
    let refuse = relay.config.refuse;
    let Json(request) = match request {
        Ok(request) => request,
        Err(invalid) => return refuse(PublicError::invalid(invalid.status())),
    };
    // Everything that can be refused is refused before anything is paid for.
    if relay.shutdown.is_cancelled() {
        return refuse(PublicError::RESTART);
    }
    let conversation = match request.conversation(relay.config.system) {
        Ok(conversation) => conversation,
        Err(error) => return refuse(error),
    };
    let Some(place) = relay.places.enter(&user) else {
        return refuse(PublicError::BUSY);
    };
    let slot = match relay.streams.admit() {
        Ok(slot) => slot,
        Err(_) => return refuse(PublicError::FULL),
    };
    let names = relay.config.names;
    match relay.answer(&user, conversation).await {
        Ok(events) => {
            let events = Produced::new(events.map(move |event| event.event(&names)));
            slot.respond(Holding(events, place)) // both permits are free when the body is dropped
        }
        Err(error) => refuse(error),
    }
}
// ANCHOR_END: route

// ANCHOR: answer
impl Relay {
    /// Asks the model for `user`. The future ends when the response headers can be sent.
    ///
    /// # Errors
    /// The provider refused within [`Config::head`].
    pub async fn answer(
        &self,
        user: &str,
        conversation: Conversation,
    ) -> Result<impl Stream<Item = ChatEvent> + Send + Unpin + use<>, PublicError> {
        let mut meter = Meter::start(user, self.upstream.model(), self.config.report.clone());
        let mut upstream = self.upstream.clone();
        if let Some(instructions) = &conversation.system {
            upstream = upstream.system(instructions);
        }
        let mut opening = async move { upstream.open(&conversation.turns).await }.boxed();
        // hyper drops this handler when the client disconnects: the request to the provider is dropped with it.
        let events: ModelStream = match timeout(self.config.head, &mut opening).await {
            Ok(Ok(events)) => events,
            Ok(Err(error)) => {
                let error = public(&error);
                meter.failed(error.code); // a refusal, and not a user who left
                return Err(error);
            }
            Err(_) => opening.try_flatten_stream().boxed(),
        };
        let events = self.chat_events(events, meter);
        Ok(coalesce(events.boxed(), self.config.window))
    }
}
// ANCHOR_END: answer

// ANCHOR: events
impl Relay {
    /// The model's events as the client sees them, up to the one terminal event.
    fn chat_events(
        &self,
        events: ModelStream,
        meter: Meter,
    ) -> impl Stream<Item = ChatEvent> + Send + use<> {
        let end = Instant::now() + self.config.longest;
        let mut usage = Usage::default();
        let events = self.limited(events, meter, end);
        events.filter_map(move |event| {
            ready(Some(match event {
                Ok(ModelEvent::Text(text)) => ChatEvent::Delta(Kind::Text, text),
                Ok(ModelEvent::Reasoning(text)) => ChatEvent::Delta(Kind::Reasoning, text),
                Ok(ModelEvent::Refusal(text)) => ChatEvent::Delta(Kind::Refusal, text),
                Ok(ModelEvent::Finish { reason, tool_calls }) => ChatEvent::Done(Arc::new(Done {
                    reason,
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

    /// The model's events, measured and within the limits of [`Config`], up to `Finish` or the first error. Then the provider's
    /// connection is closed.
    pub fn limited(
        &self,
        events: ModelStream,
        meter: Meter,
        end: Instant,
    ) -> impl Stream<Item = Result<ModelEvent, PublicError>> + Send + use<> {
        let (shutdown, most_bytes) = (self.shutdown.clone(), self.config.most_bytes);
        let events = until_silent(events, self.config.silence).map(|event| match event {
            Ok(event) => event.map_err(|error| public(&error)),
            Err(_) => Err(PublicError::SILENT),
        });
        let events = until_stuck(events.boxed(), self.config.no_content, |event| {
            !matches!(event, Ok(ModelEvent::Heartbeat))
        });
        let events = events.map(|event| event.unwrap_or(Err(PublicError::STUCK)));
        let start = Some((events.boxed(), 0, meter));
        stream::unfold(start, move |state| {
            let shutdown = shutdown.clone();
            async move {
                let (mut events, mut bytes, mut meter) = state?;
                let next = tokio::select! {
                    biased;
                    () = shutdown.cancelled() => Some(Err(PublicError::RESTART)),
                    next = events.next() => next,
                    () = sleep_until(end) => Some(Err(PublicError::TOO_LONG)),
                };
                let mut next = next.unwrap_or_else(|| Err(public(&ModelError::Truncated)));
                if let Ok(event) = &next {
                    meter.event(event);
                    bytes += content(event);
                    if content(event) > 0 && (bytes > most_bytes || Instant::now() >= end) {
                        next = Err(PublicError::TOO_LONG);
                    }
                }
                if let Err(error) = &next {
                    meter.failed(error.code);
                }
                // Without a next state, `events` are dropped, and with them the provider's connection.
                let ended = matches!(next, Err(_) | Ok(ModelEvent::Finish { .. }));
                Some((next, (!ended).then_some((events, bytes, meter))))
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

/// The provider's text is logged; the client gets a code.
fn public(error: &ModelError) -> PublicError {
    tracing::warn!(%error, "the model failed");
    error.into()
}
// ANCHOR_END: events
