//! Wrong: the provider's error text is sent to the browser, `errorText: error.to_string()`.
//! Harm: it names the account and the end of the key, and anyone who can cause an error can read both.
//! Instead: llm/ui_message_stream
//! Probe: fails llm-error-text-clean

use axum::{Router, routing::post};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use snippets::llm::anthropic::Anthropic;
use snippets::llm::http;
use snippets::llm::model_stream::model_events;
use snippets::llm::providers::ModelError;
use snippets::llm::scripted_model::ScriptedModel;
use snippets::llm::ui_message_stream::ui_parts;
use snippets::llm::ui_part::UiPart;

use snippets::llm::upstream::Upstream;
use snippets::sse::event::Event;

use crate::support::Server;
use crate::support::wrong::{Probed, Start, Wrong, answer_with};

pub(crate) const PROBED: Probed = Probed::new(Start::Relay(wrong_service));

pub(crate) fn wrong_service(upstream: Upstream) -> Wrong {
    let handler = async move || {
        let opening = async move { upstream.open_messages(Vec::new()).await };
        let events = stream::once(opening).try_flatten();
        answer_with(events, |error| {
            Event::new("failed", &json!({"errorText": error.to_string()}))
        })
    };
    Wrong::new(Router::new().route("/chat", post(handler)))
}

async fn ask(server: &Server, model: &str) -> Result<reqwest::Response, reqwest::Error> {
    let url = server.url("/v1/messages");
    let request = json!({"model": model, "stream": true});
    reqwest::Client::new().post(url).json(&request).send().await
}

#[tokio::test]
async fn the_providers_words_reach_the_browser() {
    let server = Server::start(ScriptedModel::default().router()).await;
    let response = ask(&server, "scripted/error").await.unwrap();
    let body = http::open(response, "text/event-stream").await.unwrap();
    let events: Vec<_> = model_events(body, Anthropic::default()).collect().await;
    let Some(Err(error)) = events.last() else {
        panic!("no error")
    };
    let naive = json!({"type": "error", "errorText": error.to_string()}).to_string();
    assert!(
        naive.contains("org-scripted") && naive.contains("key sk-"),
        "{naive}"
    );

    let parts: Vec<UiPart> = ui_parts("m", futures::stream::iter(events)).collect().await;
    let sent = serde_json::to_string(&parts).unwrap();
    assert!(sent.contains("The model is busy."), "{sent}");
    assert!(
        !sent.contains("scripted") && !sent.contains("sk-"),
        "{sent}"
    );
}

#[tokio::test]
async fn so_do_those_before_the_stream() {
    let server = Server::start(ScriptedModel::default().router()).await;
    let response = ask(&server, "scripted/rate-limit").await.unwrap();
    let error = http::open(response, "text/event-stream")
        .await
        .map(|_| ())
        .unwrap_err();
    assert!(error.to_string().contains("org-scripted"), "{error}");

    let failed = futures::stream::iter([Err::<_, ModelError>(error)]);
    let parts: Vec<UiPart> = ui_parts("m", failed).collect().await;
    let sent = serde_json::to_string(&parts).unwrap();
    assert!(!sent.contains("scripted"), "{sent}");
}
