//! The request side: what is sent, why there is no answer, and what a measurement says of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::HeaderMap;
use futures::StreamExt;
use serde_json::{Value, json};
use snippets::llm::chat::{Role, Turn};
use snippets::llm::failure::{Failure, ModelError};
use snippets::llm::http::{self, retry_after};
use snippets::llm::meter::{Measured, Outcome, measure};
use snippets::llm::model_event::Question;
use snippets::llm::public_error::PublicError;
use snippets::llm::relay::Config;
use snippets::llm::scripted_model::{Ending, Fault, Reply, Script, ScriptedModel};
use snippets::llm::upstream::{ANTHROPIC_MAX_TOKENS, Dialect, InvalidUpstream, Upstream};
use snippets::production::chaos_flow::Plan;
use tokio::net::TcpListener;

use crate::support::chaos::chaos;
use crate::support::chat::{app, patient, question, relay};
use crate::support::{Server, eventually, within};

const SILENCE: Duration = Duration::from_secs(20);

fn turns() -> Vec<Turn> {
    let (role, content) = (Role::User, "Hi".to_owned());
    vec![Turn { role, content }]
}

fn upstream(dialect: Dialect, base: &str) -> Upstream {
    crate::support::chat::upstream(dialect, base, "sk-test", "m", SILENCE).unwrap()
}

/// What the provider got of one request.
async fn sent(
    dialect: Dialect,
    change: impl FnOnce(Upstream) -> Upstream,
) -> (HeaderMap, String, Value) {
    sent_by(|base| change(upstream(dialect, base))).await
}

async fn sent_by(upstream: impl FnOnce(&str) -> Upstream) -> (HeaderMap, String, Value) {
    let model = ScriptedModel::new(Script::reply(Reply::text("Hi")));
    let server = Server::start(model.router()).await;
    let upstream = upstream(&server.url(""));
    let events = within("the answer", upstream.open(&turns())).await;
    within("its end", events.unwrap().collect::<Vec<_>>()).await;
    let exchange = model.exchanges().remove(0);
    (exchange.headers, exchange.path, exchange.request)
}

#[tokio::test]
async fn a_request_has_no_hidden_limit() {
    let (_, _, body) = sent(Dialect::OpenAiChat, |upstream| upstream).await;
    let messages = json!([{"role": "user", "content": "Hi"}]);
    let usage = json!({"include_usage": true});
    assert_eq!(
        body,
        json!({"model": "m", "stream": true, "messages": messages, "stream_options": usage})
    );
    // Anthropic requires one.
    let (_, _, body) = sent(Dialect::Anthropic, |upstream| upstream).await;
    assert_eq!(body["max_tokens"], ANTHROPIC_MAX_TOKENS);
}

#[tokio::test]
async fn path_headers_fields_and_instructions_are_configuration() {
    use crate::support::hosts::{azure, mistral};
    let (headers, path, body) = sent_by(|base| azure(base, "azure-key").unwrap()).await;
    assert_eq!(headers["api-key"].to_str().unwrap(), "azure-key");
    assert_eq!(path, "/openai/deployments/chat/chat/completions");
    assert_eq!(body["model"], "gpt-5");

    let (_, _, body) = sent_by(|base| {
        mistral(base, "key")
            .unwrap()
            .field("reasoning_effort", "low")
            .field("tools", json!([{"type": "function"}]))
    })
    .await;
    let messages = json!([{"role": "system", "content": "Answer in one sentence."},
        {"role": "user", "content": "Hi"}]);
    assert_eq!(
        body,
        json!({"model": "mistral-medium", "stream": true, "messages": messages,
            "max_tokens": 4000, "reasoning_effort": "low", "tools": [{"type": "function"}]})
    );
    let (_, _, body) = sent(Dialect::Anthropic, |upstream| upstream.system("Be brief.")).await;
    assert_eq!(
        (&body["system"], &body["messages"][0]["role"]),
        (&json!("Be brief."), &json!("user"))
    );
    // A client adds to the instructions of the service.
    let model = ScriptedModel::new(Script::reply(Reply::text("Hi")));
    let server = Server::start(model.router()).await;
    let own = upstream(Dialect::Anthropic, &server.url("")).system("Be brief.");
    let question = Question {
        system: Some("Rhyme.".to_owned()),
        messages: vec![json!({"role": "user", "content": "Hi"})],
        tools: Vec::new(),
    };
    let events = within("the answer", own.model()(question)).await;
    within("its end", events.unwrap().collect::<Vec<_>>()).await;
    let asked = model.exchanges().remove(0).request;
    assert_eq!(asked["system"], "Be brief.\n\nRhyme.");
    // Another host would get the key.
    let moved =
        upstream(Dialect::OpenAiChat, "http://localhost").path("https://elsewhere.example/v1");
    assert!(matches!(moved, Err(InvalidUpstream::Url(_))), "{moved:?}");
    let debug = format!("{:?}", upstream(Dialect::Anthropic, "http://localhost"));
    assert!(!debug.contains("sk-test"), "{debug}");
}

/// The tests of this package are built without TLS, as a service would be whose Cargo.toml has no `rustls`.
#[test]
fn https_without_tls_is_refused_before_the_first_request() {
    let new = |base| {
        crate::support::chat::upstream(Dialect::OpenAiChat, base, "sk", "m", SILENCE).map(|_| ())
    };
    let error = new("https://api.openai.com").unwrap_err();
    assert!(matches!(error, InvalidUpstream::NoTls), "{error:?}");
    assert!(error.to_string().contains("rustls"), "{error}");
    assert!(matches!(
        new("api.openai.com"),
        Err(InvalidUpstream::Url(_))
    ));
    assert!(new("http://127.0.0.1:1").is_ok());
}

/// The stream is dropped at its `Finish`, and yet its connection serves the next answer.
#[tokio::test]
async fn a_whole_answer_leaves_its_connection_to_the_next_one() {
    for dialect in [Dialect::OpenAiChat, Dialect::Anthropic] {
        let model =
            Server::start(ScriptedModel::new(Script::reply(Reply::text("Hi"))).router()).await;
        let connections = Arc::new(AtomicU64::new(0));
        let counted = connections.clone();
        let proxy = chaos(model.addr, 1, move |connection| {
            counted.fetch_max(connection + 1, Ordering::SeqCst);
            Plan::default()
        });
        let proxy = proxy.await;
        let upstream = upstream(dialect, &format!("http://{}", proxy.addr()));
        for _ in 0..20 {
            let events = within("the answer", upstream.open(&turns())).await.unwrap();
            within("its end", events.collect::<Vec<_>>()).await;
        }
        let opened = connections.load(Ordering::SeqCst);
        // The last bytes of a body may come too late for it.
        assert!(
            (1..20).contains(&opened),
            "{dialect:?}: {opened} connections"
        );
    }
}

#[tokio::test]
async fn a_transport_error_has_its_cause() {
    let why = async |base: &str| {
        let opened = within(
            "an error",
            upstream(Dialect::OpenAiChat, base).open(&turns()),
        )
        .await;
        match opened.map(|_| ()) {
            Err(ModelError::Transport(text)) => text,
            other => panic!("{other:?}"),
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let refused = why(&format!("http://{addr}")).await;
    assert!(refused.contains("refused"), "{refused}");
    // No label may be longer than 63: the resolver need not ask anybody.
    let unknown = why(&format!("http://{}.test", "a".repeat(70))).await;
    assert!(unknown.contains("dns"), "{unknown}");

    // A reset in the middle of the body.
    let model = ScriptedModel::new(Script::reply(Reply::text("one two three")).with_fault(
        Fault::CutBetween {
            after: 1,
            ending: Ending::Abort,
        },
    ));
    let server = Server::start(model.router()).await;
    let events = upstream(Dialect::OpenAiChat, &server.url(""))
        .open(&turns())
        .await
        .unwrap();
    let last = within("the end", events.collect::<Vec<_>>())
        .await
        .pop()
        .unwrap();
    let Err(ModelError::Transport(cut)) = last else {
        panic!("{last:?}")
    };
    assert!(cut.matches(": ").count() >= 2, "all causes: {cut}");
}

#[test]
fn the_wait_is_read_in_three_forms() {
    let now = httpdate::parse_http_date("Mon, 30 Nov 2026 12:00:00 GMT").unwrap();
    let wait = |headers: &[(&'static str, &'static str)]| {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        retry_after(&HeaderMap::from_iter(headers), now)
    };
    assert_eq!(wait(&[("retry-after", "7")]), Some(Duration::from_secs(7)));
    assert_eq!(
        wait(&[("retry-after", "1.5")]),
        Some(Duration::from_millis(1500))
    );
    let date = ("retry-after", "Mon, 30 Nov 2026 12:00:30 GMT");
    assert_eq!(wait(&[date]), Some(Duration::from_secs(30)));
    let past = ("retry-after", "Mon, 30 Nov 2026 11:00:00 GMT");
    assert_eq!(wait(&[past]), Some(Duration::ZERO));
    assert_eq!(
        wait(&[("retry-after-ms", "250"), ("retry-after", "1")]),
        Some(Duration::from_millis(250))
    );
    for bad in ["soon", "-1", "1e99", ""] {
        assert_eq!(wait(&[("retry-after", bad)]), None, "{bad}");
    }
    // A part of a second is not zero seconds.
    let error = ModelError::Status {
        status: 429,
        retry_after: Some(Duration::from_millis(250)),
        body: String::new(),
    };
    assert_eq!(PublicError::from(&error).retry_after, Some(1));
}

#[tokio::test]
async fn an_error_with_status_200_is_an_error() {
    let body = r#"{"error":{"message":"m","type":"insufficient_quota","code":null}}"#;
    let json = move || async move { ([("content-type", "application/json")], body) };
    let server = Server::start(axum::Router::new().route("/", axum::routing::get(json))).await;
    let response = reqwest::get(server.url("/")).await.unwrap();
    let error = http::open(response, "text/event-stream")
        .await
        .map(|_| ())
        .unwrap_err();
    assert_eq!(error.failure(), Failure::AccountEmpty);
}

#[test]
fn statuses_and_codes_have_one_classification() {
    let of = |status: u16, body: &str| {
        ModelError::Status {
            status,
            retry_after: None,
            body: body.to_owned(),
        }
        .failure()
    };
    for (status, body, expected) in [
        (
            429,
            r#"{"error":{"code":"rate_limit_exceeded"}}"#,
            Failure::RateLimited,
        ),
        (
            429,
            r#"{"error":{"code":"insufficient_quota","type":"insufficient_quota"}}"#,
            Failure::AccountEmpty,
        ),
        (
            429,
            r#"[{"error":{"code":429,"status":"RESOURCE_EXHAUSTED"}}]"#,
            Failure::RateLimited,
        ),
        (429, "<html>", Failure::RateLimited),
        (
            402,
            r#"{"error":{"message":"Insufficient Balance"}}"#,
            Failure::AccountEmpty,
        ),
        (
            400,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the API."}}"#,
            Failure::AccountEmpty,
        ),
        (
            400,
            r#"{"error":{"code":"context_length_exceeded","type":"invalid_request_error"}}"#,
            Failure::Rejected,
        ),
        (
            400,
            r#"{"error":{"code":"unsupported_parameter","type":"invalid_request_error"}}"#,
            Failure::Misconfigured,
        ),
        (
            400,
            r#"{"error":{"status":"INVALID_ARGUMENT","details":[{"reason":"API_KEY_INVALID"}]}}"#,
            Failure::Misconfigured,
        ),
        (400, "", Failure::Rejected),
        (
            401,
            r#"{"error":{"message":"Incorrect API key provided"}}"#,
            Failure::Misconfigured,
        ),
        (
            403,
            r#"{"error":{"code":403,"message":"flagged","metadata":{"reasons":["violence"]}}}"#,
            Failure::Rejected,
        ),
        (
            404,
            r#"{"error":{"code":"model_not_found"}}"#,
            Failure::Misconfigured,
        ),
        (498, "", Failure::Overloaded),
        (
            503,
            r#"{"error":{"code":"server_is_overloaded","type":"service_unavailable_error"}}"#,
            Failure::Overloaded,
        ),
        (
            503,
            r#"{"error":{"type":"invalid_request_error"}}"#,
            Failure::Overloaded,
        ),
        (
            529,
            r#"{"type":"error","error":{"type":"overloaded_error"}}"#,
            Failure::Overloaded,
        ),
        (524, "<html>a timeout of the edge</html>", Failure::Internal),
        (418, "", Failure::Internal),
    ] {
        assert_eq!(of(status, body), expected, "{status} {body}");
    }
    for code in [
        "throttlingException",
        "RateLimitExceeded",
        "rate_limit_reached_error",
    ] {
        let error = ModelError::provider(&json!({"error": {"code": code}}));
        assert_eq!(error.failure(), Failure::RateLimited, "{code}");
    }
}

#[tokio::test]
async fn a_refusal_of_the_provider_is_measured_as_failed() {
    let script = Script::reply(Reply::text("Hi")).with_fault(Fault::Status {
        status: 429,
        retry_after: Some(7),
    });
    let model = Server::start(ScriptedModel::new(script).router()).await;
    let measured = Arc::new(Mutex::new(Vec::<Measured>::new()));
    let into = measured.clone();
    let config = Config {
        watch: measure(
            "scripted",
            Arc::new(move |one| into.lock().unwrap().push(one.clone())),
        ),
        ..patient()
    };
    let server = Server::start(app(Arc::new(relay(&model.url(""), config)))).await;
    let request = reqwest::Client::new()
        .post(server.url("/chat"))
        .header("content-type", "application/json");
    let response = within("the refusal", request.body(question()).send())
        .await
        .unwrap();
    assert_eq!(response.status(), 429);
    eventually("a report", || !measured.lock().unwrap().is_empty()).await;
    let one = measured.lock().unwrap()[0].clone();
    assert_eq!(one.outcome, Outcome::Failed("rate_limited"));
    assert_eq!((&*one.user, one.output_tokens()), ("alice", (0, true)));
}
