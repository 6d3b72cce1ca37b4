//! The command line: decode, list, explain, exit codes, JSON and JUnit.

use std::collections::HashSet;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use base64::Engine as _;
use serde_json::{Value, json};
use stream_probe::Kind;
use stream_probe::checks::CHECKS;

use crate::support::sse::{Fault, Service};
use crate::support::{together, ws};

pub fn probe(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_stream-probe"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // Beside reading, or both sides would wait for each other.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub fn lines(output: &Output) -> Vec<Value> {
    let text = text(&output.stdout);
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn decode_writes_events_and_retry_changes_in_order() {
    let input = b"retry: 1500\ndata: a\n\nid: 7\nevent: b\ndata: 1\ndata: 2\n\nretry: 1500\nretry: 10x\nretry: 20\n\ndata: lost";
    let output = probe(&["decode"], input);
    assert!(output.status.success());
    assert_eq!(
        text(&output.stdout),
        concat!(
            "{\"retry\":1500}\n",
            "{\"type\":\"message\",\"data\":\"a\",\"lastEventId\":\"\"}\n",
            "{\"type\":\"b\",\"data\":\"1\\n2\",\"lastEventId\":\"7\"}\n",
            "{\"retry\":20}\n",
        )
    );
}

/// The tables of the web platform tests, of a vendor, and of this project.
#[test]
fn decode_agrees_with_every_table_of_cases() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../snippets/tests/data");
    let mut count = 0;
    for name in ["wpt-sse-cases.json", "ld-sse-cases.json"] {
        let table = std::fs::read_to_string(format!("{folder}/{name}")).unwrap();
        let table: Value = serde_json::from_str(&table).unwrap();
        for case in table["cases"].as_array().unwrap() {
            if case["content_type"]
                .as_str()
                .is_some_and(|kind| !kind.starts_with("text/event-stream"))
            {
                // What a browser makes of another type is no matter of the bytes.
                continue;
            }
            if case["initial_last_event_id"].is_string() {
                // Nor is what an earlier connection has left behind.
                continue;
            }
            let raw = case["raw_base64"].as_str().unwrap();
            let raw = base64::engine::general_purpose::STANDARD
                .decode(raw)
                .unwrap();
            let output = probe(&["decode"], &raw);
            assert!(output.status.success());
            let (retries, events): (Vec<Value>, Vec<Value>) = lines(&output)
                .into_iter()
                .partition(|line| line.get("retry").is_some());
            assert_eq!(json!(events), case["expected"], "{name}: {}", case["name"]);
            if let Some(retry) = case.get("retry_ms").filter(|retry| !retry.is_null()) {
                assert_eq!(
                    retries.last().unwrap()["retry"],
                    *retry,
                    "{name}: {}",
                    case["name"]
                );
            }
            count += 1;
        }
    }
    assert!(count >= 115, "{count} cases");
}

#[test]
fn list_and_explain_know_every_check() {
    let listed: Value = serde_json::from_slice(&probe(&["list", "--json"], b"").stdout).unwrap();
    let ids: HashSet<&str> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids.len(), CHECKS.len(), "an id stands twice in the table");
    let human = text(&probe(&["list"], b"").stdout);
    for check in CHECKS {
        assert!(
            human.lines().any(|line| line.starts_with(check.id)),
            "{}",
            check.id
        );
        let explained = probe(&["explain", check.id], b"");
        assert!(explained.status.success());
        let explained = text(&explained.stdout);
        for text in [check.looks_for, check.fix, check.chapter] {
            assert!(explained.contains(text), "{explained}");
        }
    }
    assert_eq!(
        probe(&["explain", "sse-nonsense"], b"").status.code(),
        Some(2)
    );
}

/// What the checklist says of the checks is what the probe prints.
#[test]
fn the_checklist_and_the_list_agree() {
    let listed: Vec<Value> =
        serde_json::from_slice(&probe(&["list", "--json"], b"").stdout).unwrap();
    let of = |item: &Value| ["id", "level", "chapter", "title"].map(|key| item[key].to_string());
    let mut listed: Vec<_> = listed.iter().map(of).collect();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../checklist");
    let mut items = Vec::new();
    for topic in std::fs::read_dir(folder).unwrap() {
        let lines = std::fs::read_to_string(topic.unwrap().path()).unwrap();
        let parsed = lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        items.extend(parsed.filter(|item: &Value| item["probe"] == true));
    }
    let mut rows: Vec<_> = items.iter().map(of).collect();
    listed.sort();
    rows.sort();
    assert_eq!(rows, listed);
}

#[test]
fn usage_and_unreachable_exit_with_2() {
    // A port that was just free.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    for arguments in [
        &["sse", &url][..],
        &["sse", "ftp://127.0.0.1/"],
        &["sse", &url, "-H", "no colon"],
        &["sse", &url, "--only", "ws-handshake"],
        &["sse", &url, "--budget", "-1"],
        &["ws"],
    ] {
        assert_eq!(
            probe(arguments, b"").status.code(),
            Some(2),
            "{arguments:?}"
        );
    }
}

#[test]
fn names_that_match_no_check_are_errors() {
    let cases: [(&[&str], &str); 4] = [
        (&["sse", "--only", "sse-resume"], "write sse-resume*"),
        (&["ws", "--only", "ws-nonsense*"], "stream-probe list"),
        (&["sse", "--skip", "ws-handshake"], "stream-probe list"),
        (&["llm", "--skip", "llm-*"], "leave no check"),
    ];
    for (arguments, hint) in cases {
        let mut all = vec![arguments[0], "http://127.0.0.1:9/"];
        all.extend(&arguments[1..]);
        let output = probe(&all, b"");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let said = text(&output.stderr);
        assert!(said.contains(hint) && said.lines().count() == 1, "{said}");
    }
}

/// Answers one request with 422 and returns it.
fn one_request() -> (String, std::thread::JoinHandle<String>) {
    use std::io::Read as _;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let request = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut bytes = Vec::new();
        let mut chunk = [0; 4096];
        while !bytes.ends_with(b"}") && !bytes.ends_with(b"a=b") {
            let length = socket.read(&mut chunk).unwrap();
            bytes.extend_from_slice(&chunk[..length]);
        }
        let body = "prompt is missing";
        let head = "HTTP/1.1 422 Unprocessable Content\r\ncontent-type: text/plain\r\n";
        let length = body.len();
        let response = format!("{head}content-length: {length}\r\n\r\n{body}");
        socket.write_all(response.as_bytes()).unwrap();
        String::from_utf8(bytes).unwrap()
    });
    (url, request)
}

/// Data makes the request a POST with its type; a refusal is shown and ends the run.
#[test]
fn data_is_posted_with_its_type() {
    for (data, kind) in [
        ("{\"a\":1}", "application/json"),
        ("a=b", "application/x-www-form-urlencoded"),
    ] {
        let (url, request) = one_request();
        let output = probe(&["sse", &url, "-d", data], b"");
        let request = request.join().unwrap();
        assert!(request.starts_with("POST / HTTP/1.1\r\n"), "{request}");
        let header = format!("content-type: {kind}\r\n");
        assert!(request.to_ascii_lowercase().contains(&header), "{request}");
        assert_eq!(output.status.code(), Some(1));
        let said = text(&output.stdout);
        assert!(said.contains("422") && said.contains("prompt is missing"));
    }
}

fn signal(name: &str, pid: u32) -> bool {
    let mut kill = Command::new("kill");
    kill.args([name, &pid.to_string()])
        .stderr(Stdio::null())
        .status()
        .unwrap()
        .success()
}

/// Ctrl-C while `--publish` hangs: the reports are written, and what the command had started has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_run_writes_its_reports_and_leaves_nothing_behind() {
    let service = Service::start(Fault::None).await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let publish = format!(
        "sleep 600 & echo $! > '{0}.part'; mv '{0}.part' '{0}'; wait",
        file("pid").display()
    );
    let child = Command::new(env!("CARGO_BIN_EXE_stream-probe"))
        .arg("sse")
        .arg(format!("http://{}/events", service.addr))
        .args(["--budget", "300", "--json", "--publish", &publish])
        .arg("--junit")
        .arg(file("junit.xml"))
        .arg("--sarif")
        .arg(file("report.sarif"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    while !file("pid").exists() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(signal("-INT", child.id()));
    let output = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap());
    let output = output.await.unwrap();
    assert_eq!(output.status.code(), Some(130));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["broken_off"], "the run was interrupted");
    assert!(!report["checks"].as_array().unwrap().is_empty());
    let junit = std::fs::read_to_string(file("junit.xml")).unwrap();
    assert!(junit.contains("errors=\"1\""), "{junit}");
    let sarif = std::fs::read(file("report.sarif")).unwrap();
    let sarif: Value = serde_json::from_slice(&sarif).unwrap();
    assert_eq!(
        sarif["runs"][0]["invocations"][0]["executionSuccessful"],
        false
    );
    let sleeping = std::fs::read_to_string(file("pid")).unwrap();
    let sleeping = sleeping.trim().parse().unwrap();
    // Killed, it may wait for a moment to be collected.
    while signal("-0", sleeping) {
        let stat = std::fs::read_to_string(format!("/proc/{sleeping}/stat"));
        if stat.is_err() || stat.is_ok_and(|stat| stat.contains(") Z ")) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Runs the program on a thread of its own, next to the services of the test.
async fn run(arguments: Vec<String>) -> Output {
    tokio::task::spawn_blocking(move || {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        probe(&arguments, b"")
    })
    .await
    .unwrap()
}

fn words(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|word| (*word).to_owned()).collect()
}

/// Every connection starts with the messages of `--hello`, in their order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hello_is_a_list_in_order() {
    let service = ws::Service::start(ws::Fault::ExpectsHello).await;
    let url = format!("ws://{}/ws", service.addr);
    let hello = async |messages: &[&str]| {
        let mut arguments = words(&["ws", &url, "--cookie", ws::COOKIE, "--origin", ws::ORIGIN]);
        arguments.extend(words(&["--budget", "120", "--json"]));
        arguments.extend(words(&[
            "--only",
            "ws-handshake,ws-ping-answered,ws-fragments-accepted",
        ]));
        for message in messages {
            arguments.extend(words(&["--hello", message]));
        }
        let output = run(arguments).await;
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), report)
    };
    let (code, report) = hello(&ws::HELLO).await;
    assert_eq!(code, Some(0), "{report:#}");
    let checks = report["checks"].as_array().unwrap();
    assert!(
        checks.iter().all(|check| check["verdict"] == "passed"),
        "{report:#}"
    );
    // In another order the service closes every connection, and the run says what to give.
    let (code, report) = hello(&[ws::HELLO[1], ws::HELLO[0]]).await;
    assert_eq!(code, Some(1), "{report:#}");
    let sentence = report["broken_off"].as_str().unwrap();
    assert!(
        sentence.contains("4400") && sentence.contains("--hello"),
        "{sentence}"
    );
}

/// A stream that is cut when everything else is done: only `--long` sees it, and a run without it says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_waits_for_a_cut() {
    let service = Service::start(Fault::CutsOff).await;
    let url = format!("http://{}/events", service.addr);
    let arguments = [
        "sse",
        &url,
        "--json",
        "--budget",
        "300",
        "--only",
        "sse-ends-cleanly",
    ];
    let long = tokio::spawn(run([words(&arguments), words(&["--long"])].concat()));
    // Started after it, and with less to do: it ends while the other still waits.
    let short = run(words(&arguments)).await;
    service.hub.stop.send_replace(true);
    let long = long.await.unwrap();
    let only = |output: &Output| {
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        report["checks"][0].clone()
    };
    assert_eq!(short.status.code(), Some(0), "{:#}", only(&short));
    let evidence = only(&short)["evidence"].as_str().unwrap().to_owned();
    assert!(evidence.contains("--long"), "{evidence}");
    assert_eq!(long.status.code(), Some(1), "{:#}", only(&long));
    assert_eq!(only(&long)["id"], "sse-ends-cleanly");
}

/// A service that ends during the run is one sentence and exit code 1.
#[test]
fn a_service_that_ends_aborts_the_run() {
    let service = crate::process::start("sse");
    let url = format!("http://{}/events", service.addr);
    let kill = format!("kill -9 {}", service.child.id());
    let output = probe(
        &["sse", &url, "--json", "--budget", "120", "--publish", &kill],
        b"",
    );
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let sentence = report["broken_off"].as_str().unwrap();
    assert!(
        sentence.starts_with("the service has ended") && !sentence.contains('\n'),
        "{sentence}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_junit_sarif_and_the_exit_code_agree() {
    let runs = [
        (Fault::None, true, 0),
        (Fault::NoAccelHeader, false, 0),
        (Fault::NoAccelHeader, true, 1),
        (Fault::WrongType, false, 1),
    ];
    together(runs.map(|(fault, strict, code)| async move {
        let service = Service::start(fault).await;
        let url = format!("http://{}/events", service.addr);
        let folder = tempfile::tempdir().unwrap();
        let junit = folder.path().join("report.xml");
        let sarif = folder.path().join("report.sarif");
        let output = tokio::task::spawn_blocking({
            let junit = junit.to_str().unwrap().to_owned();
            let sarif = sarif.to_str().unwrap().to_owned();
            move || {
                let mut arguments = vec![
                    "sse",
                    &url,
                    "--json",
                    "--junit",
                    &junit,
                    "--sarif",
                    &sarif,
                    "--only",
                    "sse-status-200,sse-content-type,sse-not-cached,sse-no-transform,sse-no-buffering-headers",
                ];
                if strict {
                    arguments.push("--strict");
                }
                probe(&arguments, b"")
            }
        })
        .await
        .unwrap();
        assert_eq!(output.status.code(), Some(code), "{fault:?}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["version"], 1);
        assert_eq!(report["exit_code"], code);
        let failed: Vec<&Value> = report["checks"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|c| c["verdict"] == "failed")
            .collect();
        assert_eq!(
            failed.len(),
            usize::from(fault != Fault::None),
            "{report:#}"
        );
        let xml = std::fs::read_to_string(&junit).unwrap();
        assert!(xml.contains(&format!("failures=\"{code}\"")), "{xml}");
        let sarif = std::fs::read_to_string(&sarif).unwrap();
        judge_sarif(&serde_json::from_str(&sarif).unwrap(), &failed);
    }))
    .await;
}

/// What SARIF 2.1.0 requires (OASIS, sections 3.13 to 3.52) of the properties in use, and that it says what the report says.
fn judge_sarif(log: &Value, failed: &[&Value]) {
    assert_eq!(log["version"], "2.1.0");
    let [run] = log["runs"].as_array().unwrap().as_slice() else {
        panic!("one run");
    };
    assert_eq!(run["invocations"][0]["executionSuccessful"], true);
    let driver = &run["tool"]["driver"];
    assert_eq!(driver["name"], "stream-probe");
    let rules = driver["rules"].as_array().unwrap();
    let checks: Vec<&str> = CHECKS
        .iter()
        .filter(|check| check.kind == Kind::Sse)
        .map(|check| check.id)
        .collect();
    let ids: Vec<&str> = rules
        .iter()
        .map(|rule| rule["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, checks);
    for rule in rules {
        for text in ["shortDescription", "fullDescription", "help"] {
            assert!(!rule[text]["text"].as_str().unwrap().is_empty(), "{rule:#}");
        }
        let chapter = rule["properties"]["chapter"].as_str().unwrap();
        assert!(rule["help"]["markdown"].as_str().unwrap().contains(chapter));
        let level = rule["defaultConfiguration"]["level"].as_str().unwrap();
        assert!(matches!(level, "error" | "warning"), "{level}");
    }
    let results = run["results"].as_array().unwrap();
    assert_eq!(results.len(), failed.len());
    for (result, check) in results.iter().zip(failed) {
        assert_eq!(result["ruleId"], check["id"]);
        let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
        assert_eq!(rules[index]["id"], check["id"]);
        assert_eq!(
            result["level"],
            rules[index]["defaultConfiguration"]["level"]
        );
        let message = result["message"]["text"].as_str().unwrap();
        assert!(
            message.ends_with(check["evidence"].as_str().unwrap()),
            "{message}"
        );
        let place = &result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"];
        assert!(place.as_str().unwrap().ends_with("/events"), "{place}");
    }
}
