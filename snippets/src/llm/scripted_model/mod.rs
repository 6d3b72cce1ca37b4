//! A model that says what a script tells it: for tests, demos and probes of LLM streaming.
//!
//! It speaks OpenAI chat completions and Responses, Anthropic Messages, Gemini and Ollama, needs no
//! key and no network beyond loopback, injects faults, and records for every request how many tokens it sent and when the
//! reader went away. Same script, same bytes. Never mount it where the public can reach it.
//!
//! Sibling files: `script` (what to say), `player` (how it is sent), one renderer a provider.

mod anthropic;
mod gemini;
mod ollama;
mod openai_chat;
mod openai_responses;
mod player;
mod script;

pub use player::{Exchange, ExchangeEnd};
pub use script::{Ending, Fault, Reply, Script, ScriptedCall, Stop};

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::Value;
use tokio::sync::watch;

use player::Log;

/// Scripts that may wait for their request.
const MAX_QUEUED: usize = 1024;

/// Answers in the background that are kept.
const MAX_KEPT: usize = 64;

/// A part of a rendered answer.
#[derive(Clone)]
struct Frame {
    bytes: String,
    /// Whether it carries a token.
    token: bool,
}

impl Frame {
    fn token(bytes: String) -> Self {
        let token = true;
        Self { bytes, token }
    }

    fn other(bytes: String) -> Self {
        let token = false;
        Self { bytes, token }
    }
}

/// What is written differently by each provider.
#[derive(Clone, Copy)]
struct Protocol {
    content_type: &'static str,
    /// The whole answer of exchange `id` by `model`.
    frames: fn(id: u64, model: &str, reply: &Reply) -> Vec<Frame>,
    /// An error event within the stream.
    error_event: fn() -> String,
    /// The body of a response with another status than 200.
    error_body: fn(status: u16) -> Value,
}

/// The handle: says what comes next and what has happened.
#[derive(Clone)]
pub struct ScriptedModel {
    shared: Arc<Shared>,
}

struct Shared {
    default: Mutex<Script>,
    next: Mutex<VecDeque<Script>>,
    /// Answers in the background, by their id.
    kept: Mutex<VecDeque<(String, Vec<Frame>)>>,
    log: Log,
    released: watch::Sender<u64>,
}

impl Default for ScriptedModel {
    fn default() -> Self {
        Self::new(Script::reply(Reply::text(
            "Streams end twice: once in the protocol and once in the bytes. Trust the first — \
             „fertig“, 完了, 👩🏽‍🚀 — and treat the second alone as a failure.",
        )))
    }
}

impl ScriptedModel {
    /// A model that answers every request with `script`.
    pub fn new(script: Script) -> Self {
        Self {
            shared: Arc::new(Shared {
                default: Mutex::new(script),
                next: Mutex::default(),
                kept: Mutex::default(),
                log: Log::default(),
                released: watch::Sender::new(0),
            }),
        }
    }

    /// `POST` on `/v1/chat/completions` (and Azure's path), `/v1/responses`, `/v1/messages`, `/api/chat` and
    /// `/v1/models/{model}:streamGenerateContent` (or `/v1beta/…`), always answered with a stream.
    ///
    /// A request whose `model` is `scripted/<name>` gets the fault of that name
    /// ([`Script::NAMES`]), so that a client can choose without this handle. `scripted/agent` calls
    /// tools until it gets their results.
    ///
    /// With `background` and `store`, Responses keeps the answer: `GET /v1/responses/{id}?starting_after=` has the rest, with the fault
    /// of the next script, and `POST /v1/responses/{id}/cancel` forgets it.
    pub fn router(&self) -> Router {
        let route = |protocol: Protocol| {
            let shared = Arc::clone(&self.shared);
            post(move |uri: Uri, headers: HeaderMap, body: Bytes| {
                answer(State(shared), protocol, uri, headers, body)
            })
        };
        Router::new()
            .route("/v1/chat/completions", route(openai_chat::PROTOCOL))
            // Azure.
            .route(
                "/openai/deployments/{name}/chat/completions",
                route(openai_chat::PROTOCOL),
            )
            .route("/v1/responses", route(openai_responses::PROTOCOL))
            .route(
                "/v1/responses/{id}",
                get(rest).with_state(Arc::clone(&self.shared)),
            )
            .route(
                "/v1/responses/{id}/cancel",
                post(cancel).with_state(Arc::clone(&self.shared)),
            )
            .route("/v1/messages", route(anthropic::PROTOCOL))
            .route("/v1/models/{*model}", route(gemini::PROTOCOL))
            .route("/v1beta/models/{*model}", route(gemini::PROTOCOL))
            .route("/api/chat", route(ollama::PROTOCOL))
    }

    /// What every request gets that has no script of its own.
    pub fn set_default(&self, script: Script) {
        *lock(&self.shared.default) = script;
    }

    /// What the next request gets. Scripts queue; the oldest is dropped beyond 1,024.
    pub fn push(&self, script: Script) {
        let mut next = lock(&self.shared.next);
        if next.len() == MAX_QUEUED {
            next.pop_front();
        }
        next.push_back(script);
    }

    /// Lets every answer go on that is open now, whether its fault has been reached or not.
    pub fn release(&self) {
        self.shared.released.send_modify(|count| *count += 1);
    }

    /// What has been asked so far, oldest first; the last 4,096 requests.
    pub fn exchanges(&self) -> Vec<Exchange> {
        self.shared.log.all()
    }

    /// Waits until some exchange satisfies `condition` and returns it.
    pub async fn wait_for(&self, condition: impl FnMut(&Exchange) -> bool) -> Exchange {
        self.shared.log.wait_for(condition).await
    }
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    protocol: Protocol,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Ok(request) = serde_json::from_slice::<Value>(&body) else {
        return (StatusCode::BAD_REQUEST, "not JSON").into_response();
    };
    // Gemini's path names the model: …/models/<model>:streamGenerateContent.
    let path = uri.path().split_once("/models/");
    let path = path.and_then(|(_, rest)| rest.strip_suffix(":streamGenerateContent"));
    let model = request["model"]
        .as_str()
        .or(path)
        .unwrap_or("scripted")
        .to_owned();
    let script = lock(&shared.next).pop_front();
    let mut script = script.unwrap_or_else(|| lock(&shared.default).clone());
    if let Some(name) = model.strip_prefix("scripted/") {
        let name = match name {
            "agent" => script::of_agent(&request),
            name => name,
        };
        let Some(named) = script.apply(name) else {
            let text = format!("no such script; there are: {}", Script::NAMES.join(", "));
            return (StatusCode::NOT_FOUND, text).into_response();
        };
        script = named;
    }
    let background = request["background"] == true;
    if background && request["store"] != true {
        return (StatusCode::BAD_REQUEST, "background needs store").into_response();
    }
    // From here on the record closes when the reader goes away, even before the response head.
    let record = shared.log.open(uri.path(), headers, request);
    let frames: Vec<_> = match &script.recorded {
        None => (protocol.frames)(record.id(), &model, &script.reply),
        Some(bytes) => {
            let blocks = bytes.split_inclusive("\n\n").map(str::to_owned);
            blocks.map(Frame::token).collect()
        }
    };
    if background {
        let mut kept = lock(&shared.kept);
        if kept.len() == MAX_KEPT {
            kept.pop_front();
        }
        kept.push_back((format!("resp_{}", record.id()), frames.clone()));
    }
    respond(&shared, protocol, script, record, frames).await
}

/// The events of an answer in the background after that of this number.
async fn rest(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
    Path(id): Path<String>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let record = shared.log.open(uri.path(), headers, Value::Null);
    let kept = lock(&shared.kept).iter().find(|kept| kept.0 == id).cloned();
    let after = query.get("starting_after").and_then(|n| n.parse().ok());
    let (Some((_, frames)), Some(after)) = (kept, after) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    // The number of an event is its place.
    let rest = frames.into_iter().skip(after).skip(1).collect();
    let script = lock(&shared.next).pop_front().unwrap_or_default();
    respond(&shared, openai_responses::PROTOCOL, script, record, rest).await
}

async fn cancel(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    shared.log.open(uri.path(), headers, Value::Null).finish();
    lock(&shared.kept).retain(|kept| kept.0 != id);
    axum::Json(serde_json::json!({ "id": id, "status": "cancelled" })).into_response()
}

async fn respond(
    shared: &Shared,
    protocol: Protocol,
    script: Script,
    mut record: player::Record,
    frames: Vec<Frame>,
) -> Response {
    let mut released = shared.released.subscribe();
    match script.fault {
        Fault::Status {
            status,
            retry_after,
        } => {
            record.finish();
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
            let body = axum::Json((protocol.error_body)(status.as_u16()));
            let mut response = (status, body).into_response();
            if let Some(seconds) = retry_after {
                let headers = response.headers_mut();
                headers.insert(header::RETRY_AFTER, seconds.into());
            }
            return response;
        }
        Fault::HoldHead => player::wait_for_release(&mut released).await,
        _ => {}
    }
    let steps = player::plan(frames, &script, protocol.error_event);
    let body = Body::from_stream(player::play(steps, released, record));
    let headers = [
        (header::CONTENT_TYPE, protocol.content_type),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, body).into_response()
}

/// A poisoned lock holds a list that is still whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
