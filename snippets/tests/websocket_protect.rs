//! `websocket/protect`: who gets a socket, what each way of refusing looks like, and when a session ends.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::Message;
use axum::response::Response;
use axum::routing::any;
use axum::{Router, middleware};
use snippets::connections::crowd::Recheck;
use snippets::connections::tickets::Tickets;
use snippets::websocket::admission::{Admission, FirstMessage};
use snippets::websocket::messages;
use snippets::websocket::outbox::Outbox;
use snippets::websocket::protect::{self, Guard};
use snippets::websocket::rates::{Quotas, Rates};
use snippets::websocket::rooms::{Hub, Rules};
use snippets::websocket::rooms_endpoint;
use snippets::websocket::serve::Limits;
use snippets::websocket::serve::{Handler, Sockets, Upgrade};
use snippets::websocket::users::{Accounts, Rechecked, Unavailable, User};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::support::frames::{BINARY, PING, PONG, Seen, handshake_request};
use crate::support::{Frame, FrameClient, RawClient, Server, eventually};

fn user(name: &str) -> User {
    User {
        name: name.into(),
        admin: false,
        expires: Instant::now() + Duration::from_secs(3600),
    }
}

/// The session `s-<name>` and the token `t-<name>` belong to <name>.
struct TestAccounts;

impl Accounts for TestAccounts {
    async fn by_session(&self, cookie: &str) -> Result<Option<User>, Unavailable> {
        match cookie {
            "down" => Err(Unavailable),
            "hangs" => std::future::pending().await,
            _ => Ok(cookie.strip_prefix("s-").map(user)),
        }
    }

    async fn by_token(&self, token: &str) -> Result<Option<User>, Unavailable> {
        Ok(token.strip_prefix("t-").map(user))
    }
}

async fn start() -> (Server, Tickets) {
    let sockets = Sockets::new(Limits::default(), CancellationToken::new());
    let guard = Guard {
        origins: Arc::new(["https://app.example".to_owned()]),
        cookie: "sid",
        subprotocols: &["demo.v1"],
        accounts: Arc::new(TestAccounts),
        tickets: Tickets::default(),
        sockets: sockets.clone(),
        allowed: |user| &*user.name != "banned",
    };
    let tickets = guard.tickets.clone();
    let app = messages::router(sockets)
        .layer(middleware::from_fn_with_state(guard, protect::authenticate));
    (Server::start(app).await, tickets)
}

/// What a client learns: the status of the handshake, and the code of the Close that follows at once, if one does.
async fn attempt(server: &Server, path: &str, headers: &[&str]) -> (u16, Option<u16>) {
    let mut client = FrameClient::handshake(server.addr, path, headers).await;
    if client.status() != 101 {
        return (client.status(), None);
    }
    client
        .send_text(r#"{"type":"echo","id":1,"text":"in"}"#)
        .await;
    match client.next().await {
        Seen::Frame(frame) => (101, frame.close_code()),
        Seen::Cut(cut) => panic!("{cut:?}"),
    }
}

const IN: (u16, Option<u16>) = (101, None);
const UNAUTHENTICATED: (u16, Option<u16>) = (101, Some(4401));
const FORBIDDEN: (u16, Option<u16>) = (101, Some(4403));
const FOREIGN: (u16, Option<u16>) = (403, None);

#[tokio::test]
async fn transcript() {
    let (server, _) = start().await;
    let mut text = String::new();
    let mut client = FrameClient::handshake(
        server.addr,
        "/ws",
        &[
            "origin: https://app.example",
            "sec-websocket-protocol: demo.v1, bearer.t-ada",
        ],
    )
    .await;
    client.note("the token is not sent back");
    text.push_str(&client.transcript());
    let mut client = FrameClient::handshake(
        server.addr,
        "/ws",
        &["origin: https://evil.example", "cookie: sid=s-ada"],
    )
    .await;
    client.note("a foreign page gets no reason; its script sees 1006");
    text.push_str("\n\n");
    text.push_str(&client.transcript());
    let used = "/ws?ticket=forged";
    let mut client =
        FrameClient::handshake(server.addr, used, &["origin: https://app.example"]).await;
    client.next().await;
    client.send(Frame::close(4401, "")).await;
    client.next().await;
    text.push_str("\n\n");
    text.push_str(&client.transcript());
    insta::assert_snapshot!(text);
}

// C1.
#[tokio::test]
async fn a_cookie_counts_only_with_an_allowed_origin() {
    let (server, _) = start().await;
    let cookie = "cookie: other=1; sid=s-ada";
    assert_eq!(
        attempt(&server, "/ws", &["origin: https://app.example", cookie]).await,
        IN
    );
    assert_eq!(attempt(&server, "/ws", &[cookie]).await, UNAUTHENTICATED);
    for foreign in [
        "https://evil.example",
        "http://app.example",
        "https://app.example:8443",
        "https://app.example.evil.example",
        "https://evil.app.example",
        "https://app.exampl",
        "null",
        "",
    ] {
        let origin = format!("origin: {foreign}");
        assert_eq!(
            attempt(&server, "/ws", &[&origin, cookie]).await,
            FOREIGN,
            "{foreign}"
        );
        // Whatever else it brings.
        assert_eq!(
            attempt(&server, "/ws", &[&origin, "authorization: Bearer t-ada"]).await,
            FOREIGN,
            "{foreign}"
        );
    }
    assert_eq!(
        attempt(
            &server,
            "/ws",
            &["origin: https://app.example", "cookie: sid=forged"]
        )
        .await,
        UNAUTHENTICATED
    );
    assert_eq!(
        attempt(&server, "/ws", &["origin: https://app.example"]).await,
        UNAUTHENTICATED
    );
}

// C2.
#[tokio::test]
async fn a_token_in_the_subprotocol_is_used_and_not_echoed() {
    let (server, _) = start().await;
    let origin = "origin: https://app.example";
    for offer in [
        "demo.v1, bearer.t-ada",
        "bearer.t-ada, demo.v1",
        "bearer.t-ada,demo.v1",
    ] {
        let offer = format!("sec-websocket-protocol: {offer}");
        let client = FrameClient::handshake(server.addr, "/ws", &[origin, &offer]).await;
        assert_eq!(client.status(), 101);
        assert!(
            client.head.contains("sec-websocket-protocol: demo.v1\r\n"),
            "{}",
            client.head
        );
        assert!(!client.head.contains("t-ada"), "{}", client.head);
    }
    // Refused, the subprotocol is selected all the same: without one the browser would not show the close code.
    let mut client = FrameClient::handshake(
        server.addr,
        "/ws",
        &[origin, "sec-websocket-protocol: demo.v1, bearer.wrong"],
    )
    .await;
    assert!(
        client.head.contains("sec-websocket-protocol: demo.v1\r\n"),
        "{}",
        client.head
    );
    assert_eq!(client.next_close().await, Some(4401));
}

#[tokio::test]
async fn a_ticket_is_good_for_one_connection() {
    let (server, tickets) = start().await;
    let path = format!(
        "/ws?ticket={}",
        protect::issue_ticket(&tickets, &user("ada")).unwrap()
    );
    let origin = "origin: https://app.example";
    assert_eq!(
        attempt(&server, &path, &["origin: https://evil.example"]).await,
        FOREIGN
    );
    assert_eq!(
        attempt(&server, &path, &[origin]).await,
        IN,
        "a foreign page does not use it up"
    );
    assert_eq!(attempt(&server, &path, &[origin]).await, UNAUTHENTICATED);
}

/// A ticket that came too late is no reason to stop: the client fetches a new one.
#[tokio::test]
async fn an_expired_ticket_is_a_reason_to_retry() {
    let (server, tickets) = start().await;
    let before = std::time::SystemTime::now() - Duration::from_secs(60);
    let claims = serde_json::json!({ "admin": false, "session": 3600 });
    let late = tickets.issue_at(before, "ada", &claims).unwrap();
    let path = format!("/ws?ticket={late}");
    let origin = "origin: https://app.example";
    assert_eq!(attempt(&server, &path, &[origin]).await, (101, Some(4408)));
}

#[tokio::test]
async fn other_clients_send_the_token_in_the_header() {
    let (server, _) = start().await;
    assert_eq!(
        attempt(&server, "/ws", &["authorization: Bearer t-ada"]).await,
        IN
    );
    assert_eq!(
        attempt(&server, "/ws", &["authorization: Bearer t-banned"]).await,
        FORBIDDEN
    );
    // No handshake at all: an ordinary status.
    for (header, status) in [("x: y", 401), ("authorization: Bearer t-banned", 403)] {
        let mut client = RawClient::get(server.addr, "/ws", &[header]).await;
        client.read_head().await;
        assert_eq!(client.status(), status);
    }
}

/// The heartbeat of a page may come before its token.
#[tokio::test]
async fn a_heartbeat_before_the_first_message_is_answered() {
    let outbox = Outbox::new(8, 1 << 20);
    let mut handler = first_message(&outbox);
    handler.on_message(r#"{"type":"ping"}"#.into(), &outbox);
    handler.on_message(r#"{"type":"auth","token":"t-ada"}"#.into(), &outbox);
    assert_eq!(outbox.pop(), Some(r#"{"type":"pong"}"#.into()));
    assert_eq!(outbox.pop(), Some(r#"{"type":"ready"}"#.into()));
}

/// Nothing of the credentials, and nothing of the server's inside, is in a refusal.
#[tokio::test]
async fn refusals_tell_nothing() {
    let (server, _) = start().await;
    for headers in [
        &["origin: https://evil.example", "cookie: sid=s-secret"][..],
        &["authorization: Bearer wrong-secret"],
        &["sec-websocket-protocol: demo.v1, bearer.wrong-secret"],
    ] {
        let mut client = RawClient::connect(server.addr).await;
        use tokio::io::AsyncWriteExt;
        client
            .socket
            .write_all(handshake_request("/ws", headers).as_bytes())
            .await
            .unwrap();
        client.read_head().await;
        while !client.received.ends_with(b"log in")
            && !client.received.ends_with(b"origin not allowed")
        {
            assert!(client.read_some().await);
        }
        let all = String::from_utf8_lossy(&client.received).into_owned();
        assert!(!all.contains("secret"), "{all}");
    }
}

fn close_of(outbox: &Outbox) -> (u16, String) {
    match outbox.pop() {
        Some(Message::Close(Some(frame))) => (frame.code, frame.reason.to_string()),
        other => panic!("{other:?}"),
    }
}

struct Echo;

impl Handler for Echo {
    fn on_message(&mut self, message: Message, outbox: &Outbox) {
        outbox.send(message);
    }
}

fn first_message(outbox: &Outbox) -> impl Handler + use<> {
    first_message_of(outbox, Admission::default())
}

fn first_message_of(outbox: &Outbox, admission: Admission) -> impl Handler + use<> {
    FirstMessage::new(
        outbox,
        admission,
        |token: &str| std::future::ready(Ok(token.strip_prefix("t-").map(user))),
        |_, _: &Outbox| Echo,
    )
}

/// A session store that answers when the test lets it, and how often it was asked.
#[derive(Clone, Default)]
struct Store {
    asked: Arc<AtomicUsize>,
    answer: Arc<Mutex<Option<Result<bool, Unavailable>>>>,
}

impl Store {
    fn set(&self, answer: Option<Result<bool, Unavailable>>) {
        *self.answer.lock().unwrap() = answer;
    }

    async fn asked_again(&self) {
        let before = self.asked.load(Ordering::SeqCst);
        eventually("a check", || self.asked.load(Ordering::SeqCst) > before + 1).await;
    }
}

impl Accounts for Store {
    async fn by_session(&self, _: &str) -> Result<Option<User>, Unavailable> {
        Ok(None)
    }

    async fn by_token(&self, _: &str) -> Result<Option<User>, Unavailable> {
        Ok(None)
    }

    async fn is_valid(&self, _: &User) -> Result<bool, Unavailable> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let answer = *self.answer.lock().unwrap();
        match answer {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }
}

/// The rooms of the pack, for `ada`, whose session is checked.
async fn rechecked(store: &Store, recheck: Recheck) -> (Server, FrameClient) {
    let limits = Limits {
        ping_every: Duration::from_millis(100),
        // The client of the tests sends no pongs.
        silent_pings: u32::MAX,
        ..Limits::default()
    };
    let sockets = Sockets::new(limits, CancellationToken::new());
    let limit = Rechecked {
        limit: Rates::new(Quotas::default()),
        accounts: Arc::new(store.clone()),
        recheck,
    };
    let app = rooms_endpoint::router(sockets, Hub::new(Rules::default()), limit);
    let server = Server::start(app.layer(axum::Extension(user("ada")))).await;
    let mut client = FrameClient::connect(server.addr, "/rooms").await;
    client.send_text(r#"{"type":"ping"}"#).await;
    assert_eq!(client.next_text().await, r#"{"type":"pong"}"#);
    (server, client)
}

const SOON: Recheck = Recheck {
    every: Duration::from_millis(20),
    deadline: Duration::from_millis(20),
    patience: Duration::from_secs(3600),
};

#[tokio::test]
async fn a_session_that_ends_in_the_store_closes_its_open_socket() {
    let store = Store::default();
    store.set(Some(Ok(true)));
    let (_server, mut client) = rechecked(&store, SOON).await;
    store.asked_again().await;
    client.send_text(r#"{"type":"ping"}"#).await;
    assert_eq!(client.next_text().await, r#"{"type":"pong"}"#);
    store.set(Some(Ok(false)));
    assert_eq!(client.next_close().await, Some(4408));
}

/// A store that hangs or fails: messages and heartbeats go on, until the patience is over.
#[tokio::test]
async fn a_session_store_that_is_down_ends_no_socket_before_its_time() {
    for answer in [None, Some(Err(Unavailable))] {
        let store = Store::default();
        store.set(answer);
        let (_server, mut client) = rechecked(&store, SOON).await;
        store.asked_again().await;
        client.send_text(r#"{"type":"ping"}"#).await;
        assert_eq!(client.next_text().await, r#"{"type":"pong"}"#);
        // The server's own pings come while a check waits.
        while !matches!(client.next().await, Seen::Frame(frame) if frame.opcode == PING) {}
        let impatient = Recheck {
            patience: Duration::ZERO,
            ..SOON
        };
        let (_server, mut client) = rechecked(&store, impatient).await;
        assert_eq!(client.next_close().await, Some(1013));
    }
}

#[tokio::test]
async fn a_session_store_that_is_down_is_overload_at_the_handshake() {
    let (server, _) = start().await;
    let all = ["cookie: sid=down", "cookie: sid=hangs"].map(async |cookie| {
        let headers = ["origin: https://app.example", cookie];
        assert_eq!(attempt(&server, "/ws", &headers).await, (101, Some(1013)));
    });
    futures::future::join_all(all).await;
}

/// The token is verified elsewhere: what the client sends meanwhile is handled after it.
#[tokio::test]
async fn messages_wait_while_the_first_token_is_verified() {
    let (answer, verified) = tokio::sync::watch::channel(None);
    let verify = move |_: &str| {
        let mut verified = verified.clone();
        async move {
            let verified = verified.wait_for(Option::is_some).await;
            Ok(verified.map_err(|_| Unavailable)?.clone())
        }
    };
    let upgrade = async move |State(sockets): State<Sockets>, upgrade: Upgrade| {
        sockets.accept(upgrade, move |outbox| {
            let echo = |_: User, _: &Outbox| Echo;
            FirstMessage::new(outbox, Admission::default(), verify, echo)
        })
    };
    let sockets = Sockets::new(Limits::default(), CancellationToken::new());
    let app = Router::new()
        .route("/first", any(upgrade))
        .with_state(sockets);
    let server = Server::start(app).await;
    let mut client = FrameClient::connect(server.addr, "/first").await;
    client.send_text(r#"{"type":"auth","token":"t-ada"}"#).await;
    client.send_text("one").await;
    client.send_text("two").await;
    // The connection is alive while the store thinks.
    client.send(Frame::new(PING, "here")).await;
    while !matches!(client.next().await, Seen::Frame(frame) if frame.opcode == PONG) {}
    answer.send_replace(Some(user("ada")));
    assert_eq!(client.next_text().await, r#"{"type":"ready"}"#);
    assert_eq!(client.next_text().await, "one");
    assert_eq!(client.next_text().await, "two");
}

/// A new token on an open socket moves the end of its session; another user's, or a bad one, ends it.
#[tokio::test(start_paused = true)]
async fn a_token_is_refreshed_on_an_open_socket() {
    let outbox = Outbox::new(8, 1 << 20);
    let mut handler = first_message(&outbox);
    let auth = |name: &str| Message::from(format!(r#"{{"type":"auth","token":"{name}"}}"#));
    handler.on_message(auth("t-ada"), &outbox);
    assert_eq!(outbox.pop(), Some(r#"{"type":"ready"}"#.into()));
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(3500)).await;
        handler.on_message(auth("t-ada"), &outbox);
        assert_eq!(outbox.pop(), Some(r#"{"type":"ready"}"#.into()));
        handler.on_message("still in".into(), &outbox);
        assert_eq!(outbox.pop(), Some("still in".into()));
    }
    tokio::time::sleep(Duration::from_secs(3601)).await;
    assert_eq!(close_of(&outbox), (4408, "session expired".into()));
    for other in ["t-bob", "forged"] {
        let outbox = Outbox::new(8, 1 << 20);
        let mut handler = first_message(&outbox);
        handler.on_message(auth("t-ada"), &outbox);
        outbox.pop();
        handler.on_message(auth(other), &outbox);
        assert_eq!(close_of(&outbox).0, 4401);
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_stays_unknown_is_closed() {
    let outbox = Outbox::new(8, 1 << 20);
    let _handler = first_message(&outbox);
    tokio::time::sleep(Admission::default().deadline - Duration::from_millis(1)).await;
    assert!(!outbox.is_closed());
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert_eq!(close_of(&outbox), (4408, "authenticate first".into()));
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_on_an_open_socket() {
    let outbox = Outbox::new(8, 1 << 20);
    let mut handler = first_message(&outbox);
    handler.on_message(r#"{"type":"auth","token":"t-ada"}"#.into(), &outbox);
    assert_eq!(outbox.pop(), Some(r#"{"type":"ready"}"#.into()));
    tokio::time::sleep(Duration::from_secs(3599)).await;
    handler.on_message("still in".into(), &outbox);
    assert_eq!(outbox.pop(), Some("still in".into()));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(close_of(&outbox), (4408, "session expired".into()));
}

#[tokio::test]
async fn the_first_message_is_a_token_and_nothing_else() {
    let too_big = format!(
        r#"{{"type":"auth","token":"t-{}"}}"#,
        "x".repeat(Admission::default().most_bytes)
    );
    let cases: [(Message, u16); 6] = [
        (r#"{"type":"auth","token":"forged"}"#.into(), 4401),
        (r#"{"type":"echo","token":"t-ada"}"#.into(), 4401),
        (r#"{"type":"auth","token":"t-ada","more":1}"#.into(), 4401),
        ("not json".into(), 4401),
        (Message::Binary("x".into()), 4401),
        (too_big.into(), 1009),
    ];
    for (message, code) in cases {
        let outbox = Outbox::new(8, 1 << 20);
        let mut handler = first_message(&outbox);
        handler.on_message(message, &outbox);
        // There is no second attempt on this connection.
        handler.on_message(r#"{"type":"auth","token":"t-ada"}"#.into(), &outbox);
        assert_eq!(close_of(&outbox).0, code);
        assert!(outbox.pop().is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_message_follows_the_contract_of_the_reader() {
    let admission = Admission {
        deadline: Duration::from_secs(10),
        tag: "op",
        auth: "hello",
        token: "jwt",
        ready: Some(|user| serde_json::json!({ "op": "welcome", "user": &*user.name })),
        refused: (4001, "unauthorized"),
        late: (4002, "hello first"),
        ..Admission::default()
    };
    let outbox = Outbox::new(8, 1 << 20);
    let mut handler = first_message_of(&outbox, admission);
    handler.on_message(r#"{"op":"ping"}"#.into(), &outbox);
    assert_eq!(outbox.pop(), Some(r#"{"op":"pong"}"#.into()));
    handler.on_message(r#"{"op":"hello","jwt":"t-ada"}"#.into(), &outbox);
    let welcome = r#"{"op":"welcome","user":"ada"}"#;
    assert_eq!(outbox.pop(), Some(welcome.into()));
    handler.on_message("in".into(), &outbox);
    assert_eq!(outbox.pop(), Some("in".into()));

    let outbox = Outbox::new(8, 1 << 20);
    let mut handler = first_message_of(&outbox, admission);
    handler.on_message(r#"{"type":"auth","token":"t-ada"}"#.into(), &outbox);
    assert_eq!(close_of(&outbox), (4001, "unauthorized".into()));

    let outbox = Outbox::new(8, 1 << 20);
    let _handler = first_message_of(&outbox, admission);
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(close_of(&outbox), (4002, "hello first".into()));
}

#[tokio::test]
async fn first_message_over_a_socket() {
    async fn upgrade(State(sockets): State<Sockets>, upgrade: Upgrade) -> Response {
        sockets.accept(upgrade, first_message)
    }
    let limits = Limits {
        message: Admission::default().most_bytes,
        ..Limits::default()
    };
    let sockets = Sockets::new(limits, CancellationToken::new());
    let server = Server::start(
        Router::new()
            .route("/first", any(upgrade))
            .with_state(sockets),
    )
    .await;
    let mut client = FrameClient::connect(server.addr, "/first").await;
    client.send_text(r#"{"type":"auth","token":"t-ada"}"#).await;
    client.send_text("hello").await;
    assert_eq!(client.next_text().await, r#"{"type":"ready"}"#);
    assert_eq!(client.next_text().await, "hello");
    // Before anybody is known the library reads at most four times the small limit.
    let mut client = FrameClient::connect(server.addr, "/first").await;
    client
        .send(Frame::new(
            BINARY,
            vec![0; 5 * Admission::default().most_bytes],
        ))
        .await;
    assert_eq!(client.next_close().await, Some(1009));
}
