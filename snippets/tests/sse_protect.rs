use std::convert::Infallible;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Request, StatusCode};
use axum::response::Response;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use futures::{FutureExt, stream};
use http_body_util::BodyExt;
use serde_json::json;
use snippets::connections::crowd::{Over, Recheck};
use snippets::connections::per_user::PerUser;
use snippets::connections::tickets::Tickets;
use snippets::sse::event::Cursor;
use snippets::sse::event::Event;
use snippets::sse::log::{self, Log};
use snippets::sse::protect::{self, PublicError, Service, Sessions};
use snippets::sse::streams::{Config, Produced, Streams};
use snippets::sse::until::{Until, Users};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::support::raw::End;
use crate::support::{RawClient, Server, Transcript, eventually, within};

const ORIGIN: &str = "https://app.example";

pub fn service(max_streams: usize, per_user: usize, recheck: Duration) -> Arc<Service<Arc<Log>>> {
    let config = Config {
        max_streams,
        ..Config::default()
    };
    let sessions = Sessions::default();
    let tokens = [("alice-1", "alice"), ("alice-2", "alice"), ("bob-1", "bob")];
    for (token, user) in tokens {
        sessions.start(token, user);
    }
    Arc::new(Service {
        sessions,
        tickets: Tickets::default(),
        streams: Streams::start(config, CancellationToken::new()),
        per_user: PerUser::new(per_user),
        recheck: Recheck {
            every: recheck,
            ..Recheck::default()
        },
        users: Users::default(),
        log: Log::starting_after(
            Cursor { epoch: 1, seq: 0 },
            log::Config::complete(100, 100_000),
        ),
    })
}

pub fn app(service: &Arc<Service<Arc<Log>>>) -> axum::Router {
    let origins = vec![HeaderValue::from_static(ORIGIN)];
    protect::app(service.clone(), origins, |log, cursor| log.read(cursor))
}

pub async fn ask(
    app: &axum::Router,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Response {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::empty()).unwrap();
    app.clone().oneshot(request).await.unwrap()
}

async fn json_of(response: Response) -> serde_json::Value {
    let body = axum::body::to_bytes(response.into_body(), 10_000).await;
    serde_json::from_slice(&body.unwrap()).unwrap()
}

pub async fn ticket(app: &axum::Router, token: &str) -> String {
    let bearer = format!("Bearer {token}");
    let response = ask(app, "POST", "/tickets", &[("authorization", &bearer)]).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["cache-control"], "no-store");
    json_of(response).await["ticket"]
        .as_str()
        .unwrap()
        .to_owned()
}

pub const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn transcript() {
    let service = service(10, 1, HOUR);
    service
        .log
        .publish(&Event::new("note", &json!({"n": 1})).unwrap())
        .unwrap();
    let ticket = ticket(&app(&service), "alice-1").await;
    let server = Server::start(app(&service)).await;
    let path = format!("/events?ticket={ticket}");
    let mut transcript = Transcript::new();
    let request =
        "GET /events?ticket=[ticket] HTTP/1.1\nhost: localhost\norigin: https://app.example";
    let header = "origin: https://app.example";

    let mut client = RawClient::get(server.addr, &path, &[header]).await;
    client.read_until("\"n\":1}\n\n").await;
    transcript.request(request).response(&client);

    transcript.note("the same URL again, as an EventSource sends it when it reconnects");
    let mut again = RawClient::get(server.addr, &path, &[header]).await;
    again.read_until("}").await;
    transcript.request(request).response(&again);

    transcript.note("the same user, with a session cookie: one stream is open, one is allowed");
    let cookie = "cookie: session=alice-2";
    let mut third = RawClient::get(server.addr, "/events", &[header, cookie]).await;
    third.read_until("}").await;
    transcript.request(&format!(
        "GET /events HTTP/1.1\nhost: localhost\n{header}\n{cookie}"
    ));
    transcript.response(&third);

    insta::with_settings!({filters => vec![
        (r"retry: \d+", "retry: [1500 to 4500]"),
        (r"retry-after: [1-5]\b", "retry-after: [1 to 5]"),
        // The connection is kept for the next request; the answer has ended.
        (r"\}\[the response stays open\]", "}"),
    ]}, {
        insta::assert_snapshot!("sse_protect", transcript.finish());
    });
}

#[tokio::test]
async fn each_way_in_is_checked() {
    let service = service(10, 10, HOUR);
    let app = app(&service);
    for (headers, expected) in [
        (vec![("cookie", "session=alice-1")], 200),
        (vec![("cookie", "a=b; session=bob-1")], 200),
        (vec![("authorization", "Bearer alice-1")], 200),
        (vec![("authorization", "bearer alice-1")], 200),
        (vec![], 401),
        (vec![("cookie", "session=nobody")], 401),
        (vec![("cookie", "session=")], 401),
        (vec![("authorization", "Bearer nobody")], 401),
        (vec![("authorization", "Basic alice-1")], 401),
        (vec![("authorization", "alice-1")], 401),
        (vec![("authorization", "Bearer é")], 401),
        // Who sends a header is judged by it, not by a cookie beside it.
        (
            vec![
                ("authorization", "Bearer nobody"),
                ("cookie", "session=alice-1"),
            ],
            401,
        ),
    ] {
        let response = ask(&app, "GET", "/events", &headers).await;
        assert_eq!(response.status(), expected, "{headers:?}");
        if expected == 401 {
            assert_eq!(response.headers()["www-authenticate"], "Bearer");
            assert_eq!(json_of(response).await, json!({"code": "unauthorized"}));
        }
    }
    for query in [
        "?ticket=",
        "?ticket=nobody",
        "?ticket=a&ticket=b",
        "?ticket=%FF",
    ] {
        let response = ask(&app, "GET", &format!("/events{query}"), &[]).await;
        assert_eq!(response.status(), 401, "{query}");
        assert_eq!(
            json_of(response).await,
            json!({"code": "unauthorized"}),
            "{query}"
        );
    }
}

#[tokio::test]
async fn a_ticket_is_good_once_and_buys_no_ticket() {
    let service = service(10, 10, HOUR);
    let app = app(&service);
    let ticket = ticket(&app, "alice-1").await;
    // A link preview that follows with HEAD does not use it up.
    let path = format!("/events?ticket={ticket}");
    assert_eq!(ask(&app, "HEAD", &path, &[]).await.status(), 200);
    let post = format!("/tickets?ticket={ticket}");
    assert_eq!(ask(&app, "POST", &post, &[]).await.status(), 401);
    assert_eq!(ask(&app, "GET", &path, &[]).await.status(), 200);
    assert_eq!(ask(&app, "GET", &path, &[]).await.status(), 401);
}

#[tokio::test]
async fn a_ticket_ends_with_the_session_that_asked_for_it() {
    let service = service(10, 10, HOUR);
    let app = app(&service);
    let ticket = ticket(&app, "alice-1").await;
    service.sessions.end("alice-1");
    let response = ask(&app, "GET", &format!("/events?ticket={ticket}"), &[]).await;
    assert_eq!(response.status(), 401);
}

/// A URL ends up in logs: whoever decodes the ticket finds no credential.
#[tokio::test]
async fn a_ticket_shows_no_session_token() {
    let service = service(10, 10, HOUR);
    let ticket = ticket(&app(&service), "alice-1").await;
    let (content, _) = ticket.split_once('.').unwrap();
    let content = BASE64_URL_SAFE_NO_PAD.decode(content).unwrap();
    let content = String::from_utf8(content).unwrap();
    assert!(content.contains("\"user\":\"alice\""), "{content}");
    assert!(!content.contains("alice-1"), "{content}");
    // The claims open nothing by themselves.
    let claims: serde_json::Value = serde_json::from_str(&content).unwrap();
    let cookie = format!("session={}", claims["claims"].as_str().unwrap());
    let response = ask(&app(&service), "GET", "/events", &[("cookie", &cookie)]).await;
    assert_eq!(response.status(), 401);
}

#[tokio::test]
async fn limits_per_user_and_in_all_count_open_streams() {
    let service = service(3, 2, HOUR);
    service
        .log
        .publish(&Event::new("note", &()).unwrap())
        .unwrap();
    let server = Server::start(app(&service)).await;
    let open = async |token: &str| {
        let cookie = format!("cookie: session={token}");
        let mut client = RawClient::get(server.addr, "/events", &[&cookie]).await;
        client.read_head().await;
        client
    };
    // Both sessions of alice count together.
    let first = open("alice-1").await;
    let second = open("alice-2").await;
    let mut refused = open("alice-1").await;
    refused.read_until("}").await;
    assert_eq!(
        (refused.status(), refused.body()),
        (429, r#"{"code":"too_many_streams"}"#.into())
    );
    assert!(
        refused.head().contains("retry-after: "),
        "{}",
        refused.head()
    );
    let third = open("bob-1").await;
    let mut refused = open("bob-1").await;
    refused.read_until("}").await;
    assert_eq!(
        (refused.status(), refused.body()),
        (503, r#"{"code":"unavailable"}"#.into())
    );
    assert!(
        refused.head().contains("retry-after: "),
        "{}",
        refused.head()
    );
    assert_eq!([&first, &second, &third].map(RawClient::status), [200; 3]);
    // Each place is freed with its stream, and nothing is kept of a user who has none.
    drop((first, second, third));
    eventually("all places to be free", || service.streams.open() == 0).await;
    assert_eq!(service.per_user.users(), 0);
    assert_eq!(open("alice-1").await.status(), 200);
}

#[tokio::test]
async fn a_logout_ends_the_open_stream() {
    let service = service(10, 10, Duration::from_millis(20));
    service
        .log
        .publish(&Event::new("note", &()).unwrap())
        .unwrap();
    let server = Server::start(app(&service)).await;
    let cookie = "cookie: session=alice-1";
    let mut client = RawClient::get(server.addr, "/events", &[cookie]).await;
    client.read_until("event: note").await;
    service.sessions.end("alice-1");
    assert_eq!(client.read_to_end().await, End::Complete);
    let last = "event: unauthorized\ndata: {\"code\":\"unauthorized\"}\n\n";
    assert!(client.body().ends_with(last), "{}", client.body());
    assert_eq!(service.per_user.users(), 0);
}

fn streams() -> Streams {
    Streams::start(Config::default(), CancellationToken::new())
}

fn unauthorized() -> Event {
    Event::unreserved("unauthorized", &()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_busy_stream_is_checked_as_well() {
    let every = Duration::from_secs(30);
    let valid = Arc::new(Mutex::new(true));
    let asked = valid.clone();
    let busy = Produced::new(stream::repeat_with(|| Event::new("n", &())));
    // A session store behind a network: the answer takes its time.
    let recheck = Recheck {
        every,
        ..Recheck::default()
    };
    let over = async move {
        let valid = async || {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok::<_, Infallible>(*asked.lock().unwrap())
        };
        assert_eq!(recheck.over(valid).await, Over::Invalid);
        unauthorized()
    };
    let slot = streams().admit().unwrap();
    let mut body = slot.respond(Until::new(busy, over)).into_body();
    let mut next = || {
        let frame = body.frame().now_or_never().unwrap()?;
        let bytes = frame.unwrap().into_data().unwrap();
        Some(String::from_utf8(bytes.to_vec()).unwrap())
    };
    next();
    let event = Some("event: n\ndata: null\n\n".to_owned());
    assert_eq!(next(), event);
    *valid.lock().unwrap() = false;
    assert_eq!(next(), event, "not before the check");
    tokio::time::advance(every).await;
    assert_eq!(next(), event, "not before the answer");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(
        next().as_deref(),
        Some("event: unauthorized\ndata: null\n\n")
    );
    assert_eq!(next(), None);
}

/// A session store that hangs or fails keeps the stream until the patience is over, and then ends it as an outage.
#[tokio::test(start_paused = true)]
async fn a_session_store_that_is_down_ends_no_stream_before_its_time() {
    let recheck = Recheck::default();
    let begun = tokio::time::Instant::now();
    let hangs = async || {
        std::future::pending::<()>().await;
        Ok::<_, ()>(true)
    };
    assert_eq!(recheck.over(hangs).await, Over::Unknown);
    let lived = begun.elapsed();
    let most = recheck.patience + recheck.every + 2 * recheck.deadline;
    assert!(lived >= recheck.patience && lived <= most, "{lived:?}");
    // One answer, and the patience begins again.
    let asked = std::cell::Cell::new(0);
    let begun = tokio::time::Instant::now();
    let once = async || {
        asked.set(asked.get() + 1);
        if asked.get() == 5 { Ok(true) } else { Err(()) }
    };
    assert_eq!(recheck.over(once).await, Over::Unknown);
    assert!(begun.elapsed() >= recheck.patience + 4 * recheck.every.mul_f64(0.8));
}

#[tokio::test]
async fn a_stream_that_ends_by_itself_is_not_called_unauthorized() {
    let one = Produced::new(stream::iter([Event::new("n", &()).map(Event::last)]));
    let over = std::future::pending();
    let slot = streams().admit().unwrap();
    let body = slot.respond(Until::new(one, over)).into_body();
    let body = within("the end", body.collect()).await.unwrap().to_bytes();
    assert!(body.ends_with(b"event: n\ndata: null\n\n"), "{body:?}");
}

/// A logout that does not wait for the next check, on a quiet stream.
#[tokio::test]
async fn a_user_is_disconnected_at_once() {
    let service = service(10, 10, HOUR);
    let server = Server::start(app(&service)).await;
    let open = async |token: &str| {
        let cookie = format!("cookie: session={token}");
        let mut client = RawClient::get(server.addr, "/events", &[&cookie]).await;
        client.read_until("retry").await;
        client
    };
    let (mut one, mut two) = (open("alice-1").await, open("alice-2").await);
    let bob = open("bob-1").await;
    assert_eq!(service.users.count(), 2);
    service.users.disconnect("alice");
    for client in [&mut one, &mut two] {
        assert_eq!(client.read_to_end().await, End::Complete);
        let last = "event: unauthorized\ndata: {\"code\":\"unauthorized\"}\n\n";
        assert!(client.body().ends_with(last), "{}", client.body());
    }
    eventually("bob alone", || service.streams.open() == 1).await;
    // Her session is still valid here: she may connect again, and is disconnected again.
    let mut again = open("alice-1").await;
    service.users.disconnect("alice");
    assert_eq!(again.read_to_end().await, End::Complete);
    drop(bob);
    eventually("nothing is kept", || service.users.count() == 0).await;
    service.users.disconnect("alice");
}

#[tokio::test]
async fn only_the_named_origins_may_read() {
    let app = app(&service(10, 10, HOUR));
    let cookie = ("cookie", "session=alice-1");
    let allowed = ask(&app, "GET", "/events", &[cookie, ("origin", ORIGIN)]).await;
    assert_eq!(allowed.headers()["access-control-allow-origin"], ORIGIN);
    assert_eq!(
        allowed.headers()["access-control-allow-credentials"],
        "true"
    );
    assert!(
        allowed.headers()["vary"]
            .to_str()
            .unwrap()
            .contains("origin")
    );
    for origin in [
        "https://evil.example",
        "https://app.example.evil.example",
        "null",
    ] {
        let response = ask(&app, "GET", "/events", &[cookie, ("origin", origin)]).await;
        assert!(
            !response
                .headers()
                .contains_key("access-control-allow-origin"),
            "{origin}"
        );
    }
    // Refusals carry the header too: without it a fetch client cannot read the reason.
    let refused = ask(&app, "GET", "/events", &[("origin", ORIGIN)]).await;
    assert_eq!(refused.status(), 401);
    assert_eq!(refused.headers()["access-control-allow-origin"], ORIGIN);
    // Not readable across origins unless it is named.
    let exposed = &refused.headers()["access-control-expose-headers"];
    assert_eq!(exposed, "retry-after");
    let preflight = [
        ("origin", ORIGIN),
        ("access-control-request-method", "GET"),
        (
            "access-control-request-headers",
            "authorization,last-event-id",
        ),
    ];
    let preflight = ask(&app, "OPTIONS", "/events", &preflight).await;
    assert_eq!(
        preflight.headers()["access-control-allow-headers"],
        "authorization,last-event-id"
    );
}

#[test]
fn what_a_refused_client_is_told() {
    for (error, text) in [
        (PublicError::Unauthorized, r#"{"code":"unauthorized"}"#),
        (
            PublicError::TooManyStreams,
            r#"{"code":"too_many_streams"}"#,
        ),
        (PublicError::Unavailable, r#"{"code":"unavailable"}"#),
    ] {
        assert_eq!(serde_json::to_string(&error).unwrap(), text);
    }
}

/// A log that a test can read.
#[derive(Clone, Default)]
pub struct Logged(Arc<Mutex<Vec<u8>>>);

impl Logged {
    /// Everything that is logged on this thread from now on, down to TRACE.
    pub fn here() -> (Self, tracing::subscriber::DefaultGuard) {
        let logged = Self::default();
        let writer = logged.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || writer.clone())
            .finish();
        (logged, tracing::subscriber::set_default(subscriber))
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
