//! `websocket/rates`: what is over the limit is answered, then ends the connection.

use std::num::NonZeroU32;
use std::time::Duration;

use axum::extract::ws::Message;
use axum::routing::any;
use axum::{Router, middleware};
use governor::Quota;
use snippets::websocket::outbox::Outbox;
use snippets::websocket::rates::{self, Quotas, Rates};
use snippets::websocket::serve::Handler;
use snippets::websocket::users::User;
use tokio::time::Instant;

use crate::support::{RawClient, Server};

/// Refills once an hour: nothing depends on how fast the test runs.
fn burst(n: u32) -> Quota {
    Quota::per_hour(NonZeroU32::new(1).unwrap()).allow_burst(NonZeroU32::new(n).unwrap())
}

fn quotas() -> Quotas {
    Quotas {
        messages: burst(3),
        user: burst(5),
        bytes: burst(1000),
        sockets: 2,
        control: burst(2),
        refusals: Some(burst(4)),
        connects: burst(2),
        ..Quotas::default()
    }
}

fn ada() -> User {
    User {
        name: "ada".into(),
        admin: false,
        expires: Instant::now() + Duration::from_secs(3600),
    }
}

struct Count(u32);

impl Handler for Count {
    fn on_message(&mut self, _: Message, outbox: &Outbox) {
        self.0 += 1;
        outbox.send(self.0.to_string().into());
    }
}

fn text(outbox: &Outbox) -> String {
    match outbox.pop() {
        Some(Message::Text(text)) => text.to_string(),
        Some(Message::Close(Some(frame))) => format!("close {}", frame.code),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn messages_over_the_limit_are_answered_and_then_end_the_connection() {
    let rates = Rates::new(quotas());
    let outbox = Outbox::new(16, 1 << 20);
    let mut handler = rates.limit(&ada(), &outbox, Count(0));
    for _ in 0..3 {
        handler.on_message("x".into(), &outbox);
    }
    assert_eq!(
        [text(&outbox), text(&outbox), text(&outbox)],
        ["1", "2", "3"]
    );
    let null = serde_json::Value::Null;
    for (message, id, room) in [
        (
            r#"{"type":"publish","id":"m1","room":"talk"}"#,
            "m1".into(),
            "talk".into(),
        ),
        (
            r#"{"type":"join","room":"talk"}"#,
            null.clone(),
            "talk".into(),
        ),
        (
            r#"{"type":"echo","id":7,"room":["no","name"]}"#,
            7.into(),
            null.clone(),
        ),
        ("no JSON", null.clone(), null),
    ] {
        handler.on_message(message.into(), &outbox);
        let answer: serde_json::Value = serde_json::from_str(&text(&outbox)).unwrap();
        assert_eq!(answer["code"], "rate_limited");
        assert_eq!((&answer["id"], &answer["room"]), (&id, &room));
        assert!(answer["retry_after_ms"].as_u64().unwrap() > 3_500_000);
    }
    // Load, and not a mistake of the client: it reconnects later.
    handler.on_message("x".into(), &outbox);
    assert_eq!(text(&outbox), "close 1013");
}

#[tokio::test]
async fn a_user_has_one_limit_over_all_connections() {
    let rates = Rates::new(quotas());
    let (one, two) = (Outbox::new(16, 1 << 20), Outbox::new(16, 1 << 20));
    let (mut first, mut second) = (
        rates.limit(&ada(), &one, Count(0)),
        rates.limit(&ada(), &two, Count(0)),
    );
    for _ in 0..3 {
        first.on_message("x".into(), &one);
        second.on_message("x".into(), &two);
    }
    assert_eq!(one.depth().0, 3);
    assert_eq!([text(&two), text(&two)], ["1", "2"]);
    assert!(text(&two).contains("rate_limited"));
    let other = Outbox::new(16, 1 << 20);
    let eve = User {
        name: "eve".into(),
        ..ada()
    };
    rates
        .limit(&eve, &other, Count(0))
        .on_message("x".into(), &other);
    assert_eq!(text(&other), "1");
}

/// Long messages use up the bytes before the messages; one that is longer than the burst takes all of it.
#[tokio::test]
async fn a_user_has_one_limit_of_bytes_over_all_connections() {
    let rates = Rates::new(quotas());
    let (one, two) = (Outbox::new(16, 1 << 20), Outbox::new(16, 1 << 20));
    let (mut first, mut second) = (
        rates.limit(&ada(), &one, Count(0)),
        rates.limit(&ada(), &two, Count(0)),
    );
    first.on_message("x".repeat(600).into(), &one);
    second.on_message(vec![0; 401].into(), &two);
    second.on_message(vec![0; 400].into(), &two);
    assert_eq!(text(&one), "1");
    assert!(text(&two).contains("rate_limited"));
    assert_eq!(text(&two), "1");
    let other = Outbox::new(16, 1 << 20);
    let eve = User {
        name: "eve".into(),
        ..ada()
    };
    let mut handler = rates.limit(&eve, &other, Count(0));
    handler.on_message(vec![0; 5000].into(), &other);
    handler.on_message(vec![0; 1].into(), &other);
    assert_eq!(text(&other), "1");
    assert!(text(&other).contains("rate_limited"));
}

/// The place of a connection is free again when it ends.
#[tokio::test]
async fn a_user_has_so_many_open_sockets() {
    let rates = Rates::new(quotas());
    let open = || {
        let outbox = Outbox::new(16, 1 << 20);
        (rates.limit(&ada(), &outbox, Count(0)), outbox)
    };
    let (first, second, third) = (open(), open(), open());
    assert!(!first.1.is_closed() && !second.1.is_closed());
    assert_eq!(text(&third.1), "close 1013");
    drop(third);
    assert!(open().1.is_closed());
    drop(first);
    assert!(!open().1.is_closed());
}

/// A logout or a ban ends all of them, and of nobody else.
#[tokio::test]
async fn a_user_is_disconnected_on_all_sockets() {
    let rates = Rates::new(quotas());
    let open = |user: &User| {
        let outbox = Outbox::new(16, 1 << 20);
        (rates.limit(user, &outbox, Count(0)), outbox)
    };
    let eve = User {
        name: "eve".into(),
        ..ada()
    };
    let (first, second, other) = (open(&ada()), open(&ada()), open(&eve));
    assert_eq!(rates.disconnect("ada", 4401, "logged out"), 2);
    assert_eq!(text(&first.1), "close 4401");
    assert_eq!(text(&second.1), "close 4401");
    assert!(!other.1.is_closed());
    drop((first, second));
    assert_eq!(rates.disconnect("ada", 4401, "logged out"), 0);
}

#[tokio::test]
async fn a_contract_may_never_close_for_the_rate() {
    let rates = Rates::new(Quotas {
        refusals: None,
        ..quotas()
    });
    let outbox = Outbox::new(1024, 1 << 20);
    let mut handler = rates.limit(&ada(), &outbox, Count(0));
    for _ in 0..500 {
        handler.on_message("{}".into(), &outbox);
    }
    assert!(!outbox.is_closed());
}

#[tokio::test]
async fn control_frames_are_limited() {
    let rates = Rates::new(quotas());
    let outbox = Outbox::new(16, 1 << 20);
    let mut handler = rates.limit(&ada(), &outbox, Count(0));
    handler.on_control(&outbox);
    handler.on_control(&outbox);
    assert!(!outbox.is_closed());
    handler.on_control(&outbox);
    assert_eq!(text(&outbox), "close 1013");
}

#[tokio::test(start_paused = true)]
async fn the_session_ends_behind_the_limits_too() {
    let outbox = Outbox::new(16, 1 << 20);
    let _handler = Rates::new(quotas()).limit(&ada(), &outbox, Count(0));
    tokio::time::sleep(Duration::from_secs(3601)).await;
    assert_eq!(text(&outbox), "close 4408");
}

#[tokio::test]
async fn connects_over_the_limit_are_refused_with_429() {
    let rates = Rates::new(quotas());
    let app = Router::new()
        .route("/ws", any(|| async { "in" }))
        .layer(middleware::from_fn_with_state(rates, rates::limit_connects));
    let server = Server::start(app).await;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        let mut client = RawClient::get(server.addr, "/ws", &[]).await;
        let head = client.read_head().await;
        statuses.push((client.status(), head.contains("retry-after: 3")));
    }
    assert_eq!(statuses, [(200, false), (200, false), (429, true)]);
}

/// Addresses of one IPv6 customer count together, and an IPv4 address counts the same in both spellings.
#[tokio::test]
async fn connects_are_counted_by_network() {
    use axum::extract::ConnectInfo;
    use std::net::SocketAddr;
    use tower::ServiceExt;
    let rates = Rates::new(quotas());
    let app = Router::new()
        .route("/ws", any(|| async { "in" }))
        .layer(middleware::from_fn_with_state(rates, rates::limit_connects));
    let connect = |peer: &str| {
        let peer: SocketAddr = peer.parse().unwrap();
        let mut request = http::Request::get("/ws")
            .body(axum::body::Body::empty())
            .unwrap();
        request.extensions_mut().insert(ConnectInfo(peer));
        let app = app.clone();
        async move { app.oneshot(request).await.unwrap().status().as_u16() }
    };
    assert_eq!(connect("[2001:db8:1:2::1]:1").await, 200);
    assert_eq!(connect("[2001:db8:1:2:ffff::2]:1").await, 200);
    assert_eq!(connect("[2001:db8:1:2:3:4:5:6]:1").await, 429);
    assert_eq!(connect("[2001:db8:1:3::1]:1").await, 200);
    assert_eq!(connect("192.0.2.1:1").await, 200);
    assert_eq!(connect("[::ffff:192.0.2.1]:1").await, 200);
    assert_eq!(connect("192.0.2.1:2").await, 429);
}
