//! Wrong: a name or an id that comes from outside goes into `Event::event` or `Event::id` unchecked.
//! Harm: axum panics on CR, LF and NUL after the 200 has left: the body is cut, and no panic layer sees it.
//! Instead: sse/serve
//! Probe: fails sse-ends-cleanly

use std::convert::Infallible;

use axum::Router;
use axum::extract::Path;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::{StreamExt, stream};
use snippets::sse::event::Event as Checked;
use snippets::sse::streams::{Config, Produced, Streams};
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;

use crate::support::raw::End;
use crate::support::wrong::{Probed, Start, Wrong, route, with_headers};
use crate::support::{RawClient, Server};

/// `hello`, then an event named by the client, whose data is its room.
fn names(room: String) -> impl futures::Stream<Item = String> {
    // The second one comes later than the head, as everywhere but in a demo.
    stream::iter(["hello".to_owned(), room]).then(async |name| {
        tokio::task::yield_now().await;
        name
    })
}

async fn wrong(Path(room): Path<String>) -> Response {
    let events = names(room).map(|name| Event::default().event(name).data("x"));
    Sse::new(events.map(Ok::<_, Infallible>)).into_response()
}

pub(crate) const PROBED: Probed = Probed::new(Start::Service(wrong_service))
    .with(|options| options.target.path = "/wrong/a%0Ab".to_owned());

/// Its rooms are `/wrong/{room}`.
pub(crate) fn wrong_service() -> Wrong {
    let app = Router::new().route("/wrong/{room}", route(wrong));
    Wrong::new(with_headers(app))
}

async fn right(Path(room): Path<String>) -> Response {
    let streams = Streams::start(Config::default(), CancellationToken::new());
    let events = names(room).map(|name| Checked::new(&name, &"x"));
    streams
        .admit()
        .unwrap()
        .respond(Produced::new(Box::pin(events)))
}

async fn end_of(path: &str) -> (End, RawClient) {
    let app = Router::new()
        .route("/wrong/{room}", get(wrong))
        .route("/right/{room}", get(right))
        .layer(CatchPanicLayer::new());
    let server = Server::start(app).await;
    let mut client = RawClient::get(server.addr, path, &[]).await;
    (client.read_to_end().await, client)
}

#[tokio::test]
async fn a_newline_in_a_name_cuts_the_response_after_the_200() {
    let (end, client) = end_of("/wrong/a%0Ab").await;
    assert_ne!(end, End::Complete);
    assert_eq!(client.status(), 200);
    assert!(!client.body().contains("event: a"), "{}", client.body());
}

#[tokio::test]
async fn a_checked_name_ends_in_band() {
    let (end, client) = end_of("/right/a%0Ab").await;
    assert_eq!(end, End::Complete);
    let body = client.body();
    assert!(
        body.contains("event: hello\n") && body.contains("event: stream_error\n"),
        "{body}"
    );
}

#[test]
fn what_axum_panics_on() {
    let panics = |f: fn() -> Event| std::panic::catch_unwind(f).is_err();
    assert!(panics(|| Event::default().event("a\n")));
    assert!(panics(|| Event::default().event("a\r")));
    assert!(panics(|| Event::default().id("1\n")));
    assert!(panics(|| Event::default().id("1\0")));
    assert!(panics(|| Event::default().comment("a\n")));
    assert!(panics(|| Event::default().data("a").data("b")));
    assert!(panics(|| Event::default().event("a").event("b")));
    assert!(panics(|| Event::default().id("1").id("2")));
    assert!(!panics(|| Event::default().event("a\0")), "NUL only in ids");
}
