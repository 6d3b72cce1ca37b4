//! Wrong: `open.decrement(1)` on the line after the loop that sends the events.
//! Harm: When the client leaves, the stream is dropped where it waits; the line never runs, and the gauge only rises.
//! Instead: production/observe
//! Probe: cannot see: a metric

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::response::sse::{Event, Sse};
use axum::routing::get;
use futures::stream;
use metrics::gauge;
use snippets::production::observe::Observer;
use snippets::production::scrape;
use snippets::sse::event::{self, InvalidEvent};
use snippets::sse::streams::{Config, Produced, Streams};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::support::{RawClient, Server, eventually};

#[tokio::test]
async fn a_gauge_that_is_lowered_after_the_loop_leaks() {
    let recorder = scrape::recorder().unwrap();
    let handle = recorder.handle();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let events = Arc::new(Semaphore::new(0));
    let naive = {
        let events = events.clone();
        async move || {
            Sse::new(async_stream::stream! {
                let open = gauge!("naive_open");
                open.increment(1);
                yield Ok::<_, Infallible>(Event::default().data("first"));
                while let Ok(permit) = events.acquire().await {
                    permit.forget();
                    yield Ok(Event::default().data("more"));
                }
                open.decrement(1);
            })
        }
    };
    let observer = Observer::new("feed", CancellationToken::new());
    let streams = Streams::start(Config::default(), CancellationToken::new());
    let watched = {
        let streams = streams.clone();
        async move || {
            let events = stream::pending::<Result<event::Event, InvalidEvent>>();
            streams
                .admit()
                .unwrap()
                .respond(observer.watch(Produced::new(events), false))
        }
    };
    let app = Router::new()
        .route("/naive", get(naive))
        .route("/watched", get(watched));
    let server = Server::start(app).await;
    for (path, first) in [("/naive", "first"), ("/watched", "retry")] {
        for _ in 0..5 {
            let mut client = RawClient::get(server.addr, path, &[]).await;
            client.read_until(first).await;
        }
    }
    let has = |line: &str| handle.render().lines().any(|sample| sample == line);
    eventually("the watched streams to be closed", || {
        has("stream_open{kind=\"feed\"} 0")
            && has("stream_closed_total{kind=\"feed\",reason=\"client\"} 5")
    })
    .await;
    // hyper has dropped these bodies as well: the source is held by the handler alone.
    eventually("the naive streams to be dropped", || {
        Arc::strong_count(&events) == 2
    })
    .await;
    assert!(has("naive_open 5"), "{}", handle.render());
}
