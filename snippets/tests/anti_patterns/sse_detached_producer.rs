//! Wrong: work in a `tokio::spawn` that ends when `send` fails.
//! Harm: after the client has disconnected, the work runs until its next `send`: one more paid step, or forever if the upstream is silent.
//! Instead: sse/lifecycle
//! Probe: cannot see: the work leaves no trace on the wire; with a provider it is detached_generation

use std::convert::Infallible;

use futures::{Stream, StreamExt};
use snippets::sse::event::Event;
use snippets::sse::lifecycle::produce;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::support::within;

/// One message, then an upstream that is silent.
async fn work(messages: mpsc::Sender<Event>, stopped: CancellationToken) -> Result<(), Infallible> {
    let _stopped = stopped.drop_guard();
    if messages
        .send(Event::new("thinking", &()).unwrap())
        .await
        .is_err()
    {
        return Ok(());
    }
    std::future::pending().await
}

fn wrong(stopped: CancellationToken) -> (impl Stream<Item = Event>, tokio::task::JoinHandle<()>) {
    let (messages, received) = mpsc::channel(8);
    let task = tokio::spawn(async move {
        let _ = work(messages, stopped).await;
    });
    (ReceiverStream::new(received), task)
}

#[tokio::test(start_paused = true)]
async fn the_work_goes_on_for_a_client_that_has_gone() {
    let stopped = CancellationToken::new();
    let (mut stream, task) = wrong(stopped.clone());
    stream.next().await.unwrap();
    drop(stream);
    // A day of virtual time.
    tokio::time::sleep(std::time::Duration::from_secs(86_400)).await;
    assert!(!stopped.is_cancelled() && !task.is_finished());
    task.abort();
}

#[tokio::test]
async fn the_work_ends_with_the_stream() {
    let stopped = CancellationToken::new();
    let token = stopped.clone();
    let mut stream = Box::pin(produce(8, |messages| work(messages, token)));
    stream.next().await.unwrap().unwrap();
    assert!(!stopped.is_cancelled());
    drop(stream);
    within("the work to end", stopped.cancelled()).await;
}
