//! The scripted model: faults, records, release.

use std::time::Duration;

use futures::StreamExt;
use serde_json::json;
use snippets::llm::http;
use snippets::llm::model_stream::model_events;
use snippets::llm::openai_chat::OpenAiChat;
use snippets::llm::providers::{ModelError, ModelEvent};
use snippets::llm::scripted_model::{
    Ending, ExchangeEnd, Fault, Reply, Script, ScriptedModel, Stop,
};

use crate::support::{RawClient, Server, raw::End, within};

async fn start(script: Script) -> (ScriptedModel, Server) {
    let model = ScriptedModel::new(script);
    let server = Server::start(model.router()).await;
    (model, server)
}

async fn ask(server: &Server, model: &str) -> reqwest::Response {
    let request = json!({"model": model, "stream": true, "messages": []});
    let url = server.url("/v1/chat/completions");
    let request = reqwest::Client::new().post(url).json(&request).send();
    within("the response head", request).await.unwrap()
}

async fn read(response: reqwest::Response) -> (String, Option<ModelError>) {
    let body = http::open(response, "text/event-stream").await.unwrap();
    let mut text = String::new();
    let mut events = std::pin::pin!(model_events(body, OpenAiChat::default()));
    while let Some(event) = within("the next event", events.next()).await {
        match event {
            Ok(ModelEvent::Text(delta)) => text.push_str(&delta),
            Ok(_) => {}
            Err(error) => return (text, Some(error)),
        }
    }
    (text, None)
}

#[tokio::test]
async fn every_fault_does_what_it_says() {
    let reply = Reply::text("one two three four");
    let (model, server) = start(Script::reply(reply)).await;

    assert_eq!(
        read(ask(&server, "any").await).await,
        ("one two three four".into(), None)
    );
    let (text, error) = read(ask(&server, "scripted/cut").await).await;
    assert_eq!(
        (text.as_str(), error),
        ("one two ", Some(ModelError::Truncated))
    );
    let (text, error) = read(ask(&server, "scripted/cut-inside").await).await;
    assert_eq!(
        (text.as_str(), error),
        ("one two ", Some(ModelError::Truncated))
    );
    let (text, error) = read(ask(&server, "scripted/abort").await).await;
    assert_eq!(text, "one two ");
    assert!(matches!(error, Some(ModelError::Transport(_))), "{error:?}");
    let (text, error) = read(ask(&server, "scripted/error").await).await;
    assert_eq!(text, "one two ");
    assert!(
        matches!(error, Some(ModelError::Provider { .. })),
        "{error:?}"
    );

    for exchange in model.exchanges() {
        assert_eq!(exchange.end, Some(ExchangeEnd::Finished), "{exchange:?}");
        assert_eq!(exchange.tokens, if exchange.id == 1 { 4 } else { 2 });
    }
}

#[tokio::test]
async fn a_status_comes_before_the_stream_with_its_retry_after() {
    let (_model, server) = start(Script::default()).await;
    let error = http::open(
        ask(&server, "scripted/rate-limit").await,
        "text/event-stream",
    )
    .await;
    let Err(ModelError::Status {
        status,
        retry_after,
        body,
    }) = error.map(|_| ())
    else {
        panic!("no status error")
    };
    assert_eq!((status, retry_after), (429, Some(Duration::from_secs(7))));
    assert!(body.contains("rate_limit_exceeded"), "{body}");
    assert_eq!(ask(&server, "scripted/no-such").await.status(), 404);
}

#[tokio::test]
async fn a_held_head_and_a_stall_end_with_the_release() {
    let (model, server) = start(Script::reply(Reply::text("one two three four"))).await;
    for name in ["scripted/hold-head", "scripted/stall"] {
        let id = model.exchanges().len() as u64 + 1;
        let answer = async { read(ask(&server, name).await).await };
        let release = async {
            let tokens = if name.ends_with("stall") { 2 } else { 0 };
            model.wait_for(|e| e.id == id && e.tokens == tokens).await;
            model.release();
        };
        let (answer, ()) = within("the released answer", async {
            tokio::join!(answer, release)
        })
        .await;
        assert_eq!(answer, ("one two three four".into(), None));
    }
}

#[tokio::test]
async fn it_records_when_the_reader_goes_away_even_while_it_is_silent() {
    let (model, server) = start(Script::reply(Reply::text("one two three four"))).await;
    for (name, tokens) in [("scripted/hold-head", 0), ("scripted/stall", 2)] {
        let id = model.exchanges().len() as u64 + 1;
        let mut client = RawClient::connect(server.addr).await;
        let body = json!({"model": name}).to_string();
        let length = format!("content-length: {}", body.len());
        client
            .send_request("POST", "/v1/chat/completions", &[&length])
            .await;
        tokio::io::AsyncWriteExt::write_all(&mut client.socket, body.as_bytes())
            .await
            .unwrap();
        let open = within(
            "the exchange",
            model.wait_for(|e| e.id == id && e.tokens == tokens),
        )
        .await;
        assert_eq!(open.end, None);
        drop(client);
        let gone = within("the end", model.wait_for(|e| e.id == id && e.end.is_some())).await;
        assert_eq!(
            (gone.end, gone.tokens),
            (Some(ExchangeEnd::ReaderGone), tokens)
        );
    }
}

#[tokio::test]
async fn bodies_end_cleanly_or_not_and_chunks_are_as_small_as_asked() {
    let script = Script::reply(Reply::text("Grüße 👩🏽‍🚀"));
    let (_model, server) = start(script).await;
    for (name, end) in [
        ("scripted/bytes", End::Complete),
        ("scripted/cut", End::Complete),
        ("scripted/abort", End::Fin),
    ] {
        let mut client = RawClient::connect(server.addr).await;
        let body = json!({"model": name}).to_string();
        let length = format!("content-length: {}", body.len());
        client
            .send_request(
                "POST",
                "/v1/chat/completions",
                &[&length, "connection: close"],
            )
            .await;
        tokio::io::AsyncWriteExt::write_all(&mut client.socket, body.as_bytes())
            .await
            .unwrap();
        assert_eq!(client.read_to_end().await, end, "{name}");
        let one_byte_chunks = String::from_utf8_lossy(&client.received)
            .matches("\r\n1\r\n")
            .count();
        assert_eq!(
            one_byte_chunks > 100,
            name == "scripted/bytes",
            "{name}: {one_byte_chunks}"
        );
    }
}

#[tokio::test]
async fn queued_scripts_come_first_and_once() {
    let (model, server) = start(Script::reply(Reply::text("default"))).await;
    let fault = Fault::CutBetween {
        after: 0,
        ending: Ending::Clean,
    };
    model.push(Script::reply(Reply::text("queued")).with_fault(fault));
    let mut refusal = Reply::text("no");
    refusal.stop = Stop::Refusal;
    model.push(Script::reply(refusal));
    assert_eq!(
        read(ask(&server, "any").await).await,
        (String::new(), Some(ModelError::Truncated))
    );
    assert_eq!(read(ask(&server, "any").await).await, (String::new(), None));
    assert_eq!(
        read(ask(&server, "any").await).await,
        ("default".to_owned(), None)
    );
}
