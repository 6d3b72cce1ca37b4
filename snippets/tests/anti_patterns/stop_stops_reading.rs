//! Wrong: a Stop button that sets a flag, checked only when the next token arrives
//! Harm: while the model thinks, Stop does nothing: the connection stays open, and the thinking is still paid for
//! Instead: llm/relay
//! Probe: cannot see: a Stop of its own kind; leaving is noticed

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use axum::body::Body;
use axum::{Router, routing::post};
use futures::{StreamExt, future};
use snippets::llm::providers::ModelEvent;
use snippets::llm::scripted_model::{ExchangeEnd, Fault, Reply, Script, ScriptedModel};
use snippets::llm::upstream::{Dialect, Upstream};

use crate::support::chat::{self, Chat, patient};
use crate::support::{Server, within};

fn thinking() -> Script {
    Script::reply(Reply::text("one two three four")).with_fault(Fault::Stall { after: 2 })
}

fn wrong(upstream: Upstream) -> Router {
    let stopped = Arc::new(AtomicBool::new(false));
    let stop = stopped.clone();
    let handler = async move || {
        let events = upstream.open_messages(Vec::new()).await.unwrap();
        let texts = events
            .take_while(move |_| future::ready(!stopped.load(SeqCst)))
            .filter_map(|event| {
                future::ready(match event {
                    Ok(ModelEvent::Text(text)) => Some(Ok::<_, Infallible>(text)),
                    _ => None,
                })
            });
        Body::from_stream(texts)
    };
    Router::new()
        .route("/chat", post(handler))
        .route("/stop", post(async move || stop.store(true, SeqCst)))
}

#[tokio::test]
async fn while_the_model_thinks_stop_does_nothing() {
    let model = ScriptedModel::new(thinking());
    let provider = Server::start(model.router()).await;
    let upstream = crate::support::chat::upstream(
        Dialect::OpenAiChat,
        &provider.url(""),
        "key",
        "m",
        Duration::from_secs(60),
    )
    .unwrap();
    let server = Server::start(wrong(upstream)).await;
    let mut client = chat::post(server.addr, "/chat", "{}", &[]).await;
    client.read_until("two").await;
    chat::post(server.addr, "/stop", "{}", &[])
        .await
        .read_head()
        .await;
    assert_eq!(
        model.exchanges()[0].end,
        None,
        "stopped, says the page; open, says the provider"
    );
    model.release();
    let exchange = within(
        "the next token",
        model.wait_for(|exchange| exchange.end.is_some()),
    )
    .await;
    assert!(exchange.tokens > 2);
}

#[tokio::test]
async fn aborting_the_request_stops_it_at_once() {
    let chat = Chat::start(thinking(), patient()).await;
    let mut client = chat.ask().await;
    client.read_until("two").await;
    drop(client); // what `AbortController.abort()` does to an HTTP/1.1 connection
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
