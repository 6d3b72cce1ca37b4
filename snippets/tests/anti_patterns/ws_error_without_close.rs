//! Wrong: `while let Some(Ok(message)) = socket.recv().await`, so that an error of the library just ends the loop.
//! Harm: tungstenite sends no Close of its own: a peer that sends a message that is too long or not UTF-8 sees 1006 and retries.
//! Instead: websocket/serve
//! Probe: fails ws-oversize-1009, ws-invalid-utf8-1007

use axum::Router;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use axum::routing::any;
use snippets::websocket::outbox::Outbox;
use snippets::websocket::serve::Limits;
use snippets::websocket::serve::{Handler, Sockets, Upgrade};
use tokio_util::sync::CancellationToken;

use crate::support::frames::{BINARY, Seen, TEXT};
use crate::support::wrong::{Probed, Start, Wrong};
use crate::support::{Frame, FrameClient, Server};

const LIMIT: usize = 1024;

fn violations() -> [(Frame, u16); 3] {
    [
        (Frame::new(BINARY, vec![0; 16 * LIMIT]), 1009),
        (Frame::new(TEXT, b"\xff"), 1007),
        (Frame::text("x").rsv(4), 1002),
    ]
}

async fn hide_errors(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        let _ = socket.send(message).await;
    }
}

pub(crate) const PROBED: Probed = Probed::new(Start::Service(wrong_service));

pub(crate) fn wrong_service() -> Wrong {
    let upgrade =
        |ws: WebSocketUpgrade| async { ws.max_message_size(LIMIT).on_upgrade(hide_errors) };
    Wrong::new(Router::new().route("/ws", any(upgrade)))
}

#[tokio::test]
async fn an_error_ends_the_loop_without_a_close() {
    let server = Server::start(wrong_service().app).await;
    for (violation, code) in violations() {
        let mut client = FrameClient::connect(server.addr, "/ws").await;
        client.send(violation).await;
        assert!(
            matches!(client.next().await, Seen::Cut(_)),
            "a Close where {code} was due"
        );
    }
}

struct Echo;

impl Handler for Echo {
    fn on_message(&mut self, message: Message, outbox: &Outbox) {
        outbox.send(message);
    }
}

#[tokio::test]
async fn the_pattern_says_what_was_wrong() {
    async fn echo(upgrade: Upgrade) -> Response {
        let limits = Limits {
            message: LIMIT,
            ..Limits::default()
        };
        Sockets::new(limits, CancellationToken::new()).accept(upgrade, |_| Echo)
    }
    let server = Server::start(Router::new().route("/ws", any(echo))).await;
    for (violation, code) in violations() {
        let mut client = FrameClient::connect(server.addr, "/ws").await;
        client.send(violation).await;
        assert_eq!(client.next_close().await, Some(code));
    }
}
