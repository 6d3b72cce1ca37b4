//! Who may open a socket: an allow-list of origins, and a user from a cookie, a single-use ticket or a token in the subprotocol.
//!
//! A layer in front of any WebSocket route; it adds the [`User`] to the request's extensions. Goes with [`super::serve`];
//! [`super::admission`] has authentication by the first message and the end of a session on an open socket.

// ANCHOR: protect
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::extract::{FromRequestParts, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum_extra::extract::CookieJar;
use tokio::time::Instant;

use super::outbox::Outbox;
use super::serve::{Handler, Sockets};

/// Who is connected.
#[derive(Debug, Clone)]
pub struct User {
    /// Stable name; limits, presence and rooms count by it.
    pub name: Arc<str>,
    /// May do what only administrators may.
    pub admin: bool,
    /// When the session ends, also for a socket that is open then.
    pub expires: Instant,
}

/// The session store of the application. Synchronous: a signed token, or a lookup in memory.
pub trait Accounts: Send + Sync + 'static {
    /// The user of a session cookie that is valid now.
    fn by_session(&self, cookie: &str) -> Option<User>;
    /// The user of an access token that is valid now.
    fn by_token(&self, token: &str) -> Option<User>;
}

/// What stands in front of a WebSocket route: `.layer(middleware::from_fn_with_state(guard, protect::authenticate))`.
#[derive(Clone)]
pub struct Guard {
    /// Scheme, host and port, exactly as browsers send it: `https://app.example`.
    pub origins: Arc<[String]>,
    /// Name of the session cookie; use the prefix `__Host-` in production.
    pub cookie: &'static str,
    /// The subprotocols of the application.
    pub subprotocols: &'static [&'static str],
    /// Where users come from.
    pub accounts: Arc<dyn Accounts>,
    /// Tickets that are not yet used.
    pub tickets: Tickets,
    /// For telling a browser why: it sees nothing of a refused handshake.
    pub sockets: Sockets,
    /// Whether this user may use the route at all; refused with 4403.
    pub allowed: fn(&User) -> bool,
}

/// Why there is no connection.
enum Refused {
    /// A foreign page: refused at the handshake, it is to learn nothing.
    Origin,
    /// 4401: the client must log in again, and must not just retry.
    Unauthenticated,
    /// 4403: retrying is useless.
    Forbidden,
}

/// The layer.
pub async fn authenticate(
    State(guard): State<Guard>,
    mut request: Request,
    next: Next,
) -> Response {
    let code = match guard.user_of(&request) {
        Ok(user) => {
            request.extensions_mut().insert(user);
            return next.run(request).await;
        }
        Err(Refused::Origin) => {
            return (StatusCode::FORBIDDEN, "origin not allowed").into_response();
        }
        Err(Refused::Unauthenticated) => 4401,
        Err(Refused::Forbidden) => 4403,
    };
    // Script sees 1006 and no status for every refused handshake, and would retry for ever. So the handshake is accepted and
    // closed with a code. Limit the rate of connects (`rates`): such a socket costs more than a 401.
    let (mut parts, _) = request.into_parts();
    match WebSocketUpgrade::from_request_parts(&mut parts, &()).await {
        Ok(ws) => guard.sockets.accept(
            ws.protocols(guard.subprotocols.iter().copied()),
            move |outbox| {
                outbox.close(
                    code,
                    if code == 4401 {
                        "log in"
                    } else {
                        "not allowed"
                    },
                );
                Nobody
            },
        ),
        Err(_) => StatusCode::from_u16(code - 4000)
            .unwrap_or(StatusCode::FORBIDDEN)
            .into_response(),
    }
}

struct Nobody;

impl Handler for Nobody {
    fn on_message(&mut self, _: Message, _: &Outbox) {}
}

impl Guard {
    fn user_of(&self, request: &Request) -> Result<User, Refused> {
        let headers = request.headers();
        // RFC 6455, 10.2. A browser always sends Origin with a handshake, and no page can forge it. SameSite cookies do not
        // replace this: they are also sent from other ports and subdomains of the same site.
        let origin = headers.get(header::ORIGIN);
        if origin.is_some_and(|origin| {
            !self
                .origins
                .iter()
                .any(|allowed| allowed.as_bytes() == origin.as_bytes())
        }) {
            return Err(Refused::Origin);
        }
        let user = ticket(request)
            .map(|ticket| self.tickets.redeem(&ticket))
            .or_else(|| bearer(headers).map(|token| self.accounts.by_token(token)))
            // A cookie is sent by the browser on its own: only together with an allowed Origin does it prove anything.
            .or_else(|| {
                let jar = origin.map(|_| CookieJar::from_headers(headers))?;
                Some(self.accounts.by_session(jar.get(self.cookie)?.value()))
            })
            .flatten()
            .filter(|user| user.expires > Instant::now())
            .ok_or(Refused::Unauthenticated)?;
        if (self.allowed)(&user) {
            Ok(user)
        } else {
            Err(Refused::Forbidden)
        }
    }
}

fn ticket(request: &Request) -> Option<String> {
    let Query(query) = Query::<HashMap<String, String>>::try_from_uri(request.uri()).ok()?;
    query.get("ticket").cloned()
}

/// `new WebSocket(url, ["app.v1", "bearer." + token])`: the only header that script can set. The token must consist of token
/// characters (base64url without padding does). The server selects `app.v1` and never sends the token back.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let offered = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let in_subprotocol = offered
        .flat_map(|value| value.split(','))
        .find_map(|name| name.trim().strip_prefix("bearer."));
    // Clients that are no browsers have a header for it.
    in_subprotocol.or_else(|| {
        headers
            .get(header::AUTHORIZATION)?
            .to_str()
            .ok()?
            .strip_prefix("Bearer ")
    })
}

/// Single-use tickets: the page fetches one over authenticated HTTPS and puts it into the socket's URL. URLs end up in logs,
/// so a ticket is worth nothing after its first use, or after [`Tickets::TTL`].
#[derive(Clone, Default)]
pub struct Tickets(Arc<Mutex<HashMap<String, (User, Instant)>>>);

impl Tickets {
    /// How long a ticket may wait for its use.
    pub const TTL: Duration = Duration::from_secs(30);
    /// Tickets that may wait at the same time; further ones are refused until some expire.
    pub const MAX: usize = 10_000;

    /// For the handler of `POST /ticket`; None when too many wait.
    pub fn issue(&self, user: User) -> Option<String> {
        let mut tickets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tickets.len() >= Self::MAX {
            tickets.retain(|_, (_, until)| *until > Instant::now());
        }
        if tickets.len() >= Self::MAX {
            return None;
        }
        let ticket = format!("{:032x}", rand::random::<u128>()); // from a cryptographic generator
        tickets.insert(ticket.clone(), (user, Instant::now() + Self::TTL));
        Some(ticket)
    }

    /// The user of a ticket; it is used up, whatever comes of the connection.
    pub fn redeem(&self, ticket: &str) -> Option<User> {
        let (user, until) = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(ticket)?;
        (until > Instant::now()).then_some(user)
    }
}
// ANCHOR_END: protect
