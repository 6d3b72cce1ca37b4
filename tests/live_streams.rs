//! The live example of `streams/backpressure`: the queues really differ, and a reader that leaves ends both.

use std::time::Duration;

use futures::StreamExt;
use serde_json::Value;
use streaming_api_patterns::live;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn a_reader_that_does_not_read_fills_only_the_unbounded_queue() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let base = format!(
        "http://{}/live/streams/backpressure",
        listener.local_addr().unwrap()
    );
    let app = axum::Router::new().nest("/live", live::router(CancellationToken::new()));
    let server = tokio::spawn(axum::serve(listener, app).into_future());
    let client = reqwest::Client::new();
    client
        .post(format!("{base}/run"))
        .send()
        .await
        .unwrap()
        .error_for_status()
        .unwrap();
    let _bounded = client.get(format!("{base}/bounded")).send().await.unwrap();
    let _unbounded = client
        .get(format!("{base}/unbounded"))
        .send()
        .await
        .unwrap();
    let depths = client.get(format!("{base}/depths")).send().await.unwrap();
    let mut text = String::new();
    let mut chunks = depths.bytes_stream();
    let watch = async {
        loop {
            text.push_str(str::from_utf8(&chunks.next().await.unwrap().unwrap()).unwrap());
            let newest = text
                .rsplit("data: ")
                .next()
                .unwrap()
                .split('\n')
                .next()
                .unwrap();
            let Ok(depth) = serde_json::from_str::<Value>(newest) else {
                continue;
            };
            assert!(
                depth["bounded"].as_u64().unwrap_or(0) <= 256 * 1024 + 64 * 1024,
                "{depth}"
            );
            if depth["unbounded"].as_u64().unwrap_or(0) > 8 << 20 {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), watch)
        .await
        .unwrap();
    server.abort();
}
