//! Decoders: whatever the provider and wherever the bytes are cut, one answer; a cut is an error.

use futures::{StreamExt, stream};
use serde_json::{Value, json};
use snippets::llm::anthropic::Anthropic;
use snippets::llm::gemini::Gemini;
use snippets::llm::http;
use snippets::llm::model_stream::model_events;
use snippets::llm::ollama::Ollama;
use snippets::llm::openai_chat::OpenAiChat;
use snippets::llm::openai_responses::OpenAiResponses;
use snippets::llm::providers::ToolCall;
use snippets::llm::providers::decode::{MAX_RECORD_BYTES, Records};
use snippets::llm::providers::tool_calls::{MAX_ARGUMENT_BYTES, MAX_CALLS};
use snippets::llm::providers::{
    Decoder, EndRule, Failure, FinishReason, ModelError, ModelEvent, Usage,
};
use snippets::llm::scripted_model::{ExchangeEnd, Fault, Reply, Script, ScriptedModel, Stop};

use crate::support::{Server, within};

type Decoded = (Vec<ModelEvent>, Option<ModelError>);

pub struct Provider {
    pub name: &'static str,
    pub path: &'static str,
    pub decode: fn(&[u8], usize) -> Decoded,
}

pub const PROVIDERS: [Provider; 5] = [
    Provider {
        name: "openai chat",
        path: "/v1/chat/completions",
        decode: decode::<OpenAiChat>,
    },
    Provider {
        name: "openai responses",
        path: "/v1/responses",
        decode: decode::<OpenAiResponses>,
    },
    Provider {
        name: "anthropic",
        path: "/v1/messages",
        decode: decode::<Anthropic>,
    },
    Provider {
        name: "gemini",
        path: "/v1beta/models/scripted:streamGenerateContent?alt=sse",
        decode: decode::<Gemini>,
    },
    Provider {
        name: "ollama",
        path: "/api/chat",
        decode: decode::<Ollama>,
    },
];

/// Decodes `bytes` in chunks of `size`; heartbeats, which depend on the cut, are left out.
fn decode<D: Decoder + Default>(bytes: &[u8], size: usize) -> Decoded {
    decode_with(D::default(), bytes, size)
}

fn decode_with<D: Decoder>(decoder: D, bytes: &[u8], size: usize) -> Decoded {
    let mut records = Records::new(decoder);
    let mut events = Vec::new();
    let mut error = None;
    for chunk in bytes.chunks(size.max(1)) {
        error = records.push(chunk, &mut events).err();
        if error.is_some() {
            break;
        }
    }
    if error.is_none() {
        error = records.end(&mut events).err();
    }
    events.retain(|event| *event != ModelEvent::Heartbeat);
    (events, error)
}

fn reply() -> Reply {
    let mut reply = Reply::text("Grüße aus 東京 👩🏽‍🚀 und \"so\"\nweiter")
        .with_call("get_weather", r#"{"city":"Zürich","days":3}"#, 5)
        .with_call("get_time", "", 1);
    reply.reasoning = vec!["Think ".into(), "twice — ✓.".into()];
    reply
}

/// The bytes with which the scripted model answers `script` on `path`.
async fn bytes_of(path: &str, script: Script) -> Vec<u8> {
    let model = ScriptedModel::new(script);
    let server = Server::start(model.router()).await;
    let request = reqwest::Client::new()
        .post(server.url(path))
        .json(&json!({}))
        .send();
    let response = within("the response", request).await.unwrap();
    within("the body", response.bytes()).await.unwrap().to_vec()
}

fn text(events: &[ModelEvent]) -> String {
    let text = events.iter().filter_map(|event| match event {
        ModelEvent::Text(text) => Some(text.as_str()),
        _ => None,
    });
    text.collect()
}

fn finish(events: &[ModelEvent]) -> (FinishReason, Vec<ToolCall>) {
    match events.last() {
        Some(ModelEvent::Finish { reason, tool_calls }) => (reason.clone(), tool_calls.clone()),
        other => panic!("ends with {other:?}"),
    }
}

fn usage(events: &[ModelEvent]) -> Usage {
    let last = events.iter().rev().find_map(|event| match event {
        ModelEvent::Usage(usage) => Some(*usage),
        _ => None,
    });
    last.expect("no usage")
}

#[tokio::test]
async fn one_answer_from_every_provider_wherever_the_bytes_are_cut() {
    for provider in PROVIDERS {
        let bytes = bytes_of(provider.path, Script::reply(reply())).await;
        let (whole, error) = (provider.decode)(&bytes, usize::MAX);
        assert_eq!(error, None, "{}", provider.name);
        assert_eq!(
            text(&whole),
            "Grüße aus 東京 👩🏽‍🚀 und \"so\"\nweiter",
            "{}",
            provider.name
        );
        let reasoning: String = whole
            .iter()
            .filter_map(|event| match event {
                ModelEvent::Reasoning(text) => Some(text.as_str()),
                _ => None,
            })
            .collect();
        let expected = if provider.name == "openai chat" {
            ""
        } else {
            "Think twice — ✓."
        };
        assert_eq!(reasoning, expected, "{}", provider.name);

        let (reason, calls) = finish(&whole);
        assert_eq!(reason, FinishReason::ToolCalls, "{}", provider.name);
        let names: Vec<_> = calls.iter().map(|call| call.name.as_str()).collect();
        assert_eq!(names, ["get_weather", "get_time"], "{}", provider.name);
        let arguments: Value = calls[0].parse().unwrap();
        assert_eq!(
            arguments,
            json!({"city": "Zürich", "days": 3}),
            "{}",
            provider.name
        );
        // The model wrote nothing at all: not JSON, but the empty object.
        assert_eq!(
            calls[1].parse::<Value>().unwrap(),
            json!({}),
            "{}",
            provider.name
        );

        for size in [1, 2, 3, 5, 7, 64, 1000] {
            let cut = (provider.decode)(&bytes, size);
            assert_eq!(
                cut,
                (whole.clone(), None),
                "{} in chunks of {size}",
                provider.name
            );
        }
    }
}

#[tokio::test]
async fn every_cut_is_truncated_at_every_byte() {
    for provider in PROVIDERS {
        let bytes = bytes_of(provider.path, Script::reply(reply())).await;
        let (whole, _) = (provider.decode)(&bytes, usize::MAX);
        let wire = str::from_utf8(&bytes).unwrap();
        // The record with the reason: the answer is complete with it, whatever the provider sends after.
        let reason = match provider.name {
            "openai chat" => "\"finish_reason\":\"tool_calls\"",
            "anthropic" => "\"stop_reason\":\"tool_use\"",
            _ => "",
        };
        let terminal = bytes.trim_ascii_end().len();
        let known = match reason {
            "" => terminal,
            reason => {
                let at = wire.find(reason).unwrap();
                at + wire[at..].find("\n\n").unwrap() + 1
            }
        };
        // The line endings of the last record are neither: a record is complete with its blank line.
        for cut in (0..=terminal).chain([bytes.len()]) {
            let (events, error) = (provider.decode)(&bytes[..cut], usize::MAX);
            let released = events
                .iter()
                .any(|e| matches!(e, ModelEvent::Finish { .. }));
            if cut <= known {
                let truncated = Some(ModelError::Truncated);
                assert_eq!(
                    (error, released),
                    (truncated, false),
                    "{} at {cut}",
                    provider.name
                );
            } else {
                assert_eq!(error, None, "{} at {cut}", provider.name);
                assert_eq!(
                    finish(&events),
                    finish(&whole),
                    "{} at {cut}",
                    provider.name
                );
                assert_eq!(text(&events), text(&whole), "{} at {cut}", provider.name);
            }
        }
    }
}

#[tokio::test]
async fn a_strict_decoder_needs_the_terminal_event() {
    type Decode = fn(&[u8]) -> Decoded;
    let strict: [(&str, Decode); 2] = [
        ("/v1/chat/completions", |bytes| {
            decode_with(
                OpenAiChat::new(EndRule::ReasonAndTerminal),
                bytes,
                usize::MAX,
            )
        }),
        ("/v1/messages", |bytes| {
            decode_with(
                Anthropic::new(EndRule::ReasonAndTerminal),
                bytes,
                usize::MAX,
            )
        }),
    ];
    for (path, decode) in strict {
        let bytes = bytes_of(path, Script::reply(reply())).await;
        for cut in 0..=bytes.trim_ascii_end().len() {
            let (_, error) = decode(&bytes[..cut]);
            assert_eq!(error, Some(ModelError::Truncated), "{path} at {cut}");
        }
        assert_eq!(decode(&bytes).1, None);
    }
}

#[tokio::test]
async fn an_interrupted_model_keeps_its_reason_and_releases_no_tool_call() {
    for provider in PROVIDERS {
        let mut reply = reply();
        reply.stop = Stop::Length;
        let bytes = bytes_of(provider.path, Script::reply(reply)).await;
        let (events, error) = (provider.decode)(&bytes, usize::MAX);
        assert_eq!(error, None, "{}", provider.name);
        let expected = (FinishReason::MaxTokens, Vec::new());
        assert_eq!(finish(&events), expected, "{}", provider.name);
    }
}

#[test]
fn finish_reasons_are_kept() {
    use FinishReason as F;
    let other = |reason: &str| F::Other(reason.to_owned());
    for (raw, expected) in [
        ("stop", F::Stop),
        ("length", F::MaxTokens),
        ("content_filter", F::ContentFilter),
        ("function_call", other("function_call")),
        ("new_reason", other("new_reason")),
    ] {
        let chunk = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": raw}]});
        let bytes = format!("data: {chunk}\n\ndata: [DONE]\n\n");
        let (events, error) = decode::<OpenAiChat>(bytes.as_bytes(), 9);
        assert_eq!((finish(&events).0, error), (expected, None));
    }
    for (raw, expected) in [
        ("end_turn", F::Stop),
        ("stop_sequence", F::Stop),
        ("max_tokens", F::MaxTokens),
        ("model_context_window_exceeded", F::MaxTokens),
        ("refusal", F::Refusal),
        ("pause_turn", F::Paused),
        ("new_reason", other("new_reason")),
    ] {
        let delta = json!({"type": "message_delta", "delta": {"stop_reason": raw}});
        let bytes = format!("data: {delta}\n\ndata: {{\"type\":\"message_stop\"}}\n\n");
        let (events, error) = decode::<Anthropic>(bytes.as_bytes(), 9);
        assert_eq!((finish(&events).0, error), (expected, None));
    }
    for (raw, expected) in [
        ("STOP", F::Stop),
        ("SAFETY", F::ContentFilter),
        ("SPII", F::ContentFilter),
        ("MALFORMED_FUNCTION_CALL", other("MALFORMED_FUNCTION_CALL")),
    ] {
        let bytes = format!(
            "data: {}\n\n",
            json!({"candidates": [{"finishReason": raw}]})
        );
        let (events, error) = decode::<Gemini>(bytes.as_bytes(), 9);
        assert_eq!((finish(&events).0, error), (expected, None));
    }
    let blocked = json!({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}});
    let (events, error) = decode::<Gemini>(format!("data: {blocked}\n\n").as_bytes(), 9);
    assert_eq!((finish(&events).0, error), (F::ContentFilter, None));
    let details = json!({"type": "response.incomplete", "response":
        {"incomplete_details": {"reason": "content_filter"}}});
    let (events, error) = decode::<OpenAiResponses>(format!("data: {details}\n\n").as_bytes(), 9);
    assert_eq!((finish(&events).0, error), (F::ContentFilter, None));
}

#[test]
fn a_terminal_event_without_a_reason_is_truncated() {
    let chunk = json!({"choices": [{"index": 0, "delta": {"content": "half"}}]});
    let (_, error) =
        decode::<OpenAiChat>(format!("data: {chunk}\n\ndata: [DONE]\n\n").as_bytes(), 9);
    assert_eq!(error, Some(ModelError::Truncated));
    let (_, error) = decode::<Anthropic>(b"data: {\"type\":\"message_stop\"}\n\n", 9);
    assert_eq!(error, Some(ModelError::Truncated));
    let (_, error) = decode::<Ollama>(b"{\"done\":true}\n", 9);
    assert_eq!(error, Some(ModelError::Truncated));
}

#[tokio::test]
async fn usage_is_a_total_and_means_the_same_everywhere() {
    for provider in PROVIDERS {
        let reply = reply();
        let bytes = bytes_of(provider.path, Script::reply(reply.clone())).await;
        let (events, _) = (provider.decode)(&bytes, usize::MAX);
        let usage = usage(&events);
        assert_eq!(usage.input, Some(12), "{}", provider.name);
        let cached = (provider.name != "ollama").then_some(4);
        assert_eq!(usage.cached_input, cached, "{}", provider.name);
        let tokens = match provider.name {
            "openai chat" => reply.tokens() - reply.reasoning.len(),
            // Function calls come whole: one part each.
            "gemini" => reply.reasoning.len() + reply.text.len() + reply.tool_calls.len(),
            _ => reply.tokens(),
        };
        assert_eq!(usage.output, Some(tokens as u64), "{}", provider.name);
    }
}

#[test]
fn a_null_in_later_usage_does_not_erase_what_was_said() {
    let start = json!({"type": "message_start", "message": {"usage": {"input_tokens": 10,
        "cache_read_input_tokens": 5, "cache_creation_input_tokens": 3, "output_tokens": 1}}});
    let one = json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"},
        "usage": {"input_tokens": null, "cache_read_input_tokens": null, "output_tokens": 40}});
    let two = json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"},
        "usage": {"output_tokens": 70}});
    let stop = json!({"type": "message_stop"});
    let bytes = format!("data: {start}\n\ndata: {one}\n\ndata: {two}\n\ndata: {stop}\n\n");
    let (events, error) = decode::<Anthropic>(bytes.as_bytes(), 30);
    assert_eq!(error, None);
    let expected = Usage {
        input: Some(18),
        cached_input: Some(5),
        output: Some(70),
        reasoning: None,
    };
    assert_eq!(usage(&events), expected);
}

#[tokio::test]
async fn unknown_events_and_fields_change_nothing() {
    for provider in PROVIDERS {
        let bytes = bytes_of(provider.path, Script::reply(reply())).await;
        let mut expected = (provider.decode)(&bytes, usize::MAX);
        let wire = String::from_utf8(bytes).unwrap();
        let (sse, separator) = match provider.name {
            "gemini" => (true, "\r\n\r\n"),
            "ollama" => (false, "\n"),
            _ => (true, "\n\n"),
        };
        let mut drifted = String::new();
        for record in wire.split_inclusive(separator) {
            // A field that did not exist, in every object at the top, and a record that did not.
            if record.contains('{') {
                let field = r#"{"future_field":{"nested":[1,null]},"obfuscation":"aQ","#;
                drifted.push_str(&record.replacen('{', field, 1));
            } else {
                drifted.push_str(record);
            }
            if !record.contains("[DONE]") && sse {
                drifted.push_str(": a comment\n\nevent: future.event\nid: 7\n");
                drifted.push_str("data: {\"type\":\"future.event\",\"payload\":{}}\n\ndata:\n\n");
            } else if !sse && !record.contains("\"done\":true") {
                drifted.push_str("{\"future\":1}\n\n");
            }
        }
        let mut found = (provider.decode)(drifted.as_bytes(), 50);
        // Unknown events are kept for a caller that wants them.
        let other = |event: &ModelEvent| matches!(event, ModelEvent::Other { .. });
        let unknown = |event: &ModelEvent| matches!(event, ModelEvent::Other { kind, .. } if kind == "future.event");
        let named = ["anthropic", "openai responses"].contains(&provider.name);
        assert_eq!(found.0.iter().any(unknown), named, "{}", provider.name);
        found.0.retain(|event| !other(event));
        expected.0.retain(|event| !other(event));
        assert_eq!(found, expected, "{}", provider.name);
    }
}

#[tokio::test]
async fn an_error_inside_the_stream_ends_it_with_its_kind() {
    for provider in PROVIDERS {
        let script = Script::reply(reply()).with_fault(Fault::Error { after: 3 });
        let bytes = bytes_of(provider.path, script).await;
        let (events, error) = (provider.decode)(&bytes, 11);
        assert!(!events.is_empty(), "{}", provider.name);
        let finished = events
            .iter()
            .any(|e| matches!(e, ModelEvent::Finish { .. }));
        assert!(!finished, "{}", provider.name);
        let Some(ModelError::Provider {
            failure, message, ..
        }) = error
        else {
            panic!("{}: {error:?}", provider.name)
        };
        let expected = match provider.name {
            "anthropic" | "gemini" => Failure::Overloaded,
            _ => Failure::Internal,
        };
        assert_eq!(failure, expected, "{}", provider.name);
        assert!(
            message.contains("key"),
            "the log needs the provider's text: {message}"
        );
    }
    let failed = json!({"type": "response.failed", "response": {"error":
        {"code": "rate_limit_exceeded", "message": "slow down"}}});
    let (_, error) = decode::<OpenAiResponses>(format!("data: {failed}\n\n").as_bytes(), 9);
    let failure = Failure::RateLimited;
    let (code, message) = ("rate_limit_exceeded".to_owned(), "slow down".to_owned());
    assert_eq!(
        error,
        Some(ModelError::Provider {
            failure,
            code,
            message
        })
    );
}

#[test]
fn provider_side_tools_are_not_released() {
    let events = [
        json!({"type": "content_block_start", "index": 0, "content_block":
            {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}}}),
        json!({"type": "content_block_delta", "index": 0, "delta":
            {"type": "input_json_delta", "partial_json": "{\"query\":\"x\"}"}}),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "content_block_start", "index": 1, "content_block":
            {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}}),
        json!({"type": "content_block_start", "index": 2, "content_block":
            {"type": "redacted_thinking", "data": "c2VjcmV0"}}),
        json!({"type": "content_block_delta", "index": 3, "delta":
            {"type": "citations_delta", "citation": {"type": "char_location"}}}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}),
        json!({"type": "message_stop"}),
    ];
    let bytes: String = events
        .iter()
        .map(|event| format!("data: {event}\n\n"))
        .collect();
    let (events, error) = decode::<Anthropic>(bytes.as_bytes(), 17);
    assert_eq!(
        (finish(&events), error),
        ((FinishReason::Stop, Vec::new()), None)
    );
    // The provider wants all of it back when the conversation continues.
    let kept: Vec<&str> = events
        .iter()
        .filter_map(|event| match event {
            ModelEvent::Other { kind, .. } => Some(kind.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(
        kept,
        [
            "server_tool_use",
            "input_json_delta",
            "web_search_tool_result",
            "redacted_thinking",
            "citations_delta"
        ]
    );
}

#[test]
fn calls_that_cannot_be_whole_are_errors() {
    let chunk = |delta: Value| {
        format!(
            "data: {}\n\n",
            json!({"choices": [{"index": 0, "delta": delta}]})
        )
    };
    // Arguments for a call that never began: its name is lost, so nothing can be run.
    let lost = chunk(json!({"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]}));
    let reason = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]});
    let bytes = format!("{lost}data: {reason}\n\ndata: [DONE]\n\n");
    assert!(matches!(
        decode::<OpenAiChat>(bytes.as_bytes(), 9).1,
        Some(ModelError::Malformed(_))
    ));
    // The reason promises calls, but they are of a kind that this decoder does not read.
    let unknown = chunk(json!({"future_calls": [{"index": 0, "id": "c", "name": "n"}]}));
    let bytes = format!("{unknown}data: {reason}\n\ndata: [DONE]\n\n");
    assert!(matches!(
        decode::<OpenAiChat>(bytes.as_bytes(), 9).1,
        Some(ModelError::Malformed(_))
    ));
    // Vertex streams arguments only when asked to.
    let part = json!({"functionCall": {"name": "n", "partialArgs": [], "willContinue": true}});
    let bytes = format!(
        "data: {}\n\n",
        json!({"candidates": [{"content": {"parts": [part]}}]})
    );
    assert!(matches!(
        decode::<Gemini>(bytes.as_bytes(), 9).1,
        Some(ModelError::Malformed(_))
    ));
}

#[test]
fn memory_is_bounded() {
    let start = |index: usize| {
        let call = json!({"index": index, "id": "c", "function": {"name": "n", "arguments": ""}});
        let chunk = json!({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]});
        format!("data: {chunk}\n\n")
    };
    let many: String = (0..=MAX_CALLS).map(start).collect();
    let (events, error) = decode::<OpenAiChat>(many.as_bytes(), 4096);
    assert_eq!(events.len(), MAX_CALLS);
    assert!(
        matches!(
            error,
            Some(ModelError::TooLarge {
                limit: MAX_CALLS,
                ..
            })
        ),
        "{error:?}"
    );

    let piece = "x".repeat(MAX_ARGUMENT_BYTES / 2 + 1);
    let call = json!({"index": 0, "function": {"arguments": piece}});
    let chunk = json!({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]});
    let bytes = format!("{}data: {chunk}\n\ndata: {chunk}\n\n", start(0));
    let (_, error) = decode::<OpenAiChat>(bytes.as_bytes(), 4096);
    assert!(matches!(
        error,
        Some(ModelError::TooLarge {
            limit: MAX_ARGUMENT_BYTES,
            ..
        })
    ));

    // A record without an end.
    let endless = vec![b'x'; MAX_RECORD_BYTES + 100];
    for decode in [decode::<Ollama>, decode::<OpenAiChat>] {
        let (_, error) = decode(&endless, 65_536);
        assert!(matches!(
            error,
            Some(ModelError::TooLarge {
                limit: MAX_RECORD_BYTES,
                ..
            })
        ));
    }
}

#[test]
fn nothing_follows_the_finish() {
    let reason = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
    let more = json!({"choices": [{"index": 0, "delta": {"content": "after"}}]});
    let bytes = format!("data: {reason}\n\ndata: [DONE]\n\ndata: {more}\n\ndata: [DONE]\n\n");
    for size in [1, 1000] {
        let (events, error) = decode::<OpenAiChat>(bytes.as_bytes(), size);
        assert_eq!((events.len(), error), (1, None));
    }
}

#[tokio::test]
async fn the_stream_is_lazy_ends_once_and_its_drop_closes_the_provider() {
    let model = ScriptedModel::new(Script::reply(Reply::text("one two three four")));
    let server = Server::start(model.router()).await;
    let request = json!({"model": "scripted/stall"});
    let url = server.url("/v1/messages");
    let response = reqwest::Client::new()
        .post(url)
        .json(&request)
        .send()
        .await
        .unwrap();
    let body = http::open(response, "text/event-stream").await.unwrap();
    let mut events = Box::pin(model_events(body, Anthropic::default()));
    let mut heard = String::new();
    while heard != "one two " {
        match within("a token", events.next()).await {
            Some(Ok(ModelEvent::Text(delta))) => heard.push_str(&delta),
            Some(Ok(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    // The provider is silent now: nothing but the drop can tell it that nobody listens.
    drop(events);
    let gone = within("the close", model.wait_for(|e| e.end.is_some())).await;
    assert_eq!((gone.end, gone.tokens), (Some(ExchangeEnd::ReaderGone), 2));

    // A stream that is polled after its end says that it has ended.
    let chunk = Ok::<_, std::io::Error>(bytes::Bytes::from_static(b"data: [DONE]\n\n"));
    let mut events = Box::pin(model_events(stream::iter([chunk]), OpenAiChat::default()));
    assert_eq!(events.next().await, Some(Err(ModelError::Truncated)));
    assert_eq!(events.next().await, None);
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn another_status_or_type_is_not_a_stream() {
    let page = || async { axum::response::Html("<h1>Log in</h1>") };
    let huge = || async { (axum::http::StatusCode::BAD_GATEWAY, "x".repeat(1_000_000)) };
    let app = axum::Router::new()
        .route("/login", axum::routing::get(page))
        .route("/huge", axum::routing::get(huge));
    let server = Server::start(app).await;
    let get = |path: &str| reqwest::get(server.url(path));
    let error = http::open(get("/login").await.unwrap(), "text/event-stream")
        .await
        .map(|_| ());
    assert_eq!(
        error,
        Err(ModelError::Malformed(
            r#"content type "text/html; charset=utf-8": <h1>Log in</h1>"#.into()
        ))
    );
    let error = http::open(get("/huge").await.unwrap(), "text/event-stream")
        .await
        .map(|_| ());
    let Err(ModelError::Status {
        status: 502,
        retry_after: None,
        body,
    }) = error
    else {
        panic!("{error:?}")
    };
    assert_eq!(body.len(), 4096);
}
