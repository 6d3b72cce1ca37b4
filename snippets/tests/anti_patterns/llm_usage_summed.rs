//! Wrong: `total += usage.output_tokens` for every event with usage, and `chunk.choices[0]` for every chunk.
//! Harm: Anthropic's counts are totals, so users are billed several times; the usage chunk of OpenAI has no choices, so the reader crashes at the end of a good answer.
//! Instead: llm/providers
//! Probe: cannot see: within the service

use serde_json::{Value, json};
use snippets::llm::anthropic::Anthropic;
use snippets::llm::openai_chat::OpenAiChat;
use snippets::llm::providers::decode::Records;
use snippets::llm::providers::{Decoder, ModelEvent};

fn sse(events: &[Value]) -> String {
    events
        .iter()
        .map(|event| format!("data: {event}\n\n"))
        .collect()
}

fn events<D: Decoder>(decoder: D, wire: &str) -> Vec<ModelEvent> {
    let mut records = Records::new(decoder);
    let mut out = Vec::new();
    records.push(wire.as_bytes(), &mut out).unwrap();
    records.end(&mut out).unwrap();
    out
}

#[test]
fn summing_totals_bills_several_times() {
    let wire = [
        json!({"type": "message_start", "message": {"usage": {"input_tokens": 10, "output_tokens": 1}}}),
        json!({"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 60}}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 100}}),
        json!({"type": "message_stop"}),
    ];
    let of = |event: &Value| {
        let usage = [&event["usage"], &event["message"]["usage"]];
        usage
            .iter()
            .filter_map(|usage| usage["output_tokens"].as_u64())
            .sum::<u64>()
    };
    assert_eq!(wire.iter().map(of).sum::<u64>(), 161);

    let last = events(Anthropic::default(), &sse(&wire))
        .into_iter()
        .rev()
        .find_map(|event| match event {
            ModelEvent::Usage(usage) => usage.output,
            _ => None,
        });
    assert_eq!(last, Some(100));
}

#[test]
fn the_usage_chunk_has_no_choices() {
    let usage = json!({"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4});
    let wire = [
        json!({"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": null}]}),
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
        json!({"choices": [], "usage": usage}),
    ];
    let first_choice = |chunk: &Value| chunk["choices"].as_array().unwrap()[0].clone();
    let crash = std::panic::catch_unwind(|| wire.iter().map(first_choice).collect::<Vec<_>>());
    assert!(crash.is_err());

    let wire = sse(&wire) + "data: [DONE]\n\n";
    let usages = events(OpenAiChat::default(), &wire)
        .into_iter()
        .filter(|e| matches!(e, ModelEvent::Usage(_)));
    assert_eq!(usages.count(), 1);
}
