//! The deployment example as a reader starts it: two instances, nginx, Redis, and clients of every kind that
//! stay through a rolling restart.

#![cfg(feature = "redis")]

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use http::{HeaderMap, Response};
use serde_json::Value;
use snippets::sse::consume::EventSource;
use snippets::sse::reconnect::Policy;
use snippets::sse::transports::over_reqwest;
use snippets::sse::wire::Limits;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::support::proxy::free_port;
use crate::support::{eventually, within};

/// The example of the whole workspace, whose features `cargo test --workspace` has built already.
async fn example() -> std::path::PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let mut command = Command::new(env!("CARGO"));
    // What cargo sets for a test is not set when it builds: build scripts would run again, and all that needs them.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text == "RUSTC" || text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_")
        {
            command.env_remove(name);
        }
    }
    let output = command
        .args([
            "build",
            "--quiet",
            "--workspace",
            "--example",
            "rolling",
            "--manifest-path",
        ])
        .arg(manifest)
        .output()
        .await
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    // Cargo puts tests into deps/ and examples beside it.
    let this = std::env::current_exe().unwrap();
    this.ancestors().nth(2).unwrap().join("examples/rolling")
}

/// The running example.
struct Example {
    child: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    addr: SocketAddr,
}

impl Example {
    async fn start() -> Self {
        let addr = free_port();
        let mut child = Command::new(example().await)
            .args(["--rate", "0", "--port", &addr.port().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut example = Self {
            child,
            input,
            lines,
            addr,
        };
        example.line("Enter restarts").await;
        example
    }

    async fn line(&mut self, wanted: &str) {
        within(wanted, async {
            loop {
                let line = self.lines.next_line().await.unwrap();
                let line =
                    line.unwrap_or_else(|| panic!("the example has ended before {wanted:?}"));
                if line.contains(wanted) {
                    return;
                }
            }
        })
        .await;
    }
}

/// What one client has seen.
#[derive(Default)]
struct Reader {
    connects: AtomicUsize,
    ids: Mutex<Vec<u64>>,
    data: Mutex<Vec<u64>>,
}

impl Reader {
    fn seen(&self, id: &str, data: &Value) {
        let sequence = id.split_once('-').unwrap().1.parse().unwrap();
        self.ids.lock().unwrap().push(sequence);
        self.data.lock().unwrap().push(data.as_u64().unwrap());
    }

    fn last(&self) -> u64 {
        self.data.lock().unwrap().last().copied().unwrap_or(0)
    }
}

async fn event_source(addr: SocketAddr, reader: Arc<Reader>) {
    let mut send = over_reqwest(reqwest::Client::new(), format!("http://{addr}/events"));
    let counted = reader.clone();
    let connect = move |headers: HeaderMap| {
        counted.connects.fetch_add(1, Ordering::SeqCst);
        let sent = send(headers);
        async move { sent.await as Result<Response<reqwest::Body>, reqwest::Error> }
    };
    let mut events = EventSource::new(Policy::default(), Limits::default(), connect);
    while let Some(event) = events.next().await.unwrap() {
        match event.event_type.as_str() {
            "tick" => reader.seen(&event.last_event_id, &event.data.parse().unwrap()),
            "ping" | "restart" => {}
            other => panic!("{other}: {}", event.data),
        }
    }
    panic!("the stream must not finish");
}

async fn web_socket(addr: SocketAddr, reader: Arc<Reader>) {
    let mut after: Option<String> = None;
    loop {
        let url = format!("ws://{addr}/socket");
        let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        reader.connects.fetch_add(1, Ordering::SeqCst);
        let subscribe = serde_json::json!({ "after": after }).to_string();
        socket.send(subscribe.into()).await.unwrap();
        while let Some(frame) = socket.next().await {
            match frame.unwrap() {
                tokio_tungstenite::tungstenite::Message::Text(text) => {
                    let message: Value = serde_json::from_str(&text).unwrap();
                    assert_eq!(message["event"], "tick");
                    let id = message["id"].as_str().unwrap();
                    reader.seen(id, &message["data"]);
                    after = Some(id.to_owned());
                }
                tokio_tungstenite::tungstenite::Message::Close(frame) => {
                    assert_eq!(u16::from(frame.unwrap().code), 1001);
                }
                _ => {}
            }
        }
    }
}

/// The page in Chromium: prints what its two readers have seen when its input closes.
fn browser(addr: SocketAddr) -> Child {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools");
    Command::new("node")
        .arg(folder.join("rolling.mjs"))
        .arg(format!("http://{addr}/"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

#[tokio::test]
#[ignore = "needs Redis, nginx and Chromium: run ./check"]
async fn no_client_loses_an_event_in_a_rolling_restart() {
    let mut example = Example::start().await;
    let addr = example.addr;
    let mut page = browser(addr);
    let mut report = BufReader::new(page.stdout.take().unwrap()).lines();
    let readers: Vec<Arc<Reader>> = (0..7).map(|_| Arc::default()).collect();
    let mut clients = tokio::task::JoinSet::new();
    for reader in &readers[..5] {
        clients.spawn(event_source(addr, reader.clone()));
    }
    for reader in &readers[5..] {
        clients.spawn(web_socket(addr, reader.clone()));
    }

    // Publishes without a pause, through nginx.
    let stop = Arc::new(AtomicBool::new(false));
    let publisher = tokio::spawn({
        let stop = stop.clone();
        async move {
            let client = reqwest::Client::new();
            let mut acknowledged = Vec::new();
            for n in 1_u64.. {
                let sent = client
                    .post(format!("http://{addr}/publish"))
                    .json(&n)
                    .send()
                    .await;
                if sent.is_ok_and(|answer| answer.status().is_success()) {
                    acknowledged.push(n);
                }
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            acknowledged
        }
    });
    let line = within("the page to read", report.next_line())
        .await
        .unwrap();
    assert_eq!(line.as_deref(), Some("reading"));
    eventually("all clients to read", || {
        readers.iter().all(|reader| reader.last() > 0)
    })
    .await;

    example.input.write_all(b"\n").await.unwrap();
    example.line("rolled").await;
    stop.store(true, Ordering::SeqCst);
    let acknowledged = publisher.await.unwrap();
    let last = *acknowledged.last().unwrap();
    eventually("the last event at every client", || {
        assert!(clients.try_join_next().is_none(), "a client has ended");
        readers.iter().all(|reader| reader.last() >= last)
    })
    .await;
    page.stdin
        .take()
        .unwrap()
        .write_all(format!("{last}\n").as_bytes())
        .await
        .unwrap();
    let line = within("the page's report", report.next_line())
        .await
        .unwrap()
        .unwrap();
    let pages: Vec<Value> = serde_json::from_str(&line).unwrap();
    assert!(
        within("the browser to end", page.wait())
            .await
            .unwrap()
            .success()
    );

    let all = readers[0].data.lock().unwrap().clone();
    // What was not acknowledged may be in the log all the same; what was acknowledged must be.
    let missing: Vec<&u64> = acknowledged.iter().filter(|n| !all.contains(n)).collect();
    assert!(missing.is_empty(), "acknowledged and lost: {missing:?}");
    for reader in &readers {
        let ids = reader.ids.lock().unwrap();
        let expected: Vec<u64> = (1..=all.len() as u64).collect();
        assert_eq!(*ids, expected, "a gap, a duplicate, or another order");
        assert_eq!(*reader.data.lock().unwrap(), all);
        let connects = reader.connects.load(Ordering::SeqCst);
        assert!(
            connects >= 2,
            "it was connected to an instance that was restarted: {connects}"
        );
    }
    for page in &pages {
        assert_eq!(
            (&page["gaps"], &page["duplicates"], &page["resets"]),
            (&0.into(), &0.into(), &0.into()),
            "{page}"
        );
        assert!(page["connects"].as_u64().unwrap() >= 2, "{page}");
        assert_eq!(page["data"], serde_json::json!(all));
    }

    // Killed without a chance to clean up, it takes everything with it.
    example.child.kill().await.unwrap();
    eventually("nginx to end", || {
        std::net::TcpStream::connect(addr).is_err()
    })
    .await;
}

/// What a reader meets first: a clear word when something is in the way.
#[tokio::test]
#[ignore = "needs Redis and nginx: run ./check"]
async fn it_says_what_is_missing() {
    let example = example().await;
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (path, arguments, said) in [
        (None, vec!["--port", &port], "choose another with --port"),
        (Some("/nowhere"), vec![], "redis-server is not installed"),
        (None, vec!["--pork", "1"], "unknown argument --pork"),
    ] {
        let mut command = Command::new(&example);
        command.args(&arguments);
        if let Some(path) = path {
            command.env("PATH", path);
        }
        let output = within(said, command.stdin(Stdio::null()).output())
            .await
            .unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains(said), "{error}");
    }
}
