//! The UI message stream: its bytes, and what the real AI SDK makes of them.

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, routing::post};
use futures::{Stream, StreamExt, stream};
use serde_json::{Value, json};
use snippets::llm::http;
use snippets::llm::model_stream::model_events;
use snippets::llm::openai_chat::OpenAiChat;
use snippets::llm::providers::{FinishReason, ModelError, ModelEvent, ToolCall, Usage};
use snippets::llm::scripted_model::{Reply, Script, ScriptedModel};
use snippets::llm::ui_message::Message;
use snippets::llm::ui_message_stream::{UiMessage, ui_parts, ui_response};
use snippets::llm::ui_part::UiPart;
use snippets::llm::ui_writer::UiWriter;
use snippets::sse::streams::{Chunk, Config, Own, Source, Streams};
use tokio_util::sync::CancellationToken;

use crate::llm_vendor_sdks::{node, run};
use crate::support::{RawClient, Server, Transcript};

/// A chat service: `{"script"}` chooses what the model does.
async fn chat(State(model_url): State<String>, Json(request): Json<Value>) -> Response {
    let script = request["script"].as_str().unwrap_or("plain").to_owned();
    match script.as_str() {
        "weather" => return respond(stream::iter(with_tools())),
        "stopped" => return respond(stream::iter(stopped())),
        "silent" => return respond(silent()),
        "shutdown" => {
            let (streams, shutdown) = start_streams();
            let parts = stream::iter(open()).chain(stream::poll_fn(move |_| {
                shutdown.cancel();
                Poll::Pending
            }));
            return ui_response(streams.admit().unwrap(), UiMessage::new(parts));
        }
        "no finish" => {
            let parts = stream::iter(with_tools()).filter(|part| {
                let end = matches!(part, UiPart::Finish { .. } | UiPart::FinishStep);
                std::future::ready(!end)
            });
            return respond(parts);
        }
        "delta first" => {
            let (id, delta) = ("1".into(), "lost".into());
            return respond(stream::iter([UiPart::TextDelta { id, delta }]));
        }
        _ => {}
    }
    let request = json!({"model": format!("scripted/{script}")});
    let response = reqwest::Client::new()
        .post(model_url)
        .json(&request)
        .send()
        .await
        .unwrap();
    match http::open(response, "text/event-stream").await {
        Ok(body) => respond(ui_parts("msg-1", model_events(body, OpenAiChat::default()))),
        Err(_) => (axum::http::StatusCode::TOO_MANY_REQUESTS, "busy").into_response(),
    }
}

/// With a heartbeat that comes often.
fn start_streams() -> (Streams, CancellationToken) {
    let config = Config {
        heartbeat: Duration::from_millis(5),
        drain_spread: Duration::ZERO,
        ..Config::default()
    };
    let shutdown = CancellationToken::new();
    (Streams::start(config, shutdown.clone()), shutdown)
}

fn respond(parts: impl Stream<Item = UiPart> + Send + 'static) -> Response {
    let (streams, _) = start_streams();
    ui_response(streams.admit().unwrap(), UiMessage::new(parts))
}

/// A message that pauses for three heartbeats: each polls it once.
fn silent() -> impl Stream<Item = UiPart> {
    let mut polls = 0;
    let pause = stream::poll_fn(move |_| {
        polls += 1;
        match polls > 3 {
            true => Poll::Ready(None),
            false => Poll::Pending,
        }
    });
    let mut parts = with_tools();
    let rest = parts.split_off(4);
    stream::iter(parts).chain(pause).chain(stream::iter(rest))
}

/// A message whose text and whose call have begun and not ended.
fn open() -> Vec<UiPart> {
    let mut out = Vec::new();
    let mut writer = UiWriter::start("msg-4", &mut out);
    writer.event(ModelEvent::Text("Whole.".into()), &mut out);
    let (id, name) = ("a".to_owned(), "pay".to_owned());
    writer.event(ModelEvent::ToolCallStart { index: 0, id, name }, &mut out);
    writer.event(ModelEvent::Text("Half an ans".into()), &mut out);
    out
}

/// Two model calls with a tool between.
fn with_tools() -> Vec<UiPart> {
    let mut out = Vec::new();
    let mut writer = UiWriter::start("msg-2", &mut out);
    let usage = Usage {
        input: Some(10),
        output: Some(5),
        ..Usage::default()
    };
    let call = |index: u32, id: &str, arguments: &str| ToolCall {
        id: id.to_owned(),
        name: format!("tool_{index}"),
        arguments: arguments.to_owned(),
    };
    let calls = vec![
        call(0, "a", r#"{"city":"Zürich"}"#),
        call(1, "", "{}"),
        call(2, "c", "{oops"),
    ];
    let mut ended = None;
    let mut events = vec![
        ModelEvent::Reasoning("Look it up.".into()),
        ModelEvent::Text("One ".into()),
        ModelEvent::Heartbeat,
        ModelEvent::Text("moment.".into()),
    ];
    for (index, call) in calls.iter().enumerate() {
        let (index, id, name) = (index as u32, call.id.clone(), call.name.clone());
        events.push(ModelEvent::ToolCallStart { index, id, name });
        let fragment = call.arguments.clone();
        events.push(ModelEvent::ToolCallDelta { index, fragment });
    }
    events.push(ModelEvent::Usage(usage));
    let reason = FinishReason::ToolCalls;
    events.push(ModelEvent::Finish {
        reason,
        tool_calls: calls,
    });
    for event in events {
        assert_eq!(ended, None);
        ended = writer.event(event, &mut out);
    }
    let (_, runnable) = ended.unwrap();
    // The provider had no id for the second, and the arguments of the third are no JSON.
    let ids: Vec<&str> = runnable.iter().map(|call| call.id.as_str()).collect();
    assert_eq!(ids, ["a", "call-2"]);
    UiWriter::tool_result("a", Ok(json!({"degrees": 21})), &mut out);
    UiWriter::tool_result("call-2", Err("the clock is broken".to_owned()), &mut out);
    writer.next_step(&mut out);
    assert_eq!(
        writer.event(ModelEvent::Text("21 degrees.".into()), &mut out),
        None
    );
    writer.event(ModelEvent::Usage(usage), &mut out);
    let (reason, tool_calls) = (FinishReason::Stop, Vec::new());
    let end = writer.event(ModelEvent::Finish { reason, tool_calls }, &mut out);
    writer.finish(&end.unwrap().0, &mut out);
    out
}

/// Stop arrived over another request: the client of this one still reads.
fn stopped() -> Vec<UiPart> {
    let mut out = Vec::new();
    let mut writer = UiWriter::start("msg-3", &mut out);
    writer.event(ModelEvent::Text("Half an ans".into()), &mut out);
    writer.stop("interrupted", &mut out);
    out
}

async fn start() -> (Server, Server) {
    let mut reply = Reply::text("Grüße 👩🏽‍🚀 und so weiter");
    reply.reasoning = Vec::new();
    let model = Server::start(ScriptedModel::new(Script::reply(reply)).router()).await;
    let app = Router::new()
        .route("/chat", post(chat))
        .with_state(model.url("/v1/chat/completions"));
    (model, Server::start(app).await)
}

#[tokio::test]
#[ignore = "needs Node: run ./check"]
async fn the_ai_sdk_reads_text_tools_failures_and_aborts() {
    let (_model, server) = start().await;
    let base = server.url("");
    let scripts = [
        "plain",
        "weather",
        "length",
        "error",
        "cut",
        "rate-limit",
        "stopped",
        "silent",
        "shutdown",
        "no finish",
        "delta first",
    ];
    let arguments: Vec<&str> = [base.as_str()].into_iter().chain(scripts).collect();
    let lines = run(&node(), "ui.mjs", &arguments).await;
    let of = |script: &str| lines.iter().find(|line| line["script"] == script).unwrap();
    let finish = |reason: Value, abort: bool, error: bool| json!({"isAbort": abort, "isDisconnect": false, "isError": error, "finishReason": reason});

    let plain = of("plain");
    assert_eq!(plain["status"], "ready", "{plain}");
    assert_eq!(plain["finish"], finish(json!("stop"), false, false));
    assert_eq!(plain["message"]["id"], "msg-1");
    let usage = json!({"inputTokens": 12, "outputTokens": 5});
    assert_eq!(plain["message"]["metadata"], json!({"usage": usage}));
    let text = json!({"type": "text", "text": "Grüße 👩🏽‍🚀 und so weiter", "state": "done"});
    assert_eq!(
        plain["message"]["parts"],
        json!([{"type": "step-start"}, text])
    );
    assert_eq!(of("readUIMessageStream")["message"], plain["message"]);

    let weather = of("weather");
    assert_eq!(
        weather["finish"],
        finish(json!("stop"), false, false),
        "{weather}"
    );
    let usage = json!({"inputTokens": 20, "outputTokens": 10});
    assert_eq!(weather["message"]["metadata"], json!({"usage": usage}));
    let parts = weather["message"]["parts"].as_array().unwrap();
    let kinds: Vec<_> = parts
        .iter()
        .map(|part| (part["type"].as_str().unwrap(), part["state"].as_str()))
        .collect();
    assert_eq!(
        kinds,
        [
            ("step-start", None),
            ("reasoning", Some("done")),
            ("text", Some("done")),
            ("tool-tool_0", Some("output-available")),
            ("tool-tool_1", Some("output-error")),
            ("tool-tool_2", Some("output-error")),
            ("step-start", None),
            ("text", Some("done")),
        ]
    );
    assert_eq!(parts[3]["input"], json!({"city": "Zürich"}));
    assert_eq!(parts[3]["output"], json!({"degrees": 21}));
    assert_eq!(parts[4]["errorText"], "the clock is broken");

    assert_eq!(
        of("length")["finish"],
        finish(json!("length"), false, false)
    );
    // Failures: an error for the user, without the provider's words; never a finished message.
    for (script, text) in [
        ("error", "Error: The answer failed."),
        ("cut", "Error: The answer was cut off. Try again."),
    ] {
        let line = of(script);
        assert_eq!(line["status"], "error", "{line}");
        assert_eq!(line["finish"], finish(Value::Null, false, true), "{line}");
        assert_eq!(line["error"], text);
        assert_eq!(line["message"]["parts"][1]["text"], "Grüße 👩🏽‍🚀 ");
    }
    assert_eq!(of("rate-limit")["status"], "error");
    // The client takes only its own abort for one: the reason tells that the server stopped.
    let stopped = of("stopped");
    let reason = json!("interrupted");
    assert_eq!(stopped["finish"], finish(reason, false, false), "{stopped}");
    // A heartbeat is a comment: the message is the same.
    assert_eq!(of("silent")["finish"], weather["finish"]);
    assert_eq!(of("silent")["message"], weather["message"]);
    let shutdown = of("shutdown");
    assert_eq!(shutdown["status"], "error", "{shutdown}");
    assert_eq!(
        shutdown["error"],
        "Error: The answer was cut off. Try again."
    );
    for part in shutdown["message"]["parts"].as_array().unwrap() {
        assert_ne!(part["state"], "streaming", "{shutdown}");
        assert_ne!(part["state"], "input-streaming", "{shutdown}");
    }
    // [DONE] without `finish` is ready, without error: only the missing reason tells.
    let unfinished = of("no finish");
    assert_eq!(unfinished["status"], "ready", "{unfinished}");
    assert_eq!(unfinished["finish"], finish(Value::Null, false, false));
    // A delta without its start fails the whole message.
    assert!(
        of("delta first")["error"]
            .as_str()
            .unwrap()
            .contains("text-start"),
        "{}",
        of("delta first")
    );
}

#[tokio::test]
async fn the_bytes_of_a_message() {
    let (_model, server) = start().await;
    let mut transcript = Transcript::new();
    for script in ["weather", "error"] {
        let body = json!({"script": script}).to_string();
        let mut client = RawClient::connect(server.addr).await;
        let length = format!("content-length: {}", body.len());
        let headers = ["content-type: application/json", length.as_str()];
        client.send_request("POST", "/chat", &headers).await;
        tokio::io::AsyncWriteExt::write_all(&mut client.socket, body.as_bytes())
            .await
            .unwrap();
        client.read_to_end().await;
        transcript.request(&format!("POST /chat\n{}\n\n{body}", headers[0]));
        transcript.response(&client);
    }
    insta::assert_snapshot!(transcript.finish());
}

#[test]
fn an_interrupted_call_ends_in_an_error_and_is_not_run() {
    let mut out = Vec::new();
    let mut writer = UiWriter::start("m", &mut out);
    let (id, name) = ("a".to_owned(), "pay".to_owned());
    writer.event(ModelEvent::ToolCallStart { index: 0, id, name }, &mut out);
    let fragment = r#"{"amount": 100"#.to_owned();
    writer.event(ModelEvent::ToolCallDelta { index: 0, fragment }, &mut out);
    let (reason, tool_calls) = (FinishReason::MaxTokens, Vec::new());
    let (_, runnable) = writer
        .event(ModelEvent::Finish { reason, tool_calls }, &mut out)
        .unwrap();
    assert_eq!(runnable, []);
    assert!(
        matches!(out.last(), Some(UiPart::ToolInputError { .. })),
        "{out:?}"
    );
}

#[tokio::test]
async fn a_stream_that_ends_without_a_finish_fails() {
    let events = stream::iter([Ok::<_, ModelError>(ModelEvent::Text("half".into()))]);
    let parts: Vec<UiPart> = ui_parts("m", events).collect().await;
    assert!(
        matches!(parts.last(), Some(UiPart::Error { .. })),
        "{parts:?}"
    );
    let events = stream::iter([
        Err(ModelError::Truncated),
        Ok(ModelEvent::Text("after".into())),
    ]);
    let parts: Vec<UiPart> = ui_parts("m", events).collect().await;
    assert!(
        matches!(parts.last(), Some(UiPart::Error { .. })),
        "{parts:?}"
    );
}

#[test]
fn a_failure_and_a_stop_end_every_open_part() {
    for stopped in [false, true] {
        let mut out = Vec::new();
        let mut writer = UiWriter::start("m", &mut out);
        writer.event(ModelEvent::Reasoning("hm".into()), &mut out);
        writer.event(ModelEvent::Text("Half an ans".into()), &mut out);
        let (id, name) = ("a".to_owned(), "pay".to_owned());
        writer.event(ModelEvent::ToolCallStart { index: 0, id, name }, &mut out);
        let fragment = r#"{"amount": 100"#.to_owned();
        writer.event(ModelEvent::ToolCallDelta { index: 0, fragment }, &mut out);
        match stopped {
            true => writer.stop("interrupted", &mut out),
            false => writer.fail(ModelError::Truncated.into(), &mut out),
        }
        let count = |is: fn(&UiPart) -> bool| out.iter().filter(|part| is(part)).count();
        assert_eq!(count(|part| matches!(part, UiPart::TextEnd { .. })), 1);
        assert_eq!(count(|part| matches!(part, UiPart::ReasoningEnd { .. })), 1);
        assert_eq!(
            count(|part| matches!(part, UiPart::ToolInputError { .. })),
            1
        );
        let calls = |part: &UiPart| matches!(part, UiPart::ToolInputAvailable { .. });
        assert_eq!(count(calls), 0, "half a payment is not an input");
        let end = |part: &UiPart| matches!(part, UiPart::Error { .. } | UiPart::Finish { .. });
        assert!(out.last().is_some_and(end), "{out:?}");
    }
}

#[tokio::test]
async fn a_shutdown_and_the_maximum_age_end_every_open_part() {
    for what in [Own::Shutdown, Own::MaxAge] {
        let mut message = UiMessage::new(stream::iter(open()).chain(stream::pending()));
        let mut cx = Context::from_waker(Waker::noop());
        while message.poll(&mut cx).is_ready() {}
        let end: Chunk = message.own(what).unwrap();
        assert!(end.last);
        let end = String::from_utf8(end.bytes.to_vec()).unwrap();
        let types: Vec<_> = end
            .split("\n\n")
            .filter_map(|event| serde_json::from_str::<Value>(event.strip_prefix("data: ")?).ok())
            .map(|part| part["type"].as_str().unwrap_or_default().to_owned())
            .collect();
        assert_eq!(types, ["tool-input-error", "text-end", "error"], "{end}");
        assert!(end.ends_with("data: [DONE]\n\n"), "{end}");
    }
}

/// Parts without a variant, as the client keeps them.
#[test]
fn any_part_of_the_protocol_can_be_sent_and_is_kept_as_the_client_keeps_it() {
    let document = json!({"type": "source-document", "sourceId": "s", "mediaType": "application/pdf", "title": "T"});
    let parts = [
        UiPart::StartStep,
        UiPart::Raw(json!({"type": "custom", "kind": "acme.seal"})),
        UiPart::Raw(json!({"type": "reset-step"})),
        UiPart::ToolInputStart {
            tool_call_id: "a".into(),
            tool_name: "count".into(),
        },
        UiPart::Raw(
            json!({"type": "tool-output-available", "toolCallId": "a", "output": 1, "preliminary": true}),
        ),
        UiPart::Raw(document.clone()),
        UiPart::Raw(json!({"type": "message-metadata", "messageMetadata": {"model": "m"}})),
        UiPart::Finish {
            finish_reason: "stop",
            message_metadata: json!({"usage": 1}),
        },
    ];
    let mut message = Message::assistant("m");
    parts.iter().for_each(|part| message.apply(part));
    let count = json!({"type": "tool-count", "toolCallId": "a", "state": "output-available", "output": 1, "preliminary": true});
    assert_eq!(
        message.parts,
        [json!({"type": "step-start"}), count, document.clone()]
    );
    assert_eq!(message.metadata, json!({"model": "m", "usage": 1}));
    assert_eq!(json!(parts[5]), document, "sent as it is");
    let mut open = Vec::new();
    UiPart::TextStart { id: "1".into() }.track(&mut open);
    parts[2].track(&mut open);
    assert!(open.is_empty());
}

#[tokio::test]
async fn silence_shows_the_client_a_comment() {
    let message = UiMessage::new(silent());
    let (streams, _) = start_streams();
    let mut body = pin!(
        ui_response(streams.admit().unwrap(), message)
            .into_body()
            .into_data_stream()
    );
    let mut bytes = Vec::new();
    while let Some(chunk) = body.next().await {
        bytes.extend_from_slice(&chunk.unwrap());
    }
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.starts_with(":\n\ndata: {\"type\":\"start\""), "{text}");
    assert!(text.matches("\n:\n").count() >= 1, "{text}");
    assert!(!text.contains("event:"), "{text}");
}

/// Of Anthropic, OpenAI chat completions and Responses, Gemini, OpenRouter.
#[test]
fn sources_and_images_become_parts_and_nothing_else_does() {
    let mut out = Vec::new();
    let mut writer = UiWriter::start("m", &mut out);
    out.clear();
    let raw = [
        json!({"delta": {"citation": {"type": "web_search_result_location", "url": "https://a.example/", "title": "A"}}}),
        json!([{"type": "url_citation", "url_citation": {"url": "https://b.example/", "title": "B"}}]),
        json!({"annotation": {"type": "url_citation", "url": "https://c.example/"}}),
        json!({"groundingChunks": [{"web": {"uri": "https://d.example/", "title": "D"}}]}),
        json!({"inlineData": {"mimeType": "image/png", "data": "aGk="}}),
        json!([{"type": "image_url", "image_url": {"url": "data:image/webp;base64,aGk="}}]),
        // Again, and what a page must not get.
        json!({"annotation": {"type": "url_citation", "url": "https://a.example/"}}),
        json!({"annotation": {"type": "url_citation", "url": "javascript:alert(1)"}}),
        json!([{"type": "image_url", "image_url": {"url": "https://tracker.example/1.png"}}]),
        json!({"inlineData": {"mimeType": "text/html", "data": "aGk="}}),
        json!({"type": "web_search_tool_result", "content": [{"url": "https://found.example/"}]}),
        json!(null),
    ];
    for raw in raw {
        let (kind, raw) = ("any".to_owned(), raw.to_string());
        writer.event(ModelEvent::Other { kind, raw }, &mut out);
    }
    let parts: Vec<Value> = out.iter().map(|part| json!(part)).collect();
    let shown = |part: &Value| {
        format!(
            "{} {}",
            part["type"].as_str().unwrap(),
            part["url"].as_str().unwrap()
        )
    };
    let shown: Vec<String> = parts.iter().map(shown).collect();
    assert_eq!(
        shown,
        [
            "source-url https://a.example/",
            "source-url https://b.example/",
            "source-url https://c.example/",
            "source-url https://d.example/",
            "file data:image/png;base64,aGk=",
            "file data:image/webp;base64,aGk=",
        ]
    );
    let data = UiPart::data("weather", Some("1".into()), json!({"degrees": 21}));
    let data_on_the_wire =
        json!({"type": "data-weather", "id": "1", "data": {"degrees": 21}, "transient": false});
    assert_eq!(json!(data), data_on_the_wire);
}
