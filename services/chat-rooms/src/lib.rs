//! Chat rooms over WebSocket with login, presence, history and rate limits.
//!
//! `POST /session` logs in and sets the session cookie, `DELETE /session` logs out and closes the user's sockets, `GET /rooms` is
//! the socket (`rooms.v1`), `POST /ticket` returns a ticket for pages that cannot send the cookie, and `GET /` is a page that uses
//! them. Replace [`Sessions`] with your own session store. One process: rooms and sessions are in memory.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    extract::{State, rejection::JsonRejection},
    http::{HeaderMap, StatusCode, header},
    middleware::from_fn_with_state,
    response::{Html, IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::json;
use snippets::connections::client_ip::TrustedProxies;
pub use snippets::connections::refusal::Refusal;
use snippets::connections::tickets::Tickets;
use snippets::websocket::protect::{Guard, authenticate, issue_ticket};
use snippets::websocket::rates::{Quotas, Rates, limit_connects};
use snippets::websocket::rooms::{Hub, Rules};
use snippets::websocket::rooms_endpoint;
use snippets::websocket::serve::Limits;
use snippets::websocket::serve::Sockets;
use snippets::websocket::users::User;
use tokio_util::sync::CancellationToken;

mod sessions;

pub use sessions::Sessions;

/// The contract and the bounds, in one place.
#[derive(Clone)]
pub struct Settings {
    /// Pages that may open a socket: scheme, host and port, as browsers send them.
    pub origins: Vec<String>,
    /// Name of the session cookie. Behind TLS use the prefix `__Host-`: the cookie is then also `Secure`.
    pub cookie: &'static str,
    /// How long a session lasts.
    pub session: Duration,
    /// Most sessions at once; a further login gets 503.
    pub max_sessions: usize,
    /// Your own proxies, whose `X-Forwarded-For` is believed.
    pub proxies: TrustedProxies,
    /// Bounds of the rooms, and the policy for slow members.
    pub rules: Rules,
    /// Bounds of each socket.
    pub limits: Limits,
    /// Rate limits.
    pub quotas: Quotas,
    /// The response for a refusal of `/session` and `/ticket`: its status, its headers and its body. The codes are `name`, `taken`, `full`,
    /// `unauthorized`, `too_large`, `invalid` and `internal`.
    pub refuse: fn(Refusal) -> Response,
    /// How long connections may take to end at a shutdown, and a quarter of it for sockets: together below the time after which the process is killed (Kubernetes: 30 s by
    /// default).
    pub drain: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            origins: Vec::new(),
            cookie: "sid",
            session: Duration::from_secs(12 * 3600),
            max_sessions: 100_000,
            proxies: TrustedProxies::default(),
            rules: Rules::default(),
            limits: Limits {
                message: 8 * 1024,
                ..Limits::default()
            },
            quotas: Quotas::default(),
            refuse: Refusal::into_response,
            drain: Duration::from_secs(20),
        }
    }
}

/// The service; clones are the same.
#[derive(Clone)]
pub struct Service(Arc<Shared>);

struct Shared {
    settings: Settings,
    sessions: Arc<Sessions>,
    tickets: Tickets,
    sockets: Sockets,
    hub: Hub,
    rates: Rates,
}

impl Service {
    /// When `stop` is cancelled every socket is closed with 1001. Call it inside a runtime.
    pub fn start(settings: Settings, stop: CancellationToken) -> Self {
        let sessions = Sessions::new(settings.session, settings.max_sessions);
        Self(Arc::new(Shared {
            sessions: Arc::new(sessions),
            tickets: Tickets::default(),
            sockets: Sockets::new(settings.limits.clone(), stop),
            hub: Hub::new(settings.rules.clone()),
            rates: Rates::new(settings.quotas),
            settings,
        }))
    }

    /// All routes. The server must add `ConnectInfo`, as `connections/listen.rs` does.
    pub fn app(&self) -> Router {
        let Shared {
            settings,
            sockets,
            rates,
            ..
        } = &*self.0;
        let guard = Guard {
            origins: settings.origins.clone().into(),
            cookie: settings.cookie,
            subprotocols: &["rooms.v1"],
            accounts: self.0.sessions.clone(),
            tickets: self.0.tickets.clone(),
            sockets: sockets.clone(),
            allowed: |_| true,
        };
        rooms_endpoint::router(sockets.clone(), self.0.hub.clone(), rates.clone())
            .layer(from_fn_with_state(guard, authenticate))
            .layer(from_fn_with_state(rates.clone(), limit_connects))
            .merge(
                Router::new()
                    .route("/", get(async || Html(include_str!("page.html"))))
                    .route("/session", post(log_in).delete(log_out))
                    .route("/ticket", post(ticket))
                    .with_state(self.clone()),
            )
            .layer(Extension(settings.proxies.clone()))
    }

    /// Waits for the sockets, for at most `deadline`; returns how many are left.
    pub async fn drained(&self, deadline: Duration) -> usize {
        self.0.sockets.drained(deadline).await
    }

    /// The session of a request: its token and its user.
    fn session(&self, headers: &HeaderMap) -> Option<(String, User)> {
        let cookies = headers.get_all(header::COOKIE).iter();
        let mut pairs = cookies
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.split(';'));
        let token = pairs.find_map(|pair| {
            let (name, value) = pair.trim().split_once('=')?;
            (name == self.0.settings.cookie).then(|| value.to_owned())
        })?;
        let user = self.0.sessions.user(&token)?;
        Some((token, user))
    }

    fn cookie(&self, value: &str, seconds: u64) -> String {
        let name = self.0.settings.cookie;
        let secure = match name.starts_with("__Host-") {
            true => "; Secure",
            false => "",
        };
        format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax; Max-Age={seconds}{secure}")
    }
}

#[derive(Deserialize)]
struct LogIn {
    name: String,
}

/// Anyone may take a free name here. The body is JSON, so a foreign page cannot send it without a preflight.
async fn log_in(
    State(service): State<Service>,
    body: Result<Json<LogIn>, JsonRejection>,
) -> Response {
    let refuse = service.0.settings.refuse;
    let name = match body {
        Ok(Json(LogIn { name })) => name,
        Err(invalid) => return refuse(invalid.into()),
    };
    let letters = name.chars().all(|c| c.is_alphanumeric() || c == '-');
    if !letters || !(1..=32).contains(&name.len()) {
        return refuse(Refusal::new(StatusCode::BAD_REQUEST, "name"));
    }
    let token = service.0.sessions.log_in(&name);
    match token {
        Ok(token) => {
            let life = service.0.settings.session.as_secs();
            let cookie = service.cookie(&token, life);
            let name = Json(json!({ "name": name }));
            (StatusCode::CREATED, [(header::SET_COOKIE, cookie)], name).into_response()
        }
        Err(sessions::Refused::Taken) => refuse(Refusal::new(StatusCode::CONFLICT, "taken")),
        Err(sessions::Refused::Full) => refuse(Refusal::later(
            StatusCode::SERVICE_UNAVAILABLE,
            "full",
            Duration::from_secs(10),
        )),
    }
}

/// A socket outlives the session that opened it, unless someone closes it.
async fn log_out(State(service): State<Service>, headers: HeaderMap) -> Response {
    if let Some((token, user)) = service.session(&headers) {
        service.0.sessions.log_out(&token);
        service.0.rates.disconnect(&user.name, 4401, "logged out");
    }
    let gone = service.cookie("", 0);
    (StatusCode::NO_CONTENT, [(header::SET_COOKIE, gone)]).into_response()
}

/// For a page that cannot send the cookie with its socket. Never in exchange for a ticket.
async fn ticket(State(service): State<Service>, headers: HeaderMap) -> Response {
    let refuse = service.0.settings.refuse;
    let Some((_, user)) = service.session(&headers) else {
        return refuse(Refusal::new(StatusCode::UNAUTHORIZED, "unauthorized"));
    };
    match issue_ticket(&service.0.tickets, &user) {
        Ok(ticket) => {
            let ticket = Json(json!({ "ticket": ticket }));
            ([(header::CACHE_CONTROL, "no-store")], ticket).into_response()
        }
        Err(_) => refuse(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal")),
    }
}
