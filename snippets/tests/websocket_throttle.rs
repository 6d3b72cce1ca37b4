//! `websocket/throttle`: what a connection may send is bounded below everything that counts messages.

use std::num::NonZeroU32;
use std::time::Duration;

use axum::Router;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::routing::any;
use futures::{SinkExt, StreamExt};
use snippets::websocket::throttle::{Inflow, Throttle, Throttled};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::support::frames::CONTINUATION;
use crate::support::{Frame, FrameClient};

fn inflow(per_second: u32, burst: u32) -> Inflow {
    Inflow {
        per_second: NonZeroU32::new(per_second).unwrap(),
        burst: NonZeroU32::new(burst).unwrap(),
    }
}

/// Seconds of paused time in which `bytes` are read, at most 1,000 at once, after `idle` seconds without any.
async fn seconds(inflow: Inflow, bytes: usize, idle: u64) -> f64 {
    let (mut client, server) = tokio::io::duplex(bytes);
    let mut server = Throttled::new(server, inflow);
    tokio::time::sleep(Duration::from_secs(idle)).await;
    client.write_all(&vec![0; bytes]).await.unwrap();
    let begin = Instant::now();
    let mut left = bytes;
    while left > 0 {
        left -= server.read(&mut [0; 1000]).await.unwrap();
    }
    begin.elapsed().as_secs_f64()
}

#[tokio::test(start_paused = true)]
async fn bytes_beyond_the_burst_come_at_the_rate() {
    assert_eq!(seconds(inflow(1_000, 50_000), 50_000, 0).await, 0.0);
    let long = seconds(inflow(1_000, 50_000), 150_000, 0).await;
    assert!((98.0..=101.0).contains(&long), "{long}");
    // What a quiet hour leaves is one burst, too.
    let long = seconds(inflow(1_000, 50_000), 150_000, 3600).await;
    assert!((98.0..=101.0).contains(&long), "{long}");
}

/// The flood that no limit of the library counts: 6 bytes each, and nothing in them.
#[tokio::test(start_paused = true)]
async fn a_flood_of_empty_fragments_takes_the_time_of_its_bytes() {
    let mut flood = Frame::text("").more().encode();
    for _ in 0..100_000 {
        flood.extend(Frame::new(CONTINUATION, "").more().encode());
    }
    flood.extend(Frame::new(CONTINUATION, "whole").encode());
    let (mut client, server) = tokio::io::duplex(flood.len());
    client.write_all(&flood).await.unwrap();
    let throttled = Throttled::new(server, inflow(10_000, 64 * 1024));
    let mut server = WebSocketStream::from_raw_socket(throttled, Role::Server, None).await;
    let begin = Instant::now();
    assert_eq!(
        server.next().await.unwrap().unwrap(),
        Message::text("whole")
    );
    // A read of the library may take 128 KiB, and is not cut short.
    assert!(begin.elapsed() > Duration::from_secs((600_000 - 3 * 64 * 1024) / 10_000));
    server
        .send(Message::text("writes are not throttled"))
        .await
        .unwrap();
}

#[tokio::test]
async fn stands_in_front_of_a_server() {
    let app = Router::new().route(
        "/ws",
        any(|ws: WebSocketUpgrade| async {
            ws.on_upgrade(|mut socket: WebSocket| async move {
                while let Some(Ok(message)) = socket.recv().await {
                    let _ = socket.send(message).await;
                }
            })
        }),
    );
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let listener = Throttle::new(listener, inflow(1, 64 * 1024));
    tokio::spawn(async move { axum::serve(listener, app).await });
    let mut client = FrameClient::connect(addr, "/ws").await;
    client.send_text("within the burst").await;
    assert_eq!(client.next_text().await, "within the burst");
}
