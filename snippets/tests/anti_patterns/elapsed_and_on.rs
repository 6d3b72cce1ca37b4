//! Wrong: `tokio_stream::StreamExt::timeout` in a loop that logs `Err(Elapsed)` and continues
//! Harm: it yields one `Err` and then waits without a limit: a provider that hangs keeps the task alive forever
//! Instead: streams/deadline
//! Probe: cannot see: within the service

use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use snippets::streams::deadline::until_silent;

const LIMIT: Duration = Duration::from_secs(10);

fn hangs() -> impl Stream<Item = &'static str> + Unpin + Send {
    stream::iter(["token"]).chain(stream::pending())
}

#[tokio::test(start_paused = true)]
async fn the_loop_never_ends() {
    let task = tokio::spawn(async {
        let mut items = Box::pin(tokio_stream::StreamExt::timeout(hangs(), LIMIT));
        while let Some(item) = items.next().await {
            if let Err(elapsed) = item {
                tracing::warn!(%elapsed, "the provider is slow");
            }
        }
    });
    tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
    assert!(!task.is_finished(), "a day later it still waits");
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn until_silent_ends_it() {
    let items: Vec<_> = until_silent(hangs(), LIMIT).collect().await;
    assert_eq!(items.len(), 2);
    assert!(items[1].is_err());
}
