//! Wrong: the tool is run as soon as its arguments parse, or are repaired by a parser for partial JSON.
//! Harm: it runs with half of what the model meant, and runs although the answer then fails or is cut off.
//! Instead: llm/providers
//! Probe: cannot see: within the service

use serde_json::{Value, json};
use snippets::llm::openai_chat::OpenAiChat;
use snippets::llm::providers::ModelEvent;
use snippets::llm::providers::decode::Records;

/// The model writes `{"to":"bob","amount":1000}`; each piece as its own event.
fn wire(pieces: &[&str], reason: &str) -> Vec<String> {
    let event = |delta: Value, reason: Value| {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": reason});
        format!("data: {}\n\n", json!({"choices": [choice]}))
    };
    let start = json!({"index": 0, "id": "c", "function": {"name": "pay", "arguments": ""}});
    let mut wire = vec![event(json!({"tool_calls": [start]}), Value::Null)];
    wire.extend(pieces.iter().map(|piece| {
        let delta = json!({"index": 0, "function": {"arguments": piece}});
        event(json!({"tool_calls": [delta]}), Value::Null)
    }));
    wire.push(event(json!({}), json!(reason)));
    wire.push("data: [DONE]\n\n".to_owned());
    wire
}

/// What parsers for partial JSON do: close what is open.
fn repaired(text: &str) -> Option<Value> {
    serde_json::from_str(&format!("{text}}}"))
        .or_else(|_| serde_json::from_str(text))
        .ok()
}

/// Runs the tool at the first arguments that have all fields.
fn naive(wire: &[String]) -> Option<u64> {
    let mut arguments = String::new();
    for event in wire {
        let json: Value = serde_json::from_str(event.trim().strip_prefix("data: ")?).ok()?;
        let delta = &json["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"];
        arguments.push_str(delta.as_str().unwrap_or_default());
        if let Some(amount) = repaired(&arguments).and_then(|call| call["amount"].as_u64()) {
            return Some(amount);
        }
    }
    None
}

fn released(wire: &[String]) -> Vec<u64> {
    let mut records = Records::new(OpenAiChat::default());
    let mut events = Vec::new();
    for event in wire {
        records.push(event.as_bytes(), &mut events).unwrap();
    }
    let _ = records.end(&mut events);
    let calls = events.into_iter().filter_map(|event| match event {
        ModelEvent::Finish { tool_calls, .. } => Some(tool_calls),
        _ => None,
    });
    calls
        .flatten()
        .map(|call| call.parse::<Value>().unwrap()["amount"].as_u64().unwrap())
        .collect()
}

#[test]
fn a_tool_runs_with_half_of_its_arguments() {
    let wire = wire(&["{\"to\":\"bob\",", "\"amount\":1", "000}"], "tool_calls");
    assert_eq!(naive(&wire), Some(1));
    assert_eq!(released(&wire), [1000]);
}

#[test]
fn a_tool_runs_although_the_model_was_cut_off() {
    // The limit on tokens came before the `000`.
    let cut_off = wire(&["{\"to\":\"bob\",", "\"amount\":1"], "length");
    assert_eq!(naive(&cut_off), Some(1));
    assert!(released(&cut_off).is_empty());
    // The connection was lost after arguments that happen to be whole.
    let whole = wire(&["{\"to\":\"bob\",\"amount\":1000}"], "tool_calls");
    let lost = &whole[..2];
    assert_eq!(naive(lost), Some(1000));
    assert!(released(lost).is_empty());
}
