//! `websocket/messages`: each message is checked, answered with a code, and counted.

use axum::Extension;
use snippets::websocket::limits::Limits;
use snippets::websocket::messages;
use snippets::websocket::protect::User;
use snippets::websocket::serve::Sockets;
use tokio_util::sync::CancellationToken;

use crate::support::frames::{BINARY, Cut, PING, PONG, Seen, TEXT};
use crate::support::{Frame, FrameClient, Server};

fn sockets(limits: Limits) -> Sockets {
    Sockets::new(limits, CancellationToken::new())
}

async fn demo(limits: Limits) -> Server {
    Server::start(messages::router(sockets(limits))).await
}

/// After the server's Close: the client answers it, and the server ends the connection in order.
async fn finish(client: &mut FrameClient, code: u16) {
    client.send(Frame::close(code, "")).await;
    assert_eq!(client.next().await, Seen::Cut(Cut::Fin));
}

#[tokio::test]
async fn transcript() {
    let server = demo(Limits::default()).await;
    let mut client = FrameClient::handshake(
        server.addr,
        "/ws",
        &["sec-websocket-protocol: demo.v2, demo.v1"],
    )
    .await;
    client
        .send_text(r#"{"type":"echo","id":1,"text":"hello"}"#)
        .await;
    client.next().await;
    client.send_text(r#"{"type":"count","id":2,"to":2}"#).await;
    for _ in 0..3 {
        client.next().await;
    }
    client.send(Frame::new(PING, "p")).await;
    client.next().await;
    client.note("each bad message is answered with a code");
    for bad in [
        r#"{"type":"echo","id":3"#,
        r#"{"type":"echo","id":4,"text":"x","colour":"red"}"#,
        r#"{"type":"count","id":5,"to":0}"#,
        r#"{"type":"announce","id":6,"text":"x"}"#,
        r#"{"type":"shout","id":7}"#,
        r#"{"type":"echo","id":8}"#,
    ] {
        client.send_text(bad).await;
        client.next().await;
    }
    client.note("the fifth malformed one was too many; `forbidden` does not count");
    assert_eq!(client.next_close().await, Some(1008));
    finish(&mut client, 1008).await;
    insta::assert_snapshot!(client.transcript());
}

#[tokio::test]
async fn authorisation_is_checked_for_each_message() {
    let expires = tokio::time::Instant::now() + std::time::Duration::from_secs(3600);
    let admin = User {
        name: "ada".into(),
        admin: true,
        expires,
    };
    let server =
        Server::start(messages::router(sockets(Limits::default())).layer(Extension(admin))).await;
    let mut client = FrameClient::connect(server.addr, "/ws").await;
    client
        .send_text(r#"{"type":"announce","id":1,"text":"x"}"#)
        .await;
    assert_eq!(client.next_text().await, r#"{"type":"done","id":1}"#);
}

#[tokio::test]
async fn an_unknown_subprotocol_is_refused_at_the_handshake() {
    let server = demo(Limits::default()).await;
    let client =
        FrameClient::handshake(server.addr, "/ws", &["sec-websocket-protocol: demo.v2"]).await;
    assert_eq!(client.status(), 400);
    let client = FrameClient::handshake(server.addr, "/ws", &[]).await;
    assert_eq!(client.status(), 101);
}

#[tokio::test]
async fn requests_that_run_are_bounded_and_do_not_hold_up_the_others() {
    let server = demo(Limits::default()).await;
    let mut client = FrameClient::connect(server.addr, "/ws").await;
    for id in 0..=messages::MAX_WORK {
        client
            .send_text(&format!(r#"{{"type":"count","id":{id},"to":1000}}"#))
            .await;
    }
    client
        .send_text(r#"{"type":"echo","id":9,"text":"x"}"#)
        .await;
    client.send(Frame::new(PING, "now")).await;
    let (mut busy, mut echoed, mut ponged) = (0, false, false);
    while !(busy == 1 && echoed && ponged) {
        let frame = client.next().await.frame();
        match frame.opcode {
            PONG => ponged = true,
            TEXT => {
                assert!(
                    !frame.text_payload().contains("done"),
                    "the slow requests held up the others"
                );
                busy += usize::from(frame.text_payload().contains(r#""code":"busy""#));
                echoed |= frame.text_payload().contains("echo");
            }
            _ => panic!("{}", frame.describe()),
        }
    }
}

/// A producer with its own connection waits for a peer that reads slowly; nothing is lost and nothing is closed.
#[tokio::test]
async fn slow_work_waits_for_room_in_the_queue() {
    let server = demo(Limits {
        queue: 2,
        ..Limits::default()
    })
    .await;
    let mut client = FrameClient::connect_small(server.addr, "/ws").await;
    client
        .send_text(r#"{"type":"count","id":1,"to":500}"#)
        .await;
    for n in 1..=500 {
        assert_eq!(client.next_json().await["n"], n);
    }
    assert_eq!(client.next_json().await["type"], "done");
}

#[tokio::test]
async fn binary_is_refused_with_1003() {
    let server = demo(Limits::default()).await;
    let mut client = FrameClient::connect(server.addr, "/ws").await;
    client.send(Frame::new(BINARY, "x")).await;
    assert_eq!(client.next_close().await, Some(1003));
    finish(&mut client, 1003).await;
}
