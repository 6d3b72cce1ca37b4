//! Wrong: `axum::serve(..).with_graceful_shutdown(signal)` and nothing else.
//! Harm: it waits for every open stream, and each keeps producing: the process runs until it is killed, and every client is cut.
//! Instead: sse/lifecycle
//! Probe: fails sse-shutdown-ends-streams

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::response::IntoResponse;
use axum::response::sse::{Event, Sse};
use axum::routing::get;
use futures::StreamExt;
use snippets::connections::listen;
use snippets::sse::jobs::{self, Jobs};
use snippets::sse::streams::{Config, Streams};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;

use crate::support::raw::End;
use crate::support::wrong::{Probed, Start, Wrong, resumable};
use crate::support::{RawClient, Server, within};

pub(crate) const PROBED: Probed =
    Probed::new(Start::Process(wrong_service)).with(|options| options.shutdown = true);

/// Streams that hear of no shutdown; `stream_probe_twins` serves it with nothing but `with_graceful_shutdown`.
pub(crate) fn wrong_service() -> Wrong {
    let (app, publish) = resumable();
    Wrong::publishing(app, publish)
}

#[tokio::test]
async fn the_server_produces_on_after_the_signal() {
    let ticks = watch::Sender::new(0);
    let subscriber = ticks.subscribe();
    let events = async move || {
        let events =
            WatchStream::new(subscriber.clone()).map(|n| Event::default().data(n.to_string()));
        Sse::new(events.map(Ok::<_, Infallible>)).into_response()
    };
    let mut server = Server::plain(Router::new().route("/", get(events))).await;
    let mut client = RawClient::get(server.addr, "/", &[]).await;
    client.read_until("data: 0\n").await;
    let serving = server.begin_shutdown();
    // Each event is sent and received after the signal; the server still waits.
    for n in 1..=100 {
        ticks.send_replace(n);
        client.read_until(&format!("data: {n}\n")).await;
    }
    assert!(!serving.is_finished());
    assert_eq!(client.end, End::Open);
    serving.abort();
}

#[tokio::test]
async fn streams_that_know_of_the_shutdown_let_it_end() {
    let shutdown = CancellationToken::new();
    let at_once = Config {
        drain_spread: Duration::ZERO,
        ..Config::default()
    };
    let jobs = Jobs::default();
    let _worker = jobs.insert(1).unwrap();
    let app = jobs::app(jobs, Streams::start(at_once, shutdown.clone()));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let config = listen::Config {
        drain: Duration::from_secs(3600),
        ..listen::Config::default()
    };
    let serving = tokio::spawn(listen::serve(listener, app, config, shutdown.clone()));
    let mut client = RawClient::get(addr, "/jobs/1/events", &[]).await;
    client.read_until("percent").await;
    shutdown.cancel();
    let left = within("the server to end", serving).await.unwrap();
    assert_eq!(left, 0);
    assert_eq!(client.read_to_end().await, End::Complete);
}
