//! Facts about tungstenite 0.29 and axum 0.8 that the WebSocket chapters rest on. An update that changes one turns red here.

use std::time::Duration;

use axum::Router;
use axum::extract::ws::{Message as AxumMessage, WebSocket, WebSocketUpgrade};
use axum::routing::any;
use futures::{FutureExt, SinkExt, StreamExt};
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::support::frames::{CONTINUATION, PING, PONG, Seen};
use crate::support::{Frame, FrameClient, Server};

/// A client and a server in this process, with `buffer` bytes each way between them: nothing depends on the kernel.
async fn pair(buffer: usize) -> (WebSocketStream<DuplexStream>, WebSocketStream<DuplexStream>) {
    let (client, server) = tokio::io::duplex(buffer);
    (
        WebSocketStream::from_raw_socket(client, Role::Client, None).await,
        WebSocketStream::from_raw_socket(server, Role::Server, None).await,
    )
}

fn big() -> Message {
    Message::binary(vec![7; 1 << 20])
}

// C8: nothing but a deadline of your own ends a send to a peer that does not read.
#[tokio::test(start_paused = true)]
async fn a_send_to_a_stalled_peer_never_ends_not_even_that_of_close() {
    let (_client, mut server) = pair(1024).await;
    let hour = Duration::from_secs(3600);
    assert!(timeout(hour, server.send(big())).await.is_err());
    assert!(
        timeout(hour, server.send(Message::Close(None)))
            .await
            .is_err()
    );
}

// C9.
#[tokio::test(start_paused = true)]
async fn feed_alone_leaves_the_message_in_the_buffer() {
    let (mut client, mut server) = pair(1024).await;
    server.feed(Message::text("fed")).await.unwrap();
    assert!(
        timeout(Duration::from_secs(3600), client.next())
            .await
            .is_err()
    );
    server.flush().await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap(), Message::text("fed"));
}

/// The syntax of axum 0.7: found at the start, and not by the first request.
#[test]
fn a_route_with_a_colon_panics_when_it_is_added() {
    let add = |path: &'static str| {
        std::panic::catch_unwind(move || Router::<()>::new().route(path, any(async || "")))
    };
    assert!(add("/rooms/:id").is_err());
    assert!(add("/rooms/{id}").is_ok());
}

/// A receiver of tokio's broadcast that lags continues with the oldest message that is kept.
#[tokio::test]
async fn after_a_lag_the_newest_messages_remain_as_many_as_the_capacity() {
    use tokio::sync::broadcast::{channel, error::RecvError};
    let (sender, mut receiver) = channel(4);
    for n in 0..10 {
        sender.send(n).unwrap();
    }
    assert_eq!(receiver.recv().await, Err(RecvError::Lagged(6)));
    for n in 6..10 {
        assert_eq!(receiver.recv().await, Ok(n));
    }
}

// C11.
#[tokio::test]
async fn dropping_the_socket_sends_no_close() {
    let app = Router::new().route(
        "/ws",
        any(|ws: WebSocketUpgrade| async { ws.on_upgrade(|socket| async { drop(socket) }) }),
    );
    let server = Server::start(app).await;
    let mut client = FrameClient::connect(server.addr, "/ws").await;
    assert!(matches!(client.next().await, Seen::Cut(_)));
}

// C6: found out at the first upgrade, not at the start: the client sees 101 and then nothing.
#[tokio::test]
async fn a_write_buffer_as_large_as_its_maximum_panics_at_the_upgrade() {
    let app = Router::new().route(
        "/ws",
        any(|ws: WebSocketUpgrade| async {
            ws.write_buffer_size(4096)
                .max_write_buffer_size(4096)
                .on_upgrade(|mut socket: WebSocket| async move {
                    let _ = socket.send("never".into()).await;
                })
        }),
    );
    let server = Server::start(app).await;
    let mut client = FrameClient::connect(server.addr, "/ws").await;
    assert!(matches!(client.next().await, Seen::Cut(_)));
}

// C28: a cancelled send is not an unsent message; who repeats it sends it twice.
#[tokio::test(start_paused = true)]
async fn a_cancelled_send_has_queued_the_message_already() {
    let (mut client, mut server) = pair(1024).await;
    assert!(
        timeout(Duration::from_secs(1), server.send(big()))
            .await
            .is_err()
    );
    let ((), received) = tokio::join!(async { server.flush().await.unwrap() }, client.next());
    assert_eq!(received.unwrap().unwrap(), big());
}

// C29: two peers that write before they read wait for each other; read and write at the same time and both arrive.
#[tokio::test(start_paused = true)]
async fn two_peers_that_only_write_stall_each_other() {
    let (mut client, mut server) = pair(1024).await;
    let both = async { tokio::join!(client.send(big()), server.send(big())) };
    assert!(timeout(Duration::from_secs(3600), both).await.is_err());

    let (client, server) = pair(1024).await;
    let (mut client_sink, mut client_stream) = client.split();
    let (mut server_sink, mut server_stream) = server.split();
    let (_, _, at_client, at_server) = tokio::join!(
        client_sink.send(big()),
        server_sink.send(big()),
        client_stream.next(),
        server_stream.next()
    );
    assert_eq!(at_client.unwrap().unwrap(), big());
    assert_eq!(at_server.unwrap().unwrap(), big());
}

// C31: the library's own pong, with the ping's payload, is what the peer waits for.
#[tokio::test]
async fn a_pong_sent_by_hand_replaces_the_automatic_one() {
    async fn by_hand(mut socket: WebSocket) {
        while let Some(Ok(message)) = socket.recv().await {
            if let AxumMessage::Ping(_) = message {
                let _ = socket.send(AxumMessage::Pong("mine".into())).await;
            }
        }
    }
    let app = Router::new().route(
        "/ws",
        any(|ws: WebSocketUpgrade| async { ws.on_upgrade(by_hand) }),
    );
    let server = Server::start(app).await;
    let mut client = FrameClient::connect(server.addr, "/ws").await;
    client.send(Frame::new(PING, "1")).await;
    client.send(Frame::new(PING, "2")).await;
    for _ in 0..2 {
        assert_eq!(
            client.next().await.frame(),
            Frame::new(PONG, "mine").unmasked()
        );
    }
    assert!(client.next().now_or_never().is_none());
}

/// A message of `fragments` frames without payload, and one that ends it.
fn empty_fragments(fragments: usize) -> Vec<u8> {
    let mut bytes = Frame::text("").more().encode();
    for _ in 0..fragments {
        bytes.extend(Frame::new(CONTINUATION, "").more().encode());
    }
    bytes.extend(Frame::new(CONTINUATION, "whole").encode());
    bytes
}

// The limits count bytes of payload: a hundred thousand frames of nothing are a message of five bytes.
#[tokio::test]
async fn fragments_without_payload_are_not_counted() {
    let (mut client, server) = tokio::io::duplex(1 << 16);
    let config = WebSocketConfig::default()
        .max_message_size(Some(8))
        .max_frame_size(Some(8));
    let mut server = WebSocketStream::from_raw_socket(server, Role::Server, Some(config)).await;
    let flood = empty_fragments(100_000);
    let (_, message) = tokio::join!(client.write_all(&flood), server.next());
    assert_eq!(message.unwrap().unwrap(), Message::text("whole"));
}

// All this time `next` has not returned once. tokio's budget of 128 reads makes it yield, so that others are served all the
// same; with a small read buffer after fewer frames.
#[tokio::test]
async fn a_flood_of_fragments_does_not_starve_other_connections() {
    let app = Router::new().route(
        "/ws",
        any(|ws: WebSocketUpgrade| async {
            ws.read_buffer_size(1024)
                .on_upgrade(|mut socket: WebSocket| async move {
                    while let Some(Ok(message)) = socket.recv().await {
                        let _ = socket.send(message).await;
                    }
                })
        }),
    );
    let server = Server::start(app).await;
    let mut flooding = FrameClient::connect(server.addr, "/ws").await;
    let flood = tokio::spawn(async move {
        let mut bytes = empty_fragments(10_000);
        bytes.truncate(bytes.len() - Frame::new(CONTINUATION, "whole").encode().len());
        let first = Frame::text("").more().encode().len();
        flooding.socket.write_all(&bytes[..first]).await.unwrap();
        loop {
            flooding.socket.write_all(&bytes[first..]).await.unwrap();
        }
    });
    let mut client = FrameClient::connect(server.addr, "/ws").await;
    for _ in 0..5 {
        client.send(Frame::text("still here")).await;
        assert_eq!(client.next_text().await, "still here");
    }
    assert!(!flood.is_finished());
    flood.abort();
}
