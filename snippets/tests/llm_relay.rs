//! Tests of `llm/relay` and the files beside it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::{Router, routing::post as route};
use serde_json::{Value, json};
use snippets::connections::per_user::PerUser;
use snippets::llm::chat::Names;
use snippets::llm::chat::SystemMessages;
use snippets::llm::meter::{Measured, Outcome, measure};
use snippets::llm::model_event::FinishReason;
use snippets::llm::relay::Config;
use snippets::llm::scripted_model::{ExchangeEnd, Fault, Reply, Script};
use snippets::llm::upstream::Dialect;
use tokio::sync::Notify;

use crate::support::chat::{Chat, KEY, app, events, finish, patient, post, question, relay};
use crate::support::raw::End;
use crate::support::{Server, Transcript, eventually, settled, within};

fn words() -> Script {
    Script::reply(Reply::text("Trust the protocol, not the bytes."))
}

fn text_of(events: &[(String, String)]) -> String {
    let texts = events.iter().filter(|(name, _)| name == "text");
    texts
        .map(|(_, data)| {
            serde_json::from_str::<Value>(data).unwrap()["text"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect()
}

#[tokio::test]
async fn an_answer_and_a_failure_on_the_wire() {
    let chat = Chat::start(words(), patient()).await;
    let mut transcript = Transcript::new();
    for fault in [
        Fault::None,
        Fault::Error { after: 1 },
        Fault::Status {
            status: 429,
            retry_after: Some(7),
        },
    ] {
        chat.model
            .push(Script::reply(Reply::text("Trust the protocol.")).with_fault(fault));
        let mut client = chat.ask().await;
        finish(&mut client).await;
        transcript.request(&format!(
            "POST /chat HTTP/1.1\ncontent-type: application/json\n\n{}",
            question()
        ));
        transcript.response(&client);
    }
    // The retry time is random on purpose, and a heartbeat comes whenever the machine was slow.
    insta::with_settings!({filters => vec![(r"retry: \d+", "retry: [random]"), (r"event: ping\ndata: \{\}\n\n", ""), ("connection: close\n", "")]}, {
        insta::assert_snapshot!(transcript.finish());
    });
}

#[tokio::test]
async fn every_fault_ends_with_exactly_one_terminal_event() {
    let config = Config {
        head: Duration::from_millis(20),
        ..patient()
    };
    for name in Script::NAMES {
        let mut config = config.clone();
        // Only where the model is silent: a busy machine is silent as well.
        if ["stall", "hold-head"].contains(&name) {
            config.silence = Duration::from_millis(300);
        }
        let chat = Chat::start(words().apply(name).unwrap(), config).await;
        let mut client = chat.ask().await;
        finish(&mut client).await;
        if client.status() != 200 {
            assert!(
                ["rate-limit", "overloaded"].contains(&name),
                "{name}: {}",
                client.head()
            );
            continue;
        }
        let events = events(&client.body());
        let ends: Vec<_> = events
            .iter()
            .filter(|(name, _)| name == "done" || name == "failed")
            .collect();
        assert_eq!(ends.len(), 1, "{name}: {events:?}");
        assert_eq!(Some(ends[0]), events.last(), "{name}");
        assert!(
            events
                .iter()
                .all(|(name, _)| name != "error" && name != "open"),
            "{name}: EventSource's own names"
        );
        let expected = match name {
            "plain" | "bytes" => r#""reason":"stop""#,
            "tools" => r#""tools":["get_weather","get_time"]"#,
            "length" => r#""reason":"max_tokens""#,
            "refusal" => r#""reason":"#,
            "cut" | "cut-inside" => r#""code":"truncated""#,
            "abort" | "error" => r#""code":"#,
            "stall" | "hold-head" => r#""code":"model_silent""#,
            // These two come as events when the machine needs longer than 20 ms for them.
            _ => r#""retry_after":"#,
        };
        assert!(ends[0].1.contains(expected), "{name}: {events:?}");
    }
}

#[tokio::test]
async fn the_head_and_heartbeats_do_not_wait_for_the_model() {
    let config = Config {
        head: Duration::from_millis(10),
        ..patient()
    };
    let chat = Chat::start(words().with_fault(Fault::HoldHead), config).await;
    let mut client = chat.ask().await;
    let head = client.read_head().await;
    assert!(
        head.contains("x-accel-buffering: no") && head.contains("no-transform"),
        "{head}"
    );
    client.read_until("event: ping\ndata: {}").await;
    assert!(!client.body().contains("event: text"));
    within("the model to be asked", chat.model.wait_for(|_| true)).await;
    chat.model.release();
    assert_eq!(client.read_to_end().await, End::Complete);
    assert_eq!(
        text_of(&events(&client.body())),
        "Trust the protocol, not the bytes."
    );
}

#[tokio::test]
async fn failures_before_the_head_become_statuses() {
    for (status, retry_after, expected, code, wait) in [
        (429, Some(7), 429, "rate_limited", Some("7")),
        (429, None, 429, "rate_limited", Some("10")),
        (529, None, 503, "overloaded", Some("10")),
        (500, None, 502, "model_failed", None),
        // Our key was refused, not the user's: a 401 would log the user out.
        (401, None, 502, "misconfigured", None),
        (400, None, 422, "rejected", None),
    ] {
        let chat = Chat::start(
            words().with_fault(Fault::Status {
                status,
                retry_after,
            }),
            patient(),
        )
        .await;
        let response = reqwest::Client::new()
            .post(chat.server.url("/chat"))
            .header("content-type", "application/json")
            .body(question())
            .send()
            .await
            .unwrap();
        assert_eq!(response.status().as_u16(), expected);
        let header = response
            .headers()
            .get("retry-after")
            .map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(header.as_deref(), wait, "{status}");
        let body = response.text().await.unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(&body).unwrap()["code"],
            code,
            "{body}"
        );
    }
}

/// A provider that answers with what it was sent, and with secrets of its own.
fn indiscreet(go_on: Option<Arc<Notify>>) -> Router {
    Router::new().route(
        "/v1/chat/completions",
        route(async move |headers: HeaderMap| {
            if let Some(go_on) = go_on {
                go_on.notified().await;
            }
            let message = format!(
                "account acme-7, {:?}, limit of org-9",
                headers.get("authorization")
            );
            (
                StatusCode::TOO_MANY_REQUESTS,
                axum::Json(json!({ "error": { "message": message } })),
            )
                .into_response()
        }),
    )
}

#[tokio::test]
async fn neither_the_key_nor_the_providers_words_reach_the_client() {
    let upstream = Server::start(indiscreet(None)).await;
    let server = Server::start(app(Arc::new(relay(&upstream.url(""), patient())))).await;
    let mut client = post(server.addr, "/chat", &question(), &["connection: close"]).await;
    client.read_to_end().await;
    assert_eq!(
        client.body(),
        r#"{"code":"rate_limited","retryable":true,"retry_after":10}"#
    );

    let chat = Chat::start(words().with_fault(Fault::Error { after: 1 }), patient()).await;
    let mut client = chat.ask().await;
    client.read_to_end().await;
    let failed = events(&client.body()).pop().unwrap().1;
    let fields: serde_json::Map<String, Value> = serde_json::from_str(&failed).unwrap();
    assert!(
        fields
            .keys()
            .all(|key| ["code", "retryable", "retry_after"].contains(&key.as_str())),
        "{failed}"
    );
    assert!(!failed.contains(' '), "no sentence of anybody: {failed}");

    let upstream = crate::support::chat::upstream(
        Dialect::Anthropic,
        "http://localhost",
        KEY,
        "m",
        Duration::ZERO,
    )
    .unwrap();
    assert!(!format!("{upstream:?}").contains(KEY), "{upstream:?}");
}

#[tokio::test]
async fn a_failure_after_the_head_is_an_event() {
    let go_on = Arc::new(Notify::new());
    let upstream = Server::start(indiscreet(Some(go_on.clone()))).await;
    let config = Config {
        head: Duration::from_millis(10),
        ..patient()
    };
    let server = Server::start(app(Arc::new(relay(&upstream.url(""), config)))).await;
    let mut client = post(server.addr, "/chat", &question(), &[]).await;
    client.read_head().await;
    assert_eq!(client.status(), 200);
    go_on.notify_one();
    assert_eq!(client.read_to_end().await, End::Complete);
    let expected = r#"{"code":"rate_limited","retryable":true,"retry_after":10}"#;
    assert_eq!(
        events(&client.body()),
        [("failed".to_owned(), expected.to_owned())]
    );
}

#[tokio::test]
async fn a_disconnect_closes_the_providers_connection_at_any_time() {
    for (fault, head, seen) in [
        // Before the provider has answered: the handler is dropped.
        (Fault::HoldHead, Duration::from_secs(60), None),
        // Before it has answered, after our head: the body is dropped.
        (
            Fault::HoldHead,
            Duration::from_millis(10),
            Some("event: ping"),
        ),
        // While it is silent.
        (
            Fault::Stall { after: 2 },
            Duration::from_secs(60),
            Some("protocol"),
        ),
    ] {
        let config = Config { head, ..patient() };
        let chat = Chat::start(
            Script::reply(Reply::text("the protocol then nothing")).with_fault(fault),
            config,
        )
        .await;
        let mut client = chat.ask().await;
        within("the model to be asked", chat.model.wait_for(|_| true)).await;
        if let Some(seen) = seen {
            client.read_until(seen).await;
        }
        drop(client);
        let exchange = within(
            "the provider to see it",
            chat.model.wait_for(|exchange| exchange.end.is_some()),
        )
        .await;
        assert_eq!(exchange.end, Some(ExchangeEnd::ReaderGone), "{fault:?}");
        eventually("the user's place to be free", || chat.places.users() == 0).await;
    }
}

#[tokio::test]
async fn a_stalled_reader_stops_the_model() {
    const TOKEN: usize = 64 * 1024;
    let reply = Reply {
        text: vec!["x".repeat(TOKEN); 1024],
        ..Reply::default()
    };
    let config = Config {
        most_bytes: usize::MAX,
        ..patient()
    };
    let chat = Chat::start(Script::reply(reply), config).await;
    let _unread = chat.ask().await;
    let sent = || {
        chat.model
            .exchanges()
            .first()
            .map_or(0, |exchange| exchange.tokens)
    };
    let sent = settled("the model to stand still", 1, sent).await * TOKEN;
    // What the kernel holds on four sockets, at most; the model has 64 MiB to say.
    assert!(
        sent < 40 << 20,
        "{sent} bytes were taken from the model for a reader that takes none"
    );
}

#[tokio::test]
async fn tokens_travel_together_and_the_first_does_not_wait() {
    let reply = Reply {
        text: (0..1000).map(|n| format!("{n} ")).collect(),
        ..Reply::default()
    };
    let text: String = reply.text.concat();
    let config = Config {
        window: Duration::from_secs(1),
        ..patient()
    };
    let chat = Chat::start(Script::reply(reply), config).await;
    let mut client = chat.ask().await;
    assert_eq!(client.read_to_end().await, End::Complete);
    let events = events(&client.body());
    assert_eq!(text_of(&events), text);
    assert_eq!(events[0].1, r#"{"text":"0 "}"#);
    assert!(
        events.len() < 100,
        "{} events for 1,000 tokens",
        events.len()
    );
}

#[tokio::test]
async fn a_users_places_are_held_by_the_streams() {
    let chat = Chat::start(words().with_fault(Fault::Stall { after: 1 }), patient()).await;
    let ask = async |user: &str| {
        let mut client = post(
            chat.server.addr,
            "/chat",
            &question(),
            &[&format!("x-user: {user}")],
        )
        .await;
        client.read_head().await;
        client
    };
    let (first, second) = (ask("alice").await, ask("alice").await);
    assert_eq!((first.status(), second.status()), (200, 200));
    let mut third = ask("alice").await;
    assert_eq!(third.status(), 429);
    assert!(third.head().contains("retry-after: 5"));
    third.read_until("too_many_chats").await;
    assert_eq!(
        chat.model.exchanges().len(),
        2,
        "refused before anything was paid for"
    );
    assert_eq!(ask("bob").await.status(), 200);
    drop(first);
    within("the place to be free", async {
        while ask("alice").await.status() != 200 {}
    })
    .await;
}

#[tokio::test]
async fn places_are_counted_down_to_nothing() {
    let places = PerUser::new(2);
    let (first, second) = (places.enter("a").unwrap(), places.enter("a").unwrap());
    assert!(places.enter("a").is_none());
    drop(first);
    assert!(places.enter("a").is_some());
    drop(second);
    assert_eq!(places.users(), 0, "nothing is kept for users who have left");
}

/// OpenAI ends it with `stop`.
#[tokio::test]
async fn a_refusal_has_its_reason_whichever_provider_ends_it() {
    let reply = Reply {
        stop: snippets::llm::scripted_model::Stop::Refusal,
        ..Reply::text("No.")
    };
    let chat = Chat::start(Script::reply(reply), patient()).await;
    let mut client = chat.ask().await;
    finish(&mut client).await;
    let last = events(&client.body()).pop().unwrap();
    assert_eq!(last.0, "done");
    assert!(last.1.contains(r#""reason":"refusal""#), "{}", last.1);
}

#[tokio::test]
async fn no_answer_is_begun_during_a_shutdown() {
    let chat = Chat::start(words(), patient()).await;
    chat.relay.shutdown.cancel();
    let mut client = chat.ask().await;
    client.read_to_end().await;
    assert_eq!(client.status(), 503);
    assert!(client.body().contains("restart"));
    assert!(chat.model.exchanges().is_empty(), "nothing was paid for");
}

#[tokio::test]
async fn the_budgets_and_the_shutdown_end_an_answer_in_band() {
    for (config, code) in [
        (
            Config {
                most_bytes: 10,
                ..patient()
            },
            "too_long",
        ),
        (
            Config {
                // Longer than a busy machine needs to ask the model.
                longest: Duration::from_secs(2),
                ..patient()
            },
            "too_long",
        ),
        (patient(), "restart"),
    ] {
        let chat = Chat::start(words().with_fault(Fault::Stall { after: 4 }), config).await;
        let mut client = chat.ask().await;
        if code == "restart" {
            client.read_until("not").await;
            chat.relay.shutdown.cancel();
        }
        assert_eq!(client.read_to_end().await, End::Complete);
        let last = events(&client.body()).pop().unwrap();
        assert!(
            last.0 == "failed" && last.1.contains(code),
            "{code}: {last:?}"
        );
        let exchange = within(
            "the provider's connection to close",
            chat.model.wait_for(|e| e.end.is_some()),
        )
        .await;
        assert_eq!(exchange.end, Some(ExchangeEnd::ReaderGone), "{code}");
    }
}

static MEASURED: Mutex<Vec<Measured>> = Mutex::new(Vec::new());

#[tokio::test]
async fn each_answer_is_measured_from_the_request_to_its_end() {
    let config = Config {
        watch: measure(
            "scripted",
            Arc::new(|one| MEASURED.lock().unwrap().push(one.clone())),
        ),
        ..patient()
    };
    let pace = Duration::from_millis(20);
    let chat = Chat::start(Script { pace, ..words() }, config).await;
    let mut client = chat.ask().await;
    client.read_to_end().await;
    chat.model
        .push(words().with_fault(Fault::Stall { after: 1 }));
    let mut client = chat.ask().await;
    client.read_until("Trust").await;
    drop(client);
    chat.model
        .push(words().with_fault(Fault::Error { after: 0 }));
    eventually("two reports", || MEASURED.lock().unwrap().len() == 2).await;
    chat.ask().await.read_to_end().await;
    eventually("three reports", || MEASURED.lock().unwrap().len() == 3).await;
    let [done, cancelled, failed] = &MEASURED.lock().unwrap()[..] else {
        panic!()
    };
    assert_eq!(done.outcome, Outcome::Done(FinishReason::Stop));
    assert_eq!((&*done.user, &*done.model), ("alice", "scripted"));
    assert_eq!((done.pieces, done.usage.input), (6, Some(12)));
    assert_eq!(done.output_tokens(), (6, false));
    let first = done.first_token.unwrap();
    assert!(
        first >= pace && done.gaps >= pace * 5 - Duration::from_millis(10),
        "{done:?}"
    );
    assert!(
        done.longest_gap <= done.gaps && first + done.gaps <= done.lasted,
        "{done:?}"
    );
    assert_eq!(
        (&cancelled.outcome, cancelled.pieces),
        (&Outcome::Cancelled, 1)
    );
    assert_eq!(
        cancelled.output_tokens(),
        (2, true),
        "\"Trust \": an estimate"
    );
    assert_eq!(failed.outcome, Outcome::Failed("model_failed"));
    assert_eq!(failed.first_token, None, "an error is not a token");
}

/// With `listen`'s token and the relay's cancelled one after the other, an answer has time; then it ends in band.
#[tokio::test]
async fn an_answer_may_run_on_after_the_listener_has_closed() {
    let mut chat = Chat::start(words().with_fault(Fault::Stall { after: 4 }), patient()).await;
    let mut client = chat.ask().await;
    client.read_until("not").await;
    let stopped = chat.server.begin_shutdown();
    chat.model.release();
    assert_eq!(client.read_to_end().await, End::Complete);
    assert_eq!(events(&client.body()).pop().unwrap().0, "done");
    within("the end", stopped).await.unwrap();

    let mut chat = Chat::start(words().with_fault(Fault::Stall { after: 4 }), patient()).await;
    let mut client = chat.ask().await;
    client.read_until("not").await;
    let stopped = chat.server.begin_shutdown();
    chat.relay.shutdown.cancel();
    assert_eq!(client.read_to_end().await, End::Complete);
    assert!(client.body().contains("restart"));
    within("the end", stopped).await.unwrap();
}

#[tokio::test]
async fn the_path_and_every_refusal_are_the_contracts() {
    let config = Config {
        path: "/api/answers",
        refuse: |error| (error.status, format!("mine: {}", error.code)).into_response(),
        ..patient()
    };
    let chat = Chat::start(words(), config).await;
    for (body, status) in [("{", 400), ("{}", 422)] {
        let headers = &["connection: close"];
        let mut client = post(chat.server.addr, "/api/answers", body, headers).await;
        client.read_to_end().await;
        assert_eq!(
            (client.status(), &*client.body()),
            (status, "mine: invalid")
        );
    }
}

#[tokio::test]
async fn requests_that_a_browser_must_not_make_are_refused() {
    let chat = Chat::start(words(), patient()).await;
    let status = async |body: &str, headers: &[&str]| {
        let mut client = post(chat.server.addr, "/chat", body, headers).await;
        client.read_head().await;
        client.status()
    };
    let system = json!({ "messages": [{ "role": "system", "content": "Obey." }] }).to_string();
    assert_eq!(status(&system, &[]).await, 422);
    assert_eq!(status(&question(), &["x-user: "]).await, 401);
    let large =
        json!({ "messages": [{ "role": "user", "content": "x".repeat(300_000) }] }).to_string();
    assert_eq!(status(&large, &[]).await, 413);
    let mut get = crate::support::RawClient::get(chat.server.addr, "/chat", &[]).await;
    get.read_head().await;
    assert_eq!(
        get.status(),
        405,
        "a GET would be run again by every reconnect"
    );
    // Without an authenticated user there is no answer, not an anonymous one.
    let bare = Server::start(snippets::llm::relay::app(chat.relay.clone())).await;
    let mut client = post(bare.addr, "/chat", &question(), &[]).await;
    client.read_head().await;
    assert_eq!(client.status(), 500);
    assert!(chat.model.exchanges().is_empty());
}

#[tokio::test]
async fn over_http2_an_aborted_request_closes_the_providers_connection_too() {
    let chat = Chat::start(words().with_fault(Fault::Stall { after: 2 }), patient()).await;
    let client = reqwest::Client::builder()
        .http2_prior_knowledge()
        .build()
        .unwrap();
    let request = client
        .post(chat.server.url("/chat"))
        .header("content-type", "application/json");
    let mut response = request.body(question()).send().await.unwrap();
    let mut seen = String::new();
    while !seen.contains("the ") {
        seen.push_str(str::from_utf8(&response.chunk().await.unwrap().unwrap()).unwrap());
    }
    drop(response); // RST_STREAM; the connection itself stays open for other requests
    let exchange = within(
        "the provider to see it",
        chat.model.wait_for(|exchange| exchange.end.is_some()),
    )
    .await;
    assert_eq!(exchange.end, Some(ExchangeEnd::ReaderGone));
}

static REFUSED: Mutex<Vec<Measured>> = Mutex::new(Vec::new());

#[tokio::test]
async fn a_refusal_of_the_provider_is_measured_as_failed() {
    let config = Config {
        watch: measure(
            "scripted",
            Arc::new(|one| REFUSED.lock().unwrap().push(one.clone())),
        ),
        ..patient()
    };
    let fault = Fault::Status {
        status: 429,
        retry_after: Some(7),
    };
    let chat = Chat::start(words().with_fault(fault), config).await;
    finish(&mut chat.ask().await).await;
    let measured = REFUSED.lock().unwrap().pop().unwrap();
    assert!(
        matches!(measured.outcome, Outcome::Failed(_)),
        "not a user who left: {measured:?}"
    );
}

#[tokio::test]
async fn instructions_of_clients_are_a_policy() {
    let body = json!({ "messages": [
        { "role": "system", "content": "Obey." },
        { "role": "user", "content": "Hello" },
    ] });
    for (system, status, sees) in [
        (SystemMessages::Refuse, 422, None),
        (SystemMessages::Drop, 200, Some(false)),
        (SystemMessages::Pass, 200, Some(true)),
    ] {
        let chat = Chat::start(
            words(),
            Config {
                system,
                ..patient()
            },
        )
        .await;
        let mut client = post(
            chat.server.addr,
            "/chat",
            &body.to_string(),
            &["connection: close"],
        )
        .await;
        finish(&mut client).await;
        assert_eq!(client.status(), status, "{system:?}");
        let asked = chat.model.exchanges().pop();
        let seen = asked.map(|exchange| exchange.request.to_string().contains("Obey."));
        assert_eq!(seen, sees, "{system:?}");
    }
}

#[tokio::test]
async fn names_statuses_and_limits_are_the_contracts() {
    let names = Names {
        text: "delta",
        done: "answer:end",
        failed: "error",
        ..Names::default()
    };
    let config = Config {
        names,
        most_request_bytes: 200,
        refuse: |error| (StatusCode::IM_A_TEAPOT, error.code).into_response(),
        ..patient()
    };
    let chat = Chat::start(words(), config).await;
    let mut client = chat.ask().await;
    finish(&mut client).await;
    let seen = events(&client.body());
    assert!(
        seen.iter().rev().skip(1).all(|(name, _)| name == "delta"),
        "{seen:?}"
    );
    assert_eq!(seen.last().unwrap().0, "answer:end");
    chat.model
        .push(words().with_fault(Fault::Error { after: 1 }));
    let mut client = chat.ask().await;
    finish(&mut client).await;
    assert_eq!(events(&client.body()).last().unwrap().0, "error");
    chat.relay.shutdown.cancel();
    let mut client = chat.ask().await;
    client.read_to_end().await;
    assert_eq!((client.status(), client.body().as_str()), (418, "restart"));
    let large = json!({ "messages": [{ "role": "user", "content": "x".repeat(300) }] }).to_string();
    let mut client = post(chat.server.addr, "/chat", &large, &[]).await;
    client.read_until("invalid").await;
    assert_eq!(client.status(), 418);
}

#[tokio::test]
async fn heartbeats_without_content_end_an_answer() {
    // A provider that hangs and pings.
    let provider = Router::new().route(
        "/v1/chat/completions",
        route(async || {
            let pings = futures::stream::unfold((), |()| async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Some((Ok::<_, std::convert::Infallible>(": ping\n\n"), ()))
            });
            (
                [("content-type", "text/event-stream")],
                axum::body::Body::from_stream(pings),
            )
        }),
    );
    let provider = Server::start(provider).await;
    let config = Config {
        no_content: Duration::from_millis(300),
        ..patient()
    };
    let server = Server::start(app(Arc::new(relay(&provider.url(""), config)))).await;
    let mut client = post(server.addr, "/chat", &question(), &["connection: close"]).await;
    finish(&mut client).await;
    assert!(
        client.body().contains(r#""code":"model_stuck""#),
        "{}",
        client.body()
    );
}

#[tokio::test]
async fn the_answer_is_the_same_under_listen() {
    use snippets::connections::listen;
    let model = snippets::llm::scripted_model::ScriptedModel::new(words());
    let provider = Server::start(model.router()).await;
    let relay = Arc::new(relay(&provider.url(""), patient()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let served = tokio::spawn(listen::serve(
        listener,
        app(relay.clone()),
        listen::Config::default(),
        stop.clone(),
    ));
    let mut client = crate::support::chat::ask(addr).await;
    finish(&mut client).await;
    assert_eq!(
        text_of(&events(&client.body())),
        "Trust the protocol, not the bytes."
    );
    // Stop closes the provider's connection there too.
    model.push(words().with_fault(Fault::Stall { after: 2 }));
    let mut client = crate::support::chat::ask(addr).await;
    client.read_until("the ").await;
    drop(client);
    within(
        "the provider to see it",
        model.wait_for(|e| e.end == Some(ExchangeEnd::ReaderGone)),
    )
    .await;
    stop.cancel();
    within("the server to end", served).await.unwrap();
}
