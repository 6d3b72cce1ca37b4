//! Wrong: whatever has been read when the stream ends counts as the answer.
//! Harm: a proxy ends the body of a provider that died as if it were complete; half an answer is stored and shown as a whole one.
//! Instead: llm/providers
//! Probe: fails llm-truncation-visible

use axum::{Router, routing::post};
use eventsource_stream::Eventsource;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use snippets::llm::http;
use snippets::llm::model_stream::model_events;
use snippets::llm::openai_chat::OpenAiChat;
use snippets::llm::providers::{ModelError, ModelEvent};
use snippets::llm::scripted_model::{Reply, Script, ScriptedModel};

use snippets::llm::providers::FinishReason;
use snippets::llm::upstream::Upstream;

use crate::support::Server;
use crate::support::wrong::{Probed, Start, Wrong, answer};

pub(crate) const PROBED: Probed = Probed::new(Start::Relay(wrong_service));

/// A relay of the same opinion: what has come when the stream ends is the answer.
pub(crate) fn wrong_service(upstream: Upstream) -> Wrong {
    let handler = async move || {
        let opening = async move { upstream.open_messages(Vec::new()).await };
        answer(
            stream::once(opening)
                .try_flatten()
                .map(|event| match event {
                    Err(ModelError::Truncated) => Ok(ModelEvent::Finish {
                        reason: FinishReason::Stop,
                        tool_calls: Vec::new(),
                    }),
                    event => event,
                }),
        )
    };
    Wrong::new(Router::new().route("/chat", post(handler)))
}

async fn ask(server: &Server, model: &str) -> reqwest::Response {
    let url = server.url("/v1/chat/completions");
    let request = json!({"model": model, "stream": true});
    reqwest::Client::new()
        .post(url)
        .json(&request)
        .send()
        .await
        .unwrap()
}

/// As most guides write it. `[DONE]` ends it; so does the end of the body.
async fn naive(response: reqwest::Response) -> Result<String, String> {
    let mut answer = String::new();
    let mut events = response.bytes_stream().eventsource();
    while let Some(event) = events.next().await {
        let event = event.map_err(|error| error.to_string())?;
        if event.data == "[DONE]" {
            break;
        }
        let chunk: Value = serde_json::from_str(&event.data).map_err(|e| e.to_string())?;
        answer.push_str(
            chunk["choices"][0]["delta"]["content"]
                .as_str()
                .unwrap_or_default(),
        );
    }
    Ok(answer)
}

#[tokio::test]
async fn half_an_answer_passes_for_a_whole_one() {
    let model = ScriptedModel::new(Script::reply(Reply::text(
        "Do not take both pills at once.",
    )));
    let server = Server::start(model.router()).await;
    for cut in ["scripted/cut", "scripted/cut-inside"] {
        assert_eq!(
            naive(ask(&server, cut).await).await,
            Ok("Do not take ".to_owned())
        );

        let body = http::open(ask(&server, cut).await, "text/event-stream")
            .await
            .unwrap();
        let events: Vec<_> = model_events(body, OpenAiChat::default()).collect().await;
        assert_eq!(events.last(), Some(&Err(ModelError::Truncated)), "{cut}");
        assert!(
            !events
                .iter()
                .any(|e| matches!(e, Ok(ModelEvent::Finish { .. })))
        );
    }
}
