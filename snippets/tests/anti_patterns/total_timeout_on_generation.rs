//! Wrong: a total timeout on the request to the model
//! Harm: a long, healthy answer is cut in the middle, after most of it was paid for, and retried from the start
//! Instead: llm/relay
//! Probe: cannot see: after the timeout, which a run does not reach

use std::time::Duration;

use futures::StreamExt;
use serde_json::json;
use snippets::llm::http;
use snippets::llm::model_stream::model_events;
use snippets::llm::openai_chat::OpenAiChat;
use snippets::llm::providers::{ModelError, ModelEvent};
use snippets::llm::relay::Config;
use snippets::llm::scripted_model::{ExchangeEnd, Reply, Script, ScriptedModel};

use crate::support::chat::{Chat, patient};
use crate::support::{Server, within};

/// Ten tokens in at least 3 s.
fn steady() -> Script {
    let pace = Duration::from_millis(300);
    Script {
        pace,
        ..Script::reply(Reply::text("a b c d e f g h i j"))
    }
}

#[tokio::test]
async fn a_long_answer_is_cut() {
    let model = ScriptedModel::new(steady());
    let provider = Server::start(model.router()).await;
    let request = reqwest::Client::new()
        .post(provider.url("/v1/chat/completions"))
        // Half of the answer, and more than a busy machine needs to ask.
        .timeout(Duration::from_millis(1_500))
        .json(&json!({ "stream": true }));
    let answer = async {
        let response = request
            .send()
            .await
            .map_err(|error| ModelError::Transport(error.to_string()))?;
        let body = http::open(response, "text/event-stream").await?;
        let mut events = Box::pin(model_events(body, OpenAiChat::default()));
        let mut text = String::new();
        while let Some(event) = events.next().await {
            if let ModelEvent::Text(piece) = event? {
                text.push_str(&piece);
            }
        }
        Ok(text)
    };
    assert!(matches!(
        within("the answer", answer).await,
        Err(ModelError::Transport(_))
    ));
    let exchange = within("the end", model.wait_for(|exchange| exchange.end.is_some())).await;
    assert_eq!(exchange.end, Some(ExchangeEnd::ReaderGone));
}

#[tokio::test]
async fn a_limit_on_silence_lets_it_finish() {
    let chat = Chat::start(
        steady(),
        Config {
            silence: Duration::from_secs(60),
            ..patient()
        },
    )
    .await;
    let mut client = chat.ask().await;
    client.read_to_end().await;
    assert!(client.body().contains("event: done"));
}
