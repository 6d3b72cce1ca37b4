//! The endpoint between a browser and a model.
//!
//! Use it for a chat whose answers belong to one open page; when an answer must survive a reload, use `resume` on top of it.
//! Promises: the head leaves after [`Config::head`] at the latest and heartbeats follow until the first token; every answer ends with
//! exactly one `done` or `failed`; Stop (the client aborts its request) and any other disconnect close the provider's connection at once,
//! also while it is silent or has not answered; a slow reader slows the model instead of filling the memory.
//!
//! There is no task and no channel here: the model's stream is inside the response body, so dropping the body is cancelling the
//! model, and polling it is asking for more.
//!
//! Siblings: `chat`, `public_error`, `upstream`, `per_user`, `meter`, `providers`. Other topics: `sse/serve`, `streams/pace`, `streams/deadline`.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    extract::{DefaultBodyLimit, State},
    response::{IntoResponse, Response},
    routing::post,
};
use futures::{FutureExt, Stream, StreamExt, TryFutureExt, stream};
use serde::Deserialize;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    chat::{ChatEvent, Done, Kind},
    failure::ModelError,
    meter::{Meter, Report},
    model_event::{ModelEvent, Usage},
    per_user::PerUser,
    public_error::PublicError,
    upstream::{ModelStream, Turn, Upstream},
};
use crate::{
    sse::serve::Streams,
    streams::{deadline::until_silent, pace::coalesce},
};

/// Limits of one answer.
#[derive(Clone)]
pub struct Config {
    /// How long the response head waits for the provider's: a failure within this time becomes a status, a later one an event.
    pub head: Duration,
    /// Longest silence of the provider. Above the pauses of a thinking model; its heartbeats count as life.
    pub silence: Duration,
    /// Tokens that come within this time of the last event go out together; the first never waits.
    pub window: Duration,
    /// Longest answer in time: a budget, not a sign of failure.
    pub longest: Duration,
    /// Longest answer in bytes of text.
    pub most_bytes: usize,
    /// Gets the measurement of each answer.
    pub report: Report,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            head: Duration::from_millis(500),
            silence: Duration::from_secs(300),
            window: Duration::from_millis(30),
            longest: Duration::from_secs(15 * 60),
            most_bytes: 1024 * 1024,
            report: Arc::new(|measured| tracing::info!(?measured, "answer")),
        }
    }
}

/// What all answers share.
#[derive(Clone)]
pub struct Relay {
    /// The model.
    pub upstream: Upstream,
    /// Open streams and their heartbeat. Build it with a token that is never cancelled: [`Relay::shutdown`] ends answers in band.
    pub streams: Streams,
    /// Places of the users.
    pub places: PerUser,
    /// Limits.
    pub config: Config,
    /// Cancelled, it ends every answer with `failed`, code `restart`.
    pub shutdown: CancellationToken,
}

/// Who asks: your authentication puts it into the request's extensions. Without it the route answers 500.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserId(pub String);

/// The request of the browser.
#[derive(Debug, Clone, Deserialize)]
pub struct ChatRequest {
    /// The conversation, oldest first.
    pub messages: Vec<Turn>,
}

/// `POST /chat`: a POST, since a GET that costs money is run again by every reconnect, prefetch and link check.
pub fn app(relay: Arc<Relay>) -> Router {
    Router::new()
        .route("/chat", post(chat))
        .layer(DefaultBodyLimit::max(256 * 1024))
        .with_state(relay)
}

async fn chat(
    State(relay): State<Arc<Relay>>,
    Extension(UserId(user)): Extension<UserId>,
    Json(request): Json<ChatRequest>,
) -> Response {
    // Before anything is paid for.
    if relay.shutdown.is_cancelled() {
        return PublicError::RESTART.into_response();
    }
    let Some(place) = relay.places.enter(&user) else {
        return PublicError::BUSY.into_response();
    };
    let slot = match relay.streams.admit() {
        Ok(slot) => slot,
        Err(refused) => return refused.into_response(),
    };
    match relay.answer(request.messages, relay.meter(&user)).await {
        Ok(events) => slot.respond(events.map(move |event| {
            let _until_the_body_is_dropped = &place;
            event.message()
        })),
        Err(error) => error.into_response(),
    }
}

impl Relay {
    /// Begins the measurement of an answer.
    pub fn meter(&self, user: &str) -> Meter {
        Meter::start(user, self.upstream.model(), self.config.report.clone())
    }

    /// Asks the model. The future ends when the head may go out.
    ///
    /// # Errors
    /// The provider refused within [`Config::head`].
    pub async fn answer(
        &self,
        turns: Vec<Turn>,
        mut meter: Meter,
    ) -> Result<impl Stream<Item = ChatEvent> + Send + Unpin + use<>, PublicError> {
        let upstream = self.upstream.clone();
        let mut opening = async move { upstream.open(&turns).await }.boxed();
        // hyper drops this handler when the client leaves: the request to the provider goes with it.
        let events: ModelStream = match timeout(self.config.head, &mut opening).await {
            Ok(opened) => opened.map_err(|error| {
                let error = public(&error);
                meter.failed(error.code);
                error
            })?,
            Err(_) => opening.try_flatten_stream().boxed(),
        };
        let events = self.chat_events(events, meter);
        Ok(coalesce(events.boxed(), self.config.window))
    }

    /// The model's events as the client sees them, up to the one terminal event.
    fn chat_events(
        &self,
        events: ModelStream,
        meter: Meter,
    ) -> impl Stream<Item = ChatEvent> + Send + use<> {
        let (shutdown, most_bytes) = (self.shutdown.clone(), self.config.most_bytes);
        let end = Instant::now() + self.config.longest;
        let events = until_silent(events, self.config.silence).boxed();
        let start = Some((events, Usage::default(), 0, meter));
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
                    if let Some(Ok(Ok(event))) = &next {
                        meter.event(event);
                    }
                    let (kind, text) = match next {
                        Some(Ok(Ok(event))) => match event {
                            ModelEvent::Text(text) => (Kind::Text, text),
                            ModelEvent::Reasoning(text) => (Kind::Reasoning, text),
                            ModelEvent::Refusal(text) => (Kind::Refusal, text),
                            ModelEvent::Usage(total) => {
                                usage = total;
                                continue;
                            }
                            ModelEvent::Finish { reason, tool_calls } => {
                                break ChatEvent::Done(Arc::new(Done {
                                    reason,
                                    tool_calls,
                                    usage,
                                }));
                            }
                            ModelEvent::Heartbeat
                            | ModelEvent::ToolCallStart { .. }
                            | ModelEvent::ToolCallDelta { .. }
                            | ModelEvent::Other { .. } => continue,
                        },
                        Some(Ok(Err(error))) => break ChatEvent::Failed(public(&error)),
                        Some(Err(_silent)) => break ChatEvent::Failed(PublicError::SILENT),
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

/// The provider's words go to the log; the client gets a code.
fn public(error: &ModelError) -> PublicError {
    tracing::warn!(%error, "the model failed");
    error.into()
}
