//! Wrong: the last event is `Event::default().event("done").data("")`.
//! Harm: axum writes no data line for empty data, so no browser fires the event, and EventSource reconnects and runs everything again.
//! Instead: sse/lifecycle
//! Probe: fails sse-data-in-every-event, sse-terminal-event

use std::convert::Infallible;

use axum::Router;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream;
use snippets::sse::event::Event as Checked;
use snippets::sse::streams::{Config, Produced, Streams};
use tokio_util::sync::CancellationToken;

use crate::support::wrong::{Probed, Start, Wrong, route, with_headers};

/// What HTML 9.2.6 makes of a body: blocks without a data line are not dispatched.
async fn dispatched(response: Response) -> Vec<(String, String)> {
    let body = axum::body::to_bytes(response.into_body(), 10_000).await;
    let body = String::from_utf8(body.unwrap().to_vec()).unwrap();
    let field = |block: &str, name: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(name));
        line.map(|value| value.trim_start().to_owned())
    };
    body.split_terminator("\n\n")
        .filter_map(|block| Some((field(block, "event:")?, field(block, "data:")?)))
        .collect()
}

fn wrong() -> Response {
    let events = [
        Event::default().event("token").data("hi"),
        Event::default().event("done").data(""),
    ];
    Sse::new(stream::iter(events.map(Ok::<_, Infallible>))).into_response()
}

pub(crate) const PROBED: Probed = Probed::new(Start::Service(wrong_service));

pub(crate) fn wrong_service() -> Wrong {
    let app = Router::new().route("/events", route(async || wrong()));
    Wrong::new(with_headers(app))
}

#[tokio::test]
async fn the_terminal_event_is_never_fired() {
    let seen = dispatched(wrong()).await;
    assert_eq!(seen, [("token".into(), "hi".into())], "and no `done`");
}

#[tokio::test]
async fn json_data_is_never_empty() {
    let slot = Streams::start(Config::default(), CancellationToken::new())
        .admit()
        .unwrap();
    let events = [
        Checked::new("token", &"hi"),
        Checked::new("done", &"").map(Checked::last),
    ];
    let seen = dispatched(slot.respond(Produced::new(stream::iter(events)))).await;
    assert_eq!(seen[1], ("done".into(), "\"\"".into()));
}
