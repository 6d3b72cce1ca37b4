//! The service as it is shipped: its contract, and no finding of the probe with the default settings.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;
use std::time::Duration;

use axum::response::IntoResponse;
use progress_jobs::{Refusal, Service, Settings};
use reqwest::{Client, Response, StatusCode};
use snippets::connections::listen;
use stream_probe::{Finding, Kind, Options, Target, Verdict};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

struct Running {
    addr: SocketAddr,
    stop: CancellationToken,
    client: Client,
}

impl Running {
    async fn start(settings: Settings) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let service = Service::start(settings, stop.clone());
        let config = listen::Config::default();
        tokio::spawn(listen::serve(listener, service.app(), config, stop.clone()));
        let client = Client::new();
        Self { addr, stop, client }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// Starts a job; returns the path of its events.
    async fn job(&self) -> String {
        let response = self.client.post(self.url("/jobs")).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::CREATED);
        response.headers()["location"].to_str().unwrap().to_owned()
    }

    async fn watch(&self, path: &str) -> Response {
        self.client.get(self.url(path)).send().await.unwrap()
    }
}

fn quick() -> Settings {
    Settings {
        step: Duration::from_millis(1),
        ..Settings::default()
    }
}

#[tokio::test]
async fn a_job_ends_without_a_client_and_its_end_is_kept() {
    let service = Running::start(quick()).await;
    let events = service.job().await;
    // A client that leaves in the middle.
    drop(service.watch(&events).await);
    let text = service.watch(&events).await.text().await.unwrap();
    assert!(
        text.contains("event: done\n") && text.contains("\"percent\":100"),
        "{text}"
    );
    let id = text.lines().rfind(|line| line.starts_with("id:")).unwrap();
    let again = service.client.get(service.url(&events));
    let again = again.header("last-event-id", id["id:".len()..].trim());
    assert_eq!(again.send().await.unwrap().status(), StatusCode::NO_CONTENT);
    let unknown = service.watch("/jobs/0/events").await;
    assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_refusal_has_the_shape_of_the_reader() {
    let refuse = |refusal: Refusal| (StatusCode::GONE, refusal.code).into_response();
    let settings = Settings {
        refuse,
        ..Settings::default()
    };
    let service = Running::start(settings).await;
    let unknown = service.watch("/jobs/0/events").await;
    assert_eq!(unknown.status(), StatusCode::GONE);
    assert_eq!(unknown.text().await.unwrap(), "not_found");
}

#[tokio::test]
async fn a_stopped_job_says_so() {
    let service = Running::start(Settings::default()).await;
    let events = service.job().await;
    let watching = service.watch(&events).await;
    let job = service.url(events.trim_end_matches("/events"));
    let stopped = service.client.delete(job).send().await.unwrap();
    assert_eq!(stopped.status(), StatusCode::NO_CONTENT);
    let text = watching.text().await.unwrap();
    assert!(
        text.ends_with("event: failed\ndata: {\"code\":\"stopped\"}\n\n"),
        "{text}"
    );
}

#[tokio::test]
async fn jobs_are_bounded_and_forgotten() {
    let settings = Settings {
        max_jobs: 1,
        keep: Duration::from_millis(1),
        ..quick()
    };
    let service = Running::start(settings).await;
    let events = service.job().await;
    let mut refused = service
        .client
        .post(service.url("/jobs"))
        .send()
        .await
        .unwrap();
    if refused.status() == StatusCode::SERVICE_UNAVAILABLE {
        assert!(refused.headers().contains_key("retry-after"));
    }
    // It is forgotten after its end, and there is room again.
    while refused.status() == StatusCode::SERVICE_UNAVAILABLE {
        let _ = service.watch(&events).await.text().await;
        refused = service
            .client
            .post(service.url("/jobs"))
            .send()
            .await
            .unwrap();
    }
    assert_eq!(refused.status(), StatusCode::CREATED);
}

#[tokio::test]
async fn a_shutdown_ends_the_streams_in_band() {
    let service = Running::start(Settings::default()).await;
    let events = service.job().await;
    let watching = service.watch(&events).await;
    service.stop.cancel();
    let text = watching.text().await.unwrap();
    assert!(text.contains("event: restart\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_probe_finds_nothing_with_the_default_settings() {
    // The work is the reader's; only its length is chosen, so that it outlives the probe.
    let settings = Settings {
        step: Duration::from_secs(60),
        ..Settings::default()
    };
    let service = Running::start(settings).await;
    let url = service.url(&service.job().await);
    let mut options = Options::new(Target::parse(&url).unwrap());
    options.budget = Duration::from_secs(120);
    let report = stream_probe::run(Kind::Sse, &options, None).await.unwrap();
    let lines: Vec<String> = report.findings.iter().map(Finding::line).collect();
    assert_eq!(
        report.ids(Verdict::Failed),
        Vec::<&str>::new(),
        "{}",
        lines.join("\n")
    );
}
