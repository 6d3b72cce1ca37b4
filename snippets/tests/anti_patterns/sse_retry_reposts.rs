//! Wrong: a POST is streamed through a client that reconnects at the end of the response, as reqwest-eventsource does.
//! Harm: each normal end sends the POST again: the work is done, and paid for, over and over.
//! Instead: sse/consume
//! Probe: cannot see: a client

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::routing::post;
use futures::StreamExt;
use reqwest_eventsource::RequestBuilderExt;
use snippets::sse::consume::EventSource;
use snippets::sse::reconnect::{Policy, Request};
use snippets::sse::wire::Limits;

use crate::support::{Server, within};

/// Counts the generations that were started.
fn app(started: Arc<AtomicUsize>) -> Router {
    async fn generate(
        State(started): State<Arc<AtomicUsize>>,
    ) -> ([(axum::http::HeaderName, &'static str); 1], &'static str) {
        started.fetch_add(1, Ordering::SeqCst);
        let body = "retry: 1\ndata: an answer\n\ndata: [DONE]\n\n";
        ([(CONTENT_TYPE, "text/event-stream")], body)
    }
    Router::new()
        .route("/generate", post(generate))
        .with_state(started)
}

#[tokio::test]
async fn a_finished_post_is_sent_again_and_again() {
    let started = Arc::new(AtomicUsize::new(0));
    let server = Server::start(app(started.clone())).await;
    let request = reqwest12::Client::new().post(server.url("/generate"));
    let mut events = request.eventsource().unwrap();
    within("ten generations", async {
        while started.load(Ordering::SeqCst) < 10 {
            let _ = events.next().await.unwrap();
        }
    })
    .await;
    events.close();
}

#[tokio::test]
async fn the_client_sends_it_once() {
    let started = Arc::new(AtomicUsize::new(0));
    let server = Server::start(app(started.clone())).await;
    let (client, url) = (reqwest::Client::new(), server.url("/generate"));
    let policy = Policy {
        request: Request::Once,
        ..Policy::default()
    };
    let connect = move |headers| {
        let request = client.post(&url).headers(headers);
        async move { request.send().await.map(http::Response::from) }
    };
    let mut events = EventSource::new(policy, Limits::default(), connect);
    let mut data = Vec::new();
    while let Some(event) = within("an event", events.next()).await.unwrap() {
        data.push(event.data);
    }
    assert_eq!(data, ["an answer", "[DONE]"]);
    assert!(events.next().await.unwrap().is_none());
    assert_eq!(started.load(Ordering::SeqCst), 1);
}
