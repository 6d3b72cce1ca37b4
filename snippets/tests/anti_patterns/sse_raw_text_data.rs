//! Wrong: text that is passed to `Event::data` unchanged.
//! Harm: for `a\r\nb` axum writes `data: a\rdata: \ndata: b`, which is three lines: a client receives an empty line too many, and a client that ends lines only at LF receives `a\rdata: ` as one line.
//! Instead: sse/serve
//! Probe: fails sse-line-endings

use std::convert::Infallible;

use axum::Router;
use axum::response::IntoResponse;
use axum::response::sse::{Event, Sse};
use eventsource_stream::Eventsource;
use futures::{StreamExt, stream};
use snippets::sse::event::Event as Checked;
use snippets::sse::streams::{Config, Produced, Streams};
use tokio_util::sync::CancellationToken;

use crate::support::wrong::{Probed, Start, Wrong, route, with_headers};

const TEXT: &str = "a\r\nb";

pub(crate) const PROBED: Probed = Probed::new(Start::Service(wrong_service));

pub(crate) fn wrong_service() -> Wrong {
    let text = async || {
        let events = [
            Event::default().data(TEXT),
            Event::default().event("done").data("{}"),
        ];
        Sse::new(stream::iter(events.map(Ok::<_, Infallible>)))
    };
    Wrong::new(with_headers(Router::new().route("/events", route(text))))
}

async fn received(response: axum::response::Response) -> String {
    let mut events = Box::pin(response.into_body().into_data_stream().eventsource());
    events.next().await.unwrap().unwrap().data
}

#[tokio::test]
async fn a_line_break_arrives_as_two() {
    let event = Ok::<_, Infallible>(Event::default().data(TEXT));
    let response = Sse::new(stream::iter([event.clone()])).into_response();
    let bytes = axum::body::to_bytes(response.into_body(), 1000)
        .await
        .unwrap();
    assert_eq!(bytes, "data: a\rdata: \ndata: b\n\n");
    let response = Sse::new(stream::iter([event])).into_response();
    assert_eq!(received(response).await, "a\n\nb");
}

#[tokio::test]
async fn json_carries_any_text() {
    let streams = Streams::start(Config::default(), CancellationToken::new());
    let events = stream::iter([Checked::new("text", &TEXT)]);
    let data = received(streams.admit().unwrap().respond(Produced::new(events))).await;
    assert_eq!(serde_json::from_str::<String>(&data).unwrap(), TEXT);
}
