//! Wrong: the session is checked when the stream is opened, and never again.
//! Harm: after a logout, a ban or a revoked permission, the open stream keeps delivering for hours.
//! Instead: sse/protect

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::{FutureExt, Stream, StreamExt};
use snippets::sse::message::{InvalidMessage, Message};
use snippets::sse::protect::while_valid;
use tokio_stream::wrappers::IntervalStream;

type Item = Result<Message, InvalidMessage>;

/// A private event each second.
fn private() -> impl Stream<Item = Item> + Send + 'static {
    let seconds = IntervalStream::new(tokio::time::interval(Duration::from_secs(1)));
    seconds.map(|_| Message::new("private", &"42"))
}

/// What arrives in the two hours after the logout.
async fn after_logout(stream: impl Stream<Item = Item>, logged_in: &AtomicBool) -> Vec<String> {
    let mut stream = Box::pin(stream);
    stream.next().await;
    logged_in.store(false, Ordering::SeqCst);
    let mut seen = Vec::new();
    for _ in 0..7200 {
        tokio::time::advance(Duration::from_secs(1)).await;
        match stream.next().now_or_never() {
            Some(Some(message)) => seen.push(message.unwrap().name().to_owned()),
            _ => break,
        }
    }
    seen
}

#[tokio::test(start_paused = true)]
async fn the_stream_outlives_the_session() {
    let logged_in = AtomicBool::new(true);
    let opened = logged_in.load(Ordering::SeqCst).then(private);
    let seen = after_logout(opened.unwrap(), &logged_in).await;
    assert_eq!(seen.iter().filter(|name| *name == "private").count(), 7200);
}

#[tokio::test(start_paused = true)]
async fn the_stream_ends_at_the_next_check() {
    let logged_in = Arc::new(AtomicBool::new(true));
    let asked = logged_in.clone();
    let minute = Duration::from_secs(60);
    let checked = while_valid(private(), minute, move || asked.load(Ordering::SeqCst));
    let seen = after_logout(checked, &logged_in).await;
    assert!(seen.len() <= 61, "{} events", seen.len());
    assert_eq!(seen.last().unwrap(), "unauthorized");
}
