//! Wrong: the cursor is read with `.and_then(|v| v.to_str().ok()?.parse().ok())` and defaults to "none".
//! Harm: an id that is not ASCII or not a number becomes "no cursor": the client gets everything again, or starts at the newest event and misses the rest.
//! Instead: sse/resume
//! Probe: fails sse-resume-no-duplicate

use axum::Json;
use axum::Router;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::get;
use snippets::sse::event::Event;
use snippets::sse::log::{self, Log};
use snippets::sse::resume;
use snippets::sse::streams::{Config, Streams};
use tokio_util::sync::CancellationToken;

use crate::support::wrong::{Feed, Probed, Start, Wrong, resumes, route, send};
use crate::support::{RawClient, Server};

fn cursor(headers: &HeaderMap) -> usize {
    headers
        .get("last-event-id")
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .unwrap_or(0)
}

async fn wrong(headers: HeaderMap) -> Json<Vec<usize>> {
    Json((cursor(&headers) + 1..=3).collect())
}

pub(crate) const PROBED: Probed = Probed::new(Start::Service(wrong_service)).with(resumes);

/// With ids as a shard gives them.
pub(crate) fn wrong_service() -> Wrong {
    let feed = Feed::new("shard-b-", 0);
    let followed = feed.clone();
    let events =
        async move |headers: HeaderMap| -> Response { send(followed.after(cursor(&headers))) };
    let app = Router::new().route("/events", route(events));
    Wrong::publishing(app, move |n| feed.publish(n))
}

#[tokio::test]
async fn everything_is_sent_again_without_a_word() {
    let server = Server::start(Router::new().route("/", get(wrong))).await;
    for (cursor, sent) in [("2", "[3]"), ("é2", "[1,2,3]"), ("shard-b-2", "[1,2,3]")] {
        // EventSource sends the id back as the UTF-8 bytes it came in.
        let header = format!("last-event-id: {cursor}");
        let mut client = RawClient::get(server.addr, "/", &[&header]).await;
        client.read_until("]").await;
        assert_eq!(client.body(), sent, "{cursor}");
    }
}

#[tokio::test]
async fn a_cursor_that_means_nothing_is_a_reset() {
    let log = Log::new(log::Config::complete(8, 1024));
    log.publish(&Event::new("n", &1).unwrap()).unwrap();
    let streams = Streams::start(Config::default(), CancellationToken::new());
    let server = Server::start(resume::app(log, streams)).await;
    for cursor in ["é2", "shard-b-2"] {
        let header = format!("last-event-id: {cursor}");
        let mut client = RawClient::get(server.addr, "/events", &[&header]).await;
        let body = client.read_until("event: n\n").await;
        assert!(body.contains("event: reset\n"), "{body}");
    }
}
