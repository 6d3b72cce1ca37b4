//! Who may open a stream, for how long, and how many.
//!
//! Three authentication methods: a session cookie, `Authorization: Bearer` (a fetch client), a ticket in the URL (an
//! `EventSource` without cookies). An open stream is checked again while it runs, since
//! it outlives the decision that opened it. Refusals come before the 200, are JSON, and do not reveal
//! internals. Needs `until.rs`, `streams.rs` and `connections/{per_user,tickets}.rs` with their files.

// ANCHOR: protect
use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, PoisonError, RwLock},
};

use axum::{
    Json, Router,
    extract::{Query, Request, State, rejection::QueryRejection},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use axum_extra::extract::CookieJar;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tower_http::{cors::CorsLayer, trace::TraceLayer};

use super::{
    event::{Event, LastEventId, Names},
    streams::{self, Source, Streams},
    until::{Until, Users},
};
use crate::connections::{
    crowd::{Over, Recheck},
    per_user::PerUser,
    tickets::{TicketError, Tickets},
};

// ANCHOR: refusals
/// Everything that a refused client receives, as `{"code": …}`.
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
        // Seconds, spread so that the refused do not reconnect together.
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

impl From<TicketError> for PublicError {
    fn from(error: TicketError) -> Self {
        match error {
            TicketError::TooMany => Self::TooManyStreams,
            TicketError::Unavailable => Self::Unavailable,
            _ => Self::Unauthorized,
        }
    }
}
// ANCHOR_END: refusals

// ANCHOR: sessions
/// Valid sessions: the digest of the token, and the user. Represents the session store that you have.
#[derive(Debug, Default)]
pub struct Sessions(RwLock<HashMap<String, String>>);

impl Sessions {
    // ANCHOR: key
    /// Names the session of `token` without giving access to it: a ticket shows its claims to everyone who reads the
    /// URL.
    fn key(token: &str) -> String {
        BASE64.encode(Sha256::digest(token))
    }
    // ANCHOR_END: key

    /// Starts the session of `user` whose secret is `token`.
    pub fn start(&self, token: &str, user: &str) {
        let mut sessions = self.0.write().unwrap_or_else(PoisonError::into_inner);
        sessions.insert(Self::key(token), user.to_owned());
    }

    /// Ends the session whose secret is `token`, as a logout does.
    pub fn end(&self, token: &str) {
        let mut sessions = self.0.write().unwrap_or_else(PoisonError::into_inner);
        sessions.remove(&Self::key(token));
    }

    fn user(&self, key: &str) -> Option<String> {
        let sessions = self.0.read().unwrap_or_else(PoisonError::into_inner);
        sessions.get(key).cloned()
    }
}
// ANCHOR_END: sessions

/// What the routes share; `L` is what is streamed, such as a `Log`.
pub struct Service<L> {
    /// See [`Sessions`].
    pub sessions: Sessions,
    /// Each is for the session that requested it, so that a logout ends its streams too.
    pub tickets: Tickets,
    /// The limit in all.
    pub streams: Streams,
    /// The limit for each user.
    pub per_user: PerUser,
    /// How long an open stream outlives its session.
    pub recheck: Recheck,
    /// For a logout that ends the streams immediately.
    pub users: Users,
    /// What is streamed.
    pub log: L,
}

type Read<L, S> = fn(&L, &LastEventId) -> Option<S>;
type Shared<L, S> = State<(Arc<Service<L>>, Read<L, S>)>;

/// `POST /tickets` and `GET /events`, for pages of exactly these `origins`. `read` opens the stream after a cursor, `None` when the client has
/// everything: `|log, cursor| log.read(cursor)`.
pub fn app<L, S>(service: Arc<Service<L>>, origins: Vec<HeaderValue>, read: Read<L, S>) -> Router
where
    L: Send + Sync + 'static,
    S: Source,
{
    // A wildcard is refused by browsers where there are credentials, and echoing any Origin opens the
    // stream of every visitor who is logged in to every page that they open.
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
        .route("/tickets", post(issue::<L, S>))
        .route("/events", get(events::<L, S>).head(streams::head))
        .layer((trace, cors))
        .with_state((service, read))
}

/// Answers `{"ticket": …}`. Never in exchange for a ticket: it would live forever.
async fn issue<L, S>(
    State((service, _)): Shared<L, S>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, PublicError> {
    let session = session(&headers).ok_or(PublicError::Unauthorized)?;
    let user = service.sessions.user(&session);
    let user = user.ok_or(PublicError::Unauthorized)?;
    let ticket = service.tickets.issue(&user, &session);
    let ticket = ticket.map_err(|_| PublicError::Unavailable)?;
    let ticket = Json(serde_json::json!({ "ticket": ticket }));
    Ok(([(header::CACHE_CONTROL, "no-store")], ticket))
}

#[derive(Deserialize)]
struct Ticket {
    ticket: Option<String>,
}

// ANCHOR: events
async fn events<L: Send + Sync + 'static, S: Source>(
    State((service, read)): Shared<L, S>,
    query: Result<Query<Ticket>, QueryRejection>,
    headers: HeaderMap,
    last_event_id: LastEventId,
) -> Result<Response, PublicError> {
    let Query(query) = query.map_err(|_| PublicError::Unauthorized)?;
    let session = match query.ticket {
        Some(ticket) => service.tickets.redeem(&ticket).await?.1,
        None => session(&headers).ok_or(PublicError::Unauthorized)?,
    };
    let user = service.sessions.user(&session);
    let user = user.ok_or(PublicError::Unauthorized)?;
    let Some(reader) = read(&service.log, &last_event_id) else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let per_user = service.per_user.enter(&user);
    let user_slot = per_user.ok_or(PublicError::TooManyStreams)?;
    let slot = service
        .streams
        .admit()
        .map_err(|_| PublicError::Unavailable)?;
    let last = |name, error: PublicError| {
        Event::unreserved(name, &error).map_err(|_| PublicError::Unavailable)
    };
    let unauthorized = last(Names::DEFAULT.unauthorized, PublicError::Unauthorized)?;
    let unavailable = last(Names::DEFAULT.failed, PublicError::Unavailable)?;
    let disconnected = service.users.disconnected(&user);
    let over = async move {
        // The user's permit is dropped with the stream.
        let user = user_slot.user();
        let valid = async || {
            let now = service.sessions.user(&session);
            Ok::<_, Infallible>(now.as_deref() == Some(user))
        };
        tokio::select! {
            over = service.recheck.over(valid) => match over {
                Over::Invalid => unauthorized,
                // Clients reconnect with their cursor.
                Over::Unknown => unavailable,
            },
            () = disconnected => unauthorized,
        }
    };
    Ok(slot.respond(Until::new(reader, over)))
}
// ANCHOR_END: events

/// The session of the token in `Authorization: Bearer` or else in the cookie `session`, which is `HttpOnly;
/// Secure; SameSite=Lax` at least.
fn session(headers: &HeaderMap) -> Option<String> {
    match headers.get(header::AUTHORIZATION) {
        Some(value) => {
            let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
            let bearer = scheme.eq_ignore_ascii_case("bearer");
            bearer.then(|| Sessions::key(token.trim()))
        }
        None => {
            let cookies = CookieJar::from_headers(headers);
            let cookie = cookies.get("session")?;
            Some(Sessions::key(cookie.value()))
        }
    }
}
// ANCHOR_END: protect
