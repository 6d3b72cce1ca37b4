//! `websocket/observe`: every end has its reason, and the gauge returns to zero.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::extract::ws::Message;
use axum::response::Response;
use axum::routing::any;
use snippets::production::scrape;
use snippets::websocket::limits::Limits;
use snippets::websocket::observe::SocketMetrics;
use snippets::websocket::outbox::Outbox;
use snippets::websocket::serve::{Handler, Sockets, Upgrade};
use tokio_util::sync::CancellationToken;

use crate::support::frames::TEXT;
use crate::support::{Frame, FrameClient, Server, eventually};

struct Odd;

impl Handler for Odd {
    fn on_message(&mut self, message: Message, outbox: &Outbox) {
        match message.to_text() {
            Ok("panic") => panic!("as the test wants it"),
            _ => outbox.close(1013, "busy"),
        }
    }
}

async fn upgrade(State(sockets): State<Sockets>, upgrade: Upgrade) -> Response {
    sockets.accept(upgrade, |_| Odd)
}

#[tokio::test]
async fn each_end_is_counted_with_its_reason() {
    let recorder = Box::leak(Box::new(scrape::recorder().unwrap()));
    let handle = recorder.handle();
    let _guard = metrics::set_default_local_recorder(recorder);
    let metrics = Arc::new(SocketMetrics::new("test"));
    let stop = CancellationToken::new();
    let limits = Limits {
        sockets: 5,
        ..Limits::default()
    };
    let sockets = Sockets::observed(limits, metrics, stop.clone());
    let app = Router::new()
        .route("/ws", any(upgrade))
        .with_state(sockets.clone());
    let server = Server::start(app).await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(FrameClient::connect(server.addr, "/ws").await);
    }
    assert_eq!(
        FrameClient::handshake(server.addr, "/ws", &[])
            .await
            .status(),
        503
    );
    let shows = |line: &str| handle.render().lines().any(|other| other == line);
    eventually("five open ones", || {
        shows(r#"websocket_open{kind="test"} 5"#)
    })
    .await;
    let closed = |reason: &str, code: u16| {
        format!(r#"websocket_closed_total{{kind="test",reason="{reason}",code="{code}"}} 1"#)
    };
    clients[0].send(Frame::close(1000, "")).await;
    clients[1].send(Frame::new(TEXT, b"\xff")).await;
    clients[2].send_text("panic").await;
    clients[3].send_text("close").await;
    for code in [1007, 1013] {
        let client = &mut clients[if code == 1007 { 1 } else { 3 }];
        assert_eq!(client.next_close().await, Some(code));
        client.send(Frame::close(code, "")).await;
    }
    clients.remove(4).socket.set_zero_linger().unwrap();
    clients.clear();
    for (reason, code) in [
        ("peer", 1000),
        ("violation", 1007),
        ("panic", 1006),
        ("server", 1013),
        ("lost", 1006),
    ] {
        eventually(reason, || shows(&closed(reason, code))).await;
    }
    assert!(shows(r#"websocket_open{kind="test"} 0"#));
    assert!(shows(r#"websocket_opened_total{kind="test"} 5"#));
    assert!(shows(r#"websocket_refused_total{kind="test"} 1"#));
    assert!(
        handle
            .render()
            .contains(r#"websocket_duration_seconds_count{kind="test"} 5"#)
    );
}
