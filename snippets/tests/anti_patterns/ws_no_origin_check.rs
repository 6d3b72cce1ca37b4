//! Wrong: a WebSocket that is authenticated by its cookie and does not check Origin.
//! Harm: CORS does not apply to WebSockets: a foreign page opens the socket with the victim's cookie, and reads and writes.
//! Instead: websocket/protect
//! Probe: fails ws-origin-checked

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use axum_extra::extract::CookieJar;
use snippets::connections::tickets::Tickets;
use snippets::websocket::messages;
use snippets::websocket::protect::{self, Guard};
use snippets::websocket::serve::Limits;
use snippets::websocket::serve::Sockets;
use snippets::websocket::users::{Accounts, Unavailable, User};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::support::wrong::{Probed, Start, Wrong};
use crate::support::{FrameClient, Server};

/// What a browser sends for a script of https://evil.example: the victim's cookie, and the page's own origin.
const FOREIGN_PAGE: [&str; 2] = ["origin: https://evil.example", "cookie: sid=victim"];

pub(crate) const PROBED: Probed = Probed::new(Start::Service(wrong_service))
    .with(|options| options.cookie = Some("sid=ada".to_owned()));

/// The messages of the pattern, behind a look at the cookie and nothing else.
pub(crate) fn wrong_service() -> Wrong {
    async fn by_cookie(jar: CookieJar, request: Request, next: Next) -> Response {
        match jar.get("sid") {
            Some(_) => next.run(request).await,
            None => StatusCode::UNAUTHORIZED.into_response(),
        }
    }
    let sockets = Sockets::new(Limits::default(), CancellationToken::new());
    Wrong::new(messages::router(sockets).layer(middleware::from_fn(by_cookie)))
}

#[tokio::test]
async fn a_foreign_page_acts_as_the_victim() {
    async fn upgrade(jar: CookieJar, ws: WebSocketUpgrade) -> Response {
        match jar.get("sid").map(|cookie| cookie.value().to_owned()) {
            Some(name) => ws.on_upgrade(|mut socket: WebSocket| async move {
                let _ = socket
                    .send(format!("private messages of {name}").into())
                    .await;
            }),
            None => StatusCode::UNAUTHORIZED.into_response(),
        }
    }
    let server = Server::start(Router::new().route("/ws", any(upgrade))).await;
    let mut client = FrameClient::handshake(server.addr, "/ws", &FOREIGN_PAGE).await;
    assert_eq!(client.status(), 101);
    assert_eq!(client.next_text().await, "private messages of victim");
}

struct Cookies;

impl Accounts for Cookies {
    async fn by_session(&self, cookie: &str) -> Result<Option<User>, Unavailable> {
        Ok(Some(User {
            name: cookie.into(),
            admin: false,
            expires: Instant::now() + Duration::from_secs(60),
        }))
    }

    async fn by_token(&self, _: &str) -> Result<Option<User>, Unavailable> {
        Ok(None)
    }
}

#[tokio::test]
async fn the_pattern_refuses_the_foreign_page_at_the_handshake() {
    let sockets = Sockets::new(Limits::default(), CancellationToken::new());
    let guard = Guard {
        origins: Arc::new(["https://app.example".to_owned()]),
        cookie: "sid",
        subprotocols: &[],
        accounts: Arc::new(Cookies),
        tickets: Tickets::default(),
        sockets: sockets.clone(),
        allowed: |_| true,
    };
    let app = messages::router(sockets)
        .layer(middleware::from_fn_with_state(guard, protect::authenticate));
    let server = Server::start(app).await;
    assert_eq!(
        FrameClient::handshake(server.addr, "/ws", &FOREIGN_PAGE)
            .await
            .status(),
        403
    );
    let own_page = ["origin: https://app.example", "cookie: sid=victim"];
    assert_eq!(
        FrameClient::handshake(server.addr, "/ws", &own_page)
            .await
            .status(),
        101
    );
}
