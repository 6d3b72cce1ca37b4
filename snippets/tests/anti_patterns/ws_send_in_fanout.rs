//! Wrong: `for member in &mut members { member.send(message).await }`: the fan-out loop waits for each member in turn.
//! Harm: one member that does not read stops the whole room, for ever.
//! Instead: websocket/rooms

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use snippets::websocket::outbox::{Full, Outbox};
use snippets::websocket::rooms::{Hub, Rules};
use tokio::io::DuplexStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

const EVENTS: usize = 200;

async fn pair() -> (WebSocketStream<DuplexStream>, WebSocketStream<DuplexStream>) {
    let (client, server) = tokio::io::duplex(4096);
    (
        WebSocketStream::from_raw_socket(client, Role::Client, None).await,
        WebSocketStream::from_raw_socket(server, Role::Server, None).await,
    )
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

/// Over real sockets: `websocket_rooms.rs`. Here the stalled member is a queue that nobody drains.
#[tokio::test]
async fn the_pattern_never_waits_for_a_member() {
    let rules = Rules {
        history: 10,
        history_bytes: 64 * 1024,
        rooms: 1,
        members: 2,
        keep_empty: Duration::from_secs(60),
        full: |_| Full::Disconnect,
    };
    let hub = Hub::new(rules);
    let (stalled, fast) = (Outbox::new(64, 1 << 20), Outbox::new(64, 1 << 20));
    let user = Arc::from("ada");
    let _stalled = hub.join("talk", &user, &stalled, None).unwrap();
    let place = hub.join("talk", &user, &fast, None).unwrap();
    fast.pop();
    for n in 0..EVENTS {
        place.publish(n.to_string(), &"x".repeat(1024).into());
        assert!(
            fast.pop().is_some(),
            "event {n} did not reach the member that keeps up"
        );
    }
    assert!(stalled.is_closed());
}
