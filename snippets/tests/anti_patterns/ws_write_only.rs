//! Wrong: a task that only writes: the receiving half is dropped or never polled.
//! Harm: pings are never answered and the peer's Close is ignored; proxies and peers drop the connection as dead.
//! Instead: websocket/serve
//! Probe: fails ws-ping-answered, ws-close-answered

use std::time::Duration;

use axum::Router;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use axum::routing::any;
use futures::{SinkExt, StreamExt};
use snippets::websocket::outbox::Outbox;
use snippets::websocket::serve::Limits;
use snippets::websocket::serve::{Handler, Sockets, Upgrade};
use tokio_util::sync::CancellationToken;

use crate::support::frames::{CLOSE, PING, PONG, TEXT};
use crate::support::wrong::{Probed, Start, Wrong};
use crate::support::{Frame, FrameClient, Server};

const PUSH_EVERY: Duration = Duration::from_millis(2);

async fn write_only(socket: WebSocket) {
    let (mut sink, _stream) = socket.split();
    while sink.send("news".into()).await.is_ok() {
        tokio::time::sleep(PUSH_EVERY).await;
    }
}

pub(crate) const PROBED: Probed = Probed::new(Start::Service(wrong_service));

pub(crate) fn wrong_service() -> Wrong {
    let upgrade = |ws: WebSocketUpgrade| async { ws.on_upgrade(write_only) };
    Wrong::new(Router::new().route("/ws", any(upgrade)))
}

#[tokio::test]
async fn a_write_only_task_never_answers() {
    let server = Server::start(wrong_service().app).await;
    let mut client = FrameClient::connect(server.addr, "/ws").await;
    client.send(Frame::new(PING, "alive?")).await;
    client.send(Frame::close(1000, "")).await;
    // News go on and on; neither a pong nor Close is among them.
    for _ in 0..50 {
        assert_eq!(client.next().await.frame().opcode, TEXT);
    }
}

struct Ignore;

impl Handler for Ignore {
    fn on_message(&mut self, _: Message, _: &Outbox) {}
}

#[tokio::test]
async fn the_pattern_answers_while_it_writes() {
    async fn push(upgrade: Upgrade) -> Response {
        Sockets::new(Limits::default(), CancellationToken::new()).accept(upgrade, |outbox| {
            let outbox = outbox.clone();
            tokio::spawn(async move {
                while outbox.send_when_room("news".into()).await {
                    tokio::time::sleep(PUSH_EVERY).await;
                }
            });
            Ignore
        })
    }
    let server = Server::start(Router::new().route("/ws", any(push))).await;
    let mut client = FrameClient::connect(server.addr, "/ws").await;
    client.send(Frame::new(PING, "alive?")).await;
    let mut frame = client.next().await.frame();
    while frame.opcode != PONG {
        assert_eq!(frame.opcode, TEXT);
        frame = client.next().await.frame();
    }
    client.send(Frame::close(1000, "")).await;
    while frame.opcode != CLOSE {
        frame = client.next().await.frame();
    }
    assert_eq!(frame.close_code(), Some(1000));
}
