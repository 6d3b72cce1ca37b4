//! Recorded shapes of many hosts, `tests/data/providers/<dialect>/<feature>.txt`, decoded, cut and mutated.
//!
//! Each file names its source and date, its decoder, and what must come out of it; a blank line, then the bytes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use futures::StreamExt;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};
use snippets::llm::anthropic::Anthropic;
use snippets::llm::gemini::Gemini;
use snippets::llm::http;
use snippets::llm::model_stream::model_events;
use snippets::llm::ollama::Ollama;
use snippets::llm::openai_chat::OpenAiChat;
use snippets::llm::openai_responses::OpenAiResponses;
use snippets::llm::providers::decode::Records;
use snippets::llm::providers::{Decoder, ModelError, ModelEvent};
use snippets::llm::scripted_model::{Script, ScriptedModel};

use crate::support::{Server, within};

#[derive(Debug, Clone)]
struct Fixture {
    name: String,
    expected: Vec<(String, String)>,
    bytes: String,
}

fn fixtures() -> Vec<Fixture> {
    fn files(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => files(&path, found),
                false => found.push(path),
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/providers");
    let mut found = Vec::new();
    files(&root, &mut found);
    found.sort();
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let (head, bytes) = text.split_once("\n\n").unwrap();
        let lines = head
            .lines()
            .filter_map(|line| line.strip_prefix("# ")?.split_once(": "));
        Fixture {
            name: path.strip_prefix(&root).unwrap().display().to_string(),
            expected: lines
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
            bytes: bytes.to_owned(),
        }
    };
    found.into_iter().map(read).collect()
}

impl Fixture {
    fn all(&self, key: &str) -> Vec<&str> {
        let found = self.expected.iter().filter(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str()).collect()
    }

    fn one(&self, key: &str) -> &str {
        self.all(key).first().copied().unwrap_or_default()
    }

    fn decode(&self, bytes: &[u8], size: usize) -> Decoded {
        match self.one("decoder") {
            "openai_chat" => decode(OpenAiChat::default(), bytes, size),
            "openai_responses" => decode(OpenAiResponses::default(), bytes, size),
            "anthropic" => decode(Anthropic::default(), bytes, size),
            "gemini" => decode(Gemini::default(), bytes, size),
            "ollama" => decode(Ollama::default(), bytes, size),
            other => panic!("{}: no decoder {other:?}", self.name),
        }
    }

    /// The end of the record with which the model has finished: nothing before it is a whole answer.
    fn reason_ends(&self) -> usize {
        let ends = self.bytes.match_indices('\n').map(|(at, _)| at + 1);
        let whole = |cut: &usize| {
            let part = &self.bytes.as_bytes()[..*cut];
            self.decode(part, usize::MAX).is_whole()
        };
        ends.into_iter().find(whole).unwrap_or(self.bytes.len())
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Decoded {
    events: Vec<ModelEvent>,
    error: Option<ModelError>,
}

fn decode<D: Decoder>(decoder: D, bytes: &[u8], size: usize) -> Decoded {
    let mut records = Records::new(decoder);
    let mut events = Vec::new();
    let mut pushed = bytes
        .chunks(size)
        .map(|chunk| records.push(chunk, &mut events));
    let error = pushed.find_map(Result::err);
    let error = error.or_else(|| records.end(&mut events).err());
    events.retain(|event| *event != ModelEvent::Heartbeat);
    Decoded { events, error }
}

impl Decoded {
    fn texts(&self, pick: impl Fn(&ModelEvent) -> Option<&str>) -> String {
        self.events.iter().filter_map(pick).collect()
    }

    fn text(&self) -> String {
        self.texts(|event| match event {
            ModelEvent::Text(text) => Some(text),
            _ => None,
        })
    }

    /// All that a caller can have: text of every kind and what has no event of its own.
    fn everything(&self) -> String {
        self.texts(|event| match event {
            ModelEvent::Text(text) | ModelEvent::Reasoning(text) | ModelEvent::Refusal(text) => {
                Some(text)
            }
            ModelEvent::Other { raw, .. } => Some(raw),
            _ => None,
        })
    }

    fn is_whole(&self) -> bool {
        self.error.is_none() && matches!(self.events.last(), Some(ModelEvent::Finish { .. }))
    }

    fn calls(&self) -> Vec<String> {
        let Some(ModelEvent::Finish { tool_calls, .. }) = self.events.last() else {
            return Vec::new();
        };
        let calls = tool_calls.iter();
        calls
            .map(|call| format!("{} {}", call.name, call.arguments))
            .collect()
    }

    /// In the words of the files.
    fn described(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let mut say = |key: &str, value: String| found.push((key.to_owned(), value));
        say(
            "reasoning",
            self.texts(|event| match event {
                ModelEvent::Reasoning(text) => Some(text),
                _ => None,
            }),
        );
        say("text", self.text());
        say(
            "refusal",
            self.texts(|event| match event {
                ModelEvent::Refusal(text) => Some(text),
                _ => None,
            }),
        );
        for call in self.calls() {
            say("call", call);
        }
        let usage = self.events.iter().rev().find_map(|event| match event {
            ModelEvent::Usage(usage) => Some(*usage),
            _ => None,
        });
        match (&self.error, self.events.last()) {
            (Some(ModelError::Provider { failure, .. }), _) => say("error", format!("{failure:?}")),
            (Some(error), _) => say("error", format!("{error:?}")),
            (None, Some(ModelEvent::Finish { reason, .. })) => {
                say("finish", format!("{reason:?}"));
                let count = |tokens: Option<u64>| tokens.unwrap_or(0);
                let usage = usage.map(|u| format!("{} {}", count(u.input), count(u.output)));
                say("usage", usage.unwrap_or_default());
            }
            (None, last) => panic!("no end: {last:?}"),
        }
        for event in &self.events {
            if let ModelEvent::Other { kind, .. } = event {
                say("other", kind.clone());
            }
        }
        found.retain(|(_, value)| !value.is_empty());
        found
    }
}

#[test]
fn every_dialect_gives_the_answer_that_its_file_names() {
    let fixtures = fixtures();
    for dialect in [
        "openai-chat",
        "openai-responses",
        "azure",
        "openrouter",
        "vllm",
        "sglang",
        "groq",
        "mistral",
        "deepseek",
        "xai",
        "gemini",
        "gemini-openai",
        "anthropic",
        "anthropic-compatible",
        "bedrock-openai",
        "ollama",
        "ollama-openai",
        "litellm",
    ] {
        let prefix = format!("{dialect}/");
        assert!(
            fixtures.iter().any(|f| f.name.starts_with(&prefix)),
            "no file for {dialect}"
        );
    }
    for fixture in fixtures {
        assert!(
            fixture.one("source").contains("; 20"),
            "{}: source and date",
            fixture.name
        );
        let notes = ["source", "shape", "decoder"];
        let mut expected = fixture.expected.clone();
        expected.retain(|(key, _)| !notes.contains(&key.as_str()));
        let mut found = fixture
            .decode(fixture.bytes.as_bytes(), usize::MAX)
            .described();
        for list in [&mut expected, &mut found] {
            list.sort_by_key(|(key, _)| key.clone());
        }
        assert_eq!(found, expected, "{}", fixture.name);
    }
}

/// The same over HTTP, from the scripted model, in chunks that end anywhere.
#[tokio::test]
async fn the_scripted_model_plays_every_dialect() {
    for fixture in fixtures() {
        let model = ScriptedModel::new(Script {
            recorded: Some(fixture.bytes.clone()),
            chunk_bytes: Some(7),
            ..Script::default()
        });
        let server = Server::start(model.router()).await;
        let (path, content_type) = match fixture.one("decoder") {
            "openai_chat" => ("/v1/chat/completions", "text/event-stream"),
            "openai_responses" => ("/v1/responses", "text/event-stream"),
            "anthropic" => ("/v1/messages", "text/event-stream"),
            "gemini" => (
                "/v1beta/models/m:streamGenerateContent",
                "text/event-stream",
            ),
            _ => ("/api/chat", "application/x-ndjson"),
        };
        let request = reqwest::Client::new().post(server.url(path));
        let response = within("the answer", request.body("{}").send())
            .await
            .unwrap();
        let body = http::open(response, content_type).await.unwrap();
        let events = match fixture.one("decoder") {
            "openai_chat" => model_events(body, OpenAiChat::default()).boxed(),
            "openai_responses" => model_events(body, OpenAiResponses::default()).boxed(),
            "anthropic" => model_events(body, Anthropic::default()).boxed(),
            "gemini" => model_events(body, Gemini::default()).boxed(),
            _ => model_events(body, Ollama::default()).boxed(),
        };
        let mut played = Decoded::default();
        for event in within("its end", events.collect::<Vec<_>>()).await {
            match event {
                Ok(event) => played.events.push(event),
                Err(error) => played.error = Some(error),
            }
        }
        played
            .events
            .retain(|event| *event != ModelEvent::Heartbeat);
        let whole = fixture.decode(fixture.bytes.as_bytes(), usize::MAX);
        assert_eq!(played, whole, "{}", fixture.name);
    }
}

#[test]
fn every_dialect_may_be_cut_anywhere() {
    for fixture in fixtures() {
        let bytes = fixture.bytes.as_bytes();
        let whole = fixture.decode(bytes, usize::MAX);
        for size in [1, 7, 100] {
            assert_eq!(
                fixture.decode(bytes, size),
                whole,
                "{} in chunks of {size}",
                fixture.name
            );
        }
        let reason = fixture.reason_ends();
        // `llm_providers` cuts at every byte; here some hundred cuts of each file are enough.
        for cut in (0..bytes.len()).step_by(1 + bytes.len() / 400) {
            let found = fixture.decode(&bytes[..cut], usize::MAX);
            if cut < reason {
                assert!(
                    !found.is_whole(),
                    "{} cut at {cut}: {found:?}",
                    fixture.name
                );
            } else if whole.is_whole() && found.is_whole() {
                let both = (found.text(), found.calls());
                assert_eq!(
                    both,
                    (whole.text(), whole.calls()),
                    "{} cut at {cut}",
                    fixture.name
                );
            }
        }
    }
}

/// One change to one place of one record.
#[derive(Debug, Clone)]
struct Change {
    fixture: Index,
    record: Index,
    place: Index,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Remove,
    Replace(Value),
    /// The field comes again, with less in it.
    AddBeside(Value),
    /// A field that nobody knows.
    Unknown,
}

fn change() -> impl Strategy<Value = Change> {
    let value = prop::sample::select(vec![
        Value::Null,
        json!(""),
        json!("\u{1F4A5}"),
        json!(7.5),
        json!(true),
        json!([]),
        json!([[1]]),
        json!({}),
        json!({"x": {"y": 1}}),
    ]);
    let less = prop::sample::select(vec![Value::Null, json!(""), json!([]), json!({})]);
    let kind = prop_oneof![
        2 => Just(Kind::Remove),
        4 => value.prop_map(Kind::Replace),
        1 => less.prop_map(Kind::AddBeside),
        1 => Just(Kind::Unknown),
    ];
    let at = any::<Index>;
    (at(), at(), at(), kind).prop_map(|(fixture, record, place, kind)| Change {
        fixture,
        record,
        place,
        kind,
    })
}

/// Every place in `value`, as JSON pointers.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| (key.clone(), value))
            .collect(),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(n, value)| (n.to_string(), value))
            .collect(),
        _ => return,
    };
    for (key, child) in children {
        let path = format!("{at}/{key}");
        found.push(path.clone());
        places(child, &path, found);
    }
}

/// The record after the change, and the changed place.
fn mutate(record: &str, place: &Index, kind: &Kind) -> Option<(String, String)> {
    let mut value: Value = serde_json::from_str(record).ok()?;
    let mut found = Vec::new();
    places(&value, "", &mut found);
    let place = found.get(place.index(found.len().max(1)))?.clone();
    let (parent, key) = place.rsplit_once('/')?;
    let whole = value.pointer_mut(parent)?;
    match (kind, whole) {
        (Kind::Remove, Value::Object(fields)) => {
            fields.shift_remove(key);
        }
        (Kind::Remove, Value::Array(items)) => {
            items.remove(key.parse().ok()?);
        }
        (Kind::Replace(new), _) => *value.pointer_mut(&place)? = new.clone(),
        (Kind::Unknown, Value::Object(fields)) => {
            fields.insert("future".into(), json!({"nested": [1, null]}));
        }
        // JSON values have no twice; the text has.
        (Kind::AddBeside(new), Value::Object(fields)) => {
            fields.insert("\u{1}twice".into(), new.clone());
            let text = value.to_string().replace("\\u0001twice", key);
            return Some((text, place));
        }
        _ => return None,
    }
    Some((value.to_string(), place))
}

/// Whether `text` is `whole` with something left out: a call may lose a piece, and never gets one of another call.
fn is_part(text: &str, whole: &str) -> bool {
    let mut rest = whole.chars();
    text.chars().all(|c| rest.any(|other| other == c))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// A field is removed, null, of another type, sent twice or unknown, in one record; then the stream is cut.
    #[test]
    fn no_change_loses_text_merges_calls_or_makes_a_cut_answer_whole(change in change(), cut in any::<Index>()) {
        static FIXTURES: LazyLock<Vec<(Fixture, usize)>> = LazyLock::new(|| {
            fixtures().into_iter().map(|f| (f.clone(), f.reason_ends())).collect()
        });
        let (fixture, reason) = change.fixture.get(&FIXTURES);
        let lines: Vec<&str> = fixture.bytes.split_inclusive('\n').collect();
        let json = |line: &str| {
            let line = line.trim_end();
            let data = line.strip_prefix("data: ").unwrap_or(line);
            data.starts_with('{').then(|| data.to_owned())
        };
        let records: Vec<usize> = (0..lines.len()).filter(|n| json(lines[*n]).is_some()).collect();
        let at = *change.record.get(&records);
        let record = json(lines[at]).unwrap();
        let Some((new, place)) = mutate(&record, &change.place, &change.kind) else { return Ok(()) };
        let mut mutated = lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        mutated[at] = mutated[at].replace(&record, &new);
        let bytes = mutated.concat();

        let before = fixture.decode(fixture.bytes.as_bytes(), usize::MAX);
        let after = fixture.decode(bytes.as_bytes(), usize::MAX);

        // Text that is still in the record is still in the answer, or kept as it came.
        let pieces = before.events.iter().filter_map(|event| match event {
            ModelEvent::Text(text) | ModelEvent::Reasoning(text) | ModelEvent::Refusal(text) => Some(text),
            _ => None,
        });
        let everything = after.everything();
        for piece in pieces {
            // Another choice is another answer, and `done` is the end.
            let meant = ["/index", "/done"].iter().any(|end| place.ends_with(end));
            prop_assert!(!bytes.contains(piece.as_str()) || meant || everything.contains(piece.as_str()),
                "{} {place} {:?}: {piece:?} is lost in {after:?}\n{new}", fixture.name, change.kind);
        }
        // Calls are those of the answer, or fewer, or with less in them.
        let calls = before.calls();
        prop_assert!(after.calls().len() <= calls.len() || fixture.all("error").len() == 1,
            "{} {place}: invented {after:?}", fixture.name);
        let arguments = ["arguments", "input", "args", "partial_json", "name", "function"];
        let touched = arguments.iter().any(|name| place.split('/').any(|part| part == *name));
        for call in after.calls().iter().filter(|_| !touched) {
            prop_assert!(calls.iter().any(|old| is_part(call, old)) || call.ends_with("{}"),
                "{} {place}: {call} is none of {calls:?}\n{new}", fixture.name);
        }
        // A failure stays one, and a cut before the reason is one, changed or not.
        if !before.is_whole() && !place.contains("error") && !["code", "object", "type", "finish_reason"].iter().any(|n| place.ends_with(n)) {
            prop_assert!(!after.is_whole() || new.contains("\u{1F4A5}"), "{} {place}: {after:?}", fixture.name);
        }
        let cut = cut.index(bytes.len());
        let tail = fixture.bytes.len() - reason;
        if before.is_whole() && cut + tail + 8 < bytes.len().min(fixture.bytes.len()) {
            let part = fixture.decode(&bytes.as_bytes()[..cut], usize::MAX);
            let invented = new.contains("\u{1F4A5}") && place.ends_with("eason");
            prop_assert!(!part.is_whole() || invented, "{} {place} cut at {cut}: {part:?}", fixture.name);
        }
    }
}
