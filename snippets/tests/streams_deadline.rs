//! Tests of `streams/deadline`.

use std::convert::Infallible;
use std::time::Duration;

use axum::{Router, body::Body, routing::get};
use futures::{StreamExt, stream};
use snippets::streams::deadline::{Silent, client, until_silent, until_stuck};
use tokio::time::Instant;
use tokio_stream::wrappers::IntervalStream;

use crate::support::{Server, within};

const LIMIT: Duration = Duration::from_secs(10);

#[tokio::test(start_paused = true)]
async fn silence_ends_the_stream_once_and_drops_the_source() {
    let (tx, rx) = tokio::sync::mpsc::channel(1);
    tx.send("item").await.unwrap();
    let source = tokio_stream::wrappers::ReceiverStream::new(rx);
    let mut items = std::pin::pin!(until_silent(source, LIMIT));
    let began = Instant::now();
    assert_eq!(items.next().await, Some(Ok("item")));
    assert_eq!(items.next().await, Some(Err(Silent(LIMIT))));
    assert_eq!(began.elapsed(), LIMIT);
    assert_eq!((items.next().await, items.next().await), (None, None));
    assert!(
        tx.is_closed(),
        "the source is dropped with the error, not with the stream"
    );
}

#[tokio::test(start_paused = true)]
async fn a_healthy_stream_is_never_cut() {
    let ticks = IntervalStream::new(tokio::time::interval(Duration::from_secs(9))).take(1000);
    let items: Vec<_> = until_silent(ticks, LIMIT).collect().await;
    assert_eq!(items.len(), 1000);
    assert!(
        items.iter().all(Result::is_ok),
        "2 1/2 hours with a limit of 10 s"
    );
}

#[tokio::test(start_paused = true)]
async fn heartbeats_are_not_silence_and_without_content_they_are_not_progress() {
    let pings = || {
        let ticks = IntervalStream::new(tokio::time::interval(Duration::from_secs(9)));
        ticks.map(|_| "ping")
    };
    let items = until_stuck(pings(), LIMIT * 3, |item| *item != "ping");
    let items: Vec<_> = items.collect().await;
    assert_eq!(items.len(), 5, "0, 9, 18 and 27 s, then the limit at 30 s");
    assert_eq!(items[4], Err(Silent(LIMIT * 3)));
    // Content between them starts the clock again, and so does not the time that the reader takes.
    let mixed = pings()
        .enumerate()
        .map(|(n, ping)| if n % 3 == 0 { "content" } else { ping });
    let mut items = std::pin::pin!(until_stuck(mixed.take(300), LIMIT * 3, |item| *item != "ping"));
    for _ in 0..300 {
        assert!(items.next().await.unwrap().is_ok());
        tokio::time::sleep(LIMIT * 5).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_not_the_sources_silence() {
    let mut items = std::pin::pin!(until_silent(stream::iter(0..3), LIMIT));
    for n in 0..3 {
        tokio::time::sleep(LIMIT * 5).await;
        assert_eq!(items.next().await, Some(Ok(n)));
    }
    assert_eq!(items.next().await, None);
}

#[tokio::test]
async fn the_client_bounds_each_wait_also_the_one_for_the_head() {
    let app = Router::new()
        .route("/no-head", get(std::future::pending::<()>))
        .route(
            "/stalls",
            get(|| async {
                Body::from_stream(stream::iter([Ok::<_, Infallible>("x")]).chain(stream::pending()))
            }),
        );
    let server = Server::start(app).await;
    let client = client(Duration::from_secs(5), Duration::from_millis(100), |more| {
        more
    })
    .unwrap();
    let error = within("no head", client.get(server.url("/no-head")).send())
        .await
        .unwrap_err();
    assert!(error.is_timeout());
    let mut body = client
        .get(server.url("/stalls"))
        .send()
        .await
        .unwrap()
        .bytes_stream();
    assert_eq!(body.next().await.unwrap().unwrap(), "x");
    assert!(
        within("the stall", body.next())
            .await
            .unwrap()
            .unwrap_err()
            .is_timeout()
    );
}

/// `read_timeout` runs on while nobody polls the body, and is looked at before the data that has come meanwhile.
#[tokio::test]
async fn reqwest_counts_the_pause_of_a_reader_and_until_silent_does_not() {
    let silence = Duration::from_millis(100);
    let parts = move || async move {
        let pause = tokio::time::sleep(silence / 4);
        let parts = stream::once(async { Ok::<_, Infallible>("x") });
        Body::from_stream(parts.chain(stream::once(async {
            pause.await;
            Ok("y")
        })))
    };
    let server = Server::start(Router::new().route("/", get(parts))).await;
    let read = async |client: reqwest::Client| {
        let response = client.get(server.url("/")).send().await.unwrap();
        let mut body = std::pin::pin!(until_silent(response.bytes_stream(), silence));
        assert_eq!(body.next().await.unwrap().unwrap().unwrap(), "x");
        tokio::time::sleep(silence * 2).await; // "y" comes in the meantime
        body.next().await.unwrap().unwrap()
    };
    let error = read(client(silence, silence, |more| more).unwrap()).await;
    assert!(error.unwrap_err().is_timeout());
    assert_eq!(read(reqwest::Client::new()).await.unwrap(), "y");
}

#[tokio::test]
async fn the_body_layers_of_tower_http_cut_quiet_and_long_streams() {
    use tower_http::timeout::{ResponseBodyDeadlineLayer, ResponseBodyTimeoutLayer};

    use crate::support::{RawClient, raw::End};
    let short = Duration::from_millis(100);
    let quiet = || async {
        Body::from_stream(stream::iter([Ok::<_, Infallible>("x")]).chain(stream::pending()))
    };
    let busy = || async {
        let ticks = IntervalStream::new(tokio::time::interval(Duration::from_millis(10)));
        Body::from_stream(ticks.map(|_| Ok::<_, Infallible>("x")))
    };
    for app in [
        Router::new()
            .route("/", get(quiet))
            .layer(ResponseBodyTimeoutLayer::new(short)),
        Router::new()
            .route("/", get(busy))
            .layer(ResponseBodyDeadlineLayer::new(short)),
    ] {
        let server = Server::start(app).await;
        let mut client = RawClient::get(server.addr, "/", &[]).await;
        client.read_until("x").await;
        assert_eq!(client.read_to_end().await, End::Fin, "cut, not ended");
    }
}
