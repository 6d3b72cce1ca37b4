//! Wrong: `Body::from_stream(stream::unfold(…))` below `CompressionLayer`
//! Harm: the layer polls once more after the end and `unfold` panics: every client that accepts gzip gets a body without its end
//! Instead: streams/body
//! Probe: fails llm-gzip-incremental

use std::convert::Infallible;

use axum::response::Response;
use axum::routing::{get, post};
use axum::{Router, body::Body};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use snippets::llm::upstream::Upstream;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::SizeAbove;

use crate::support::raw::End;
use crate::support::wrong::{Probed, Start, Wrong, answer};
use crate::support::{RawClient, Server};

fn rows() -> impl Stream<Item = Result<String, Infallible>> {
    stream::unfold(0, |n| async move {
        (n < 3).then(|| (Ok(format!("row {n}\n")), n + 1))
    })
}

pub(crate) const PROBED: Probed = Probed::new(Start::Relay(wrong_service));

/// The answer of a model, written with `unfold` below a layer that compresses whatever comes.
pub(crate) fn wrong_service(upstream: Upstream) -> Wrong {
    let handler = async move || {
        let opening = async move { upstream.open_messages(Vec::new()).await };
        let (head, body) = answer(stream::once(opening).try_flatten()).into_parts();
        let chunks = body.into_data_stream();
        let unfolded = stream::unfold(chunks, |mut chunks| async move {
            Some((chunks.next().await?, chunks))
        });
        Response::from_parts(head, Body::from_stream(unfolded))
    };
    let layer = CompressionLayer::new().compress_when(SizeAbove::new(0));
    Wrong::new(Router::new().route("/chat", post(handler)).layer(layer))
}

async fn end_of(body: impl Fn() -> Body + Clone + Send + Sync + 'static, headers: &[&str]) -> End {
    let app = Router::new()
        .route("/", get(async move || body()))
        .layer(CompressionLayer::new());
    let server = Server::start(app).await;
    RawClient::get(server.addr, "/", headers)
        .await
        .read_to_end()
        .await
}

#[tokio::test]
async fn gzip_clients_get_a_cut_body() {
    let wrong = || Body::from_stream(rows());
    assert_eq!(
        end_of(wrong, &[]).await,
        End::Complete,
        "curl without --compressed sees nothing of it"
    );
    assert_eq!(end_of(wrong, &["accept-encoding: gzip"]).await, End::Fin);
}

#[tokio::test]
async fn fused_it_ends() {
    let right = || Body::from_stream(rows().fuse());
    assert_eq!(
        end_of(right, &["accept-encoding: gzip"]).await,
        End::Complete
    );
}
