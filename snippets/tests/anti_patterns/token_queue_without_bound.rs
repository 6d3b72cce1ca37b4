//! Wrong: an unbounded channel between the task that reads the model and the response
//! Harm: if the client stops reading, the relay buffers the whole answer (in the test, all of 32 MiB), and all of it is paid for
//! Instead: llm/relay
//! Probe: fails llm-slow-reader-bounded

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use axum::body::Body;
use axum::{Router, routing::post};
use futures::StreamExt;
use snippets::llm::providers::ModelEvent;
use snippets::llm::relay::Config;
use snippets::llm::scripted_model::{ExchangeEnd, Reply, Script, ScriptedModel};
use snippets::llm::upstream::{Dialect, Upstream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::support::chat::{self, Chat, patient};
use crate::support::wrong::{Probed, Start, Wrong, answer};
use crate::support::{Server, settled, within};

const TOKEN: usize = 64 * 1024;
const TOKENS: usize = 512;

fn long() -> Script {
    Script::reply(Reply {
        text: vec!["x".repeat(TOKEN); TOKENS],
        ..Reply::default()
    })
}

fn wrong(upstream: Upstream, queued: Arc<AtomicUsize>) -> Router {
    let handler = async move || {
        let (tx, rx) = mpsc::unbounded_channel();
        let (put, taken) = (queued.clone(), queued);
        tokio::spawn(async move {
            let Ok(mut events) = upstream.open_messages(Vec::new()).await else {
                return;
            };
            while let Some(Ok(event)) = events.next().await {
                if let ModelEvent::Text(text) = event {
                    put.fetch_add(text.len(), SeqCst);
                    if tx.send(text).is_err() {
                        return;
                    }
                }
            }
        });
        Body::from_stream(UnboundedReceiverStream::new(rx).map(move |text: String| {
            taken.fetch_sub(text.len(), SeqCst);
            Ok::<_, Infallible>(text)
        }))
    };
    Router::new().route("/chat", post(handler))
}

pub(crate) const PROBED: Probed = Probed::new(Start::Relay(wrong_service));

/// The same with everything else that an answer needs; it ends when the reader has gone.
pub(crate) fn wrong_service(upstream: Upstream) -> Wrong {
    let handler = async move || {
        let (tx, rx) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut events = match upstream.open_messages(Vec::new()).await {
                Ok(events) => events,
                Err(error) => return drop(tx.send(Err(error))),
            };
            loop {
                tokio::select! {
                    () = tx.closed() => return,
                    event = events.next() => match event {
                        Some(event) => drop(tx.send(event)),
                        None => return,
                    },
                }
            }
        });
        answer(UnboundedReceiverStream::new(rx))
    };
    Wrong::new(Router::new().route("/chat", post(handler)))
}

#[tokio::test]
async fn the_whole_answer_lies_in_the_relay() {
    let model = ScriptedModel::new(long());
    let provider = Server::start(model.router()).await;
    let upstream = crate::support::chat::upstream(
        Dialect::OpenAiChat,
        &provider.url(""),
        "key",
        "m",
        Duration::from_secs(60),
    )
    .unwrap();
    let queued = Arc::new(AtomicUsize::new(0));
    let server = Server::start(wrong(upstream, queued.clone())).await;
    let _unread = chat::post(server.addr, "/chat", "{}", &[]).await;
    let exchange = within(
        "the model to say all of it",
        model.wait_for(|exchange| exchange.end.is_some()),
    )
    .await;
    assert_eq!(
        (exchange.end, exchange.tokens),
        (Some(ExchangeEnd::Finished), TOKENS)
    );
    let queued = settled("the queue", TOKENS * TOKEN / 2, || queued.load(SeqCst)).await;
    assert!(
        queued > TOKENS * TOKEN / 2,
        "{queued} bytes wait for a reader that takes none"
    );
}

#[tokio::test]
async fn pulled_by_the_response_the_model_waits() {
    let chat = Chat::start(
        long(),
        Config {
            most_bytes: usize::MAX,
            ..patient()
        },
    )
    .await;
    let _unread = chat.ask().await;
    let tokens = || {
        chat.model
            .exchanges()
            .first()
            .map_or(0, |exchange| exchange.tokens)
    };
    let tokens = settled("the model to stand still", 1, tokens).await;
    assert!(tokens < TOKENS, "it has not said all, and says no more");
    assert_eq!(chat.model.exchanges()[0].end, None);
}
