//! `websocket/serve`, driven with raw frames: sections 1 to 7, 9 and 10 of the Autobahn suite in kind, the limits, the
//! deadlines and the shutdown.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::extract::ws::Message;
use axum::routing::any;
use futures::{SinkExt, StreamExt};
use snippets::websocket::messages;
use snippets::websocket::outbox::Outbox;
use snippets::websocket::serve::Limits;
use snippets::websocket::serve::{Handler, Sockets, Upgrade};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::support::frames::{BINARY, CLOSE, CONTINUATION, Cut, PING, PONG, Seen, TEXT};
use crate::support::{Frame, FrameClient, PATIENCE, Server, within};

/// Sends every message back.
struct Echo;

impl Handler for Echo {
    fn on_message(&mut self, message: Message, outbox: &Outbox) {
        outbox.send(message);
    }
}

async fn echo(State(sockets): State<Sockets>, upgrade: Upgrade) -> axum::response::Response {
    sockets.accept(upgrade, |_| Echo)
}

fn sockets(limits: Limits) -> Sockets {
    Sockets::new(limits, CancellationToken::new())
}

async fn echo_server(limits: Limits) -> Server {
    Server::start(
        Router::new()
            .route("/echo", any(echo))
            .with_state(sockets(limits)),
    )
    .await
}

async fn echo_client() -> (Server, FrameClient) {
    let server = echo_server(Limits::default()).await;
    let client = FrameClient::connect(server.addr, "/echo").await;
    (server, client)
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
    let (server, mut client) = echo_client().await;
    client.send(Frame::text("frag").more()).await;
    client.send(Frame::new(PING, "in between")).await;
    client.next().await;
    client.send(Frame::new(CONTINUATION, "ments")).await;
    client.next().await;
    client.send(Frame::close(1000, "done")).await;
    while let Seen::Frame(_) = client.next().await {}
    let mut text = client.transcript();

    for violation in [
        Frame::new(TEXT, b"\xce\xff"),
        Frame::new(BINARY, vec![b'x'; 100_000]),
    ] {
        let mut client = FrameClient::connect(server.addr, "/echo").await;
        client.note("another connection");
        client.send(violation).await;
        let code = client.next_close().await.unwrap();
        client.send(Frame::close(code, "")).await;
        text.push('\n');
        text.push_str(
            &client
                .transcript()
                .split_off(client.transcript().find("[another").unwrap()),
        );
    }
    insta::assert_snapshot!(text);
}

// Sections 1 and 9: payloads of every length encoding, text and binary, whole and in chunks.
#[tokio::test]
async fn echoes_payloads_of_every_length_encoding() {
    let server = echo_server(Limits {
        message: 1 << 20,
        queue_bytes: 4 << 20,
        ..Limits::default()
    })
    .await;
    let mut client = FrameClient::connect(server.addr, "/echo").await;
    for opcode in [TEXT, BINARY] {
        for len in [0, 1, 125, 126, 127, 128, 65535, 65536, 1 << 20] {
            let sent = Frame::new(opcode, vec![b'*'; len]);
            client.send(sent.clone()).await;
            let back = client.next().await.frame();
            assert_eq!(
                (back.opcode, back.fin, back.masked, back.payload.len()),
                (opcode, true, false, len)
            );
            assert_eq!(back.payload, sent.payload);
        }
    }
    // One byte at a time, and two messages in one write.
    for byte in Frame::text("slow").encode() {
        client.socket.write_all(&[byte]).await.unwrap();
    }
    assert_eq!(client.next_text().await, "slow");
    let two = [Frame::text("a").encode(), Frame::text("b").encode()].concat();
    client.socket.write_all(&two).await.unwrap();
    assert_eq!(
        (client.next_text().await, client.next_text().await),
        ("a".to_owned(), "b".to_owned())
    );
}

// Section 2.
#[tokio::test]
async fn answers_pings_in_order_and_ignores_pongs() {
    let (_server, mut client) = echo_client().await;
    client.send(Frame::new(PONG, "unsolicited")).await;
    for payload in ["", "hello", &"x".repeat(125)] {
        client.send(Frame::new(PING, payload)).await;
        assert_eq!(
            client.next().await.frame(),
            Frame::new(PONG, payload).unmasked()
        );
    }
    let pings: Vec<u8> = (0..10)
        .flat_map(|n| Frame::new(PING, format!("{n}")).encode())
        .collect();
    client.socket.write_all(&pings).await.unwrap();
    for n in 0..10 {
        assert_eq!(
            client.next().await.frame(),
            Frame::new(PONG, format!("{n}")).unmasked()
        );
    }
}

/// Each of these is a protocol error: the server answers what came before it, sends Close with this code, and then waits
/// for the peer instead of resetting it.
async fn fails_with(code: u16, frames: Vec<Frame>) {
    let (_server, mut client) = echo_client().await;
    client.send(Frame::text("before")).await;
    assert_eq!(client.next_text().await, "before");
    let names: Vec<_> = frames.iter().map(Frame::describe).collect();
    let bytes: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
    client.socket.write_all(&bytes).await.unwrap();
    assert_eq!(client.next_close().await, Some(code), "{names:?}");
}

// Sections 2.5, 3, 4, 5 and the masking rule of RFC 6455, section 5.1.
#[tokio::test]
async fn protocol_errors_are_answered_with_1002() {
    let text = || Frame::text("x");
    let cases: Vec<Vec<Frame>> = vec![
        vec![Frame::new(PING, "x".repeat(126))],
        vec![text().rsv(1)],
        vec![text().rsv(2)],
        vec![text().rsv(4)],
        vec![Frame::new(PING, "").rsv(7)],
        vec![Frame::new(3, "")],
        vec![Frame::new(7, "x")],
        vec![Frame::new(11, "")],
        vec![Frame::new(15, "x")],
        vec![Frame::new(PING, "x").more()],
        vec![Frame::new(CONTINUATION, "x")],
        vec![Frame::new(CONTINUATION, "x").more()],
        vec![text().more(), text()],
        vec![
            text().more(),
            Frame::new(CONTINUATION, "x"),
            Frame::new(CONTINUATION, "x"),
        ],
        vec![text().unmasked()],
        // Section 7.3: Close with a payload of one byte.
        vec![Frame::new(CLOSE, [3])],
    ];
    for frames in cases {
        fails_with(1002, frames).await;
    }
}

// Section 5.
#[tokio::test]
async fn joins_fragments_and_answers_pings_between_them() {
    let (_server, mut client) = echo_client().await;
    client.send(Frame::text("one ").more()).await;
    client.send(Frame::new(PING, "between")).await;
    assert_eq!(
        client.next().await.frame(),
        Frame::new(PONG, "between").unmasked()
    );
    client.send(Frame::new(CONTINUATION, "two ").more()).await;
    client.send(Frame::new(CONTINUATION, "").more()).await;
    client.send(Frame::new(CONTINUATION, "three")).await;
    assert_eq!(client.next_text().await, "one two three");
}

// Section 6.
#[tokio::test]
async fn invalid_utf8_is_answered_with_1007_and_valid_utf8_may_be_split() {
    let bytes = "κόσμε😀".as_bytes();
    let (_server, mut client) = echo_client().await;
    for (i, byte) in bytes.iter().enumerate() {
        let frame = Frame::new(if i == 0 { TEXT } else { CONTINUATION }, [*byte]);
        client
            .send(if i + 1 == bytes.len() {
                frame
            } else {
                frame.more()
            })
            .await;
    }
    assert_eq!(client.next_text().await, "κόσμε😀");

    for wrong in [
        &b"\xce\xba\xff"[..],
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xc0\xaf",
        b"cut \xf0\x9f\x98",
    ] {
        fails_with(1007, vec![Frame::new(TEXT, wrong)]).await;
        let (first, rest) = wrong.split_at(1);
        fails_with(
            1007,
            vec![
                Frame::new(TEXT, first).more(),
                Frame::new(CONTINUATION, rest),
            ],
        )
        .await;
    }
    // Fail fast: the message never ends, its first fragment is wrong already.
    fails_with(1007, vec![Frame::new(TEXT, b"\xce\xba\xff").more()]).await;
    // The reason of a Close is text, too.
    fails_with(1007, vec![Frame::new(CLOSE, b"\x03\xe8\xce\xff")]).await;
}

// Section 7.
#[tokio::test]
async fn finishes_a_closing_handshake_that_the_peer_begins() {
    for code in [
        1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999,
    ] {
        let (_server, mut client) = echo_client().await;
        client.send(Frame::close(code, "bye")).await;
        assert_eq!(client.next_close().await, Some(code));
        assert_eq!(client.next().await, Seen::Cut(Cut::Fin));
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999] {
        let (_server, mut client) = echo_client().await;
        client.send(Frame::close(code, "")).await;
        assert_eq!(client.next_close().await, Some(1002), "answer to {code}");
        assert_eq!(client.next().await, Seen::Cut(Cut::Fin));
    }
    // No code, and nothing after Close is answered.
    let (_server, mut client) = echo_client().await;
    let after = [
        Frame::new(CLOSE, "").encode(),
        Frame::text("late").encode(),
        Frame::new(PING, "late").encode(),
    ];
    client.socket.write_all(&after.concat()).await.unwrap();
    assert_eq!(client.next().await.frame().opcode, CLOSE);
    assert!(matches!(client.next().await, Seen::Cut(_)));
}

// Sections 9 and 10, and catalogue entry C7: which way of answering an oversize message is reliable.
#[tokio::test]
async fn an_oversize_message_is_answered_with_1009() {
    let limits = Limits {
        message: 64 * 1024,
        ..Limits::default()
    };
    let server = echo_server(limits).await;
    // Read whole, refused by the handler's check, and the handshake is finished: FIN, no RST.
    for frames in [
        vec![Frame::new(BINARY, vec![0; 200 * 1024])],
        vec![
            Frame::new(BINARY, vec![0; 60 * 1024]).more(),
            Frame::new(CONTINUATION, vec![0; 60 * 1024]),
        ],
    ] {
        let mut client = FrameClient::connect(server.addr, "/echo").await;
        for frame in frames {
            client.send(frame).await;
        }
        client.send(Frame::text("read and ignored")).await;
        assert_eq!(client.next_close().await, Some(1009));
        finish(&mut client, 1009).await;
    }
    // Larger than the library reads: it stops in the frame, nothing can be drained. The server holds the socket open.
    for _ in 0..10 {
        let client = FrameClient::connect(server.addr, "/echo").await;
        let FrameClient { socket, .. } = client;
        let (mut read, mut write) = socket.into_split();
        let sender = tokio::spawn(async move {
            // As a browser: the whole message is written whatever arrives meanwhile.
            let _ = write
                .write_all(&Frame::new(BINARY, vec![0; 4 << 20]).encode())
                .await;
        });
        let mut received = Vec::new();
        within("Close", async {
            use tokio::io::AsyncReadExt;
            while Frame::decode(&received).is_none() {
                assert!(
                    read.read_buf(&mut received).await.unwrap() > 0,
                    "ended without Close"
                );
            }
        })
        .await;
        assert_eq!(Frame::decode(&received).unwrap().0.close_code(), Some(1009));
        sender.abort();
    }
}

/// A peer that never answers Close does not keep the socket.
#[tokio::test]
async fn the_closing_handshake_has_a_deadline() {
    let limits = Limits {
        close_deadline: Duration::from_millis(50),
        ..Limits::default()
    };
    let server = demo(limits).await;
    let mut client = FrameClient::connect(server.addr, "/ws").await;
    client.send(Frame::new(BINARY, "x")).await;
    assert_eq!(client.next_close().await, Some(1003));
    client.note("the client sends no Close");
    assert!(matches!(client.next().await, Seen::Cut(_)));
}

// C18: only frames of the peer count. This one's kernel acknowledges the pings, the program behind it does nothing.
#[tokio::test]
async fn a_half_open_peer_is_dropped() {
    let limits = Limits {
        ping_every: Duration::from_millis(40),
        ..Limits::default()
    };
    let sockets = sockets(limits);
    let server = Server::start(
        Router::new()
            .route("/echo", any(echo))
            .with_state(sockets.clone()),
    )
    .await;
    let mut client = FrameClient::connect(server.addr, "/echo").await;
    let mut pings = 0;
    loop {
        match client.next().await {
            Seen::Frame(frame) if frame.opcode == PING => pings += 1,
            Seen::Frame(frame) => panic!("{}", frame.describe()),
            Seen::Cut(_) => break,
        }
    }
    assert!(pings >= 1, "dropped without a ping");
    assert_eq!(sockets.drained(PATIENCE).await, 0);
}

#[tokio::test]
async fn any_frame_keeps_a_connection() {
    let limits = Limits {
        // 3 s of silence end a connection.
        ping_every: Duration::from_millis(150),
        silent_pings: 20,
        ..Limits::default()
    };
    let server = echo_server(limits).await;
    let mut client = FrameClient::connect(server.addr, "/echo").await;
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_millis(4_500) {
        let frame = client.next().await.frame();
        assert_eq!(frame.opcode, PING);
        client.send(Frame::new(PONG, frame.payload)).await;
    }
}

/// Sets the time at which its connection ends; `later` moves one that is near to one that is far.
struct Session;

impl Handler for Session {
    fn on_message(&mut self, message: Message, outbox: &Outbox) {
        let near = Instant::now() + Duration::from_millis(200);
        outbox.close_at(near, 4408, "session expired");
        if message == "later".into() {
            outbox.close_at(near + Duration::from_secs(3600), 4408, "session expired");
        }
    }
}

#[tokio::test]
async fn a_session_ends_when_it_is_due_and_can_be_extended() {
    let limits = Limits {
        ping_every: Duration::from_millis(40),
        silent_pings: 1000,
        ..Limits::default()
    };
    let sockets = sockets(limits);
    let accept = move |upgrade: Upgrade| std::future::ready(sockets.accept(upgrade, |_| Session));
    let server = Server::start(Router::new().route("/session", any(accept))).await;
    let mut client = FrameClient::connect(server.addr, "/session").await;
    client.send_text("later").await;
    for _ in 0..20 {
        assert_eq!(client.next().await.frame().opcode, PING); // 0.8 s
    }
    client.send_text("now").await;
    assert_eq!(client.next_close().await, Some(4408));
    finish(&mut client, 4408).await;
}

async fn flood(State(sockets): State<Sockets>, upgrade: Upgrade) -> axum::response::Response {
    sockets.accept(upgrade, |outbox| {
        let outbox = outbox.clone();
        tokio::spawn(async move {
            while outbox
                .send_when_room(Message::Binary(vec![0; 64 * 1024].into()))
                .await
            {}
        });
        Echo
    })
}

// C8: a peer that does not read. Without the deadline the write, and even that of Close, would never end.
#[tokio::test]
async fn a_peer_that_does_not_read_is_dropped() {
    let limits = Limits {
        send_deadline: Duration::from_millis(100),
        close_deadline: Duration::from_millis(50),
        ..Limits::default()
    };
    let sockets = sockets(limits);
    let server = Server::start(
        Router::new()
            .route("/flood", any(flood))
            .with_state(sockets.clone()),
    )
    .await;
    let client = FrameClient::connect_small(server.addr, "/flood").await;
    assert_eq!(
        sockets.drained(PATIENCE).await,
        0,
        "the connection outlived its send deadline"
    );
    drop(client);
}

/// Answers that nobody reads: the queue is bounded, the connection ends with 1013.
#[tokio::test]
async fn a_peer_that_asks_but_does_not_read_is_disconnected() {
    let limits = Limits {
        queue: 8,
        // On a busy machine the queue takes long to fill: its bound ends the connection, not this one.
        send_deadline: PATIENCE,
        ..Limits::default()
    };
    let server = echo_server(limits).await;
    let mut client = FrameClient::connect_small(server.addr, "/echo").await;
    let message = Frame::new(BINARY, vec![0; 60 * 1024]).encode();
    // Written until the server has closed: its answers are not read meanwhile, so they fill the kernel's buffers first.
    let closed = within("the server to give up", async {
        let (mut read, mut write) = client.socket.split();
        let writing = async {
            for _ in 0..2000 {
                if write.write_all(&message).await.is_err() {
                    return;
                }
            }
        };
        // The server reads on: while its answers wait for this client, its reader is not held up.
        writing.await;
        let mut all = Vec::new();
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut read, &mut all).await;
        all
    })
    .await;
    let mut at = 0;
    let mut last = None;
    while let Some((frame, len)) = Frame::decode(&closed[at..]) {
        last = Some(frame);
        at += len;
    }
    assert_eq!(last.unwrap().close_code(), Some(1013));
}

// C27, B22: axum's graceful shutdown does not wait for sockets; `drained` does.
#[tokio::test]
async fn shutdown_closes_with_1001_and_waits() {
    let shutdown = CancellationToken::new();
    let limits = Limits {
        drain_spread: Duration::from_millis(20),
        ..Limits::default()
    };
    let sockets = Sockets::new(limits, shutdown.clone());
    let mut server = Server::start(messages::router(sockets.clone())).await;
    let mut client = FrameClient::connect(server.addr, "/ws").await;
    let served = server.begin_shutdown();
    within("axum::serve to return", served).await.unwrap();
    client
        .send_text(r#"{"type":"echo","id":1,"text":"still served"}"#)
        .await;
    assert!(client.next_text().await.contains("still served"));
    assert_eq!(sockets.drained(Duration::ZERO).await, 1);
    shutdown.cancel();
    assert_eq!(client.next_close().await, Some(1001));
    let waiting = tokio::spawn({
        let sockets = sockets.clone();
        async move { sockets.drained(PATIENCE).await }
    });
    finish(&mut client, 1001).await;
    assert_eq!(waiting.await.unwrap(), 0);
}

/// A WebSocket over HTTP/2 (RFC 8441): the extended CONNECT, then the same frames inside a stream.
async fn connect_h2(server: &Server, path: &str) -> http::Response<hyper::body::Incoming> {
    let stream = tokio::net::TcpStream::connect(server.addr).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
            .handshake(hyper_util::rt::TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    // CONNECT with :protocol is only allowed after the server's SETTINGS (RFC 8441, section 3), so a request comes first.
    let first = http::Request::get(server.url("/none"))
        .body(String::new())
        .unwrap();
    let response = within("a response", sender.send_request(first))
        .await
        .unwrap();
    assert_eq!(response.status(), 404);
    let request = http::Request::builder()
        .method("CONNECT")
        .uri(server.url(path))
        .header("sec-websocket-version", "13")
        .extension(hyper::ext::Protocol::from_static("websocket"))
        .body(String::new())
        .unwrap();
    within("the answer to CONNECT", sender.send_request(request))
        .await
        .unwrap()
}

// C12.
#[tokio::test]
async fn serves_websockets_over_http2() {
    async fn with_get(ws: axum::extract::ws::WebSocketUpgrade) -> axum::response::Response {
        ws.on_upgrade(async |_| {})
    }
    let app =
        messages::router(sockets(Limits::default())).route("/get", axum::routing::get(with_get));
    let server = Server::start(app).await;
    assert_eq!(
        connect_h2(&server, "/get").await.status(),
        405,
        "a `get` route refuses the extended CONNECT"
    );

    let response = connect_h2(&server, "/ws").await;
    assert_eq!(response.status(), 200);
    let upgraded = hyper_util::rt::TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    use tokio_tungstenite::tungstenite::protocol::Role;
    let mut socket =
        tokio_tungstenite::WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await;
    socket
        .send(r#"{"type":"echo","id":1,"text":"h2"}"#.into())
        .await
        .unwrap();
    let answer = within("the echo", socket.next()).await.unwrap().unwrap();
    assert_eq!(
        answer.to_text().unwrap(),
        r#"{"type":"echo","id":1,"text":"h2"}"#
    );
}

/// After a scale-out the sockets move to the instance that was added, not all at once.
#[tokio::test]
async fn a_socket_ends_between_0_8_and_1_times_its_maximum_age() {
    let limits = Limits {
        ping_every: Duration::from_millis(10),
        silent_pings: u32::MAX,
        max_age: Duration::from_millis(1_000),
        ..Limits::default()
    };
    let sockets = Sockets::new(limits, CancellationToken::new());
    let server = Server::start(messages::router(sockets)).await;
    let all = (0..20).map(async |_| {
        let begun = std::time::Instant::now();
        let mut client = FrameClient::connect(server.addr, "/ws").await;
        assert_eq!(client.next_close().await, Some(1001));
        begun.elapsed().as_millis()
    });
    let ages = futures::future::join_all(all).await;
    // Late on a busy machine, and never early.
    assert!(ages.iter().all(|age| *age >= 780), "{ages:?}");
}

#[tokio::test]
async fn only_a_websocket_handshake_of_version_13_is_accepted() {
    let server = echo_server(Limits::default()).await;
    let mut plain = crate::support::RawClient::get(server.addr, "/echo", &[]).await;
    plain.read_head().await;
    assert_eq!(plain.status(), 400);
    let request = crate::support::frames::handshake_request("/echo", &[])
        .replace("version: 13", "version: 8");
    let mut old = crate::support::RawClient::connect(server.addr).await;
    old.socket.write_all(request.as_bytes()).await.unwrap();
    old.read_head().await;
    assert_eq!(old.status(), 400);
}

/// Clients that come and go, in order and without a word, leave nothing behind.
#[tokio::test]
async fn disconnects_are_noticed() {
    let sockets = sockets(Limits::default());
    let app = Router::new()
        .route("/echo", any(echo))
        .with_state(sockets.clone());
    let server = Server::start(app).await;
    for n in 0..100 {
        let mut client = FrameClient::connect(server.addr, "/echo").await;
        match n % 3 {
            0 => {
                client.send(Frame::close(1000, "")).await;
                assert_eq!(client.next_close().await, Some(1000));
            }
            1 => client.socket.set_zero_linger().unwrap(),
            _ => {}
        }
    }
    assert_eq!(sockets.drained(PATIENCE).await, 0);
}

// C20: tungstenite offers and accepts no compression, whatever the client offers.
#[tokio::test]
async fn compression_is_not_negotiated() {
    let server = demo(Limits::default()).await;
    let offer = ["sec-websocket-extensions: permessage-deflate; client_max_window_bits"];
    let client = FrameClient::handshake(server.addr, "/ws", &offer).await;
    assert_eq!(client.status(), 101);
    assert!(
        !client.head.to_lowercase().contains("extensions"),
        "{}",
        client.head
    );
}

/// A panic ends one connection, and gives its place back.
#[tokio::test]
async fn a_handler_that_panics_ends_its_connection() {
    struct Panics;
    impl Handler for Panics {
        fn on_message(&mut self, _: Message, _: &Outbox) {
            panic!("as the test wants it");
        }
    }
    async fn upgrade(State(sockets): State<Sockets>, upgrade: Upgrade) -> axum::response::Response {
        sockets.accept(upgrade, |_| Panics)
    }
    let sockets = sockets(Limits::default());
    let app = Router::new()
        .route("/ws", any(upgrade))
        .with_state(sockets.clone());
    let server = Server::start(app).await;
    let mut client = FrameClient::connect(server.addr, "/ws").await;
    client.send_text("x").await;
    assert!(matches!(client.next().await, Seen::Cut(_)));
    assert_eq!(sockets.drained(PATIENCE).await, 0);
}

/// The deadline is for a peer that takes nothing. This one reads for twice the deadline what no batch could take within it.
#[tokio::test]
async fn a_slow_reader_is_not_dropped() {
    use snippets::connections::listen;
    use tokio::io::AsyncReadExt;
    let deadline = Duration::from_secs(3);
    let sockets = sockets(Limits {
        send_deadline: deadline,
        ..Limits::default()
    });
    let app = Router::new()
        .route("/flood", any(flood))
        .with_state(sockets.clone());
    // With a bounded send buffer: the kernel reports room when a third of it is free, and an unbounded one is megabytes.
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await
        .unwrap();
    let addr = listener.local_addr().unwrap();
    let config = listen::Config::default();
    tokio::spawn(listen::serve(
        listener,
        app,
        config,
        CancellationToken::new(),
    ));
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(32 * 1024).unwrap();
    let socket = socket.connect(addr).await.unwrap();
    let mut client = FrameClient::handshake_on(socket, "/flood", &[]).await;
    let mut some = [0; 16 * 1024];
    let begun = std::time::Instant::now();
    while begun.elapsed() < 2 * deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let read = within("more", client.socket.read(&mut some)).await.unwrap();
        assert!(read > 0, "dropped");
    }
    assert_eq!(sockets.count(), 1);
}

/// `listen` and `axum::serve` carry the same bytes: messages, violations, an early frame, the shutdown.
#[tokio::test]
async fn the_wire_is_the_same_under_listen() {
    use snippets::connections::listen;
    use tokio::io::AsyncReadExt;
    let mut transcripts = Vec::new();
    for under_listen in [false, true] {
        let stop = CancellationToken::new();
        let limits = Limits {
            drain_spread: Duration::ZERO,
            ..Limits::default()
        };
        let sockets = Sockets::new(limits, stop.clone());
        let app = Router::new()
            .route("/echo", any(echo))
            .with_state(sockets.clone());
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
            .await
            .unwrap();
        let addr = listener.local_addr().unwrap();
        if under_listen {
            let config = listen::Config::default();
            tokio::spawn(listen::serve(
                listener,
                app,
                config,
                CancellationToken::new(),
            ));
        } else {
            tokio::spawn(async move { axum::serve(listener, app).await });
        }
        let mut all = String::new();
        for frames in [
            vec![Frame::text("hello"), Frame::new(PING, "p")],
            vec![Frame::new(TEXT, b"\xce\xff")],
            vec![Frame::new(BINARY, vec![b'x'; 100_000])],
        ] {
            let mut client = FrameClient::connect(addr, "/echo").await;
            for frame in frames {
                client.send(frame).await;
                if let Seen::Frame(frame) = client.next().await
                    && let Some(code) = frame.close_code()
                {
                    finish(&mut client, code).await;
                }
            }
            all.push_str(&client.transcript());
        }
        // The first frame is in the same segment as the handshake.
        let mut early = tokio::net::TcpStream::connect(addr).await.unwrap();
        let mut request = crate::support::frames::handshake_request("/echo", &[]).into_bytes();
        request.extend(Frame::text("early").encode());
        early.write_all(&request).await.unwrap();
        let mut received = Vec::new();
        within("the echo", async {
            while !received.ends_with(b"early") {
                assert!(early.read_buf(&mut received).await.unwrap() > 0);
            }
        })
        .await;
        drop(early);
        let mut last = FrameClient::connect(addr, "/echo").await;
        stop.cancel();
        assert_eq!(last.next_close().await, Some(1001));
        finish(&mut last, 1001).await;
        assert_eq!(sockets.drained(PATIENCE).await, 0);
        transcripts.push(all);
    }
    assert_eq!(transcripts[0], transcripts[1]);
}

/// A peer that floods pings and does not read is not read either: its pongs are not gathered.
#[tokio::test]
async fn pongs_for_a_peer_that_does_not_read_are_bounded() {
    let limits = Limits {
        send_deadline: Duration::from_secs(1),
        ..Limits::default()
    };
    let sockets = sockets(limits);
    let app = Router::new()
        .route("/echo", any(echo))
        .with_state(sockets.clone());
    let server = Server::start(app).await;
    let mut client = FrameClient::connect_small(server.addr, "/echo").await;
    let pings = Frame::new(PING, "x".repeat(125)).encode().repeat(1000);
    // This ends because the server stops reading and then drops the peer; otherwise it would gather pongs without end.
    within("the server to drop the peer", async {
        while client.socket.write_all(&pings).await.is_ok() {}
    })
    .await;
    assert_eq!(sockets.drained(PATIENCE).await, 0);
}

/// 503, which clients retry, and not a socket too many.
#[tokio::test]
async fn open_sockets_are_bounded() {
    let limits = Limits {
        sockets: 1,
        ..Limits::default()
    };
    let server = echo_server(limits).await;
    let first = FrameClient::connect(server.addr, "/echo").await;
    let refused = FrameClient::handshake(server.addr, "/echo", &[]).await;
    assert_eq!(refused.status(), 503);
    assert!(refused.head.contains("retry-after: "), "{}", refused.head);
    drop(first);
    within("the place to be free", async {
        while FrameClient::handshake(server.addr, "/echo", &[])
            .await
            .status()
            != 101
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
