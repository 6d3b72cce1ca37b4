//! Who may open a socket: an allow-list of origins, and a user from a cookie, a single-use ticket or a token in the subprotocol.
//!
//! A layer in front of any WebSocket route; it adds the [`User`] to the request's extensions. A client that must log in gets
//! 4401 and stops; one whose ticket has expired gets 4408 and fetches a new one. Goes with [`super::serve`] and
//! `connections/tickets.rs`; [`super::admission`] has authentication by the first message, and the end of a session.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::Message;
use axum::extract::{FromRequestParts, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header, request::Parts};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum_extra::extract::CookieJar;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout};

use super::outbox::Outbox;
use super::serve::{Handler, Sockets, Upgrade};
use super::users::{Accounts, EXPIRED, Unavailable, User};
use crate::connections::tickets::{TicketError, Tickets};

/// Longest time in which the session store answers at the handshake; after it, the client gets 1013 and retries later.
const PATIENCE: Duration = Duration::from_secs(5);

// ANCHOR: guard
/// What protects a WebSocket route: `.layer(middleware::from_fn_with_state(guard, protect::authenticate))`.
pub struct Guard<A> {
    /// Scheme, host and port, exactly as browsers send it: `https://app.example`.
    pub origins: Arc<[String]>,
    /// Name of the session cookie; use the prefix `__Host-` in production.
    pub cookie: &'static str,
    /// The application's own subprotocols.
    pub subprotocols: &'static [&'static str],
    /// The store that finds the user of a credential.
    pub accounts: Arc<A>,
    /// The tickets issued at `POST /ticket` with [`issue_ticket`].
    pub tickets: Tickets,
    /// Accepts the sockets that are to be refused, and closes them with a code, because a browser cannot see why a
    /// handshake was refused.
    pub sockets: Sockets,
    /// Whether this user may use the route at all; other users get 4403.
    pub allowed: fn(&User) -> bool,
}
// ANCHOR_END: guard

/// Why there is no connection.
enum Refused {
    /// A foreign page: refused at the handshake, it must not learn anything.
    Origin,
    /// 4401: the client must log in; a retry is useless.
    Unauthenticated,
    /// 4403: a retry is useless.
    Forbidden,
    /// 4408: the ticket has expired; the client fetches a new one and retries.
    Expired,
    /// 1013: the client retries later.
    Overloaded,
}

impl Refused {
    /// The close code, its reason, and the status for a client that did not ask for a socket.
    fn answer(&self) -> (u16, &'static str, StatusCode) {
        match self {
            Self::Origin => (4403, "origin not allowed", StatusCode::FORBIDDEN),
            Self::Unauthenticated => (4401, "log in", StatusCode::UNAUTHORIZED),
            Self::Forbidden => (4403, "not allowed", StatusCode::FORBIDDEN),
            Self::Expired => (EXPIRED, "ticket expired", StatusCode::UNAUTHORIZED),
            Self::Overloaded => (1013, "try again later", StatusCode::SERVICE_UNAVAILABLE),
        }
    }
}

/// The layer.
pub async fn authenticate<A: Accounts>(
    State(guard): State<Guard<A>>,
    mut request: Request,
    next: Next,
) -> Response {
    // Nothing of the request's body is needed, and it cannot be shared between threads.
    let (parts, body) = request.into_parts();
    let user = guard.user_of(&parts).await;
    request = Request::from_parts(parts, body);
    let refused = match user {
        Ok(user) => {
            request.extensions_mut().insert(user);
            return next.run(request).await;
        }
        Err(refused) => refused,
    };
    // ANCHOR: refuse
    let (code, reason, status) = refused.answer();
    if matches!(refused, Refused::Origin) {
        return (status, reason).into_response();
    }
    // A page's script sees 1006 and no status for every refused handshake, and would retry indefinitely. So the socket
    // is accepted and closed with a code. Limit the rate of connects (`rates`): such a socket costs more than a 401.
    let (mut parts, _) = request.into_parts();
    match Upgrade::from_request_parts(&mut parts, &()).await {
        Ok(upgrade) => {
            let upgrade = upgrade.protocols(guard.subprotocols.iter().copied());
            guard.sockets.accept(upgrade, move |outbox| {
                outbox.close(code, reason);
                Nobody
            })
        }
        Err(_) => status.into_response(),
    }
    // ANCHOR_END: refuse
}

struct Nobody;

impl Handler for Nobody {
    fn on_message(&mut self, _: Message, _: &Outbox) {}
}

impl<A: Accounts> Guard<A> {
    // ANCHOR: user
    async fn user_of(&self, parts: &Parts) -> Result<User, Refused> {
        let headers = &parts.headers;
        // RFC 6455, 10.2. A browser always sends Origin with a handshake, and no page can forge it. SameSite cookies do
        // not replace this.
        let origin = headers.get(header::ORIGIN);
        if origin.is_some_and(|origin| {
            !self
                .origins
                .iter()
                .any(|allowed| allowed.as_bytes() == origin.as_bytes())
        }) {
            return Err(Refused::Origin);
        }
        let user = match ticket(parts) {
            Some(ticket) => Some(redeem(&self.tickets, &ticket).await?),
            None => {
                let known = timeout(PATIENCE, self.by_header(headers, origin.is_some())).await;
                // A store that is down is no reason to log in again.
                known
                    .unwrap_or(Err(Unavailable))
                    .map_err(|_| Refused::Overloaded)?
            }
        };
        let user = user
            .filter(|user| user.expires > Instant::now())
            .ok_or(Refused::Unauthenticated)?;
        if (self.allowed)(&user) {
            Ok(user)
        } else {
            Err(Refused::Forbidden)
        }
    }
    // ANCHOR_END: user

    async fn by_header(
        &self,
        headers: &HeaderMap,
        own_page: bool,
    ) -> Result<Option<User>, Unavailable> {
        if let Some(token) = bearer(headers) {
            return self.accounts.by_token(token).await;
        }
        // A browser sends the cookie with every page's socket: it proves a login only together with an allowed Origin.
        let jar = CookieJar::from_headers(headers);
        match jar.get(self.cookie) {
            Some(cookie) if own_page => self.accounts.by_session(cookie.value()).await,
            _ => Ok(None),
        }
    }
}

impl<A> Clone for Guard<A> {
    fn clone(&self) -> Self {
        Self {
            origins: self.origins.clone(),
            accounts: self.accounts.clone(),
            tickets: self.tickets.clone(),
            sockets: self.sockets.clone(),
            ..*self
        }
    }
}

fn ticket(parts: &Parts) -> Option<String> {
    let Query(query) = Query::<HashMap<String, String>>::try_from_uri(&parts.uri).ok()?;
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
    // Clients other than browsers have a header for it.
    in_subprotocol.or_else(|| {
        headers
            .get(header::AUTHORIZATION)?
            .to_str()
            .ok()?
            .strip_prefix("Bearer ")
    })
}

/// What a ticket says besides the user's name.
#[derive(Serialize, Deserialize)]
struct Claims {
    admin: bool,
    /// Seconds until the session ends, when the ticket was issued; a ticket is valid for less than a minute.
    session: u64,
}

/// For the handler of `POST /ticket`, with a user that it has authenticated without a ticket.
///
/// # Errors
/// Never, in practice: the claims can be serialized.
pub fn issue_ticket(tickets: &Tickets, user: &User) -> Result<String, serde_json::Error> {
    let session = user.expires.saturating_duration_since(Instant::now());
    let claims = Claims {
        admin: user.admin,
        session: session.as_secs(),
    };
    tickets.issue(&user.name, &claims)
}

async fn redeem(tickets: &Tickets, ticket: &str) -> Result<User, Refused> {
    let redeemed = tickets.redeem::<Claims>(ticket).await;
    let (name, claims) = redeemed.map_err(|error| match error {
        TicketError::Invalid | TicketError::Used => Refused::Unauthenticated,
        TicketError::Expired => Refused::Expired,
        TicketError::TooMany | TicketError::Unavailable => Refused::Overloaded,
    })?;
    Ok(User {
        name: name.into(),
        admin: claims.admin,
        expires: Instant::now() + Duration::from_secs(claims.session),
    })
}
