//! The vendors' own SDKs read what the scripted model writes: the same answer as our decoders where
//! it is whole, and a table of what they make of one that is not.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use snippets::llm::providers::{ModelError, ModelEvent};
use snippets::llm::scripted_model::{ExchangeEnd, ScriptedModel};

use crate::llm_providers::PROVIDERS;
use crate::support::{Server, within};

/// Programs start slowly on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vendor_sdks")
}

/// The Node of the packages, which want 22 or later.
pub fn node() -> PathBuf {
    let node = folder().join("node_modules/.bin/node");
    assert!(
        node.exists(),
        "run ./check: it runs `npm ci` in {}",
        folder().display()
    );
    node
}

fn python() -> PathBuf {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let python = target.join("venv/vendor_sdks/bin/python");
    assert!(
        python.exists(),
        "run ./check: it makes {} of requirements.txt",
        python.display()
    );
    python
}

/// Runs `script` of the folder and returns the JSON object of each line it prints.
pub async fn run(program: &Path, script: &str, arguments: &[&str]) -> Vec<Value> {
    let mut command = tokio::process::Command::new(program);
    command
        .arg(folder().join(script))
        .args(arguments)
        .kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await;
    let output = output.expect("the SDKs took too long").unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {stdout}{stderr}");
    stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Which of our decoders reads what this SDK read.
fn provider_of(sdk: &str) -> &'static str {
    let known = ["responses", "anthropic", "genai", "ollama"];
    match known.into_iter().find(|name| sdk.contains(name)) {
        Some("responses") => "openai responses",
        Some("genai") => "gemini",
        Some(name) => name,
        None => "openai chat",
    }
}

/// Our answer, in the form of the SDKs' lines.
async fn ours(server: &Server, sdk: &str, script: &str) -> Result<Value, ModelError> {
    let provider = PROVIDERS
        .iter()
        .find(|p| p.name == provider_of(sdk))
        .unwrap();
    let model = format!("scripted/{script}");
    let path = provider
        .path
        .replace("/models/scripted:", &format!("/models/{model}:"));
    let request = reqwest::Client::new()
        .post(server.url(&path))
        .json(&json!({"model": model}));
    let bytes = within("our answer", request.send())
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap();
    let (events, error) = (provider.decode)(&bytes, 1);
    if let Some(error) = error {
        return Err(error);
    }
    let mut text = String::new();
    let mut end = None;
    for event in events {
        match event {
            ModelEvent::Text(delta) | ModelEvent::Refusal(delta) => text.push_str(&delta),
            ModelEvent::Finish { reason, tool_calls } => end = Some((reason, tool_calls)),
            _ => {}
        }
    }
    let (reason, calls) = end.unwrap();
    let calls: Vec<_> = calls
        .iter()
        .map(|call| json!([call.name, call.parse::<Value>().unwrap()]))
        .collect();
    Ok(json!({"text": text, "calls": calls, "finish": finish_of(&format!("{reason:?}"), false)}))
}

/// One name for one reason. Some providers say `stop` when tools are called.
fn finish_of(reason: &str, called: bool) -> &'static str {
    match reason {
        "stop" | "end_turn" | "completed" | "STOP" | "Stop" if !called => "stop",
        "stop" | "completed" | "STOP" => "tool calls",
        "tool_calls" | "tool_use" | "tool-calls" | "ToolCalls" => "tool calls",
        "length" | "max_tokens" | "max_output_tokens" | "MAX_TOKENS" | "MaxTokens" => "max tokens",
        // The Python helper of OpenAI has an exception for it.
        "LengthFinishReasonError" => "max tokens",
        "refusal" | "Refusal" => "refusal",
        "SAFETY" | "content-filter" | "ContentFilter" => "content filter",
        other => panic!("a reason that nobody expects: {other}"),
    }
}

async fn same_answer(program: &Path, script: &str) {
    let server = Server::start(ScriptedModel::default().router()).await;
    let base = server.url("");
    let scripts = ["plain", "bytes", "tools", "length", "refusal"];
    let arguments: Vec<&str> = [base.as_str()].into_iter().chain(scripts).collect();
    let lines = run(program, script, &arguments).await;
    assert!(lines.len() >= scripts.len() * 5, "{lines:?}");
    for line in lines {
        let (sdk, script) = (
            line["sdk"].as_str().unwrap(),
            line["script"].as_str().unwrap(),
        );
        let ours = ours(&server, sdk, script).await.unwrap();
        let threw = line["threw"].as_str();
        if threw == Some("LengthFinishReasonError") {
            assert_eq!(ours["finish"], "max tokens", "{line}");
            continue;
        }
        assert_eq!(threw, None, "{line}");
        assert_eq!(line["text"], ours["text"], "{sdk} on {script}");
        let calls: Vec<Value> = line["calls"]
            .as_array()
            .unwrap()
            .iter()
            .map(|call| {
                let arguments = call[1].as_str().unwrap();
                // Two of the SDKs hand out what the model wrote for no arguments: the empty string.
                let arguments = if arguments.is_empty() {
                    "{}"
                } else {
                    arguments
                };
                json!([call[0], serde_json::from_str::<Value>(arguments).unwrap()])
            })
            .collect();
        assert_eq!(json!(calls), ours["calls"], "{sdk} on {script}");
        let finish = finish_of(line["finish"].as_str().unwrap(), !calls.is_empty());
        // The AI SDK has one name for refusals and filters, also for what OpenAI ends with `stop`.
        let expected = match ours["finish"].as_str().unwrap() {
            _ if sdk.starts_with("ai ") && script == "refusal" => "content filter",
            reason => reason,
        };
        assert_eq!(finish, expected, "{sdk} on {script}");
    }
}

#[tokio::test]
#[ignore = "needs Node: run ./check"]
async fn the_javascript_sdks_read_the_same_answer_as_our_decoders() {
    same_answer(&node(), "read.mjs").await;
}

#[tokio::test]
#[ignore = "needs Python: run ./check"]
async fn the_python_sdks_read_the_same_answer_as_our_decoders() {
    same_answer(&python(), "read.py").await;
}

/// What the SDKs say of the first half of an answer; our decoders call every one an error.
async fn broken_answers(program: &Path, script: &str, columns: &[(&str, &str)]) -> String {
    let model = ScriptedModel::default();
    let server = Server::start(model.router()).await;
    let base = server.url("");
    let scripts = columns.iter().map(|(script, _)| *script);
    let arguments: Vec<&str> = [base.as_str()].into_iter().chain(scripts).collect();
    let lines = run(program, script, &arguments).await;
    let mut table = format!("{:<26}", "");
    for (_, title) in columns {
        table.push_str(&format!("{title:<23}"));
    }
    let mut sdks: Vec<&str> = lines
        .iter()
        .filter_map(|line| line["sdk"].as_str())
        .collect();
    sdks.truncate(lines.len() / columns.len());
    for sdk in sdks {
        table.push_str(&format!("\n{sdk:<26}"));
        for (script, _) in columns {
            let of = |line: &&Value| line["sdk"] == sdk && line["script"] == *script;
            let line = lines.iter().find(of).unwrap();
            let cell = match (line["threw"].as_str(), line["finish"].as_str()) {
                (Some(error), _) => error.to_owned(),
                (None, None) => "ENDS NORMALLY".to_owned(),
                (None, Some(finish)) => format!("ends: {finish}"),
            };
            table.push_str(&format!("{cell:<23}"));
            if *script != "stall" && *script != "abort" {
                let ours = ours(&server, sdk, script).await;
                assert!(ours.is_err(), "our decoder on {script}: {ours:?}");
            }
        }
    }
    // Whoever gave up has also hung up.
    for exchange in model.exchanges() {
        let closed = model.wait_for(|e| e.id == exchange.id && e.end.is_some());
        let closed = within("the connection's end", closed).await;
        let stalled =
            closed.request["model"] == "scripted/stall" || closed.path.contains("/stall:");
        let expected = if stalled {
            ExchangeEnd::ReaderGone
        } else {
            ExchangeEnd::Finished
        };
        assert_eq!(
            closed.end,
            Some(expected),
            "{} {}",
            closed.path,
            closed.request["model"]
        );
    }
    let lines: Vec<&str> = table.lines().map(str::trim_end).collect();
    lines.join("\n")
}

#[tokio::test]
#[ignore = "needs Node: run ./check"]
async fn what_the_javascript_sdks_make_of_a_broken_answer() {
    let table = broken_answers(
        &node(),
        "read.mjs",
        &[
            ("cut", "cut between events"),
            ("cut-inside", "cut inside an event"),
            ("abort", "connection lost"),
            ("error", "error event"),
            ("stall", "aborted by you"),
        ],
    )
    .await;
    insta::assert_snapshot!(table);
}

#[tokio::test]
#[ignore = "needs Python: run ./check"]
async fn what_the_python_sdks_make_of_a_broken_answer() {
    let table = broken_answers(
        &python(),
        "read.py",
        &[
            ("cut", "cut between events"),
            ("cut-inside", "cut inside an event"),
            ("abort", "connection lost"),
            ("error", "error event"),
        ],
    )
    .await;
    insta::assert_snapshot!(table);
}
