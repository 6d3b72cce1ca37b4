use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, header};
use axum::response::sse::{Event as AxumEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use eventsource_stream::Eventsource;
use futures::{StreamExt, stream};
use http_body_util::BodyExt;
use proptest::prelude::*;
use snippets::sse::event::{Event, InvalidEvent, LastEventId, Names};
use snippets::sse::jobs::{self, Jobs, Progress};
use snippets::sse::streams::{Config, Produced, Streams};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tower_http::compression::CompressionLayer;

use crate::support::raw::End;
use crate::support::transcript::sse_filters;
use crate::support::{RawClient, Server, Transcript, eventually, within};

fn streams(config: Config) -> Streams {
    Streams::start(config, CancellationToken::new())
}

fn exact() -> Config {
    Config::default()
}

fn event(name: &str) -> Event {
    Event::new(name, &serde_json::json!({})).unwrap()
}

/// A source that never has anything.
fn quiet() -> Produced<stream::Pending<Result<Event, Infallible>>> {
    Produced::new(stream::pending())
}

/// The text of a body that ends.
async fn text(response: Response) -> String {
    let bytes = within("the body", response.into_body().collect()).await;
    String::from_utf8(bytes.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn transcript() {
    let jobs = Jobs::default();
    let worker = jobs.insert(7).unwrap();
    let server = Server::start(jobs::app(jobs, streams(exact()))).await;
    let mut transcript = Transcript::new();

    let request = "GET /jobs/7/events HTTP/1.1\nhost: localhost";
    let mut client = RawClient::get(server.addr, "/jobs/7/events", &[]).await;
    client.read_until("\"percent\":0}\n\n").await;
    worker.set(Progress { percent: 40 }).unwrap();
    client.read_until("\"percent\":40}\n\n").await;
    worker.set(Progress { percent: 100 }).unwrap();
    assert_eq!(client.read_to_end().await, End::Complete);
    transcript.request(request).response(&client);

    let id = client.body();
    let id = id.lines().rfind(|line| line.starts_with("id: ")).unwrap();
    transcript.note("a client that has the terminal event and reconnects is stopped");
    let header = format!("last-event-{id}");
    let mut client = RawClient::get(server.addr, "/jobs/7/events", &[&header]).await;
    client.read_head().await;
    transcript.request(&format!("{request}\n{header}"));
    transcript.response(&client);
    insta::with_settings!({filters => sse_filters()}, {
        insta::assert_snapshot!(
            "sse_serve",
            transcript.finish().replace("[the response stays open]", "")
        );
    });
}

#[tokio::test]
async fn head_and_prelude_leave_before_the_first_event() {
    let app = Router::new().route(
        "/",
        get(|| async {
            let slot = streams(Config::default()).admit().unwrap();
            slot.respond(quiet())
        }),
    );
    let server = Server::start(app).await;
    let mut client = RawClient::get(server.addr, "/", &[]).await;
    let body = client.read_until("\n\n").await;
    assert!(body.starts_with("retry: "), "{body}");
    let head = client.head();
    assert!(head.contains("content-type: text/event-stream\r\n"));
    assert!(head.contains("cache-control: no-cache, no-store, no-transform\r\n"));
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
                .respond(Produced::new(stream::empty::<Result<Event, Infallible>>())),
        )
        .await;
        let retry = body
            .lines()
            .find_map(|l| l.strip_prefix("retry: "))
            .unwrap();
        let retry: u64 = retry.parse().unwrap();
        assert!((1500..=4500).contains(&retry), "{retry}");
        seen.insert(retry);
    }
    // 50 draws from 3,000 values: the same value for half of them is impossible in practice.
    assert!(seen.len() > 25, "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_quiet_stream_carries_a_heartbeat_that_clients_see() {
    let streams = streams(Config::default());
    // Each in a phase of its own: sixteen neighbors, and one more.
    for _ in 0..17 {
        let slot = streams.admit().unwrap();
        let body = slot.respond(quiet()).into_body();
        let mut events = Box::pin(body.into_data_stream().eventsource());
        let mut last = tokio::time::Instant::now();
        for beat in 0..3 {
            let event = events.next().await.unwrap().unwrap();
            assert_eq!((event.event.as_str(), event.data.as_str()), ("ping", "{}"));
            assert_eq!(event.id, "", "a heartbeat must not move the cursor");
            let silence = last.elapsed();
            assert!(silence <= Duration::from_millis(15_010), "{silence:?}");
            assert!(
                beat == 0 || silence >= Duration::from_millis(14_990),
                "{silence:?}"
            );
            last = tokio::time::Instant::now();
        }
        std::mem::forget(streams.admit()); // another phase for the next
    }
}

/// A contract that has no `ping`: a comment.
#[tokio::test(start_paused = true)]
async fn the_heartbeat_may_be_a_comment() {
    let names = Names {
        heartbeat: None,
        ..Names::DEFAULT
    };
    let config = Config {
        names,
        ..Config::default()
    };
    let mut body = streams(config)
        .admit()
        .unwrap()
        .respond(quiet())
        .into_body();
    body.frame().await.unwrap().unwrap();
    let beat = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(beat, ":\n\n");
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_between_0_8_and_1_times_its_maximum_age() {
    let config = Config {
        max_streams: 1_000,
        heartbeat: Duration::from_secs(1),
        max_age: Duration::from_secs(1000),
        ..Config::default()
    };
    let streams = streams(config);
    let started = tokio::time::Instant::now();
    let ends = (0..1_000).map(|_| {
        let body = streams.admit().unwrap().respond(quiet()).into_body();
        async move {
            body.collect().await.unwrap();
            started.elapsed().as_secs()
        }
    });
    let ends = futures::future::join_all(ends).await;
    let (first, last) = (ends.iter().min().unwrap(), ends.iter().max().unwrap());
    assert!(*first >= 799 && *last <= 1001, "{first} to {last}");
    for second in 799..=1001 {
        // 1,000 over 200 s: 5 in each second on average.
        let together = ends.iter().filter(|at| **at == second).count();
        assert!(together < 30, "{together} ended in second {second}");
    }
    assert_eq!(streams.open(), 0);
}

/// One instance has all streams; another is added. Within the maximum age each has its share, without a wave of reconnects.
#[tokio::test(start_paused = true)]
async fn an_instance_that_is_added_gets_its_share_within_the_maximum_age() {
    let config = Config {
        max_streams: 1_000,
        heartbeat: Duration::from_secs(1),
        max_age: Duration::from_secs(1000),
        ..Config::default()
    };
    let instances = [streams(config.clone()), streams(config)];
    let reconnects = Arc::new(Mutex::new(vec![0; 2_000]));
    let next = Arc::new(AtomicUsize::new(0));
    let started = tokio::time::Instant::now();
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..1_000 {
        let (instances, reconnects, next) = (instances.clone(), reconnects.clone(), next.clone());
        clients.spawn(async move {
            let mut at = 0;
            loop {
                let slot = instances[at].admit().unwrap();
                let body = slot.respond(quiet()).into_body();
                body.collect().await.unwrap();
                let second = started.elapsed().as_secs() as usize;
                reconnects.lock().unwrap()[second] += 1;
                // The balancer knows both by now.
                at = next.fetch_add(1, Ordering::SeqCst) % 2;
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(790)).await;
    assert_eq!(instances.each_ref().map(Streams::open), [1_000, 0]);
    tokio::time::sleep(Duration::from_secs(215)).await;
    let share = instances.each_ref().map(Streams::open);
    assert!(
        share.iter().all(|open| (490..=510).contains(open)),
        "{share:?}"
    );
    // 1,000 over 200 s.
    let busiest = *reconnects.lock().unwrap().iter().max().unwrap();
    assert!(busiest < 30, "{busiest} in one second");
}

#[tokio::test]
async fn names_ids_and_data_from_outside_cannot_break_the_format() {
    for name in ["a\nb", "a\rb", "a\0b", " a", "a\u{85}b", &"x".repeat(129)] {
        assert!(
            matches!(Event::new(name, &()), Err(InvalidEvent::Name)),
            "{name:?}"
        );
    }
    for name in [
        "error",
        "open",
        "ping",
        "reset",
        "restart",
        "stream_error",
        "unauthorized",
    ] {
        assert!(matches!(
            Event::new(name, &()),
            Err(InvalidEvent::ReservedName)
        ));
    }
    for name in ["order:paid", "a b", "ä", &"x".repeat(128)] {
        assert_eq!(Event::new(name, &()).unwrap().name(), name);
    }
    assert_eq!(Event::unreserved("error", &()).unwrap().name(), "error");
    // JSON has no object keys but strings.
    let unserializable = std::collections::HashMap::from([((1, 2), 3)]);
    let error = Event::new("a", &unserializable).unwrap_err();
    assert!(matches!(error, InvalidEvent::Data(_)));
}

#[test]
fn text_and_raw_json_keep_their_lines() {
    for (text, block) in [
        ("", "data: \n\n"),
        ("[DONE]", "data: [DONE]\n\n"),
        ("a\nb", "data: a\ndata: b\n\n"),
        ("a\r\nb\rc\n", "data: a\ndata: b\ndata: c\ndata: \n\n"),
        (" a", "data:  a\n\n"),
    ] {
        let event = Event::text("", text).unwrap();
        assert_eq!(event.bytes(), block);
        assert_eq!(event.name(), "");
        assert_eq!(event.data(), text.replace("\r\n", "\n").replace('\r', "\n"));
    }
    // A `RawValue` is written as it was read, with its line breaks.
    let raw: Box<serde_json::value::RawValue> = serde_json::from_str("{\n \"a\": 1\r\n}").unwrap();
    let event = Event::new("raw", &raw).unwrap();
    assert_eq!(
        event.at(7),
        "id: 7\nevent: raw\ndata: {\ndata:  \"a\": 1\ndata: }\n\n"
    );
    let data: serde_json::Value = serde_json::from_str(&event.data()).unwrap();
    assert_eq!(data, serde_json::json!({"a": 1}));
}

proptest! {
    /// What an independent parser reads is what was sent, or it was refused; nothing else gets through.
    #[test]
    fn any_content_arrives_as_it_was_sent(name in ".{0,8}|[a-z.:]{1,128}", id in "[0-9a-f-]{1,20}", data in any::<String>(), text in "(?s).{0,20}") {
        match Event::new(&name, &data) {
            Err(_) => prop_assert!(name.starts_with(' ') || name.chars().any(char::is_control) || matches!(&*name, "error" | "open" | "ping" | "reset" | "restart")),
            Ok(event) => {
                let text_event = Event::text(&name, &text).unwrap();
                prop_assert_eq!(event.name(), &name);
                let wire = [event.at(&id), text_event.bytes(), self::event("after").bytes()].concat();
                let sent = stream::iter([Ok::<_, Infallible>(wire)]);
                let events: Vec<_> = futures::executor::block_on(sent.eventsource().collect());
                prop_assert_eq!(events.len(), 3);
                let event = events[0].as_ref().unwrap();
                let sent_name = if name.is_empty() { "message" } else { &name };
                prop_assert_eq!(&event.event, sent_name);
                prop_assert_eq!(&event.id, &id);
                prop_assert_eq!(serde_json::from_str::<String>(&event.data).unwrap(), data);
                let lines = text.replace("\r\n", "\n").replace('\r', "\n");
                prop_assert_eq!(&events[1].as_ref().unwrap().data, &lines);
                prop_assert_eq!(text_event.data(), lines);
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
                Ok(event("token")),
                Err("connect to db.internal:5432 failed"),
                Ok(event("never")),
            ]);
            streams(exact())
                .admit()
                .unwrap()
                .respond(Produced::new(items))
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
    let _worker = jobs.insert(1).unwrap();
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
    assert!((2..=5).contains(&retry_after), "{head}");

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
    let events = stream::unfold(source, |(guard, n)| async move {
        assert!(n <= 1, "asked for more after the terminal event");
        let event = event("n");
        let event = if n == 1 { event.last() } else { event };
        Some((Ok::<_, Infallible>(event), (guard, n + 1)))
    });
    let events = Produced::new(Box::pin(events));
    let body = text(streams.admit().unwrap().respond(events)).await;
    assert_eq!(body.matches("event: n\n").count(), 2);
    assert!(dropped.is_cancelled());
    assert_eq!(streams.open(), 0);
}

#[tokio::test]
async fn a_worker_that_dies_ends_the_stream_with_failed() {
    let jobs = Jobs::default();
    let worker = jobs.insert(1).unwrap();
    worker.set(Progress { percent: 30 }).unwrap();
    drop(worker);
    let request = Request::get("/jobs/1/events").body(Body::empty()).unwrap();
    let app = jobs::app(jobs, streams(exact()));
    let body = text(app.oneshot(request).await.unwrap()).await;
    let expected = "event: failed\ndata: {\"code\":\"worker_gone\"}\n\n";
    assert!(
        // Each event is the whole state: the newest alone is sent.
        !body.contains("progress") && body.ends_with(expected),
        "{body}"
    );
}

#[tokio::test]
async fn head_does_no_work_and_has_the_headers_of_get() {
    let jobs = Jobs::default();
    let _worker = jobs.insert(1).unwrap();
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
    // GET has none (RFC 9110, section 8.6).
    assert!(!head.headers().contains_key("content-length"));
    assert_eq!(text(head).await, "");
}

#[tokio::test]
async fn only_a_finished_job_is_answered_with_204() {
    let jobs = Jobs::default();
    let worker = jobs.insert(1).unwrap();
    let app = jobs::app(jobs.clone(), streams(exact()));
    let ask = |id: &str| {
        let request = Request::get("/jobs/1/events").header("last-event-id", id);
        app.clone().oneshot(request.body(Body::empty()).unwrap())
    };
    worker.set(Progress { percent: 40 }).unwrap();
    let mut running = ask("").await.unwrap().into_body();
    let begin = running.frame().await.unwrap().unwrap().into_data().unwrap();
    let epoch = std::str::from_utf8(&begin).unwrap()[4..]
        .split('-')
        .next()
        .unwrap()
        .to_owned();
    assert_eq!(
        ask(&format!("{epoch}-2")).await.unwrap().status(),
        200,
        "still running"
    );
    worker.set(Progress { percent: 100 }).unwrap();
    assert!(worker.set(Progress { percent: 100 }).is_err(), "finished");
    assert_eq!(ask(&format!("{epoch}-3")).await.unwrap().status(), 204);
    // A client that lacks the terminal event gets it, whatever it sends.
    for id in [&format!("{epoch}-2"), "", "garbage", "1-3"] {
        let body = text(ask(id).await.unwrap()).await;
        let done = format!("id: {epoch}-3\nevent: done\ndata: {{\"percent\":100}}\n\n");
        assert!(
            body.ends_with(&done) && !body.contains("reset"),
            "{id}: {body}"
        );
    }
    jobs.remove(1);
    assert_eq!(ask(&format!("{epoch}-3")).await.unwrap().status(), 404);
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
    let worker = jobs.insert(1).unwrap();
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
    worker.set(Progress { percent: 40 }).unwrap();
    client.read_until("\"percent\":40}\n\n").await;
}

/// What axum's own `Sse` leaves to its user.
#[tokio::test(start_paused = true)]
async fn what_axum_does_by_default() {
    let quiet = || stream::pending::<Result<AxumEvent, Infallible>>();
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

/// Every pattern works under plain `axum::serve`; the other tests run under `connections::listen`.
#[tokio::test]
async fn a_job_under_plain_axum() {
    let jobs = Jobs::default();
    let worker = jobs.insert(1).unwrap();
    let streams = streams(exact());
    let server = Server::plain(jobs::app(jobs, streams.clone())).await;
    let mut client = RawClient::get(server.addr, "/jobs/1/events", &[]).await;
    client.read_until("\"percent\":0}\n\n").await;
    let gone = RawClient::get(server.addr, "/jobs/1/events", &[]).await;
    eventually("both are open", || streams.open() == 2).await;
    drop(gone);
    eventually("one has disconnected", || streams.open() == 1).await;
    worker.set(Progress { percent: 100 }).unwrap();
    assert_eq!(client.read_to_end().await, End::Complete);
    assert!(
        client
            .body()
            .ends_with("event: done\ndata: {\"percent\":100}\n\n")
    );
}
