//! The service as it is shipped: its contract, and no finding of the probe with the default settings.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::future::IntoFuture;
use std::net::SocketAddr;
use std::time::Duration;

use futures::StreamExt;
use llm_chat::{Service, Settings};
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};
use snippets::connections::listen;
use snippets::llm::model_stream::model_events;
use snippets::llm::openai_chat::OpenAiChat;
use snippets::llm::scripted_model::{ExchangeEnd, Fault, Reply, Script, ScriptedModel};
use snippets::llm::upstream::{Dialect, Upstream};
use stream_probe::{Finding, Kind, Options, Target, Verdict};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

struct Running {
    addr: SocketAddr,
    model: ScriptedModel,
    stop: CancellationToken,
}

fn upstream(addr: SocketAddr) -> Upstream {
    let silence = Duration::from_secs(600);
    Upstream::new(
        Dialect::OpenAiChat,
        &format!("http://{addr}"),
        "key",
        "m",
        silence,
        |body| model_events(body, OpenAiChat::default()).boxed(),
    )
    .unwrap()
}

async fn serve(upstream: Upstream) -> (SocketAddr, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let service = Service::start(upstream, Settings::default(), stop.clone());
    let config = listen::Config::default();
    tokio::spawn(listen::serve(listener, service.app(), config, stop.clone()));
    (addr, stop)
}

impl Running {
    async fn start(script: Script) -> Self {
        let model = ScriptedModel::new(script);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let provider = listener.local_addr().unwrap();
        tokio::spawn(axum::serve(listener, model.router()).into_future());
        let (addr, stop) = serve(upstream(provider)).await;
        Self { addr, model, stop }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    fn ask(&self, user: &str, key: &str) -> RequestBuilder {
        Client::new()
            .post(self.url("/generations"))
            .header("cookie", format!("user={user}"))
            .header("idempotency-key", key)
            .json(&json!({ "messages": [{ "role": "user", "content": "Hello" }] }))
    }

    async fn usage(&self, user: &str) -> Value {
        let request = Client::new().get(self.url("/usage"));
        let request = request.header("cookie", format!("user={user}"));
        request.send().await.unwrap().json().await.unwrap()
    }
}

fn words() -> Script {
    Script::reply(Reply::text("one two three four"))
}

#[tokio::test]
async fn an_answer_is_kept_counted_and_its_users_own() {
    let service = Running::start(words()).await;
    let body = service
        .ask("ada", "k")
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(body.contains("event: done"), "{body}");
    let again = service
        .ask("ada", "k")
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert_eq!(
        again.matches("event: text").count(),
        body.matches("event: text").count()
    );
    assert_eq!(service.model.exchanges().len(), 1);
    let usage = service.usage("ada").await;
    assert_eq!(
        (&usage["answers"], &usage["output"], &usage["estimated"]),
        (&json!(1), &json!(4), &json!(0))
    );
    assert_eq!(service.usage("bob").await["answers"], 0);
    let theirs = Client::new()
        .get(service.url("/generations/k"))
        .header("cookie", "user=bob");
    assert_eq!(theirs.send().await.unwrap().status(), 404);
    let nobody = Client::new().get(service.url("/usage"));
    assert_eq!(nobody.send().await.unwrap().status(), 401);
}

#[tokio::test]
async fn stop_closes_the_providers_connection_and_a_shutdown_ends_in_band() {
    let service = Running::start(words().with_fault(Fault::Stall { after: 2 })).await;
    let mut reading = service.ask("ada", "k").send().await.unwrap();
    let mut seen = String::new();
    while !seen.contains("two") {
        seen.push_str(str::from_utf8(&reading.chunk().await.unwrap().unwrap()).unwrap());
    }
    let stop = Client::new()
        .delete(service.url("/generations/k"))
        .header("cookie", "user=ada");
    assert_eq!(stop.send().await.unwrap().status(), 204);
    assert!(
        reading
            .text()
            .await
            .unwrap()
            .contains(r#""code":"stopped""#)
    );
    let ended = service
        .model
        .wait_for(|exchange| exchange.end == Some(ExchangeEnd::ReaderGone));
    ended.await;
    // What was not counted by the provider is an estimate.
    assert!(service.usage("ada").await["estimated"].as_u64().unwrap() > 0);

    let mut reading = service.ask("ada", "l").send().await.unwrap();
    reading.chunk().await.unwrap();
    service.stop.cancel();
    assert!(
        reading
            .text()
            .await
            .unwrap()
            .contains(r#""code":"restart""#)
    );
}

#[tokio::test]
async fn the_page_is_served_with_its_user_and_its_policy() {
    let service = Running::start(words()).await;
    let page = Client::new().get(service.url("/")).send().await.unwrap();
    let header = |name: &str| page.headers()[name].to_str().unwrap().to_owned();
    assert!(header("set-cookie").contains("HttpOnly; SameSite=Strict"));
    assert!(header("content-security-policy").starts_with("default-src 'none'"));
    let script = Client::new()
        .get(service.url("/page.js"))
        .send()
        .await
        .unwrap();
    assert!(script.text().await.unwrap().contains("EventSource"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_probe_finds_nothing_with_the_default_settings() {
    probe("/chat", None).await;
}

/// Each request of the probe is a question of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_probe_finds_nothing_in_answers_that_are_kept() {
    probe("/generations", Some("probe-{n}")).await;
}

async fn probe(path: &str, key: Option<&str>) {
    // A free port, which the probe binds a moment later.
    let provider = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let (addr, _stop) = serve(upstream(provider)).await;
    let mut options = Options::new(Target::parse(&format!("http://{addr}{path}")).unwrap());
    options.method = "POST".to_owned();
    options.body = Some(br#"{"messages":[{"role":"user","content":"hello"}]}"#.to_vec());
    options
        .headers
        .push(("cookie".to_owned(), "user=ada".to_owned()));
    if let Some(key) = key {
        options
            .headers
            .push(("idempotency-key".to_owned(), key.to_owned()));
        options.resumable = true;
    }
    options.upstream = Some(provider);
    options.budget = Duration::from_secs(120);
    let report = stream_probe::run(Kind::Llm, &options, None).await.unwrap();
    let lines: Vec<String> = report.findings.iter().map(Finding::line).collect();
    assert_eq!(
        report.ids(Verdict::Failed),
        Vec::<&str>::new(),
        "{}",
        lines.join("\n")
    );
}
