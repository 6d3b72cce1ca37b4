//! Wrong: a server that sends Close, then drops the socket while input of the peer is unread.
//! Harm: the kernel sends RST and discards what it has not delivered: the last messages and the Close are lost (1006).
//! Instead: websocket/serve
//! Probe: cannot see: a race that its test decides with a gate

use std::sync::Arc;

use axum::Router;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use axum::routing::any;
use snippets::websocket::outbox::Outbox;
use snippets::websocket::serve::Limits;
use snippets::websocket::serve::{Handler, Sockets, Upgrade};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::support::frames::{BINARY, Cut, Seen};
use crate::support::{Frame, FrameClient, Server, within};

const LAST_WORDS: usize = 16;

fn last_words() -> Message {
    Message::Binary(vec![0; 64 * 1024].into())
}

fn more() -> Frame {
    Frame::new(BINARY, vec![0; 32 * 1024])
}

/// The messages that arrive, and the code of the Close, if one arrives.
async fn read_all(client: &mut FrameClient) -> (usize, Option<u16>, Option<Cut>) {
    let mut messages = 0;
    loop {
        match client.next().await {
            Seen::Frame(frame) if frame.opcode == BINARY => messages += 1,
            Seen::Frame(frame) => return (messages, frame.close_code(), None),
            Seen::Cut(cut) => return (messages, None, Some(cut)),
        }
    }
}

#[tokio::test]
async fn close_and_drop_loses_the_close() {
    let [received, proceed, dropped] = [(); 3].map(|()| Arc::new(Notify::new()));
    let app = Router::new().route(
        "/ws",
        any({
            let [received, proceed, dropped] = [&received, &proceed, &dropped].map(Arc::clone);
            |ws: WebSocketUpgrade| async {
                ws.on_upgrade(move |mut socket: WebSocket| async move {
                    let _ = socket.recv().await;
                    received.notify_one();
                    proceed.notified().await;
                    for _ in 0..LAST_WORDS {
                        let _ = socket.send(last_words()).await;
                    }
                    let close = CloseFrame {
                        code: 1008,
                        reason: "".into(),
                    };
                    let _ = socket.send(Message::Close(Some(close))).await;
                    drop(socket);
                    dropped.notify_one();
                })
            }
        }),
    );
    let server = Server::plain(app).await;
    let mut client = FrameClient::connect_small(server.addr, "/ws").await;
    client.send_text("go").await;
    within("the first message", received.notified()).await;
    // More input, which the server's kernel has received and the server never reads.
    client.send(more()).await;
    proceed.notify_one();
    within("the server to drop the socket", dropped.notified()).await;
    let (messages, code, cut) = read_all(&mut client).await;
    assert_eq!((code, cut), (None, Some(Cut::Reset)));
    assert!(messages < LAST_WORDS, "all {messages} messages arrived");
}

struct Refuse;

impl Handler for Refuse {
    fn on_message(&mut self, _: Message, outbox: &Outbox) {
        for _ in 0..LAST_WORDS {
            outbox.send(last_words());
        }
        outbox.close(1008, "");
    }
}

#[tokio::test]
async fn the_pattern_reads_until_the_peer_has_closed() {
    async fn refuse(upgrade: Upgrade) -> Response {
        let limits = Limits {
            queue_bytes: 2 << 20,
            ..Limits::default()
        };
        Sockets::new(limits, CancellationToken::new()).accept(upgrade, |_| Refuse)
    }
    let server = Server::start(Router::new().route("/ws", any(refuse))).await;
    let mut client = FrameClient::connect_small(server.addr, "/ws").await;
    client.send_text("go").await;
    client.send(more()).await;
    assert_eq!(read_all(&mut client).await, (LAST_WORDS, Some(1008), None));
    client.send(Frame::close(1008, "")).await;
    assert_eq!(client.next().await, Seen::Cut(Cut::Fin));
}
