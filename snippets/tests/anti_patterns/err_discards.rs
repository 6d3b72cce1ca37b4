//! Wrong: yielding `Err` from a body stream to report a failure
//! Harm: the connection is cut; what was not flushed goes with it, here the status line too: the client gets zero bytes
//! Instead: streams/body
//! Probe: fails llm-status-200

use std::io;

use axum::{Router, body::Body, routing::get};
use futures::stream;
use snippets::streams::body::ndjson;

use crate::support::raw::End;
use crate::support::wrong::{Probed, Start, Wrong};
use crate::support::{RawClient, Server};

fn rows() -> impl futures::Stream<Item = io::Result<&'static str>> + Unpin + Send {
    stream::iter([Ok("first\n"), Err(io::Error::other("database gone"))])
}

/// Nothing at all arrives.
pub(crate) const PROBED: Probed = Probed::new(Start::Service(wrong_service)).with(|options| {
    options.method = "GET".to_owned();
    options.target.path = "/".to_owned();
});

pub(crate) fn wrong_service() -> Wrong {
    Wrong::new(Router::new().route("/", get(async || Body::from_stream(rows()))))
}

async fn fetch(app: Router) -> RawClient {
    let server = Server::start(app).await;
    let mut client = RawClient::get(server.addr, "/", &[]).await;
    client.read_to_end().await;
    client
}

#[tokio::test]
async fn the_client_gets_nothing_at_all() {
    let client = fetch(wrong_service().app).await;
    assert_eq!((client.end, client.received.len()), (End::Fin, 0));
}

#[tokio::test]
async fn in_band_it_gets_all_there_was_and_the_reason() {
    let client =
        fetch(Router::new().route("/", get(async || ndjson(rows(), |_| "unavailable")))).await;
    assert_eq!((client.end, client.status()), (End::Complete, 200));
    assert_eq!(
        client.body(),
        "{\"item\":\"first\\n\"}\n{\"failed\":\"unavailable\"}\n"
    );
}
