//! Wrong: `tokio::spawn` a task that reads the model and sends into a channel for the response
//! Harm: if the user leaves while the model is silent, nothing notices it: the connection stays open and the next token is paid for
//! Instead: llm/relay
//! Probe: fails llm-abort-stops-work

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::{Router, routing::post};
use futures::StreamExt;
use snippets::llm::providers::ModelEvent;
use snippets::llm::scripted_model::{ExchangeEnd, Fault, Reply, Script, ScriptedModel};
use snippets::llm::upstream::{Dialect, Upstream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::support::chat::{self, Chat, patient};
use crate::support::wrong::{Probed, Start, Wrong, answer};
use crate::support::{Server, within};

fn silent_after_two() -> Script {
    Script::reply(Reply::text("one two three four")).with_fault(Fault::Stall { after: 2 })
}

fn wrong(upstream: Upstream, gone: CancellationToken) -> Router {
    let handler = async move || {
        let (tx, mut rx) = mpsc::channel(16);
        tokio::spawn(async move {
            let Ok(mut events) = upstream.open_messages(Vec::new()).await else {
                return;
            };
            while let Some(Ok(event)) = events.next().await {
                if let ModelEvent::Text(text) = event
                    && tx.send(text).await.is_err()
                {
                    return;
                }
            }
        });
        let gone = gone.drop_guard();
        Body::from_stream(futures::stream::poll_fn(move |cx| {
            let _ = &gone;
            rx.poll_recv(cx).map(|text| text.map(Ok::<_, Infallible>))
        }))
    };
    Router::new().route("/chat", post(handler))
}

pub(crate) const PROBED: Probed = Probed::new(Start::Relay(wrong_service));

/// The same with everything else that an answer needs.
pub(crate) fn wrong_service(upstream: Upstream) -> Wrong {
    let handler = async move || {
        let (tx, rx) = mpsc::channel(16);
        tokio::spawn(async move {
            let mut events = match upstream.open_messages(Vec::new()).await {
                Ok(events) => events,
                Err(error) => return drop(tx.send(Err(error)).await),
            };
            while let Some(event) = events.next().await {
                if tx.send(event).await.is_err() {
                    return;
                }
            }
        });
        answer(ReceiverStream::new(rx))
    };
    Wrong::new(Router::new().route("/chat", post(handler)))
}

#[tokio::test]
async fn nobody_notices_that_the_user_left() {
    let model = ScriptedModel::new(silent_after_two());
    let provider = Server::start(model.router()).await;
    let upstream = crate::support::chat::upstream(
        Dialect::OpenAiChat,
        &provider.url(""),
        "key",
        "m",
        Duration::from_secs(60),
    )
    .unwrap();
    let gone = CancellationToken::new();
    let server = Server::start(wrong(upstream, gone.clone())).await;
    let mut client = chat::post(server.addr, "/chat", "{}", &[]).await;
    client.read_until("two").await;
    drop(client);
    within("the response to be dropped", gone.cancelled()).await;
    // The response is gone; the model is still being listened to, and what it says next is paid for.
    assert_eq!(model.exchanges()[0].end, None);
    model.release();
    let exchange = within("the end", model.wait_for(|exchange| exchange.end.is_some())).await;
    assert!(exchange.tokens > 2, "{exchange:?}");
}

#[tokio::test]
async fn inside_the_response_the_model_ends_with_it() {
    let chat = Chat::start(silent_after_two(), patient()).await;
    let mut client = chat.ask().await;
    client.read_until("two").await;
    drop(client);
    let exchange = within(
        "the end",
        chat.model.wait_for(|exchange| exchange.end.is_some()),
    )
    .await;
    assert_eq!(
        (exchange.end, exchange.tokens),
        (Some(ExchangeEnd::ReaderGone), 2)
    );
}
