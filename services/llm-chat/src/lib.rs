//! A chat with a model: resumable answers, Stop, usage per user, and its page.
//!
//! `POST /generations` asks (header `Idempotency-Key`), `GET /generations/{key}` continues after a cut or a reload, `DELETE` stops.
//! `POST /chat` is the same question as one response: leaving it is a Stop. `GET /usage` has the tokens of the user. Everything is
//! bounded: requests, answers per user and in all, time, memory. A shutdown ends answers in band.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Extension, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{Html, IntoResponse, Response},
    routing::{any, get},
};
use serde::Serialize;
use snippets::connections::per_user::PerUser;
use snippets::llm::meter::{Measured, Report, measure};
use snippets::llm::public_error::UserId;
use snippets::llm::relay::{self, Relay};
use snippets::llm::resume::{self, Generations, Limits};
use snippets::llm::upstream::Upstream;
use snippets::sse::event::is_token;
use snippets::sse::streams::{Config as StreamsConfig, Streams};
use tokio_util::sync::CancellationToken;

/// The contract and the bounds, in one place.
#[derive(Clone)]
pub struct Settings {
    /// Answers that one user may have running.
    pub running_per_user: usize,
    /// Users whose tokens are counted in memory.
    pub users: usize,
    /// Names of the events, statuses, times and sizes of an answer.
    pub relay: relay::Config,
    /// Answers that are kept, per user and in all.
    pub kept: Limits,
    /// Streams, heartbeat, reconnection.
    pub streams: StreamsConfig,
    /// How long connections may take to end at a shutdown. Twice this is below the time after which the process is killed.
    pub drain: Duration,
    /// Instructions for the model; empty for none.
    pub system: &'static str,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            running_per_user: 3,
            users: 10_000,
            relay: relay::Config::default(),
            kept: Limits::default(),
            streams: StreamsConfig::default(),
            drain: Duration::from_secs(10),
            system: "",
        }
    }
}

/// Tokens of one user. Those of a cancelled answer are an estimate if the provider had not counted them yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Answers that have ended, complete or not.
    pub answers: u64,
    /// Tokens of the prompts.
    pub input: u64,
    /// Tokens of the answers.
    pub output: u64,
    /// The part of `output` that is estimated.
    pub estimated: u64,
}

/// The service.
#[derive(Clone)]
pub struct Service {
    relay: Arc<Relay>,
    generations: Arc<Generations>,
    usage: Arc<Mutex<HashMap<String, Usage>>>,
}

impl Service {
    /// Starts without answers. Cancel `shutdown` to end every answer with `failed`, code `restart`.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(upstream: Upstream, settings: Settings, shutdown: CancellationToken) -> Self {
        let usage = Arc::<Mutex<HashMap<String, Usage>>>::default();
        let counted = usage.clone();
        let report: Report = Arc::new(move |measured| {
            tracing::info!(?measured, "answer");
            count(&counted, settings.users, measured);
        });
        let upstream = match settings.system {
            "" => upstream,
            system => upstream.system(system),
        };
        let mut config = settings.relay;
        config.watch = measure(upstream.model_name(), report);
        let (most_request_bytes, refuse) = (config.most_request_bytes, config.refuse);
        let kept = Limits {
            most_request_bytes,
            refuse,
            ..settings.kept
        };
        let relay = Arc::new(Relay {
            model: upstream.model(),
            // A token that is never cancelled: answers end with their own terminal event.
            streams: Streams::start(settings.streams, CancellationToken::new()),
            places: PerUser::new(settings.running_per_user).permits(),
            config,
            shutdown,
        });
        let (streams, places) = (relay.streams.clone(), relay.places.clone());
        let generations = Generations::new(streams, places, kept, relay.shutdown.clone());
        Self {
            relay,
            generations,
            usage,
        }
    }

    /// The routes.
    pub fn app(&self) -> Router {
        let relay = self.relay.clone();
        let answer = move |user, question| relay.events(user, question);
        let of_users = Router::new()
            .route("/usage", get(usage))
            .with_state(self.clone())
            .merge(relay::app(self.relay.clone()))
            .merge(resume::app(self.generations.clone(), answer))
            .layer(middleware::from_fn(as_user));
        Router::new()
            .route("/", get(page))
            .route("/page.js", get(script))
            .route("/health", any(async || "ok"))
            .merge(of_users)
    }

    /// Waits for the answers that run, for at most `deadline`.
    pub async fn finish(&self, deadline: Duration) {
        self.generations.tasks.close();
        let _ = tokio::time::timeout(deadline, self.generations.tasks.wait()).await;
    }

    /// The tokens of `user`.
    pub fn usage(&self, user: &str) -> Usage {
        lock(&self.usage).get(user).copied().unwrap_or_default()
    }
}

/// Replace it with a write to your database: `measured` has the user, the model and the outcome too.
fn count(usage: &Mutex<HashMap<String, Usage>>, users: usize, measured: &Measured) {
    let mut usage = lock(usage);
    if usage.len() >= users && !usage.contains_key(&measured.user) {
        tracing::warn!("more users than are counted");
        return;
    }
    let (output, estimated) = measured.output_tokens();
    let of_user = usage.entry(measured.user.clone()).or_default();
    of_user.answers += 1;
    of_user.input += measured.usage.input.unwrap_or(0);
    of_user.output += output;
    of_user.estimated += if estimated { output } else { 0 };
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn usage(
    State(service): State<Service>,
    Extension(UserId(user)): Extension<UserId>,
) -> Json<Usage> {
    Json(service.usage(&user))
}

/// Replace it with your authentication: here the page's cookie is the user, and anyone who has it is that user.
async fn as_user(mut request: Request, next: Next) -> Response {
    match cookie(request.headers()) {
        Some(user) => {
            request.extensions_mut().insert(UserId(user));
            next.run(request).await
        }
        None => (
            StatusCode::UNAUTHORIZED,
            Json(serde_json::json!({ "code": "unauthorized", "retryable": false })),
        )
            .into_response(),
    }
}

fn cookie(headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get(header::COOKIE)?.to_str().ok()?.split("; ");
    let mut users = cookies.filter_map(|cookie| cookie.strip_prefix("user="));
    users.find(|user| is_token(user, 64)).map(str::to_owned)
}

async fn page(headers: HeaderMap) -> Response {
    let user = cookie(&headers).unwrap_or_else(|| format!("{:032x}", rand::random::<u128>()));
    // Not for scripts, and not sent by pages of other sites.
    let set = format!("user={user}; Path=/; HttpOnly; SameSite=Strict; Max-Age=31536000");
    // What a model writes is shown as text; this is the second guard.
    let policy =
        "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'unsafe-inline'";
    let headers = [
        (header::SET_COOKIE, set.as_str()),
        (header::CONTENT_SECURITY_POLICY, policy),
    ];
    (headers, Html(include_str!("page.html"))).into_response()
}

async fn script() -> impl IntoResponse {
    let headers = [(header::CONTENT_TYPE, "text/javascript; charset=utf-8")];
    (headers, include_str!("page.js"))
}
