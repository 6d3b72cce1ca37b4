//! The service as it is shipped: its contract, another contract by its settings, and no finding of the probe.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use axum::http::HeaderMap;
use axum::response::IntoResponse;
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use snippets::connections::listen;
use snippets::sse::event::Ids;
use snippets::sse::event::Names;
use snippets::sse::log::{Begin, Config as LogConfig, First};
use snippets::sse::streams::Config as StreamsConfig;
use sse_feed::{Access, Demo, FORBIDDEN, Message, Refusal, Service, Settings, UNAUTHORIZED};
use stream_probe::{Finding, Kind, Options, Publish, Target, Verdict};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

struct Running {
    addr: SocketAddr,
    stop: CancellationToken,
    served: JoinHandle<usize>,
    client: Client,
}

impl Running {
    async fn start(settings: Settings) -> Self {
        Self::with(settings, Arc::new(Demo), "127.0.0.1:0".parse().unwrap()).await
    }

    async fn with(settings: Settings, access: Arc<dyn Access>, addr: SocketAddr) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let service = Service::start(settings, access, stop.clone());
        let config = listen::Config::default();
        let served = tokio::spawn(listen::serve(listener, service.app(), config, stop.clone()));
        let client = Client::new();
        Self {
            addr,
            stop,
            served,
            client,
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    fn get(&self, path: &str) -> RequestBuilder {
        let request = self.client.get(self.url(path));
        request.bearer_auth("demo").header("x-shop", "demo")
    }

    async fn publish(&self, message: Value) -> Response {
        let request = self
            .client
            .post(self.url("/orders/1/events"))
            .bearer_auth("demo")
            .header("x-shop", "demo");
        request.json(&message).send().await.unwrap()
    }
}

/// Reads until `end` has come.
async fn until(response: &mut Response, end: &str) -> String {
    let mut text = String::new();
    let reading = async {
        while !text.contains(end) {
            match response.chunk().await.unwrap() {
                Some(chunk) => text += std::str::from_utf8(&chunk).unwrap(),
                None => panic!("ended without {end:?}: {text}"),
            }
        }
    };
    let read = tokio::time::timeout(Duration::from_secs(60), reading).await;
    assert!(read.is_ok(), "{end:?} did not come: {text}");
    text
}

#[tokio::test]
async fn a_client_resumes_up_to_the_terminal_event() {
    let service = Running::start(Settings::default()).await;
    let mut events = service.get("/orders/1/events").send().await.unwrap();
    let start = until(&mut events, "\n\n").await;
    assert!(
        start.starts_with("id: ") && start.contains("-0\nretry: "),
        "{start}"
    );
    drop(events);
    let paid = service
        .publish(json!({"event": "order:paid", "data": {"total": 12}}))
        .await;
    assert_eq!(paid.status(), StatusCode::ACCEPTED);
    service
        .publish(json!({"event": "closed", "data": null, "last": true}))
        .await;
    let id = start.lines().next().unwrap().trim_start_matches("id: ");
    let rest = service.get("/orders/1/events").header("last-event-id", id);
    let rest = rest.send().await.unwrap().text().await.unwrap();
    assert!(
        rest.contains("event: order:paid\ndata: {\"total\":12}\n\n")
            && rest.contains("event: closed\n"),
        "{rest}"
    );
    let last = rest.rsplit("id: ").next().unwrap().lines().next().unwrap();
    let done = service.get(&format!("/orders/1/events?lastEventId={last}"));
    assert_eq!(done.send().await.unwrap().status(), StatusCode::NO_CONTENT);
    assert_eq!(
        service
            .publish(json!({"event": "late", "data": 1}))
            .await
            .status(),
        StatusCode::CONFLICT
    );
}

#[tokio::test]
async fn refusals_have_their_statuses() {
    let service = Running::start(Settings {
        max_per_user: 1,
        max_event: 100,
        ..Settings::default()
    })
    .await;
    let events = service.url("/orders/1/events");
    let status = async |request: RequestBuilder| request.send().await.unwrap().status();
    assert_eq!(status(service.client.get(&events)).await, 401);
    assert_eq!(
        status(service.client.get(&events).bearer_auth("wrong")).await,
        401
    );
    assert_eq!(
        status(service.client.get(format!("{events}?ticket=wrong"))).await,
        401
    );
    assert_eq!(
        service
            .publish(json!({"event": "ping", "data": 1}))
            .await
            .status(),
        422
    );
    assert_eq!(
        service
            .publish(json!({"event": "big", "data": "x".repeat(200)}))
            .await
            .status(),
        413
    );
    let ticket = service
        .client
        .post(service.url("/tickets"))
        .bearer_auth("demo")
        .send()
        .await
        .unwrap();
    let ticket: Value = ticket.json().await.unwrap();
    let with_ticket = format!("{events}?ticket={}", ticket["ticket"].as_str().unwrap());
    let open = service.client.get(&with_ticket).send().await.unwrap();
    assert_eq!(open.status(), 200);
    assert_eq!(
        status(service.client.get(&with_ticket)).await,
        401,
        "a ticket is valid once"
    );
    assert_eq!(status(service.get("/orders/1/events")).await, 429);
    assert_eq!(status(service.client.head(&events)).await, 401);
    assert_eq!(
        status(service.client.head(&events).bearer_auth("demo")).await,
        200
    );
}

/// May read `1` alone, until that is revoked.
struct Revocable(CancellationToken);

impl Access for Revocable {
    fn user(&self, headers: &HeaderMap) -> Option<String> {
        Some(headers.get("x-shop")?.to_str().ok()?.to_owned())
    }

    fn may_read(&self, _user: &str, order: &str) -> bool {
        order == "1" && !self.0.is_cancelled()
    }

    fn may_publish(&self, _headers: &HeaderMap, _order: &str) -> Result<(), Refusal> {
        Err(FORBIDDEN)
    }
}

#[tokio::test]
async fn a_right_that_ends_ends_the_stream() {
    let revoked = CancellationToken::new();
    let access = Arc::new(Revocable(revoked.clone()));
    let settings = Settings {
        recheck: Duration::from_millis(20),
        ..Settings::default()
    };
    let service = Running::with(settings, access, "127.0.0.1:0".parse().unwrap()).await;
    let mut events = service.get("/orders/1/events").send().await.unwrap();
    until(&mut events, "\n\n").await;
    assert_eq!(
        service
            .get("/orders/2/events")
            .send()
            .await
            .unwrap()
            .status(),
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        service
            .publish(json!({"event": "tick", "data": 1}))
            .await
            .status(),
        StatusCode::FORBIDDEN
    );
    revoked.cancel();
    until(&mut events, "event: unauthorized\n").await;
}

/// Plain numbers as ids, other names, and the oldest event first: settings, no code.
#[tokio::test]
async fn another_contract_is_a_matter_of_settings() {
    let names = Names {
        heartbeat: None,
        reset: "resync",
        restart: Some("bye"),
        ..Names::DEFAULT
    };
    let settings = Settings {
        log: LogConfig {
            ids: Ids::Sequence,
            begin: Begin::Oldest,
            reset_data: |_| json!({"load": "snapshot"}),
            names,
            ..Settings::default().log
        },
        streams: StreamsConfig {
            names,
            drain_spread: Duration::ZERO,
            ..StreamsConfig::default()
        },
        max_per_user: 2,
        refuse: |refusal| match refusal.code {
            "too_many_streams" => refusal.with(
                StatusCode::CONFLICT,
                &json!({"error": {"code": "too_many"}}),
            ),
            _ => refusal.into_response(),
        },
        cursor_parameter: "since",
        ..Settings::default()
    };
    let service = Running::start(settings).await;
    let id: Value = service
        .publish(json!({"event": "tick", "data": 1}))
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(id, json!({"id": "1"}));
    let mut events = service.get("/orders/1/events").send().await.unwrap();
    let text = until(&mut events, "event: tick").await;
    assert!(
        text.contains("id: 1\nevent: tick\n") && !text.contains("reset"),
        "{text}"
    );
    // A name of the pack's own, but not of this contract's.
    let status = async |name: &str| {
        let message = json!({"event": name, "data": 1});
        service.publish(message).await.status()
    };
    assert_eq!(
        (status("reset").await, status("resync").await),
        (StatusCode::ACCEPTED, StatusCode::UNPROCESSABLE_ENTITY)
    );
    let mut ahead = service
        .get("/orders/1/events?since=99")
        .send()
        .await
        .unwrap();
    until(&mut ahead, "event: resync\ndata: {\"load\":\"snapshot\"}\n").await;
    let third = service.get("/orders/1/events").send().await.unwrap();
    assert_eq!(third.status(), 409);
    assert!(third.headers().contains_key("retry-after"));
    assert_eq!(
        third.text().await.unwrap(),
        r#"{"error":{"code":"too_many"}}"#
    );
    service.stop.cancel();
    until(&mut events, "event: bye\n").await;
}

/// Publishes with the key of a service, which is no user.
struct Shop;

impl Access for Shop {
    fn user(&self, headers: &HeaderMap) -> Option<String> {
        Demo.user(headers)
    }

    fn may_read(&self, _user: &str, _order: &str) -> bool {
        true
    }

    fn may_publish(&self, headers: &HeaderMap, _order: &str) -> Result<(), Refusal> {
        let key = headers.get("x-service-key").ok_or(UNAUTHORIZED)?;
        (key == "s3cret").then_some(()).ok_or(FORBIDDEN)
    }
}

/// The body of a publication, its answer, the publisher's credential and the start are the reader's too.
#[tokio::test]
async fn what_is_published_and_by_whom_is_a_matter_of_settings() {
    let mut settings = Settings {
        tickets: false,
        message: |body| {
            let status = body.get("status")?.as_str()?;
            Some(Message {
                event: format!("order.{status}"),
                last: status == "closed",
                data: body,
            })
        },
        published: |id| json!({ "n": id.parse::<u64>().ok() }),
        ..Settings::default()
    };
    settings.log.ids = Ids::Sequence;
    settings.log.begin = Begin::Newest;
    let address = "127.0.0.1:0".parse().unwrap();
    let service = Running::with(settings, Arc::new(Shop), address).await;
    let post = async |key: &str, body: Value| {
        let request = service.client.post(service.url("/orders/1/events"));
        request
            .header("x-service-key", key)
            .json(&body)
            .send()
            .await
            .unwrap()
    };
    assert_eq!(post("wrong", json!({"status": "new"})).await.status(), 403);
    assert_eq!(post("s3cret", json!({"state": "new"})).await.status(), 422);
    for (n, status) in [(1, "new"), (2, "paid")] {
        let published = post("s3cret", json!({ "status": status })).await;
        assert_eq!(published.json::<Value>().await.unwrap(), json!({ "n": n }));
    }
    let mut events = service.get("/orders/1/events").send().await.unwrap();
    let text = until(&mut events, "order.paid").await;
    assert!(
        !text.contains("order.new") && !text.contains("reset"),
        "{text}"
    );
    let mut ahead = service
        .get("/orders/1/events?lastEventId=99")
        .send()
        .await
        .unwrap();
    let text = until(&mut ahead, "order.paid").await;
    assert!(text.contains("event: reset\n"), "{text}");
    post("s3cret", json!({"status": "closed"})).await;
    until(&mut events, "order.closed").await;
    let tickets = service
        .client
        .post(service.url("/tickets"))
        .bearer_auth("demo");
    assert_eq!(tickets.send().await.unwrap().status(), 404);
}

/// Plain numbers that begin at the clock: a client of the earlier process is reset, although its number is no position.
#[tokio::test]
async fn plain_numbers_survive_a_restart() {
    let numbers = || {
        let mut settings = Settings::default();
        settings.log.ids = Ids::Sequence;
        settings.log.first = First::Clock;
        settings.log.names.restart = None;
        settings.streams.names.restart = None;
        settings.streams.drain_spread = Duration::ZERO;
        settings
    };
    let tick = async |service: &Running| -> Value {
        let published = service.publish(json!({"event": "tick", "data": 1})).await;
        published.json().await.unwrap()
    };
    let first = Running::start(numbers()).await;
    let mut events = first.get("/orders/1/events").send().await.unwrap();
    let id = tick(&first).await["id"].as_str().unwrap().to_owned();
    until(&mut events, &format!("id: {id}\n")).await;
    first.stop.cancel();
    let rest = events.text().await.unwrap();
    assert!(
        rest.ends_with(":\n\n") && !rest.contains("event: restart"),
        "{rest}"
    );
    assert_eq!(first.served.await.unwrap(), 0, "no connection is cut");
    let second = Running::with(numbers(), Arc::new(Demo), first.addr).await;
    let newer = tick(&second).await["id"].as_str().unwrap().to_owned();
    assert!(newer.parse::<u64>().unwrap() > id.parse::<u64>().unwrap());
    let again = second.get(&format!("/orders/1/events?lastEventId={id}"));
    let mut again = again.send().await.unwrap();
    until(&mut again, "event: reset\ndata: {\"reason\":\"trimmed\"}\n").await;
}

#[tokio::test]
async fn a_restart_ends_in_band_and_the_client_learns_of_the_new_log() {
    let quick = || Settings {
        streams: StreamsConfig {
            drain_spread: Duration::ZERO,
            ..StreamsConfig::default()
        },
        ..Settings::default()
    };
    let first = Running::start(quick()).await;
    let mut events = first.get("/orders/1/events").send().await.unwrap();
    let start = until(&mut events, "\n\n").await;
    first.stop.cancel();
    until(&mut events, "event: restart\n").await;
    assert_eq!(first.served.await.unwrap(), 0, "no connection is cut");
    let second = Running::with(quick(), Arc::new(Demo), first.addr).await;
    let id = start
        .lines()
        .next()
        .unwrap()
        .trim_start_matches("id: ")
        .to_owned();
    let mut again = second
        .get("/orders/1/events")
        .header("last-event-id", id)
        .send()
        .await
        .unwrap();
    until(&mut again, "event: reset\ndata: {\"reason\":\"epoch\"}\n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_probe_finds_nothing_with_the_default_settings() {
    let service = Running::start(Settings::default()).await;
    let target = Target::parse(&service.url("/orders/1/events")).unwrap();
    let mut options = Options::new(target);
    options
        .headers
        .push(("authorization".to_owned(), "Bearer demo".to_owned()));
    options.resumable = true;
    options.limit = Some(20);
    options.heartbeat = Some(Duration::from_secs(17));
    options.skip = vec!["sse-stalled-*".to_owned(), "sse-lag-is-told".to_owned()];
    options.budget = Duration::from_secs(60);
    let addr = service.addr;
    options.publish = Publish::Call(Arc::new(move |n| {
        let body = json!({"event": "tick", "data": n}).to_string();
        let head = format!(
            "POST /orders/1/events HTTP/1.1\r\nhost: {addr}\r\nauthorization: Bearer demo\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let mut socket = std::net::TcpStream::connect(addr).unwrap();
        socket
            .write_all(format!("{head}{body}").as_bytes())
            .unwrap();
        let mut status = [0; 12];
        socket.read_exact(&mut status).unwrap();
        assert_eq!(&status, b"HTTP/1.1 202");
    }));
    let report = stream_probe::run(Kind::Sse, &options, None).await.unwrap();
    let lines: Vec<String> = report.findings.iter().map(Finding::line).collect();
    assert_eq!(
        report.ids(Verdict::Failed),
        Vec::<&str>::new(),
        "{}",
        lines.join("\n")
    );
    assert!(
        report.ids(Verdict::Passed).len() >= 30,
        "{}",
        lines.join("\n")
    );
}
