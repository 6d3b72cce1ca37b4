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
use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    extract::{DefaultBodyLimit, State},
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
    /// How long the response headers wait for the provider's: a failure within this time becomes a status, a later one an event.
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
    /// Cancelled, it ends every answer with `failed`, code `restart`.
    pub shutdown: CancellationToken,
}

/// `POST /chat`: a POST, since a GET that costs money is repeated by every reconnect, prefetch and link check.
///
/// # Panics
/// If one of [`Config::names`] is not a name: at the start, not when the first answer fails.
pub fn app(relay: Arc<Relay>) -> Router {
    relay.config.checked();
    Router::new()
        .route("/chat", post(chat))
        .layer(DefaultBodyLimit::max(relay.config.most_request_bytes))
        .with_state(relay)
}

async fn chat(
    State(relay): State<Arc<Relay>>,
    Extension(UserId(user)): Extension<UserId>,
    Json(request): Json<ChatRequest>,
) -> Response {
    let refuse = relay.config.refuse;
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
        let (shutdown, most_bytes) = (self.shutdown.clone(), self.config.most_bytes);
        let end = Instant::now() + self.config.longest;
        let events = until_silent(events, self.config.silence).map(|event| match event {
            Ok(event) => event.map_err(|error| public(&error)),
            Err(_) => Err(PublicError::SILENT),
        });
        let events = until_stuck(events.boxed(), self.config.no_content, |event| {
            !matches!(event, Ok(ModelEvent::Heartbeat))
        });
        let events = events.map(|event| event.unwrap_or(Err(PublicError::STUCK)));
        let start = Some((events.boxed(), Usage::default(), 0, meter));
        stream::unfold(start, move |state| {
            let shutdown = shutdown.clone();
            async move {
                let (mut events, mut usage, mut bytes, mut meter) = state?;
                // Leaving the loop with `None` as the next state drops `events`, and with them the provider's connection.
                let last = loop {
                    let next = tokio::select! {
                        biased;
                        () = shutdown.cancelled() => break ChatEvent::Failed(PublicError::RESTART),
                        next = events.next() => next,
                        () = sleep_until(end) => break ChatEvent::Failed(PublicError::TOO_LONG),
                    };
                    if let Some(Ok(event)) = &next {
                        meter.event(event);
                    }
                    let (kind, text) = match next {
                        Some(Ok(ModelEvent::Text(text))) => (Kind::Text, text),
                        Some(Ok(ModelEvent::Reasoning(text))) => (Kind::Reasoning, text),
                        Some(Ok(ModelEvent::Refusal(text))) => (Kind::Refusal, text),
                        Some(Ok(ModelEvent::Usage(total))) => {
                            usage = total;
                            continue;
                        }
                        Some(Ok(ModelEvent::Finish { reason, tool_calls })) => {
                            break ChatEvent::Done(Arc::new(Done {
                                reason,
                                tool_calls,
                                usage,
                            }));
                        }
                        Some(Ok(_)) => continue,
                        Some(Err(error)) => break ChatEvent::Failed(error),
                        None => break ChatEvent::Failed(public(&ModelError::Truncated)),
                    };
                    bytes += text.len();
                    if bytes > most_bytes || Instant::now() >= end {
                        break ChatEvent::Failed(PublicError::TOO_LONG);
                    }
                    let next = Some((events, usage, bytes, meter));
                    return Some((ChatEvent::Delta(kind, text), next));
                };
                if let ChatEvent::Failed(error) = &last {
                    meter.failed(error.code);
                }
                Some((last, None))
            }
        })
        .fuse()
    }
}

/// The provider's text is logged; the client gets a code.
fn public(error: &ModelError) -> PublicError {
    tracing::warn!(%error, "the model failed");
    error.into()
}
// ANCHOR_END: events
