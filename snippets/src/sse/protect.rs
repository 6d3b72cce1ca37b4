//! Who may open a stream, for how long, and how many.
//!
//! Three ways in: a session cookie, `Authorization: Bearer` (a fetch client), a ticket in the URL (an
//! `EventSource` without cookies, `tickets.rs`). An open stream is checked again while it runs, since
//! it outlives the decision that opened it. Refusals come before the 200, are JSON, and do not reveal
//! internals. Needs `until.rs`, `connections/per_user.rs`, `tickets.rs`, `streams.rs` and `log.rs` with their files.

// ANCHOR: protect
use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Query, Request, State, rejection::QueryRejection},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use axum_extra::extract::CookieJar;
use serde::{Deserialize, Serialize};
use tower_http::{cors::CorsLayer, trace::TraceLayer};

use super::{
    event::{Event, InvalidEvent, LastEventId, Names},
    log::Log,
    streams::{self, Streams},
    tickets::Tickets,
    until::{Until, Users, invalid},
};
use crate::connections::per_user::PerUser;

// ANCHOR: refusals
/// Everything that a refused client is told, as `{"code": …}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum PublicError {
    /// 401.
    Unauthorized,
    /// 429: the user's own limit.
    TooManyStreams,
    /// 503: the service's limit, or its shutdown.
    Unavailable,
}

impl IntoResponse for PublicError {
    fn into_response(self) -> Response {
        // Seconds, spread so that the refused do not come back together.
        let retry_after = rand::random_range(1..=5).to_string();
        let (status, name, value) = match self {
            Self::Unauthorized => (401, header::WWW_AUTHENTICATE, "Bearer".to_owned()),
            Self::TooManyStreams => (429, header::RETRY_AFTER, retry_after),
            Self::Unavailable => (503, header::RETRY_AFTER, retry_after),
        };
        let status = StatusCode::from_u16(status).unwrap_or_default();
        (status, [(name, value)], Json(self)).into_response()
    }
}
// ANCHOR_END: refusals

/// Valid sessions: token and user. Stands for the session store that you have.
#[derive(Debug, Default)]
pub struct Sessions(pub RwLock<HashMap<String, String>>);

impl Sessions {
    fn user(&self, token: &str) -> Option<String> {
        let sessions = self.0.read().unwrap_or_else(PoisonError::into_inner);
        sessions.get(token).cloned()
    }
}

/// What the routes share.
pub struct Service {
    /// See [`Sessions`].
    pub sessions: Sessions,
    /// Each stands for the session that asked for it, so that a logout ends its streams too.
    pub tickets: Tickets<String>,
    /// The limit in all.
    pub streams: Streams,
    /// The limit for each user.
    pub per_user: PerUser,
    /// How long an open stream outlives its session at most.
    pub recheck: Duration,
    /// For a logout that ends the streams immediately.
    pub users: Users,
    /// What is streamed.
    pub log: Arc<Log>,
}

/// `POST /tickets` and `GET /events`, for pages of exactly these `origins`.
pub fn app(service: Arc<Service>, origins: Vec<HeaderValue>) -> Router {
    // A wildcard is refused by browsers where there are credentials, and echoing any Origin opens the
    // stream of every visitor who is logged in to every page that they look at.
    let cors = CorsLayer::new()
        .allow_origin(origins)
        .allow_credentials(true)
        .expose_headers([header::RETRY_AFTER])
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([
            header::AUTHORIZATION,
            HeaderName::from_static("last-event-id"),
        ]);
    // The default span holds the whole URI, and with it the ticket.
    let trace = TraceLayer::new_for_http().make_span_with(|request: &Request| {
        tracing::info_span!("request", method = %request.method(), path = request.uri().path())
    });
    Router::new()
        .route("/tickets", post(issue))
        .route("/events", get(events).head(streams::head))
        .layer((trace, cors))
        .with_state(service)
}

/// Answers `{"ticket": …}`. Never in exchange for a ticket: it would live for ever.
async fn issue(
    State(service): State<Arc<Service>>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, PublicError> {
    let token = token(&headers).ok_or(PublicError::Unauthorized)?;
    service
        .sessions
        .user(&token)
        .ok_or(PublicError::Unauthorized)?;
    let ticket = service
        .tickets
        .issue(token)
        .ok_or(PublicError::TooManyStreams)?;
    let ticket = Json(serde_json::json!({ "ticket": ticket }));
    Ok(([(header::CACHE_CONTROL, "no-store")], ticket))
}

#[derive(Deserialize)]
struct Ticket {
    ticket: Option<String>,
}

// ANCHOR: events
async fn events(
    State(service): State<Arc<Service>>,
    query: Result<Query<Ticket>, QueryRejection>,
    headers: HeaderMap,
    last_event_id: LastEventId,
) -> Result<Response, PublicError> {
    let Query(query) = query.map_err(|_| PublicError::Unauthorized)?;
    let token = match query.ticket {
        Some(ticket) => service.tickets.redeem(&ticket),
        None => token(&headers),
    };
    let token = token.ok_or(PublicError::Unauthorized)?;
    let user = service
        .sessions
        .user(&token)
        .ok_or(PublicError::Unauthorized)?;
    let Some(reader) = service.log.read(&last_event_id) else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let per_user = service.per_user.enter(&user);
    let user_slot = per_user.ok_or(PublicError::TooManyStreams)?;
    let slot = service
        .streams
        .admit()
        .map_err(|_| PublicError::Unavailable)?;
    let unauthorized = unauthorized().map_err(|_| PublicError::Unavailable)?;
    let disconnected = service.users.disconnected(&user);
    let over = async move {
        // The user's permit is dropped with the stream.
        let user = user_slot.user();
        let valid = async || service.sessions.user(&token).as_deref() == Some(user);
        tokio::select! {
            () = invalid(service.recheck, valid) => {}
            () = disconnected => {}
        }
    };
    Ok(slot.respond(Until::new(reader, over, unauthorized)))
}
// ANCHOR_END: events

/// The terminal event of a stream that is no longer allowed.
fn unauthorized() -> Result<Event, InvalidEvent> {
    Event::unreserved(Names::DEFAULT.unauthorized, &PublicError::Unauthorized)
}

/// The session token, from `Authorization: Bearer` or else the cookie `session`, which is `HttpOnly;
/// Secure; SameSite=Lax` at least.
fn token(headers: &HeaderMap) -> Option<String> {
    match headers.get(header::AUTHORIZATION) {
        Some(value) => {
            let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
            let bearer = scheme.eq_ignore_ascii_case("bearer");
            bearer.then(|| token.trim().to_owned())
        }
        None => {
            let cookies = CookieJar::from_headers(headers);
            cookies
                .get("session")
                .map(|cookie| cookie.value().to_owned())
        }
    }
}
// ANCHOR_END: protect
