//! Wrong: `format!("event: failed\ndata: {{\"error\":\"{error}\"}}\n\n")`.
//! Harm: a quote breaks the JSON, a newline lets anyone who controls the text inject events, and internals leak to every client.
//! Instead: sse/protect
//! Probe: fails sse-known-fields, sse-errors-clean

use std::convert::Infallible;

use axum::Router;
use axum::body::{Body, Bytes};
use eventsource_stream::{Event, Eventsource};
use futures::{StreamExt, stream};
use snippets::sse::event::Event as Checked;
use snippets::sse::streams::{Config, Produced, Streams};
use tokio_util::sync::CancellationToken;

use crate::support::wrong::{Probed, Start, Wrong, route, with_headers};

/// What a database said about a name that its user chose.
const ERROR: &str =
    "no user \"x\"\n\nevent: balance\ndata: 1000000\n\nat postgres://app:pw@db.internal";

async fn received(body: Body) -> Vec<Event> {
    let events = body.into_data_stream().eventsource();
    events.map(Result::unwrap).collect().await
}

fn wrong() -> Body {
    let text = format!("event: failed\ndata: {{\"error\":\"{ERROR}\"}}\n\n");
    Body::from_stream(stream::iter([Ok::<_, Infallible>(Bytes::from(text))]))
}

pub(crate) const PROBED: Probed = Probed::new(Start::Service(wrong_service));

pub(crate) fn wrong_service() -> Wrong {
    let answer = async || {
        let end = stream::iter([Ok(Bytes::from("event: done\ndata: {}\n\n"))]);
        let body = Body::from_stream(wrong().into_data_stream().chain(end));
        ([("content-type", "text/event-stream")], body)
    };
    Wrong::new(with_headers(Router::new().route("/events", route(answer))))
}

#[tokio::test]
async fn the_text_of_an_error_becomes_an_event() {
    let events = received(wrong()).await;
    assert!(serde_json::from_str::<serde_json::Value>(&events[0].data).is_err());
    assert_eq!(
        (events[1].event.as_str(), events[1].data.as_str()),
        ("balance", "1000000")
    );
}

#[tokio::test]
async fn a_public_error_is_a_code() {
    let streams = Streams::start(Config::default(), CancellationToken::new());
    let failing = stream::iter([Err::<Checked, _>(ERROR)]);
    let events = received(
        streams
            .admit()
            .unwrap()
            .respond(Produced::new(failing))
            .into_body(),
    )
    .await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].event, "stream_error");
    assert_eq!(events[0].data, r#"{"code":"internal"}"#);
}
