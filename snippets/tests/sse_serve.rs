use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use eventsource_stream::Eventsource;
use futures::{StreamExt, stream};
use http_body_util::BodyExt;
use proptest::prelude::*;
use snippets::sse::jobs::{self, Jobs, Progress};
use snippets::sse::message::{InvalidMessage, LastEventId, Message, is_token};
use snippets::sse::serve::{Config, Streams};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tower_http::compression::CompressionLayer;

use crate::support::raw::End;
use crate::support::{RawClient, Server, Transcript, eventually, within};

fn streams(config: Config) -> Streams {
    Streams::new(config, CancellationToken::new())
}

/// No spread, so that a transcript is the same each time.
fn exact() -> Config {
    Config {
        retry_min: Duration::from_millis(2000),
        retry_spread: Duration::ZERO,
        ..Config::default()
    }
}

fn message(name: &str) -> Message {
    Message::new(name, &serde_json::json!({})).unwrap()
}

/// The text of a body that ends.
async fn text(response: Response) -> String {
    let bytes = within("the body", response.into_body().collect()).await;
    String::from_utf8(bytes.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn transcript() {
    let jobs = Jobs::default();
    let worker = jobs.insert(7);
    let server = Server::start(jobs::app(jobs, streams(exact()))).await;
    let mut transcript = Transcript::new();

    let request = "GET /jobs/7/events HTTP/1.1\nhost: localhost";
    let mut client = RawClient::get(server.addr, "/jobs/7/events", &[]).await;
    client.read_until("\"percent\":0}\n\n").await;
    worker.send_replace(Progress { percent: 40 });
    client.read_until("\"percent\":40}\n\n").await;
    worker.send_replace(Progress { percent: 100 });
    assert_eq!(client.read_to_end().await, End::Complete);
    transcript.request(request).response(&client);

    transcript.note("a client that has the terminal event and asks again is told to stop");
    let header = "last-event-id: 100";
    let mut client = RawClient::get(server.addr, "/jobs/7/events", &[header]).await;
    client.read_head().await;
    transcript.request(&format!("{request}\n{header}"));
    transcript.response(&client);
    insta::assert_snapshot!(
        "sse_serve",
        transcript.finish().replace("[the response stays open]", "")
    );
}

#[tokio::test]
async fn head_and_prelude_leave_before_the_first_event() {
    let app = Router::new().route(
        "/",
        get(|| async {
            let slot = streams(Config::default()).admit().unwrap();
            slot.respond(stream::pending::<Result<Message, Infallible>>())
        }),
    );
    let server = Server::start(app).await;
    let mut client = RawClient::get(server.addr, "/", &[]).await;
    let body = client.read_until("\n\n").await;
    assert!(body.starts_with(": stream\nretry: "), "{body}");
    let head = client.head();
    assert!(head.contains("content-type: text/event-stream\r\n"));
    assert!(head.contains("cache-control: no-cache, no-transform\r\n"));
    assert!(head.contains("x-accel-buffering: no\r\n"));
    assert!(!head.contains("connection:"), "forbidden in HTTP/2: {head}");
}

#[tokio::test]
async fn retry_differs_between_clients() {
    let streams = streams(Config::default());
    let mut seen = std::collections::HashSet::new();
    for _ in 0..50 {
        let body = text(
            streams
                .admit()
                .unwrap()
                .respond(stream::empty::<Result<Message, Infallible>>()),
        )
        .await;
        let retry = body
            .lines()
            .find_map(|l| l.strip_prefix("retry: "))
            .unwrap();
        let retry: u64 = retry.parse().unwrap();
        assert!((1000..=5000).contains(&retry), "{retry}");
        seen.insert(retry);
    }
    // 50 draws from 4,001 values: the same value for half of them is impossible in practice.
    assert!(seen.len() > 25, "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_quiet_stream_carries_a_heartbeat_that_clients_see() {
    let slot = streams(Config::default()).admit().unwrap();
    let started = tokio::time::Instant::now();
    let body = slot
        .respond(stream::pending::<Result<Message, Infallible>>())
        .into_body();
    let mut events = Box::pin(body.into_data_stream().eventsource());
    for beat in 1..=3 {
        let event = events.next().await.unwrap().unwrap();
        assert_eq!((event.event.as_str(), event.data.as_str()), ("ping", "{}"));
        assert_eq!(event.id, "", "a heartbeat must not move the cursor");
        assert_eq!(started.elapsed(), Duration::from_secs(15) * beat);
    }
}

#[tokio::test]
async fn names_ids_and_data_from_outside_cannot_break_the_format() {
    for name in ["", "a\nb", "a\rb", "a\0b", "a b", "ä", &"x".repeat(65)] {
        assert!(
            matches!(Message::new(name, &()), Err(InvalidMessage::Name)),
            "{name:?}"
        );
    }
    for name in ["error", "open"] {
        assert!(matches!(
            Message::new(name, &()),
            Err(InvalidMessage::ReservedName)
        ));
    }
    for id in ["", "1\ndata: x", "1\r", "1\0", "é1", " 1", &"9".repeat(129)] {
        assert!(
            matches!(message("a").with_id(id), Err(InvalidMessage::Id)),
            "{id:?}"
        );
    }
    // JSON has no object keys but strings.
    let unserializable = std::collections::HashMap::from([((1, 2), 3)]);
    let error = Message::new("a", &unserializable).unwrap_err();
    assert!(matches!(error, InvalidMessage::Data(_)));
    // The longest allowed are sent, and nothing panics.
    let longest = Message::new(&"x".repeat(64), &"")
        .and_then(|m| m.with_id("9".repeat(128)))
        .unwrap();
    let slot = streams(Config::default()).admit().unwrap();
    let body = text(slot.respond(stream::iter([Ok::<_, Infallible>(longest)]))).await;
    assert!(body.ends_with("\ndata: \"\"\n\n"), "{body}");
}

proptest! {
    /// What an independent parser reads is what was sent, or it was refused; nothing else gets through.
    #[test]
    fn any_content_arrives_as_it_was_sent(name in ".{0,8}|[a-z.]{1,64}", id in ".{0,8}|[0-9-]{1,20}", data in any::<String>()) {
        let built = Message::new(&name, &data).and_then(|message| message.with_id(id.as_str()));
        match built {
            Err(_) => prop_assert!(!is_token(&name, 64) || !is_token(&id, 128) || name == "error" || name == "open"),
            Ok(message) => {
                let sent = stream::iter([Ok::<_, Infallible>(message), Ok(self::message("after"))]);
                let slot = streams(Config::default()).admit().unwrap();
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                let events: Vec<_> = runtime.block_on(async {
                    slot.respond(sent).into_body().into_data_stream().eventsource().collect().await
                });
                prop_assert_eq!(events.len(), 2);
                let event = events[0].as_ref().unwrap();
                prop_assert_eq!(&event.event, &name);
                prop_assert_eq!(&event.id, &id);
                prop_assert_eq!(serde_json::from_str::<String>(&event.data).unwrap(), data);
            }
        }
    }
}

#[tokio::test]
async fn an_error_becomes_an_event_after_what_was_sent_before() {
    let app = Router::new().route(
        "/",
        get(|| async {
            let items = stream::iter([
                Ok(message("token")),
                Err("connect to db.internal:5432 failed"),
                Ok(message("never")),
            ]);
            streams(exact()).admit().unwrap().respond(items)
        }),
    );
    let server = Server::start(app).await;
    let mut client = RawClient::get(server.addr, "/", &[]).await;
    assert_eq!(client.read_to_end().await, End::Complete);
    let body = client.body();
    let expected =
        "event: token\ndata: {}\n\nevent: stream_error\ndata: {\"code\":\"internal\"}\n\n";
    assert!(body.ends_with(expected), "{body}");
    assert!(!body.contains("db.internal"), "{body}");
}

#[tokio::test]
async fn the_limit_counts_open_streams() {
    let jobs = Jobs::default();
    let _worker = jobs.insert(1);
    let streams = streams(Config {
        max_streams: 2,
        ..Config::default()
    });
    let server = Server::start(jobs::app(jobs, streams.clone())).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut client = RawClient::get(server.addr, "/jobs/1/events", &[]).await;
        client.read_until("percent").await;
        open.push(client);
    }
    let mut refused = RawClient::get(server.addr, "/jobs/1/events", &[]).await;
    let head = refused.read_head().await;
    assert_eq!(refused.status(), 503);
    let retry_after = head.lines().find_map(|l| l.strip_prefix("retry-after: "));
    let retry_after: u64 = retry_after.unwrap().parse().unwrap();
    assert!((1..=5).contains(&retry_after), "{head}");

    // A client that goes frees its place, though the stream is quiet.
    open.pop();
    eventually("the place to be free", || streams.open() == 1).await;
    let mut client = RawClient::get(server.addr, "/jobs/1/events", &[]).await;
    client.read_until("percent").await;
    assert_eq!(client.status(), 200);
}

#[tokio::test]
async fn the_terminal_event_frees_the_source_and_the_place() {
    struct OnDrop(CancellationToken);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.cancel();
        }
    }
    let streams = streams(exact());
    let dropped = CancellationToken::new();
    let source = (OnDrop(dropped.clone()), 0);
    let messages = stream::unfold(source, |(guard, n)| async move {
        assert!(n <= 1, "asked for more after the terminal event");
        let message = message("n");
        let message = if n == 1 { message.last() } else { message };
        Some((Ok::<_, Infallible>(message), (guard, n + 1)))
    });
    let body = text(streams.admit().unwrap().respond(messages)).await;
    assert_eq!(body.matches("event: n\n").count(), 2);
    assert!(dropped.is_cancelled());
    assert_eq!(streams.open(), 0);
}

#[tokio::test]
async fn a_worker_that_dies_ends_the_stream_with_failed() {
    let jobs = Jobs::default();
    let worker = jobs.insert(1);
    worker.send_replace(Progress { percent: 30 });
    drop(worker);
    let request = Request::get("/jobs/1/events").body(Body::empty()).unwrap();
    let app = jobs::app(jobs, streams(exact()));
    let body = text(app.oneshot(request).await.unwrap()).await;
    let expected = "event: failed\ndata: {\"code\":\"worker_gone\"}\n\n";
    assert!(
        body.contains("id: 30\n") && body.ends_with(expected),
        "{body}"
    );
}

#[tokio::test]
async fn head_does_no_work_and_has_the_headers_of_get() {
    let jobs = Jobs::default();
    let _worker = jobs.insert(1);
    let streams = streams(Config {
        max_streams: 0,
        ..Config::default()
    });
    // With room for no stream at all, GET is refused and HEAD is not: it asks for none.
    let app = jobs::app(jobs, streams);
    let ask = |method: &str| {
        let request = Request::builder().method(method).uri("/jobs/1/events");
        app.clone().oneshot(request.body(Body::empty()).unwrap())
    };
    assert_eq!(ask("GET").await.unwrap().status(), 503);
    let head = ask("HEAD").await.unwrap();
    assert_eq!(head.status(), 200);
    assert_eq!(head.headers()[header::CONTENT_TYPE], "text/event-stream");
    assert_eq!(head.headers()["x-accel-buffering"], "no");
    assert_eq!(text(head).await, "");
}

#[tokio::test]
async fn only_a_finished_job_is_answered_with_204() {
    let jobs = Jobs::default();
    let worker = jobs.insert(1);
    let app = jobs::app(jobs.clone(), streams(exact()));
    let ask = |id: &'static str| {
        let request = Request::get("/jobs/1/events").header("last-event-id", id);
        app.clone().oneshot(request.body(Body::empty()).unwrap())
    };
    assert_eq!(ask("100").await.unwrap().status(), 200, "still running");
    worker.send_replace(Progress { percent: 100 });
    assert_eq!(ask("100").await.unwrap().status(), 204);
    // Whoever lacks the terminal event gets it.
    let body = text(ask("40").await.unwrap()).await;
    assert!(body.ends_with("event: done\nid: 100\ndata: {\"percent\":100}\n\n"));
    jobs.remove(1);
    assert_eq!(ask("100").await.unwrap().status(), 404);
}

#[tokio::test]
async fn the_cursor_comes_from_the_header_or_else_the_query() {
    async fn echo(cursor: LastEventId) -> Json<String> {
        Json(format!("{cursor:?}"))
    }
    let server = Server::start(Router::new().route("/", get(echo))).await;
    let id = |id: &str| format!("{:?}", LastEventId::Id(id.into()));
    for (path, headers, expected) in [
        ("/", vec![], "None".into()),
        ("/?lastEventId=", vec![], "None".into()),
        ("/", vec!["last-event-id:"], "None".into()),
        ("/", vec!["last-event-id: a-7"], id("a-7")),
        ("/?lastEventId=a-7&x=1", vec![], id("a-7")),
        ("/?lastEventId=a-7", vec!["last-event-id: a-9"], id("a-9")),
        ("/", vec!["last-event-id: é1"], "Unusable".into()),
        ("/", vec!["last-event-id: 1 2"], "Unusable".into()),
        (
            "/",
            vec!["last-event-id: 1", "last-event-id: 2"],
            "Unusable".into(),
        ),
        ("/?lastEventId=%C3%A91", vec![], "Unusable".into()),
        ("/?lastEventId=%FF", vec![], "Unusable".into()),
        ("/?lastEventId=1&lastEventId=2", vec![], "Unusable".into()),
        ("/?lastEventId=1%0Adata:x", vec![], "Unusable".into()),
    ] {
        let mut client = RawClient::get(server.addr, path, &headers).await;
        client.read_until("\"").await;
        client.read_until("\"").await;
        let seen: String = serde_json::from_str(&client.body()).unwrap();
        assert_eq!(seen, expected, "{path} {headers:?}");
    }
}

/// A compression layer as it comes leaves event streams alone; one that does not would hold events back.
#[tokio::test]
async fn a_client_that_accepts_gzip_gets_events_one_by_one() {
    let jobs = Jobs::default();
    let worker = jobs.insert(1);
    let app = jobs::app(jobs, streams(exact())).layer(CompressionLayer::new());
    let server = Server::start(app).await;
    let accept = "accept-encoding: gzip, br, zstd";
    let mut client = RawClient::get(server.addr, "/jobs/1/events", &[accept]).await;
    client.read_until("\"percent\":0}\n\n").await;
    assert!(
        !client.head().contains("content-encoding"),
        "{}",
        client.head()
    );
    worker.send_replace(Progress { percent: 40 });
    client.read_until("\"percent\":40}\n\n").await;
}

/// What axum's own `Sse` leaves to its user.
#[tokio::test(start_paused = true)]
async fn what_axum_does_by_default() {
    let quiet = || stream::pending::<Result<Event, Infallible>>();
    let response = Sse::new(quiet()).into_response();
    assert_eq!(response.headers()["cache-control"], "no-cache");
    assert!(!response.headers().contains_key("x-accel-buffering"));
    // No heartbeat at all unless it is asked for,
    let mut frames = response.into_body().into_data_stream();
    let day = Duration::from_secs(86_400);
    assert!(tokio::time::timeout(day, frames.next()).await.is_err());
    // and then a comment, which EventSource does not show.
    let response = Sse::new(quiet()).keep_alive(KeepAlive::default());
    let mut frames = response.into_response().into_body().into_data_stream();
    let asked = tokio::time::Instant::now();
    assert_eq!(frames.next().await.unwrap().unwrap(), ":\n\n");
    assert_eq!(asked.elapsed(), Duration::from_secs(15));
}
