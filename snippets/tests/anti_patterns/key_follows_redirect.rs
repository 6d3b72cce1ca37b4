//! Wrong: an HTTP client with its default redirects and the key in a header such as `x-api-key`.
//! Harm: one 307 sends the key and the whole conversation to the host that it names: only `Authorization` and cookies are dropped there.
//! Instead: production/security
//! Probe: cannot see: between the service and the provider

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use snippets::llm::chat::{Role, Turn};
use snippets::llm::upstream::Dialect;

use crate::support::{Server, within};

type Seen = Arc<Mutex<Vec<(Option<String>, String)>>>;

/// A host that is none of the provider's, and an endpoint that redirects to it.
async fn provider_and_other() -> (Server, Server, Seen) {
    let seen = Seen::default();
    let kept = seen.clone();
    let other = Router::new().fallback(async move |headers: HeaderMap, body: String| {
        let key = headers.get("x-api-key");
        let key = key.map(|key| key.to_str().unwrap().to_owned());
        assert!(!headers.contains_key("authorization"));
        kept.lock().unwrap().push((key, body));
    });
    let other = Server::start(other).await;
    let to = other.url("/v1/messages");
    let redirect = async move || (StatusCode::TEMPORARY_REDIRECT, [("location", to)]);
    let provider = Server::start(Router::new().route("/v1/messages", post(redirect))).await;
    (provider, other, seen)
}

async fn ask_carelessly(addr: SocketAddr) {
    let client = reqwest::Client::new();
    let request = client
        .post(format!("http://{addr}/v1/messages"))
        .header("x-api-key", "sk-secret")
        .header("authorization", "Bearer sk-secret")
        .body("a private question");
    request.send().await.unwrap();
}

#[tokio::test]
async fn the_key_and_the_question_follow_a_redirect() {
    let (provider, _other, seen) = provider_and_other().await;
    within("the answer", ask_carelessly(provider.addr)).await;
    let expected = (
        Some("sk-secret".to_owned()),
        "a private question".to_owned(),
    );
    assert_eq!(*seen.lock().unwrap(), [expected]);
}

#[tokio::test]
async fn the_relay_follows_none() {
    let (provider, _other, seen) = provider_and_other().await;
    let (url, silence) = (provider.url(""), Duration::from_secs(20));
    let upstream =
        crate::support::chat::upstream(Dialect::Anthropic, &url, "sk-secret", "m", silence)
            .unwrap();
    let question = Turn {
        role: Role::User,
        content: "a private question".to_owned(),
    };
    let asked = within("the answer", upstream.open(&[question])).await;
    assert!(asked.is_err(), "a redirect is a failure");
    assert!(seen.lock().unwrap().is_empty());
}
