//! Wrong: an unbounded channel per connection between the fan-out and the task that writes.
//! Harm: a peer that does not read causes no error: everything that is published is kept for it until memory runs out.
//! Instead: websocket/rooms
//! Probe: fails ws-queue-bounded

use axum::Router;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::routing::any;
use futures::{SinkExt, StreamExt};
use snippets::websocket::outbox::Outbox;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::support::wrong::{Probed, Start, Wrong, close_for};

const PUBLISHED: usize = 100_000;

pub(crate) const PROBED: Probed = Probed::new(Start::Process(wrong_service));

/// Answers through the queue.
pub(crate) fn wrong_service() -> Wrong {
    let echo = async |ws: WebSocketUpgrade| {
        ws.on_upgrade(async |socket| {
            let (mut sink, mut stream) = socket.split();
            let (queue, mut queued) = mpsc::unbounded_channel();
            let writing = tokio::spawn(async move {
                while let Some(message) = queued.recv().await {
                    if sink.send(message).await.is_err() {
                        return;
                    }
                }
            });
            while let Some(received) = stream.next().await {
                let _ = queue.send(match received {
                    Ok(Message::Text(text)) => Message::Text(text),
                    Ok(_) => continue,
                    Err(error) => Message::Close(Some(close_for(&error))),
                });
            }
            drop(queue);
            let _ = writing.await;
        })
    };
    Wrong::new(Router::new().route("/ws", any(echo)))
}

#[tokio::test]
async fn an_unbounded_queue_keeps_everything_for_a_peer_that_does_not_read() {
    let (_stalled, server) = tokio::io::duplex(1024);
    let (mut sink, _stream) = WebSocketStream::from_raw_socket(server, Role::Server, None)
        .await
        .split();
    let (queue, mut rx) = mpsc::unbounded_channel::<String>();
    let (waiting, mut depth) = tokio::sync::watch::channel(0);
    tokio::spawn(async move {
        while let Some(text) = rx.recv().await {
            let _ = waiting.send(rx.len());
            let _ = sink.send(text.into()).await;
        }
    });
    for n in 0..PUBLISHED {
        queue
            .send(format!("event {n}"))
            .expect("an unbounded channel accepts whatever comes");
    }
    depth.changed().await.unwrap();
    assert!(*depth.borrow() > PUBLISHED / 2, "{} wait", *depth.borrow());
}

#[tokio::test]
async fn the_pattern_holds_a_bounded_number_and_disconnects() {
    let outbox = Outbox::new(64, 1 << 20);
    let accepted = (0..PUBLISHED as u64)
        .take_while(|seq| outbox.send(Message::Text(format!("event {seq}").into())))
        .count();
    assert_eq!(accepted, 64);
    match outbox.pop() {
        Some(Message::Close(Some(frame))) => assert_eq!(frame.code, 1013),
        other => panic!("{other:?}"),
    }
}
