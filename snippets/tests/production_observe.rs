//! Exact numbers at `/metrics` after scripted situations.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::{StreamExt, stream};
use http_body_util::BodyExt;
use snippets::production::observe::Observer;
use snippets::production::scrape;
use snippets::sse::event::{Event, InvalidEvent, LastEventId};
use snippets::sse::log::{self, Log};
use snippets::sse::streams::{Config, Produced, Streams};
use tokio_util::sync::CancellationToken;

use crate::support::{RawClient, Server};

#[derive(Clone)]
struct Service {
    log: Arc<Log>,
    streams: Streams,
    observer: Observer,
    stopping: CancellationToken,
}

async fn events(State(service): State<Service>, cursor: LastEventId) -> Response {
    let Ok(slot) = service.streams.admit() else {
        service.observer.refused();
        return axum::http::StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let resumed = cursor != LastEventId::None;
    match service.log.read(&cursor) {
        Some(reader) => slot.respond(service.observer.watch(reader, resumed)),
        None => axum::http::StatusCode::NO_CONTENT.into_response(),
    }
}

/// Fails after one event.
async fn failing(State(service): State<Service>) -> Response {
    let slot = service.streams.admit().unwrap();
    let events = stream::iter([Event::new("tick", &1), Err(InvalidEvent::Name)]);
    let source = Produced::new(events);
    slot.respond(service.observer.watch(source, false))
}

/// The service, its recorder for this thread, and its server.
async fn start() -> (Server, Service, impl Drop) {
    let recorder = Box::leak(Box::new(scrape::recorder().unwrap()));
    let handle = recorder.handle();
    let guard = metrics::set_default_local_recorder(recorder);
    let stopping = CancellationToken::new();
    let config = Config {
        max_streams: 4,
        ..Config::default()
    };
    let service = Service {
        log: Log::new(log::Config::complete(3, 1_000)),
        streams: Streams::start(config, stopping.clone()),
        observer: Observer::new("feed", stopping.clone()),
        stopping,
    };
    let app = Router::new()
        .route("/events", get(events))
        .route("/failing", get(failing))
        .route(
            "/users/{id}",
            get(async |Path(id): Path<u64>| id.to_string()),
        )
        .with_state(service.clone())
        .merge(scrape::app(handle))
        .layer(from_fn(scrape::requests));
    (Server::start(app).await, service, guard)
}

async fn publish(service: &Service, numbers: std::ops::RangeInclusive<u64>) {
    for n in numbers {
        let event = Event::new("tick", &n).unwrap();
        service.log.publish(&event).unwrap();
    }
}

/// All samples but the buckets, as Prometheus sees them.
async fn scraped(server: &Server) -> Vec<String> {
    let mut client = RawClient::get(server.addr, "/metrics", &["connection: close"]).await;
    client.read_to_end().await;
    assert!(
        client
            .head()
            .contains("content-type: text/plain; version=0.0.4"),
        "{}",
        client.head()
    );
    let body = client.body();
    let samples = body
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    samples.map(str::to_owned).collect()
}

async fn until(server: &Server, wanted: &[&str]) {
    let last = std::cell::RefCell::new(Vec::new());
    let done = tokio::time::timeout(crate::support::PATIENCE, async {
        loop {
            let samples = scraped(server).await;
            let missing = |line: &&&str| !samples.iter().any(|sample| sample == **line);
            if wanted.iter().find(missing).is_none() {
                return;
            }
            *last.borrow_mut() = samples;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert!(done.is_ok(), "{wanted:#?} in {:#?}", last.borrow());
}

#[tokio::test]
async fn every_way_to_open_and_to_close_a_stream_is_counted() {
    let (server, service, _guard) = start().await;
    publish(&service, 1..=1).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = RawClient::get(server.addr, "/events", &[]).await;
        client.read_until("data: 1").await;
        clients.push(client);
    }
    let mut refused = RawClient::get(server.addr, "/events", &[]).await;
    assert!(refused.read_head().await.starts_with("HTTP/1.1 503"));
    until(
        &server,
        &[
            "stream_open{kind=\"feed\"} 4",
            "stream_opened_total{kind=\"feed\"} 4",
            "stream_refused_total{kind=\"feed\"} 1",
            "stream_events_total{kind=\"feed\"} 4",
            "stream_first_event_seconds_count{kind=\"feed\"} 4",
            "stream_between_events_seconds_count{kind=\"feed\"} 0",
        ],
    )
    .await;

    // Two leave, without another event: nothing but their connections tells.
    clients.truncate(2);
    until(
        &server,
        &[
            "stream_open{kind=\"feed\"} 2",
            "stream_closed_total{kind=\"feed\",reason=\"client\"} 2",
        ],
    )
    .await;

    // Four events at once into a log of three: the two open streams lag behind it, and are told. One client comes back
    // with a cursor that was trimmed, one with a cursor from elsewhere.
    let first = clients[0]
        .body()
        .lines()
        .find_map(|line| line.strip_prefix("id: "))
        .unwrap()
        .to_owned();
    publish(&service, 2..=5).await;
    let mut trimmed = RawClient::get(
        server.addr,
        "/events",
        &[&format!("last-event-id: {first}")],
    )
    .await;
    trimmed.read_until("data: 5").await;
    let mut foreign = RawClient::get(server.addr, "/events", &["last-event-id: 1-1"]).await;
    foreign.read_until("data: 5").await;
    until(
        &server,
        &[
            "stream_resumed_total{kind=\"feed\"} 2",
            "stream_resets_total{kind=\"feed\",reason=\"trimmed\"} 3",
            "stream_resets_total{kind=\"feed\",reason=\"epoch\"} 1",
            "stream_open{kind=\"feed\"} 4",
        ],
    )
    .await;

    drop((trimmed, foreign));
    until(&server, &["stream_open{kind=\"feed\"} 2"]).await;
    let mut failing = RawClient::get(server.addr, "/failing", &[]).await;
    failing.read_until("stream_error").await;
    clients.pop();
    until(
        &server,
        &[
            "stream_closed_total{kind=\"feed\",reason=\"error\"} 1",
            "stream_closed_total{kind=\"feed\",reason=\"client\"} 5",
            "stream_open{kind=\"feed\"} 1",
        ],
    )
    .await;

    service.stopping.cancel();
    clients[0].read_until("restart").await;
    until(
        &server,
        &[
            "stream_closed_total{kind=\"feed\",reason=\"shutdown\"} 1",
            "stream_open{kind=\"feed\"} 0",
            "stream_duration_seconds_count{kind=\"feed\"} 7",
        ],
    )
    .await;
}

#[tokio::test]
async fn the_terminal_event_is_an_end() {
    let (server, service, _guard) = start().await;
    let mut client = RawClient::get(server.addr, "/events", &[]).await;
    let done = Event::new("done", &()).unwrap().last();
    service.log.publish(&done).unwrap();
    client.read_until("event: done").await;
    until(
        &server,
        &[
            "stream_closed_total{kind=\"feed\",reason=\"ended\"} 1",
            "stream_closed_total{kind=\"feed\",reason=\"client\"} 0",
            "stream_open{kind=\"feed\"} 0",
        ],
    )
    .await;
}

/// Requests by the template of their route, with their durations; streams not at all.
#[tokio::test]
async fn streams_are_no_requests_and_ids_no_labels() {
    let (server, service, _guard) = start().await;
    publish(&service, 1..=1).await;
    let mut open = RawClient::get(server.addr, "/events", &[]).await;
    open.read_until("data: 1").await;
    for path in ["/users/1", "/users/2", "/nothing/here"] {
        let mut client = RawClient::get(server.addr, path, &["connection: close"]).await;
        client.read_to_end().await;
    }
    drop(open);
    until(
        &server,
        &[
            "stream_open{kind=\"feed\"} 0",
            "http_request_seconds_count{route=\"/users/{id}\",status=\"200\"} 2",
            "http_request_seconds_count{route=\"none\",status=\"404\"} 1",
        ],
    )
    .await;
    let samples = scraped(&server).await;
    let of_requests = samples
        .iter()
        .filter(|line| line.starts_with("http_request_seconds_count"));
    // The third is `/metrics` itself.
    assert_eq!(of_requests.count(), 3, "{samples:?}");
}

/// Virtual time: the first event after 2 s, the next 3 s later; the client needs 5 s for the first.
#[tokio::test(start_paused = true)]
async fn waits_are_measured_where_they_happen() {
    let recorder = scrape::recorder().unwrap();
    let handle = recorder.handle();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let observer = Observer::new("answer", CancellationToken::new());
    let ticks = Box::pin(stream::iter([2, 3, 0]).then(async |seconds| {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        Event::new("tick", &seconds)
    }));
    let streams = Streams::start(Config::default(), CancellationToken::new());
    let slot = streams.admit().unwrap();
    let response = slot.respond(observer.watch(Produced::new(ticks), false));
    let mut body = response.into_body();
    for (expected, pause) in [("retry", 0), ("data: 2", 5), ("data: 3", 0), ("data: 0", 0)] {
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let text = String::from_utf8(frame.to_vec()).unwrap();
        assert!(text.contains(expected), "{text}");
        tokio::time::sleep(Duration::from_secs(pause)).await;
    }
    assert!(body.frame().await.is_none());
    let text = handle.render();
    for line in [
        "stream_first_event_seconds_sum{kind=\"answer\"} 2",
        "stream_first_event_seconds_bucket{kind=\"answer\",le=\"1\"} 0",
        "stream_first_event_seconds_bucket{kind=\"answer\",le=\"2.5\"} 1",
        // 5 s at the client and 3 s at the source, then none.
        "stream_between_events_seconds_sum{kind=\"answer\"} 8",
        "stream_between_events_seconds_count{kind=\"answer\"} 2",
        "stream_event_not_taken_seconds_sum{kind=\"answer\"} 5",
        "stream_event_not_taken_seconds_count{kind=\"answer\"} 3",
        "stream_duration_seconds_sum{kind=\"answer\"} 10",
        "stream_closed_total{kind=\"answer\",reason=\"ended\"} 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
}

#[test]
fn queues_and_drops_have_a_place() {
    let recorder = scrape::recorder().unwrap();
    let handle = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        let observer = Observer::new("room", CancellationToken::new());
        observer.queued(3);
        observer.dropped(2);
    });
    let text = handle.render();
    assert!(
        text.contains("stream_queue_depth_bucket{kind=\"room\",le=\"1\"} 0"),
        "{text}"
    );
    assert!(
        text.contains("stream_queue_depth_bucket{kind=\"room\",le=\"4\"} 1"),
        "{text}"
    );
    assert!(
        text.contains("stream_dropped_events_total{kind=\"room\"} 2"),
        "{text}"
    );
}

/// One line per stream, when it closes, with the reason; no span that is open as long as the stream.
#[test]
fn the_log_has_one_line_per_stream() {
    let lines = Arc::new(std::sync::Mutex::new(Vec::new()));
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::FULL)
        .with_writer(move || Captured(writer.clone()))
        .finish();
    tracing::subscriber::with_default(subscriber, || {
        let observer = Observer::new("feed", CancellationToken::new());
        let messages = Produced::new(stream::pending::<Result<Event, InvalidEvent>>());
        drop(observer.watch(messages, false));
    });
    let text = String::from_utf8(lines.lock().unwrap().clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(
        text.contains("stream closed kind=\"feed\" reason=Client"),
        "{text}"
    );
    assert!(text.contains("events=0"), "{text}");
}

struct Captured(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
