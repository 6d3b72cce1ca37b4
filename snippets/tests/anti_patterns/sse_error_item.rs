//! Wrong: an error of the source is yielded as `Err` from the stream of the response.
//! Harm: hyper cuts the connection and discards the bytes that it has not flushed, even the status line; the client gets no reason.
//! Instead: sse/serve
//! Probe: fails sse-status-200

use axum::Router;
use axum::response::IntoResponse;
use axum::response::sse::{Event, Sse};
use axum::routing::get;
use futures::stream;
use snippets::sse::event::Event as Checked;
use snippets::sse::streams::{Config, Produced, Streams};
use tokio_util::sync::CancellationToken;

use crate::support::raw::End;
use crate::support::wrong::{Probed, Start, Wrong, route, with_headers};
use crate::support::{RawClient, Server};

const FAILED: Result<&str, &str> = Err("connection reset by db.internal");

async fn wrong() -> impl IntoResponse {
    let items = [Ok("answer"), FAILED];
    let events = items.map(|item| item.map(|name| Event::default().event(name).data("{}")));
    Sse::new(stream::iter(events))
}

/// Nothing at all arrives.
pub(crate) const PROBED: Probed = Probed::new(Start::Service(wrong_service));

pub(crate) fn wrong_service() -> Wrong {
    Wrong::new(with_headers(Router::new().route("/events", route(wrong))))
}

async fn right() -> impl IntoResponse {
    let streams = Streams::start(Config::default(), CancellationToken::new());
    let items = [Ok("answer"), FAILED];
    let events = items.map(|item| item.map(|name| Checked::new(name, &()).unwrap()));
    streams
        .admit()
        .unwrap()
        .respond(Produced::new(stream::iter(events)))
}

#[tokio::test]
async fn an_err_takes_the_events_before_it_along() {
    let server = Server::plain(Router::new().route("/", get(wrong))).await;
    let mut client = RawClient::get(server.addr, "/", &[]).await;
    assert_ne!(client.read_to_end().await, End::Complete);
    assert!(client.received.is_empty(), "not even the status line");
}

#[tokio::test]
async fn an_error_in_band_keeps_them() {
    let server = Server::start(Router::new().route("/", get(right))).await;
    let mut client = RawClient::get(server.addr, "/", &[]).await;
    assert_eq!(client.read_to_end().await, End::Complete);
    let body = client.body();
    let (before, after) = body.split_once("event: stream_error\n").unwrap();
    assert!(before.contains("event: answer\n"), "{body}");
    assert_eq!(after, "data: {\"code\":\"internal\"}\n\n");
}
