//! `decode --provider`: the recorded shapes of the pattern's own tests, decoded by the program.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::command::{lines, probe};

fn recordings(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => recordings(&path, found),
            false => found.push(path),
        }
    }
}

/// `RateLimited`, as the tables write it, is `rate_limited` here.
fn snake(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}

#[test]
fn every_recorded_answer_is_decoded_as_its_table_says() {
    let root = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../snippets/tests/data/providers"
    );
    let mut found = Vec::new();
    recordings(Path::new(root), &mut found);
    assert!(found.len() >= 30);
    for path in found {
        let name = path.display();
        let text = std::fs::read_to_string(&path).unwrap();
        let (head, body) = text.split_once("\n\n").unwrap();
        let expected = |key: &str| {
            let prefix = format!("# {key}: ");
            let found = head.lines().filter_map(|line| line.strip_prefix(&prefix));
            found.map(str::to_owned).collect::<Vec<_>>()
        };
        let provider = expected("decoder").concat().replace('_', "-");
        let output = probe(&["decode", "--provider", &provider], body.as_bytes());
        let events = lines(&output);
        let joined = |kind: &str| {
            let these = events.iter().filter(|event| event["type"] == kind);
            these
                .map(|event| event["text"].as_str().unwrap())
                .collect::<String>()
        };
        for kind in ["text", "reasoning", "refusal"] {
            assert_eq!(joined(kind), expected(kind).concat(), "{name}: {kind}");
        }
        let last = events.last().unwrap();
        let reason = snake(&expected("finish").concat());
        let complete = !reason.is_empty() && !matches!(&*reason, "max_tokens" | "content_filter");
        assert_eq!(
            output.status.code(),
            Some(i32::from(!complete)),
            "{name}: {last}"
        );
        if reason.is_empty() {
            assert_eq!(last["type"], "error", "{name}");
            let error = snake(&expected("error").concat());
            let told = match error.as_str() {
                "truncated" => &last["kind"],
                _ => &last["class"],
            };
            assert_eq!(*told, error, "{name}");
            let retry = matches!(
                &*error,
                "rate_limited" | "overloaded" | "internal" | "truncated"
            );
            assert_eq!(last["retry"], retry, "{name}");
            continue;
        }
        assert_eq!(
            (&last["type"], &last["reason"]),
            (&"finish".into(), &reason.into()),
            "{name}"
        );
        let calls = last["tool_calls"].as_array().unwrap().iter();
        let calls = calls.map(|call| {
            let text = |key: &str| call[key].as_str().unwrap();
            format!("{} {}", text("name"), text("arguments"))
        });
        assert_eq!(calls.collect::<Vec<_>>(), expected("call"), "{name}");
        let usage = events.iter().rev().find(|event| event["type"] == "usage");
        let count = |usage: &Value, key: &str| usage[key].as_u64().unwrap_or(0);
        let usage =
            usage.map(|usage| format!("{} {}", count(usage, "input"), count(usage, "output")));
        assert_eq!(
            usage.unwrap_or_default(),
            expected("usage").concat(),
            "{name}"
        );
    }
}

#[test]
fn a_cut_recording_is_not_an_answer() {
    let body = b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"half\"}}]}\n\n";
    let output = probe(&["decode", "--provider", "openai-chat"], body);
    assert_eq!(output.status.code(), Some(1));
    let events = lines(&output);
    assert_eq!(
        events[0],
        serde_json::json!({ "type": "text", "text": "half" })
    );
    assert_eq!(
        (&events[1]["type"], &events[1]["kind"]),
        (&"error".into(), &"truncated".into())
    );
    assert_eq!(
        probe(&["decode", "--provider", "other"], b"").status.code(),
        Some(2)
    );
}
