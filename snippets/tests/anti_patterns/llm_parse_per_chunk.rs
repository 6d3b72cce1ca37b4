//! Wrong: each chunk of the body is taken for whole lines, `String::from_utf8_lossy(&chunk).lines()`.
//! Harm: where a chunk ends inside a line or a character, tokens are lost and letters become U+FFFD; in development chunks end nicely.
//! Instead: llm/providers

use serde_json::Value;
use snippets::llm::providers::ModelEvent;
use snippets::llm::providers::decode::Records;
use snippets::llm::providers::openai_chat::OpenAiChat;

const WIRE: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Grüße \"},\"finish_reason\":null}]}\n\n\
    data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"👋 an alle\"},\"finish_reason\":null}]}\n\n\
    data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n\
    data: [DONE]\n\n";

fn naive(chunks: &[&[u8]]) -> String {
    let mut answer = String::new();
    for chunk in chunks {
        for line in String::from_utf8_lossy(chunk).lines() {
            let Some(data) = line.strip_prefix("data: ") else {
                continue;
            };
            let Ok(json) = serde_json::from_str::<Value>(data) else {
                continue;
            };
            answer.push_str(
                json["choices"][0]["delta"]["content"]
                    .as_str()
                    .unwrap_or_default(),
            );
        }
    }
    answer
}

fn decoded(chunks: &[&[u8]]) -> String {
    let mut records = Records::new(OpenAiChat::default());
    let mut events = Vec::new();
    for chunk in chunks {
        records.push(chunk, &mut events).unwrap();
    }
    records.end(&mut events).unwrap();
    let text = events.into_iter().filter_map(|event| match event {
        ModelEvent::Text(text) => Some(text),
        _ => None,
    });
    text.collect()
}

#[test]
fn an_unlucky_cut_loses_tokens() {
    let bytes = WIRE.as_bytes();
    assert_eq!(naive(&[bytes]), "Grüße 👋 an alle");
    let mut spoilt = 0;
    for at in 1..bytes.len() {
        let (one, other) = bytes.split_at(at);
        spoilt += usize::from(naive(&[one, other]) != "Grüße 👋 an alle");
        assert_eq!(decoded(&[one, other]), "Grüße 👋 an alle", "cut at {at}");
    }
    // Most places of a single cut: only one in a line ending is harmless, or one after the text.
    assert!(spoilt * 2 > bytes.len(), "{spoilt} of {}", bytes.len());
}
