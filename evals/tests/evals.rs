//! The evals: `evals.json` is sound, each solution passes its grader, and what people write instead fails where it should.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn evals() -> Vec<Value> {
    let text = fs::read_to_string(folder().join("evals.json")).unwrap();
    let evals: Value = serde_json::from_str(&text).unwrap();
    evals["evals"].as_array().unwrap().clone()
}

/// The program of the test's own build for a Rust task.
fn program(task: &str, variant: &str) -> Option<&'static str> {
    Some(match (task, variant) {
        ("sse-feed", "solution") => env!("CARGO_BIN_EXE_sse-feed-solution"),
        ("sse-feed", _) => env!("CARGO_BIN_EXE_sse-feed-naive"),
        ("sse-jobs", "solution") => env!("CARGO_BIN_EXE_sse-jobs-solution"),
        ("sse-jobs", _) => env!("CARGO_BIN_EXE_sse-jobs-naive"),
        ("ws-board", "solution") => env!("CARGO_BIN_EXE_ws-board-solution"),
        ("ws-board", _) => env!("CARGO_BIN_EXE_ws-board-naive"),
        ("llm-relay", "solution") => env!("CARGO_BIN_EXE_llm-relay-solution"),
        ("llm-relay", _) => env!("CARGO_BIN_EXE_llm-relay-naive"),
        ("ndjson-export", "solution") => env!("CARGO_BIN_EXE_ndjson-export-solution"),
        ("ndjson-export", _) => env!("CARGO_BIN_EXE_ndjson-export-naive"),
        _ => return None,
    })
}

fn node(arguments: &[&str]) -> Output {
    let tools = Path::new(env!("CARGO_BIN_EXE_sse-feed-solution"))
        .parent()
        .unwrap();
    Command::new("node")
        .arg(folder().join("grade.mjs"))
        .args(arguments)
        .env("EVALS_TOOLS", tools)
        .env_remove("CARGO_TARGET_DIR")
        .output()
        .expect("node")
}

/// The checks that fail for a solution.
fn failed(task: &str, solution: &Path, program: Option<&str>) -> BTreeSet<String> {
    let mut arguments = vec![task, solution.to_str().unwrap(), "--json", "--no-cost"];
    if let Some(program) = program {
        arguments.extend(["--program", program]);
    }
    let output = node(&arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let grading: Value = serde_json::from_str(&text)
        .unwrap_or_else(|_| panic!("{task}: {text}{}", String::from_utf8_lossy(&output.stderr)));
    let results = grading["assertion_results"].as_array().unwrap();
    let failed = results.iter().filter(|result| result["passed"] == false);
    failed
        .map(|result| {
            println!("{task}: {} | {}", result["text"], result["evidence"]);
            let text = result["text"].as_str().unwrap();
            text.split(':').next().unwrap().to_owned()
        })
        .collect()
}

#[test]
fn evals_json_has_the_standard_form() {
    let text = fs::read_to_string(folder().join("evals.json")).unwrap();
    let evals: Value = serde_json::from_str(&text).unwrap();
    let string = json!({ "type": "string", "minLength": 1 });
    let schema = json!({
        "type": "object",
        "required": ["skill_name", "evals"],
        "additionalProperties": false,
        "properties": {
            "skill_name": { "const": "streaming-api-patterns" },
            "evals": { "type": "array", "minItems": 10, "items": {
                "type": "object",
                "required": ["id", "name", "topic", "kind", "language", "prompt", "expected_output", "files", "assertions"],
                "additionalProperties": false,
                "properties": {
                    "id": { "type": "integer" },
                    "name": { "type": "string", "pattern": "^[a-z]+(-[a-z]+)*$" },
                    "topic": { "enum": ["sse", "websocket", "streams", "llm", "production"] },
                    "kind": { "enum": ["build", "fix", "audit"] },
                    "language": { "enum": ["rust", "typescript", "nginx", "json"] },
                    "prompt": string,
                    "expected_output": string,
                    "files": { "type": "array", "minItems": 1, "items": string },
                    "assertions": { "type": "array", "minItems": 5, "items": { "type": "string", "pattern": "^[a-z0-9-]+: ." } }
                }
            } }
        }
    });
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> = validator
        .iter_errors(&evals)
        .map(|e| e.to_string())
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
    for field in ["topic", "kind"] {
        let values: BTreeSet<&str> = evals["evals"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| e[field].as_str().unwrap())
            .collect();
        let all = if field == "topic" { 5 } else { 3 };
        assert_eq!(values.len(), all, "{values:?}");
    }
}

#[test]
fn every_file_is_there_and_no_id_is_used_twice() {
    let (mut ids, mut names) = (BTreeSet::new(), BTreeSet::new());
    for eval in evals() {
        let name = eval["name"].as_str().unwrap().to_owned();
        for file in eval["files"].as_array().unwrap() {
            let path = folder().join("..").join(file.as_str().unwrap());
            assert!(path.is_file(), "{name}: {}", path.display());
        }
        let assertions = eval["assertions"].as_array().unwrap();
        let checks: BTreeSet<&str> = assertions
            .iter()
            .map(|a| a.as_str().unwrap().split(':').next().unwrap())
            .collect();
        assert_eq!(checks.len(), assertions.len(), "{name}");
        assert!(folder().join("solutions").join(&name).is_dir(), "{name}");
        assert!(ids.insert(eval["id"].as_i64()) && names.insert(name));
    }
}

/// An agent must find exactly the versions that the solutions were tested with.
#[test]
fn the_tasks_have_the_versions_of_the_lock_file() {
    let lock = fs::read_to_string(folder().join("../Cargo.lock")).unwrap();
    let manifest = fs::read_to_string(folder().join("files/Cargo.toml")).unwrap();
    let dependencies = manifest.split("[dependencies]\n").nth(1).unwrap();
    let lines: Vec<&str> = dependencies.lines().take_while(|l| !l.is_empty()).collect();
    assert!(lines.len() > 20);
    for line in lines {
        let (name, rest) = line.split_once(" = ").unwrap();
        let version = rest.split("\"=").nth(1).unwrap().split('"').next().unwrap();
        let entry = format!("name = \"{name}\"\nversion = \"{version}\"\n");
        assert!(lock.contains(&entry), "{name} {version}");
    }
}

#[test]
fn the_evals_are_small() {
    fn size(path: &Path) -> u64 {
        let entries = fs::read_dir(path).unwrap().flatten();
        entries
            .map(|entry| match entry.metadata().unwrap() {
                meta if meta.is_dir() => size(&entry.path()),
                meta => meta.len(),
            })
            .sum()
    }
    let bytes = size(&folder());
    assert!(bytes <= 230 * 1024, "{bytes} bytes");
}

/// Some at a time: a grading mostly waits.
fn each_task(check: impl Fn(&str, &Value) + Sync) {
    static ONE_TEST: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _turn = ONE_TEST
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let evals = evals();
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while let Some(eval) =
                    evals.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                {
                    check(eval["name"].as_str().unwrap(), eval);
                }
            });
        }
    });
}

#[test]
#[ignore = "needs Node and nginx: run ./check"]
fn every_solution_passes() {
    each_task(|name, _| {
        let solution = folder().join("solutions").join(name);
        let failed = failed(name, &solution, program(name, "solution"));
        assert!(failed.is_empty(), "{name}: {failed:?}");
    });
}

/// What fails when the task is done as it is often done. The rest passes: a check that fails for everybody tells nothing.
#[test]
#[ignore = "needs Node and nginx: run ./check"]
fn what_people_write_fails_where_it_should() {
    let planted = fs::read_to_string(folder().join("keys/planted.json")).unwrap();
    let planted: Value = serde_json::from_str(&planted).unwrap();
    each_task(|name, eval| {
        let Some(wanted) = planted.get(name) else {
            return assert_eq!(eval["kind"], "audit", "{name} has no planted faults");
        };
        // With a question mark: a race, which fails on some runs only.
        let wanted: BTreeSet<String> = serde_json::from_value(wanted.clone()).unwrap();
        let naive = folder().join("naive").join(name);
        let naive = if naive.is_dir() {
            naive
        } else {
            folder().join("files").join(name)
        };
        let failed = failed(name, &naive, program(name, "naive"));
        for check in &wanted {
            let sure = !check.ends_with('?');
            assert!(!sure || failed.contains(check), "{name}: {check} passes");
        }
        for check in &failed {
            let known = wanted.contains(check) || wanted.contains(&format!("{check}?"));
            assert!(known, "{name}: {check} fails as well");
        }
    });
}

#[test]
#[ignore = "needs Node: run ./check"]
fn an_audit_counts_what_points_at_a_defect_and_what_does_not() {
    let report = tempfile::tempdir().unwrap();
    let write = |findings: Value| {
        fs::write(report.path().join("findings.json"), findings.to_string()).unwrap();
    };
    let solution = folder().join("solutions/audit-page/findings.json");
    let known: Vec<Value> = serde_json::from_str(&fs::read_to_string(solution).unwrap()).unwrap();
    let mut findings: Vec<Value> = (1..8)
        .map(|line| json!({ "file": "desk.ts", "line": line, "problem": "?" }))
        .collect();
    findings.push(known[0].clone());
    write(findings.into());
    let failed = failed("audit-page", report.path(), None);
    assert!(failed.contains("audit-false-alarms"), "{failed:?}");
    assert!(
        !failed.contains("sse-page-closes-at-terminal"),
        "{failed:?}"
    );
    assert_eq!(failed.len(), known.len(), "{failed:?}");
}

#[test]
#[ignore = "needs Node: run ./check"]
fn a_solution_that_does_not_start_fails_every_check_with_the_reason() {
    let empty = tempfile::tempdir().unwrap();
    let output = node(&["sse-feed", empty.path().to_str().unwrap(), "--json"]);
    let grading: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(grading["summary"]["pass_rate"], 0);
    let evidence = grading["assertion_results"][0]["evidence"].as_str();
    assert!(evidence.unwrap().contains("no Cargo.toml"), "{evidence:?}");
}

#[test]
#[ignore = "needs Node: run ./check"]
fn results_become_a_benchmark() {
    let results = tempfile::tempdir().unwrap();
    let run = |configuration: &str, run: &str, rate: f64, tokens: u64| {
        let folder = results
            .path()
            .join("sse-feed")
            .join(configuration)
            .join(run);
        fs::create_dir_all(&folder).unwrap();
        let grading = json!({ "eval_name": "sse-feed",
            "assertion_results": [{ "text": "sse-head-finishes: x", "passed": rate == 1.0, "evidence": "" }],
            "summary": { "passed": 1, "failed": 0, "total": 1, "pass_rate": rate },
            "cost": { "kib_per_idle_connection": 10 } });
        fs::write(folder.join("grading.json"), grading.to_string()).unwrap();
        let timing = json!({ "total_tokens": tokens, "duration_ms": 2000, "tool_calls": 3 });
        fs::write(folder.join("timing.json"), timing.to_string()).unwrap();
    };
    run("with_skill", "run-1", 1.0, 300);
    run("with_skill", "run-2", 0.5, 100);
    run("without_skill", "run-1", 0.5, 100);
    let out = results.path().join("benchmark.json");
    let output = node(&[
        "--summarise",
        results.path().to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
    ]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let benchmark: Value = serde_json::from_str(&fs::read_to_string(out).unwrap()).unwrap();
    let with = &benchmark["run_summary"]["with_skill"];
    assert_eq!(with["pass_rate"]["mean"], 0.75);
    assert_eq!(with["pass_rate"]["stddev"], 0.354);
    assert_eq!(benchmark["run_summary"]["delta"]["pass_rate"], 0.25);
    assert_eq!(benchmark["run_summary"]["delta"]["tokens"], 100);
    let task = &benchmark["tasks"]["sse-feed"];
    assert_eq!(task["delta"]["kib_per_idle_connection"], 0);
    assert_eq!(benchmark["runs"].as_array().unwrap().len(), 3);
    assert_eq!(benchmark["runs"][1]["failed"][0], "sse-head-finishes");
}
