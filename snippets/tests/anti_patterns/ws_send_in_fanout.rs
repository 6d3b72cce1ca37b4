//! Wrong: `for member in &mut members { member.send(message).await }`: the fan-out loop waits for each member in turn.
//! Harm: one member that does not read blocks the whole room indefinitely.
//! Instead: websocket/rooms
//! Probe: fails ws-stalled-reader-isolated

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::ws::{Message as Frame, WebSocket, WebSocketUpgrade};
use axum::routing::any;
use futures::stream::SplitSink;
use futures::{SinkExt, StreamExt};
use snippets::websocket::rooms::{Hub, Rules};

use crate::support::member::Member;
use tokio::io::DuplexStream;
use tokio::sync::{Mutex, mpsc};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::support::wrong::{Probed, Start, Wrong, close_for};

const EVENTS: usize = 200;

async fn pair() -> (WebSocketStream<DuplexStream>, WebSocketStream<DuplexStream>) {
    let (client, server) = tokio::io::duplex(4096);
    (
        WebSocketStream::from_raw_socket(client, Role::Client, None).await,
        WebSocketStream::from_raw_socket(server, Role::Server, None).await,
    )
}

type Members = Arc<Mutex<Vec<(usize, SplitSink<WebSocket, Frame>)>>>;

pub(crate) const PROBED: Probed = Probed::new(Start::Service(wrong_service));

/// A room that anybody may speak in.
pub(crate) fn wrong_service() -> Wrong {
    let members = Members::default();
    let (publish, mut published) = mpsc::channel::<String>(16);
    let all = members.clone();
    tokio::spawn(async move {
        while let Some(text) = published.recv().await {
            // A member that joins in the meantime is not kept waiting for the lock.
            let mut current = std::mem::take(&mut *all.lock().await);
            for (_, member) in &mut current {
                let _ = member.send(Frame::text(text.clone())).await;
            }
            all.lock().await.extend(current);
        }
    });
    let (room, count) = (publish.clone(), Arc::new(AtomicUsize::new(0)));
    let join = async move |ws: WebSocketUpgrade| {
        ws.on_upgrade(async move |socket| {
            let id = count.fetch_add(1, Ordering::Relaxed);
            let (sink, mut stream) = socket.split();
            members.lock().await.push((id, sink));
            let mut close = None;
            while let Some(received) = stream.next().await {
                match received {
                    Ok(Frame::Text(text)) => drop(room.send(text.to_string()).await),
                    Ok(_) => {}
                    Err(error) => close = Some(Frame::Close(Some(close_for(&error)))),
                }
            }
            let mut members = members.lock().await;
            if let Some(at) = members.iter().position(|(member, _)| *member == id) {
                let (_, mut sink) = members.swap_remove(at);
                if let Some(close) = close {
                    let _ = sink.send(close).await;
                }
            }
        })
    };
    let app = Router::new().route("/ws", any(join));
    Wrong::publishing(app, move |n| drop(publish.try_send(format!("news {n}"))))
}

#[tokio::test(start_paused = true)]
async fn one_stalled_member_stops_the_room() {
    let ((_stalled, to_stalled), (mut fast, to_fast)) = (pair().await, pair().await);
    let received = Arc::new(AtomicUsize::new(0));
    let counter = received.clone();
    tokio::spawn(async move {
        while let Some(Ok(_)) = fast.next().await {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    let mut members = [to_fast, to_stalled];
    let publish = async {
        for _ in 0..EVENTS {
            for member in &mut members {
                let _ = member.send(Message::text("x".repeat(1024))).await;
            }
        }
    };
    let hour = Duration::from_secs(3600);
    assert!(
        tokio::time::timeout(hour, publish).await.is_err(),
        "the loop came to its end"
    );
    assert!(received.load(Ordering::Relaxed) < 10);
}

/// Over real sockets: `websocket_rooms.rs`. Here nobody polls the stalled member.
#[tokio::test]
async fn the_pattern_never_waits_for_a_member() {
    let hub = Hub::new(Rules {
        queue: 64,
        ..Rules::default()
    });
    let mut stalled = Member::join(&hub, "talk", "ada", None);
    let mut fast = Member::join(&hub, "talk", "ada", None);
    fast.take();
    for n in 0..EVENTS {
        fast.publish(&n.to_string(), "x".repeat(1024));
        assert!(
            !fast.events().is_empty(),
            "event {n} did not reach the member that keeps up"
        );
    }
    assert_eq!(stalled.events().last().unwrap()["close"], 1013);
}
