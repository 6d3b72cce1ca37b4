//! The live chat: every fault that the page has a button for is there, and the answer is the scripted one.

use serde_json::{Value, json};
use snippets::llm::scripted_model::Script;
use streaming_api_patterns::live;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn the_chat_answers_and_the_page_has_every_fault() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let base = format!("http://{}/live/llm", listener.local_addr().unwrap());
    let shutdown = CancellationToken::new();
    let app = axum::Router::new().nest("/live", live::router(shutdown.clone()));
    let server = tokio::spawn(axum::serve(listener, app).into_future());
    let client = reqwest::Client::new();
    let question = json!({ "messages": [{ "role": "user", "content": "?" }] });
    let ask = async |path: &str| {
        let request = client
            .post(format!("{base}/{path}"))
            .header("idempotency-key", "k")
            .json(&question);
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    let (status, body) = ask("error/chat").await;
    assert_eq!(status, 200);
    assert!(
        body.contains("event: text") && body.contains("event: failed"),
        "{body}"
    );
    assert_eq!(ask("rate-limit/chat").await.0, 429);
    let (status, body) = ask("resumable/generations").await;
    assert_eq!(status, 200);
    assert!(
        body.contains("event: done") && body.contains("id: "),
        "{body}"
    );
    let exchanges: Value = client
        .get(format!("{base}/exchanges"))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(exchanges[0]["end"], "Finished");

    let page = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/book/live/llm-relay.js"
    ))
    .unwrap();
    for name in Script::NAMES {
        assert!(
            page.contains(&format!("\"{name}\"")),
            "no button for {name}"
        );
    }
    shutdown.cancel();
    server.abort();
}
