//! Wrong: `Arc<Mutex<WebSocket>>`, shared by the task that receives and the one that sends.
//! Harm: the receiver holds the lock while it waits for input, so the server cannot send until the client does.
//! Instead: websocket/serve
//! Probe: fails ws-one-writer

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use axum::routing::any;
use snippets::websocket::outbox::Outbox;
use snippets::websocket::serve::Limits;
use snippets::websocket::serve::{Handler, Sockets, Upgrade};
use tokio::sync::{Mutex, broadcast};
use tokio_util::sync::CancellationToken;

use crate::support::wrong::{Probed, Start, Wrong, close_for};
use crate::support::{FrameClient, Server};

async fn shared(socket: WebSocket) {
    let socket = Arc::new(Mutex::new(socket));
    let receiving = {
        let socket = socket.clone();
        tokio::spawn(async move { while let Some(Ok(_)) = { socket.lock().await.recv().await } {} })
    };
    tokio::task::yield_now().await;
    let _ = socket.lock().await.send("news".into()).await;
    let _ = receiving.await;
}

pub(crate) const PROBED: Probed = Probed::new(Start::Service(wrong_service));

/// Pushes what is published, and is right in everything but the lock.
pub(crate) fn wrong_service() -> Wrong {
    let hub = broadcast::Sender::new(16);
    let published = hub.clone();
    let serve = async move |ws: WebSocketUpgrade| {
        let mut news = published.subscribe();
        ws.on_upgrade(async move |socket| {
            let socket = Arc::new(Mutex::new(socket));
            let pushed = socket.clone();
            let pushing = tokio::spawn(async move {
                while let Ok(n) = news.recv().await {
                    let text = format!("news {n}");
                    let _ = pushed.lock().await.send(text.into()).await;
                }
            });
            while let Some(received) = { socket.lock().await.recv().await } {
                if let Err(error) = received {
                    let close = Message::Close(Some(close_for(&error)));
                    let _ = socket.lock().await.send(close).await;
                    break;
                }
                // Whoever waits for the lock has it next: tokio's is fair.
            }
            pushing.abort();
        })
    };
    let app = Router::new().route("/ws", any(serve));
    Wrong::publishing(app, move |n: usize| drop(hub.send(n)))
}

#[tokio::test]
async fn a_push_waits_until_the_client_speaks() {
    let app = Router::new().route(
        "/ws",
        any(|ws: WebSocketUpgrade| async { ws.on_upgrade(shared) }),
    );
    let server = Server::start(app).await;
    let mut client = FrameClient::connect(server.addr, "/ws").await;
    let silence = tokio::time::timeout(Duration::from_millis(300), client.next()).await;
    assert!(silence.is_err(), "{silence:?}");
    client.send_text("hello?").await;
    assert_eq!(client.next_text().await, "news");
}

struct Ignore;

impl Handler for Ignore {
    fn on_message(&mut self, _: Message, _: &Outbox) {}
}

#[tokio::test]
async fn the_pattern_pushes_at_once() {
    async fn push(upgrade: Upgrade) -> Response {
        Sockets::new(Limits::default(), CancellationToken::new()).accept(upgrade, |outbox| {
            outbox.send("news".into());
            Ignore
        })
    }
    let server = Server::start(Router::new().route("/ws", any(push))).await;
    let mut client = FrameClient::connect(server.addr, "/ws").await;
    assert_eq!(client.next_text().await, "news");
}
