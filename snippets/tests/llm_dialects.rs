//! What hosts send that vendors' types do not say: each case is a report, named at its test.

use futures::{FutureExt, StreamExt};
use serde_json::{Value, json};
use snippets::llm::anthropic::Anthropic;
use snippets::llm::gemini::Gemini;
use snippets::llm::model_stream::record_events;
use snippets::llm::ollama::Ollama;
use snippets::llm::openai_chat::OpenAiChat;
use snippets::llm::openai_responses::OpenAiResponses;
use snippets::llm::providers::decode::Records;
use snippets::llm::providers::{
    Decoder, EndRule, Failure, FinishReason, ModelError, ModelEvent, ToolCall, Usage,
};
use snippets::llm::public_error::PublicError;

fn decode<D: Decoder + Default>(bytes: &str) -> (Vec<ModelEvent>, Option<ModelError>) {
    let mut records = Records::new(D::default());
    let mut events = Vec::new();
    let mut error = records.push(bytes.as_bytes(), &mut events).err();
    if error.is_none() {
        error = records.end(&mut events).err();
    }
    events.retain(|event| *event != ModelEvent::Heartbeat);
    (events, error)
}
fn sse(records: &[Value]) -> String {
    records.iter().map(|r| format!("data: {r}\n\n")).collect()
}
fn chat(records: &[Value]) -> (Vec<ModelEvent>, Option<ModelError>) {
    decode::<OpenAiChat>(&(sse(records) + "data: [DONE]\n\n"))
}
fn text(events: &[ModelEvent]) -> String {
    events
        .iter()
        .filter_map(|e| match e {
            ModelEvent::Text(t) => Some(t.as_str()),
            _ => None,
        })
        .collect()
}
fn calls(events: &[ModelEvent]) -> Vec<ToolCall> {
    match events.last() {
        Some(ModelEvent::Finish { tool_calls, .. }) => tool_calls.clone(),
        other => panic!("ends with {other:?}"),
    }
}
fn reason(events: &[ModelEvent]) -> FinishReason {
    match events.last() {
        Some(ModelEvent::Finish { reason, .. }) => reason.clone(),
        other => panic!("ends with {other:?}"),
    }
}

/// Google's OpenAI-compatible endpoint, older Ollama (ollama#7881), mistral.rs (#1507), proxies (openai-python#2806).
#[test]
fn a_call_without_index_is_a_call() {
    let (events, error) = chat(&[
        json!({"choices":[{"index":0,"delta":{"role":"assistant","tool_calls":[{"id":"c1","type":"function","function":{"name":"get_weather","arguments":"{\"city\":\"Bern\"}"}}]},"finish_reason":"tool_calls"}]}),
    ]);
    assert_eq!(error, None);
    assert_eq!(calls(&events).len(), 1);
}

/// Google's OpenAI-compatible endpoint, dynamo#4723, many proxies: every parallel call has index 0, each with its own id.
#[test]
fn parallel_calls_that_share_index_0_are_told_apart_by_id() {
    let call = |id: &str, city: &str| json!({"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":id,"type":"function","function":{"name":"get_weather","arguments":format!("{{\"city\":\"{city}\"}}")}}]}}]});
    let (events, error) = chat(&[
        call("c1", "Bern"),
        call("c2", "Genf"),
        json!({"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}),
    ]);
    assert_eq!(error, None);
    let calls = calls(&events);
    assert_eq!(calls.len(), 2, "{calls:?}");
}

/// sglang#3912, ollama#4357: "" instead of null in every chunk. The provider dies and its gateway ends the stream with [DONE].
#[test]
fn an_empty_finish_reason_is_not_a_reason() {
    let (events, error) = chat(&[
        json!({"choices":[{"index":0,"delta":{"content":"half an ans"},"finish_reason":""}]}),
    ]);
    assert_eq!(error, Some(ModelError::Truncated), "{events:?}");
}

/// A chunk after the reason (usage of some hosts, Azure's asynchronous filter) with "".
#[test]
fn an_empty_finish_reason_does_not_erase_one() {
    let (events, _) = chat(&[
        json!({"choices":[{"index":0,"delta":{"content":"all"},"finish_reason":"stop"}]}),
        json!({"choices":[{"index":0,"delta":{},"finish_reason":""}],"usage":{"prompt_tokens":1,"completion_tokens":1}}),
    ]);
    assert_eq!(reason(&events), FinishReason::Stop);
}

/// vLLM since PR 33402 (2026-01), OpenRouter, Groq, Together, Ollama's /v1: the field is `reasoning`.
#[test]
fn reasoning_has_two_names() {
    let (events, error) = chat(&[
        json!({"choices":[{"index":0,"delta":{"reasoning":"Think."}}]}),
        json!({"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}),
    ]);
    assert_eq!(error, None);
    assert!(
        events.contains(&ModelEvent::Reasoning("Think.".into())),
        "{events:?}"
    );
}

/// Mistral's reasoning models: `content` is a list of parts.
#[test]
fn content_may_be_a_list_of_parts() {
    let (events, error) = chat(&[
        json!({"choices":[{"index":0,"delta":{"role":"assistant","content":[{"type":"thinking","thinking":[{"type":"text","text":"Hm."}]}]},"finish_reason":null}]}),
        json!({"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}),
    ]);
    assert_eq!(
        error, None,
        "a chunk in a shape that is not known kills the answer"
    );
    assert_eq!(text(&events), "Hi");
}

/// Hosts that leave out `choices[].index`.
#[test]
fn a_choice_without_index_is_the_first() {
    let (events, error) =
        chat(&[json!({"choices":[{"delta":{"content":"Hi"},"finish_reason":"stop"}]})]);
    assert_eq!(error, None);
    assert_eq!(text(&events), "Hi");
}

/// The id is null, or comes with an empty name: the call is announced in two deltas.
#[test]
fn a_call_without_id_is_a_call() {
    let (events, error) = chat(&[
        json!({"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":null,"type":"function","function":{"name":"get_time","arguments":"{}"}}]},"finish_reason":"tool_calls"}]}),
    ]);
    assert_eq!(error, None);
    assert_eq!(calls(&events).len(), 1);
}

/// Finished by a reason and a clean end, without [DONE] (ik_llama.cpp#467, older mistral.rs, textgen#4778).
#[test]
fn a_reason_and_a_clean_end_are_enough_without_done() {
    let (events, error) = decode::<OpenAiChat>(&sse(&[
        json!({"choices":[{"index":0,"delta":{"content":"all of it"},"finish_reason":"stop"}]}),
    ]));
    assert_eq!(
        error, None,
        "Gemini's decoder takes the same evidence for a whole answer: {events:?}"
    );
}

/// xAI and Google's compatible endpoint leave the reasoning out of `completion_tokens`.
#[test]
fn output_has_the_reasoning_where_the_host_leaves_it_out() {
    let (events, _) = chat(&[
        json!({"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}),
        json!({"choices":[],"usage":{"prompt_tokens":32,"completion_tokens":9,"total_tokens":360,"completion_tokens_details":{"reasoning_tokens":319}}}),
    ]);
    let usage: Usage = events
        .iter()
        .rev()
        .find_map(|e| match e {
            ModelEvent::Usage(u) => Some(*u),
            _ => None,
        })
        .unwrap();
    assert_eq!(
        usage.output,
        Some(328),
        "`output`: reasoning included, says event.rs"
    );
}

/// finish_reason `error` (OpenRouter), `abort` (vLLM, SGLang), `insufficient_system_resource` (DeepSeek): the provider gave up.
#[test]
fn a_reason_that_means_that_the_provider_gave_up_is_a_failure() {
    for raw in ["error", "abort", "insufficient_system_resource"] {
        let (events, error) = chat(&[
            json!({"choices":[{"index":0,"delta":{"content":"half"},"finish_reason":raw}]}),
        ]);
        assert!(error.is_some(), "{raw}: {events:?}");
    }
}

/// openai-python response_tool_search_call.py: `arguments: object`, `call_id: Optional[str]` (null when the server executes it).
#[test]
fn an_item_with_null_and_object_fields_changes_nothing() {
    let item = json!({"type":"tool_search_call","id":"tsc_1","execution":"server","call_id":null,"status":"completed","arguments":{"paths":["crm"]}});
    let (events, error) = decode::<OpenAiResponses>(&sse(&[
        json!({"type":"response.output_item.added","output_index":0,"item":item}),
        json!({"type":"response.output_text.delta","output_index":1,"delta":"Hi"}),
        json!({"type":"response.completed","response":{"usage":null}}),
    ]));
    assert_eq!(error, None, "unknown items are ignored, says the chapter");
    assert_eq!(text(&events), "Hi");
}

/// openai-python response_shell_call_output_content_delta_event.py: `delta` is an object.
#[test]
fn a_delta_that_is_an_object_is_kept_apart() {
    let (events, error) = decode::<OpenAiResponses>(&sse(&[
        json!({"type":"response.shell_call_output_content.delta","item_id":"sh_1","output_index":0,"command_index":0,"sequence_number":7,"delta":{"stdout":"ok\n"}}),
        json!({"type":"response.output_text.delta","output_index":1,"delta":"Hi"}),
        json!({"type":"response.completed","response":{"usage":null}}),
    ]));
    assert_eq!(error, None, "unknown events are ignored, says the chapter");
    assert_eq!(text(&events), "Hi");
}

/// Calls that wait for us but are no `function_call`: the answer is not finished.
#[test]
fn items_that_need_the_client_are_not_stop() {
    for item in [
        json!({"type":"custom_tool_call","id":"ctc_1","call_id":"c1","name":"sql","input":"DELETE FROM t"}),
        json!({"type":"mcp_approval_request","id":"mcpr_1","name":"pay","arguments":"{}","server_label":"bank"}),
        json!({"type":"local_shell_call","id":"lsh_1","call_id":"c1","status":"completed","action":{"type":"exec","command":["ls"],"env":{}}}),
    ] {
        let (events, error) = decode::<OpenAiResponses>(&sse(&[
            json!({"type":"response.output_item.done","output_index":0,"item":item}),
            json!({"type":"response.completed","response":{"usage":null}}),
        ]));
        let whole = error.is_none() && reason(&events) == FinishReason::Stop;
        assert!(!whole, "taken for a whole, empty answer: {item}");
    }
}

/// What OpenAI sends when a model is at capacity (503 service_unavailable_error, code server_is_overloaded; slow_down).
#[test]
fn overload_codes_of_openai_are_retryable() {
    for code in ["server_is_overloaded", "slow_down"] {
        let (_, error) = decode::<OpenAiResponses>(&sse(&[
            json!({"type":"response.failed","response":{"error":{"code":code,"message":"Selected model is at capacity."}}}),
        ]));
        let public = PublicError::from(&error.unwrap());
        assert!(public.retryable, "{code}: {public:?}");
    }
}

/// `response.failed` with `error: null`, and an error whose code and type are null: nobody has said that the request is at fault.
#[test]
fn an_error_without_a_code_is_internal() {
    let (_, error) = decode::<OpenAiResponses>(&sse(&[
        json!({"type":"response.failed","response":{"error":null}}),
    ]));
    let Some(ModelError::Provider { failure, .. }) = error else {
        panic!("{error:?}")
    };
    assert_ne!(failure, Failure::Rejected);
}

/// In band as before the head: our key is not the user's conversation.
#[test]
fn a_bad_key_in_band_is_misconfigured() {
    let (_, error) = decode::<Anthropic>(&sse(&[
        json!({"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key"}}),
    ]));
    assert_eq!(PublicError::from(&error.unwrap()).code, "misconfigured");
}

/// OpenAI's 429 `insufficient_quota`: no wait mends it.
#[test]
fn an_empty_account_is_not_a_rate_limit() {
    let error = ModelError::Status { status: 429, retry_after: None,
        body: r#"{"error":{"message":"You exceeded your current quota, please check your plan and billing details.","type":"insufficient_quota","code":"insufficient_quota"}}"#.into() };
    let public = PublicError::from(&error);
    assert!(!public.retryable, "{public:?}");
    // The provider's status is for the log, not for the client.
    assert_eq!(public.provider, Some(429));
    assert_eq!(
        serde_json::to_value(public).unwrap(),
        json!({"code": "misconfigured", "retryable": false})
    );
}

/// maximhq/bifrost#5262: Gemini aborts with pretty-printed JSON outside of the SSE framing.
#[test]
fn json_outside_of_the_framing_is_an_error() {
    let bytes = sse(&[json!({"candidates":[{"content":{"parts":[{"text":"half"}]}}]})])
        + "{\n  \"error\": {\n    \"code\": 429,\n    \"message\": \"Resource has been exhausted\",\n    \"status\": \"RESOURCE_EXHAUSTED\"\n  }\n}\n";
    let (_, error) = decode::<Gemini>(&bytes);
    assert!(
        matches!(
            error,
            Some(ModelError::Provider {
                failure: Failure::RateLimited,
                ..
            })
        ),
        "{error:?}"
    );
}

/// Gemini 3 refuses the next request without it (400 "Function call is missing a thought_signature").
#[test]
fn the_signature_of_a_function_call_is_kept() {
    let (events, error) = decode::<Gemini>(&sse(&[json!({"candidates":[{"content":{"parts":[
        {"functionCall":{"name":"get_weather","args":{"city":"Bern"}},"thoughtSignature":"EoYCCoMC"}]},"finishReason":"STOP"}]})]));
    assert_eq!(error, None);
    assert!(
        format!("{events:?}").contains("EoYCCoMC"),
        "lost: {events:?}"
    );
}

/// Anthropic: without the signature of the thinking block the tool's result is a 400.
#[test]
fn the_signature_of_thinking_is_kept() {
    let (events, error) = decode::<Anthropic>(&sse(&[
        json!({"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}),
        json!({"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"Hm."}}),
        json!({"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"EqQBCgIYAh"}}),
        json!({"type":"content_block_stop","index":0}),
        json!({"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"t1","name":"n","input":{}}}),
        json!({"type":"content_block_stop","index":1}),
        json!({"type":"message_delta","delta":{"stop_reason":"tool_use"}}),
        json!({"type":"message_stop"}),
    ]));
    assert_eq!(error, None);
    assert!(
        format!("{events:?}").contains("EqQBCgIYAh"),
        "lost: {events:?}"
    );
}

/// apache/maka#1976, agno#8880: index 0 for every call; the id is repeated on later pieces of one call.
#[test]
fn a_repeated_id_at_one_index_stays_one_call() {
    let piece = |id: Value, name: Value, arguments: &str| json!({"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":id,"function":{"name":name,"arguments":arguments}}]}}]});
    let end = json!({"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]});
    let (events, error) = chat(&[
        piece(json!("a"), json!("read"), "{\"p\""),
        piece(json!("a"), json!("read"), ":1}"),
        piece(json!("b"), json!("write"), "{\"p\":2}"),
        piece(json!("b"), json!("write"), "{\"p\":2}"),
        end.clone(),
    ]);
    assert_eq!(error, None);
    let found: Vec<_> = calls(&events)
        .into_iter()
        .map(|c| (c.name, c.arguments))
        .collect();
    assert_eq!(
        found,
        [
            ("read".to_owned(), r#"{"p":1}"#.to_owned()),
            ("write".to_owned(), r#"{"p":2}"#.to_owned())
        ]
    );
    // Without ids: another name, or more after the end, is another call.
    let (events, error) = chat(&[
        piece(Value::Null, json!("read"), "{\"p\":1}"),
        piece(Value::Null, json!("read"), "{\"p\":2}"),
        piece(Value::Null, json!("list"), ""),
        end.clone(),
    ]);
    assert_eq!(error, None);
    let found: Vec<_> = calls(&events).into_iter().map(|c| c.arguments).collect();
    assert_eq!(found, [r#"{"p":1}"#, r#"{"p":2}"#, "{}"]);
    // A host that makes a new id for each piece, and one that begins with `{}`.
    let (events, _) = chat(&[
        piece(json!("x1"), json!("read"), "{}"),
        piece(json!("x2"), Value::Null, "{\"p\":"),
        piece(json!("x3"), Value::Null, "1}"),
        end,
    ]);
    let found = calls(&events);
    assert_eq!((found.len(), &*found[0].arguments), (1, r#"{"p":1}"#));
}

/// openai-dotnet#881 (Azure): the error event nests its code.
#[test]
fn a_nested_too_many_requests_is_a_rate_limit() {
    let error = json!({"type":"error","error":{"type":"too_many_requests","code":"too_many_requests","message":"m"}});
    let (_, found) = decode::<OpenAiResponses>(&sse(std::slice::from_ref(&error)));
    assert_eq!(found.unwrap().failure(), Failure::RateLimited);
    let (_, found) =
        chat(&[json!({"error":{"type":"too_many_requests","code":null,"message":"m"}})]);
    assert_eq!(found.unwrap().failure(), Failure::RateLimited);
}

/// SHTUCodeProxy#4: older vLLM and FastAPI servers; before and after a finish reason.
#[test]
fn errors_in_other_shapes_are_errors() {
    let half = json!({"choices":[{"index":0,"delta":{"content":"Hal"}}]});
    let stop = json!({"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]});
    for (error, failure) in [
        (
            json!({"object":"error","message":"m","code":400}),
            Failure::Rejected,
        ),
        (
            json!({"object":"error","message":"m","type":"BadRequestError","code":400}),
            Failure::Rejected,
        ),
        (json!({"detail":"m"}), Failure::Internal),
        (json!({"error":"m"}), Failure::Internal),
        (
            json!({"error":{"message":"m","code":"529"}}),
            Failure::Overloaded,
        ),
        (
            json!({"error":{"error":{"message":"m","code":429}}}),
            Failure::RateLimited,
        ),
        (
            json!({"error":{"message":"m","code":"never_heard_of"}}),
            Failure::Internal,
        ),
        (
            json!({"choices":[{"index":0,"error":{"code":502,"message":"m"}}]}),
            Failure::Internal,
        ),
    ] {
        for before in [vec![half.clone()], vec![half.clone(), stop.clone()]] {
            let records = [before, vec![error.clone()]].concat();
            let (_, found) = chat(&records);
            let Some(ModelError::Provider {
                failure: found,
                message,
                ..
            }) = found
            else {
                panic!("{error}: {found:?}")
            };
            assert_eq!((found, &*message), (failure, "m"), "{error}");
        }
    }
    // DashScope names the event.
    let (_, found) =
        decode::<OpenAiChat>("event:error\ndata:{\"code\":\"Throttling\",\"message\":\"m\"}\n\n");
    assert_eq!(found.unwrap().failure(), Failure::RateLimited);
    // An empty error beside an answer says nothing.
    let (events, found) =
        chat(&[json!({"error":{},"choices":[{"delta":{"content":"Hi"},"finish_reason":"stop"}]})]);
    assert_eq!((&*text(&events), found), ("Hi", None));
}

/// openclaw#115536, rakazo#416: text cut by UTF-16 index.
#[test]
fn halves_of_a_character_are_joined() {
    let record =
        |delta: &str| format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{delta}}}]}}\n\n");
    let end = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    let both = record(r#"{"content":"a\ud83d"}"#) + &record(r#"{"content":"\ude00b"}"#) + end;
    let (events, error) = decode::<OpenAiChat>(&both);
    assert_eq!((&*text(&events), error), ("a\u{1F600}b", None));
    let lonely = record(r#"{"content":"a\ud83d"}"#) + end;
    let (events, error) = decode::<OpenAiChat>(&lonely);
    assert_eq!((&*text(&events), error), ("a\u{FFFD}", None));
    let call = |more: &str| record(&format!(r#"{{"tool_calls":[{{"index":0,{more}}}]}}"#));
    let calls_bytes = call(r#""id":"c","function":{"name":"n","arguments":"{\"t\":\"\ud83d"}"#)
        + &call(r#""function":{"arguments":"\ude00\"}"}"#)
        + end;
    let (events, error) = decode::<OpenAiChat>(&calls_bytes);
    assert_eq!(error, None);
    assert_eq!(calls(&events)[0].arguments, "{\"t\":\"\u{1F600}\"}");
}

/// Strictness is a setting: DeepSeek-Reasonix#8756, pydantic-ai#6610, openai-node#2725.
#[test]
fn the_evidence_of_the_end_is_a_setting() {
    let with = |rule: EndRule, bytes: &str| {
        let mut records = Records::new(OpenAiChat::new(rule));
        let mut events = Vec::new();
        let result = records
            .push(bytes.as_bytes(), &mut events)
            .and_then(|()| records.end(&mut events));
        result.map(|()| reason(&events))
    };
    let whole = sse(&[json!({"choices":[{"index":0,"delta":{"content":"Whole."}}]})]);
    let stop = sse(&[json!({"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]})]);
    let without_blank_line = format!("{whole}{stop}data: [DONE]\n");
    let without_reason = format!("{whole}data: [DONE]\n\n");
    let content_after_reason = format!("{stop}{whole}");
    let stopped = Ok(FinishReason::Stop);
    let cut = Err(ModelError::Truncated);
    for (rule, bytes, expected) in [
        (EndRule::Reason, &without_blank_line, &stopped),
        (EndRule::Reason, &without_reason, &cut),
        (EndRule::Reason, &content_after_reason, &cut),
        (EndRule::ReasonAndTerminal, &without_blank_line, &cut),
        (EndRule::ReasonAndTerminal, &without_reason, &cut),
        (EndRule::Terminal, &without_reason, &stopped),
        (EndRule::Terminal, &without_blank_line, &cut),
    ] {
        assert_eq!(&with(rule, bytes), expected, "{rule:?}: {bytes}");
    }
}

/// The pieces of a call and its repetition, with something lost, other white space, or another meaning.
#[test]
fn the_whole_arguments_complete_lost_pieces() {
    let item = |arguments: Value| json!({"type":"function_call","id":"fc","call_id":"c","name":"n","arguments":arguments});
    let answer = |pieces: &str, whole: Value| {
        let (events, error) = decode::<OpenAiResponses>(&sse(&[
            json!({"type":"response.output_item.added","output_index":0,"item":item(json!(""))}),
            json!({"type":"response.function_call_arguments.delta","output_index":0,"delta":pieces}),
            json!({"type":"response.output_item.done","output_index":0,"item":item(whole)}),
            json!({"type":"response.completed","response":{"usage":null}}),
        ]));
        error.map_or_else(|| Ok(calls(&events).remove(0).arguments), Err)
    };
    assert_eq!(answer("{\"a\":", json!("{\"a\":1}")).unwrap(), "{\"a\":1}");
    assert_eq!(answer("", json!("{\"a\":1}")).unwrap(), "{\"a\":1}");
    assert_eq!(
        answer("{\"a\":1}", json!("{ \"a\": 1 }")).unwrap(),
        "{\"a\":1}"
    );
    for less in [json!(""), Value::Null, json!({}), json!("{\"a\"")] {
        assert_eq!(answer("{\"a\":1}", less).unwrap(), "{\"a\":1}");
    }
    let differs = answer("{\"amount\":1}", json!("{\"amount\":100}"));
    assert!(
        matches!(differs, Err(ModelError::Malformed(_))),
        "{differs:?}"
    );
}

/// Custom tools take text: released as one JSON string.
#[test]
fn custom_tool_calls_are_released() {
    let item = |input: &str| json!({"type":"custom_tool_call","id":"ctc","call_id":"c1","name":"sql","input":input});
    let (events, error) = decode::<OpenAiResponses>(&sse(&[
        json!({"type":"response.output_item.added","output_index":0,"item":item("")}),
        json!({"type":"response.custom_tool_call_input.delta","output_index":0,"delta":"SELECT "}),
        json!({"type":"response.custom_tool_call_input.delta","output_index":0,"delta":"\"1\""}),
        json!({"type":"response.output_item.done","output_index":0,"item":item("SELECT \"1\"")}),
        json!({"type":"response.completed","response":{"usage":null}}),
    ]));
    assert_eq!(error, None);
    assert_eq!(calls(&events)[0].parse::<String>().unwrap(), "SELECT \"1\"");
    let (events, _) = chat(&[
        json!({"choices":[{"delta":{"tool_calls":[{"index":0,"id":"c","type":"custom","custom":{"name":"sql","input":"SELECT 1"}}]},"finish_reason":"tool_calls"}]}),
    ]);
    assert_eq!(calls(&events)[0].parse::<String>().unwrap(), "SELECT 1");
}

/// Hosts that send no event for text or items, only the response at the end.
#[test]
fn a_response_that_comes_at_once_has_its_text_and_calls() {
    let response = json!({"status":"completed","usage":null,"output":[
        {"type":"reasoning","id":"rs","summary":[],"encrypted_content":"gAAAA"},
        {"type":"message","id":"m","content":[{"type":"output_text","text":"Hi","annotations":[]}]},
        {"type":"function_call","id":"fc","call_id":"c","name":"n","arguments":"{}"}]});
    let (events, error) = decode::<OpenAiResponses>(&sse(&[
        json!({"type":"response.completed","response":response}),
    ]));
    assert_eq!(error, None);
    assert_eq!((&*text(&events), calls(&events).len()), ("Hi", 1));
    assert!(
        format!("{events:?}").contains("gAAAA"),
        "the reasoning goes back with the next request"
    );
}

/// A body that is retyped to whole JSON: an error of a stream that is no stream.
#[test]
fn ollama_reports_errors_as_text_and_as_object() {
    for error in [
        json!({"error":"m"}),
        json!({"error":{"message":"m","type":"api_error"}}),
    ] {
        let (_, found) = decode::<Ollama>(&format!("{error}\n"));
        let Some(ModelError::Provider {
            failure: Failure::Internal,
            message,
            ..
        }) = found
        else {
            panic!("{found:?}")
        };
        assert_eq!(message, "m");
    }
}

/// `GET /v1/responses/{id}?stream=true&starting_after=N` has the events after N.
/// Gemini has no terminal event: a reason that more content follows proves nothing.
#[test]
fn content_after_the_reason_of_gemini_takes_it_back() {
    let chunk = |text: &str, reason: Option<&str>| json!({"candidates": [{"content": {"parts": [{"text": text}]}, "finishReason": reason}]});
    let (_, error) = decode::<Gemini>(&sse(&[chunk("half", Some("STOP")), chunk(" an", None)]));
    assert_eq!(error, Some(ModelError::Truncated));
    let whole = [
        chunk("half", Some("STOP")),
        chunk(" more", None),
        chunk("", Some("STOP")),
        json!({"usageMetadata": {"promptTokenCount": 1}}),
    ];
    let (events, error) = decode::<Gemini>(&sse(&whole));
    assert_eq!((error, reason(&events)), (None, FinishReason::Stop));
}

/// A field that we have sent is not the user's fault.
#[test]
fn a_parameter_that_the_host_refuses_is_misconfigured() {
    let of = |body: Value| {
        ModelError::Status {
            status: 400,
            retry_after: None,
            body: body.to_string(),
        }
        .failure()
    };
    let openai = |param: Value| {
        json!({"error": {"message": "Encrypted content is not supported with this model.",
        "type": "invalid_request_error", "param": param, "code": null}})
    };
    assert_eq!(of(openai(json!("include"))), Failure::Misconfigured);
    for theirs in [
        json!("messages[3].content"),
        json!("input"),
        json!("prompt"),
        json!(null),
    ] {
        assert_eq!(of(openai(theirs)), Failure::Rejected);
    }
    let fastapi = |kind: &str| json!({"detail": [{"type": kind, "loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}]});
    assert_eq!(of(fastapi("extra_forbidden")), Failure::Misconfigured);
    assert_eq!(of(fastapi("string_too_long")), Failure::Rejected);
}

#[test]
fn a_record_may_have_another_limit() {
    let body = futures::stream::iter([Ok::<_, std::io::Error>(
        sse(&[json!({"choices": [{"delta": {"content": "x".repeat(999)}}]})]).into(),
    )]);
    let records = Records::with_limit(OpenAiChat::default(), 100);
    let events = record_events(body, records)
        .collect::<Vec<_>>()
        .now_or_never()
        .unwrap();
    assert!(matches!(
        events.last(),
        Some(Err(ModelError::TooLarge { limit: 100, .. }))
    ));
}

#[test]
fn a_background_response_continues_after_a_cut_at_every_byte() {
    let path = "tests/data/providers/openai-responses/reasoning-and-tool.txt";
    let file = std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let whole = file.split_once("\n\n").unwrap().1;
    let after = |number: u64| -> String {
        let later = |event: &&str| {
            let data = event.lines().find_map(|line| line.strip_prefix("data: "));
            let data: Value = serde_json::from_str(data.unwrap()).unwrap();
            data["sequence_number"].as_u64().unwrap() > number
        };
        let blocks = whole.split("\n\n").filter(|block| !block.trim().is_empty());
        blocks
            .filter(later)
            .map(|event| format!("{event}\n\n"))
            .collect()
    };
    let content = |events: Vec<ModelEvent>| -> Vec<ModelEvent> {
        let beat = |event: &ModelEvent| *event == ModelEvent::Heartbeat;
        events.into_iter().filter(|event| !beat(event)).collect()
    };
    let expected = content(decode::<OpenAiResponses>(whole).0);
    assert!(matches!(expected.last(), Some(ModelEvent::Finish { .. })));
    let mut resumed = 0;
    for cut in 0..whole.len() {
        let mut out = Vec::new();
        let mut records = Records::new(OpenAiResponses::default());
        records.push(&whole.as_bytes()[..cut], &mut out).unwrap();
        let Some((id, number)) = records.continued() else {
            assert!(
                content(out).is_empty(),
                "there is a position from the first event"
            );
            continue;
        };
        assert_eq!(id, "resp_1");
        let rest = after(number.saturating_sub(1)); // the last one again
        records.push(rest.as_bytes(), &mut out).unwrap();
        assert_eq!(content(out), expected, "cut at byte {cut}");
        resumed += 1;
    }
    assert!(resumed > whole.len() / 2);
}
