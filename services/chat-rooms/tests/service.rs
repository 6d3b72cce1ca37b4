//! The service as it is shipped: its contract, another contract, and no finding of the probe with the default settings.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;
use std::time::Duration;

use axum::response::IntoResponse;
use chat_rooms::{Service, Settings};
use futures::{SinkExt, StreamExt};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use snippets::connections::listen;
use snippets::websocket::rooms::{Full, Rules};
use stream_probe::{Finding, Kind, Options, Target, Verdict};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(60);

struct Running {
    addr: SocketAddr,
    stop: CancellationToken,
    service: Service,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

impl Running {
    async fn start(mut settings: Settings) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        settings.origins.push(format!("http://{addr}"));
        let service = Service::start(settings, stop.clone());
        let config = listen::Config::default();
        tokio::spawn(listen::serve(listener, service.app(), config, stop.clone()));
        Self {
            addr,
            stop,
            service,
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// The cookie of a new session.
    async fn log_in(&self, name: &str) -> String {
        let request = Client::new().post(self.url("/session"));
        let body = json!({ "name": name }).to_string();
        let request = request
            .header("content-type", "application/json")
            .body(body);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::CREATED);
        let cookie = response.headers()["set-cookie"].to_str().unwrap();
        cookie.split(';').next().unwrap().to_owned()
    }

    async fn connect(&self, path: &str, cookie: &str, origin: &str) -> Result<Socket, Error> {
        let mut request = format!("ws://{}{path}", self.addr).into_client_request()?;
        let headers = request.headers_mut();
        headers.insert("cookie", cookie.parse().unwrap());
        headers.insert("origin", origin.parse().unwrap());
        headers.insert("sec-websocket-protocol", "rooms.v1".parse().unwrap());
        Ok(connect_async(request).await?.0)
    }

    async fn socket(&self, path: &str, cookie: &str) -> Socket {
        let origin = format!("http://{}", self.addr);
        self.connect(path, cookie, &origin).await.unwrap()
    }
}

async fn ask(socket: &mut Socket, request: Value) {
    let request = Message::text(request.to_string());
    socket.send(request).await.unwrap();
}

/// The next message of this type.
async fn next(socket: &mut Socket, kind: &str) -> Value {
    let found = async {
        loop {
            let message = socket.next().await.unwrap().unwrap();
            if let Message::Text(text) = message {
                let value: Value = serde_json::from_str(&text).unwrap();
                if value["type"] == kind {
                    return value;
                }
            }
        }
    };
    timeout(PATIENCE, found).await.expect(kind)
}

async fn close_code(socket: &mut Socket) -> u16 {
    let found = async {
        loop {
            if let Message::Close(close) = socket.next().await.unwrap().unwrap() {
                return close.unwrap().code.into();
            }
        }
    };
    timeout(PATIENCE, found).await.expect("Close")
}

#[tokio::test]
async fn two_users_talk_and_a_logout_closes_the_sockets() {
    let chat = Running::start(Settings::default()).await;
    let (ada, bob) = (chat.log_in("ada").await, chat.log_in("bob").await);
    let mut sockets = [
        chat.socket("/rooms", &ada).await,
        chat.socket("/rooms", &bob).await,
    ];
    for socket in &mut sockets {
        ask(socket, json!({ "type": "join", "room": "lobby" })).await;
        next(socket, "joined").await;
    }
    let publish = json!({ "type": "publish", "id": "1", "room": "lobby", "data": "hello" });
    ask(&mut sockets[0], publish).await;
    for socket in &mut sockets {
        let message = next(socket, "message").await;
        assert_eq!(
            (&message["user"], &message["data"]),
            (&json!("ada"), &json!("hello"))
        );
    }
    let request = Client::new()
        .delete(chat.url("/session"))
        .header("cookie", &ada);
    assert_eq!(
        request.send().await.unwrap().status(),
        StatusCode::NO_CONTENT
    );
    assert_eq!(close_code(&mut sockets[0]).await, 4401);
    let mut late = chat.socket("/rooms", &ada).await;
    assert_eq!(close_code(&mut late).await, 4401, "the session is over");
    chat.stop.cancel();
    assert_eq!(close_code(&mut sockets[1]).await, 1001);
    drop((sockets, late));
    assert_eq!(chat.service.drained(PATIENCE).await, 0);
}

#[tokio::test]
async fn a_ticket_opens_one_socket_and_foreign_pages_none() {
    let chat = Running::start(Settings::default()).await;
    let cookie = chat.log_in("ada").await;
    let request = Client::new()
        .post(chat.url("/ticket"))
        .header("cookie", &cookie);
    let body = request.send().await.unwrap().text().await.unwrap();
    let ticket: Value = serde_json::from_str(&body).unwrap();
    let path = format!("/rooms?ticket={}", ticket["ticket"].as_str().unwrap());
    match chat.connect(&path, "x=y", "https://evil.example").await {
        Err(Error::Http(response)) => assert_eq!(response.status().as_u16(), 403),
        other => panic!("{:?}", other.map(drop)),
    }
    let mut first = chat.socket(&path, "x=y").await;
    ask(&mut first, json!({ "type": "ping" })).await;
    next(&mut first, "pong").await;
    assert_eq!(close_code(&mut chat.socket(&path, "x=y").await).await, 4401);
    let anonymous = Client::new()
        .post(chat.url("/ticket"))
        .send()
        .await
        .unwrap();
    assert_eq!(anonymous.status(), StatusCode::UNAUTHORIZED);
}

/// Another contract, by settings alone: name of the cookie, size of messages, policy of the rooms, number of sessions.
#[tokio::test]
async fn another_contract_is_a_matter_of_settings() {
    let mut settings = Settings {
        cookie: "__Host-chat",
        max_sessions: 2,
        rules: Rules {
            full: |_| Full::Conflate,
            ..Rules::default()
        },
        ..Settings::default()
    };
    settings.limits.message = 200;
    let chat = Running::start(settings).await;
    let ada = chat.log_in("ada").await;
    assert!(ada.starts_with("__Host-chat="));
    let bob = chat.log_in("bob").await;
    let request = Client::new().post(chat.url("/session"));
    let request = request
        .header("content-type", "application/json")
        .body(r#"{"name":"eve"}"#);
    assert_eq!(
        request.send().await.unwrap().status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
    let mut first = chat.socket("/rooms", &ada).await;
    ask(&mut first, json!({ "type": "join", "room": "price" })).await;
    next(&mut first, "joined").await;
    for n in 1..=3 {
        let publish = json!({ "type": "publish", "id": n.to_string(), "room": "price", "data": n });
        ask(&mut first, publish).await;
        next(&mut first, "ack").await;
    }
    let mut late = chat.socket("/rooms", &bob).await;
    ask(&mut late, json!({ "type": "join", "room": "price" })).await;
    assert_eq!(
        next(&mut late, "message").await["data"],
        3,
        "the newest value"
    );
    ask(&mut late, json!({ "type": "x".repeat(300) })).await;
    assert_eq!(close_code(&mut late).await, 1009);
}

#[tokio::test]
async fn the_probe_finds_nothing_with_the_default_settings() {
    let chat = Running::start(Settings::default()).await;
    let cookie = chat.log_in("ada").await;
    let url = format!("ws://{}/rooms", chat.addr);
    let mut options = Options::new(Target::parse(&url).unwrap());
    options.cookie = Some(cookie);
    options.origin = Some(format!("http://{}", chat.addr));
    options.subprotocols = vec!["rooms.v1".to_owned()];
    options.message = Some(r#"{"type":"leave","room":"x"}"#.into());
    options.budget = Duration::from_secs(120);
    let report = stream_probe::run(Kind::Ws, &options, None).await.unwrap();
    let lines: Vec<String> = report.findings.iter().map(Finding::line).collect();
    let failed = report.ids(Verdict::Failed);
    assert_eq!(failed, Vec::<&str>::new(), "{}", lines.join("\n"));
}

#[tokio::test]
async fn a_refusal_has_the_shape_of_the_reader() {
    let settings = Settings {
        refuse: |refusal| (StatusCode::IM_A_TEAPOT, refusal.code).into_response(),
        ..Settings::default()
    };
    let chat = Running::start(settings).await;
    let refused = Client::new()
        .post(chat.url("/ticket"))
        .send()
        .await
        .unwrap();
    assert_eq!(refused.status(), StatusCode::IM_A_TEAPOT);
    assert_eq!(refused.text().await.unwrap(), "unauthorized");
    for body in ["{", "{}", "{\"name\":1}"] {
        let invalid = Client::new()
            .post(chat.url("/session"))
            .header("content-type", "application/json")
            .body(body)
            .send()
            .await
            .unwrap();
        assert_eq!(invalid.text().await.unwrap(), "invalid", "{body}");
    }
}
