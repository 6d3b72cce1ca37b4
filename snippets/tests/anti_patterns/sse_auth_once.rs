//! Wrong: the session is checked when the stream is opened, and never again.
//! Harm: after a logout, a ban or a revoked permission, the open stream keeps delivering for hours.
//! Instead: sse/protect
//! Probe: cannot see: the probe cannot log a user out

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use futures::{FutureExt, Stream, StreamExt};
use http_body_util::BodyExt;
use snippets::connections::crowd::Recheck;
use snippets::sse::event::{Event, InvalidEvent};
use snippets::sse::streams::{Config, Produced, Source, Streams};
use snippets::sse::until::Until;
use tokio_stream::wrappers::IntervalStream;
use tokio_util::sync::CancellationToken;

type Item = Result<Event, InvalidEvent>;

/// A private event each second.
fn private() -> impl Stream<Item = Item> + Send + Unpin + 'static {
    let seconds = IntervalStream::new(tokio::time::interval(Duration::from_secs(1)));
    seconds.map(|_| Event::new("private", &"42"))
}

/// A stream that is never too old.
fn open(source: impl Source) -> Body {
    let config = Config {
        max_age: Duration::from_secs(86_400),
        ..Config::default()
    };
    let streams = Streams::start(config, CancellationToken::new());
    streams.admit().unwrap().respond(source).into_body()
}

/// What arrives in the two hours after the logout.
async fn after_logout(mut body: Body, logged_in: &AtomicBool) -> String {
    body.frame().await;
    logged_in.store(false, Ordering::SeqCst);
    let mut seen = String::new();
    for _ in 0..7200 {
        tokio::time::advance(Duration::from_secs(1)).await;
        while let Some(Some(frame)) = body.frame().now_or_never() {
            let bytes = frame.unwrap().into_data().unwrap();
            seen.push_str(std::str::from_utf8(&bytes).unwrap());
        }
    }
    seen
}

#[tokio::test(start_paused = true)]
async fn the_stream_outlives_the_session() {
    let logged_in = AtomicBool::new(true);
    let opened = logged_in.load(Ordering::SeqCst).then(private);
    let body = open(Produced::new(opened.unwrap()));
    let seen = after_logout(body, &logged_in).await;
    assert!(seen.matches("event: private\n").count() >= 7199);
}

#[tokio::test(start_paused = true)]
async fn the_stream_ends_at_the_next_check() {
    let logged_in = Arc::new(AtomicBool::new(true));
    let asked = logged_in.clone();
    let minute = Duration::from_secs(60);
    let recheck = Recheck {
        every: minute,
        ..Recheck::default()
    };
    let over = async move {
        let valid = || std::future::ready(Ok::<_, Infallible>(asked.load(Ordering::SeqCst)));
        recheck.over(valid).await;
        Event::unreserved("unauthorized", &()).unwrap()
    };
    let body = open(Until::new(Produced::new(private()), over));
    let seen = after_logout(body, &logged_in).await;
    let events = seen.matches("event: private\n").count();
    assert!(events <= 61, "{events} events");
    assert!(seen.ends_with("event: unauthorized\ndata: null\n\n"));
}
