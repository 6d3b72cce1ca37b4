//! Servers that no one here wrote: what the probe says of each. A check that fails although the server
//! is right would be a bug of the probe.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use stream_probe::{Kind, Options, Publish};

use crate::support::{assert_failed, options, probe, show};

/// A server in a process of its own, which prints `listening ADDRESS`.
pub struct Server {
    pub child: Child,
    pub addr: SocketAddr,
}

impl Server {
    /// Relative paths in `command` are those of `folder`.
    pub fn start(command: &mut Command, folder: &Path) -> Self {
        let mut child = command
            .current_dir(folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let addr = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("listening ")?.parse().ok())
            .unwrap();
        Self { child, addr }
    }

    fn node(arguments: &[&str]) -> Self {
        Self::start(Command::new("node").args(arguments), &folder())
    }

    fn python(arguments: &[&str]) -> Self {
        let python = folder().join("../../../target/venv/wild/bin/python");
        Self::start(Command::new(python).args(arguments), &folder())
    }

    /// nginx, its files in `folder`.
    async fn nchan(files: &Path) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        drop(listener);
        let config = std::fs::read_to_string(folder().join("nchan.conf")).unwrap();
        let config = config.replace("PORT", &addr.port().to_string());
        std::fs::write(files.join("nginx.conf"), config).unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        let child = Command::new("nginx")
            .env("PATH", format!("{path}:/usr/sbin"))
            .args(["-e", "stderr", "-c", "nginx.conf", "-p"])
            .arg(files)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { child, addr };
        let listening = async {
            while tokio::net::TcpStream::connect(addr).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), listening)
            .await
            .unwrap();
        server
    }

    fn options(&self, path: &str) -> Options {
        let mut options = options(self.addr, path);
        options.pid = Some(self.child.id());
        options.heartbeat = Some(Duration::from_secs(17));
        let addr = self.addr;
        options.publish = Publish::Call(Arc::new(move |_| {
            let mut socket = std::net::TcpStream::connect(addr).unwrap();
            let request =
                format!("POST /publish HTTP/1.1\r\nhost: {addr}\r\ncontent-length: 2\r\n\r\n{{}}");
            socket.write_all(request.as_bytes()).unwrap();
            socket.read_exact(&mut [0; 12]).unwrap();
        }));
        options.skip = crate::support::without_stalls();
        options
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wild")
}

/// A server with its defaults, or as its documentation shows it, and what the probe must say of it.
struct Row {
    /// What is started, and with which options.
    server: &'static [&'static str],
    kind: Kind,
    path: &'static str,
    set: fn(&mut Options),
    /// Failures and warnings; everything else passes or cannot be told.
    failed: &'static [&'static str],
}

/// How soon a heartbeat comes, these services leave to a default of their library.
fn plain(options: &mut Options) {
    options.skip.push("sse-heartbeat*".to_owned());
}

fn resumes(options: &mut Options) {
    options.resumable = true;
}

/// Without what only time would show.
fn sockets(options: &mut Options) {
    options.skip = vec![
        "ws-silent-peer-dropped".to_owned(),
        "ws-heartbeat".to_owned(),
    ];
}

/// What a careful service promises, with the means of its library.
fn promised(options: &mut Options) {
    options.skip.clear();
    options.cookie = Some("sid=1".to_owned());
    options.origin = Some("https://app.example".to_owned());
    options.subprotocols = vec!["chat.v1".to_owned()];
    options.idle = Some(Duration::from_secs(6));
    options.heartbeat = Some(Duration::from_secs(5));
}

const NODE: &[Row] = &[
    // Each event has a random id, and nothing is kept: a client that resumes misses what it missed.
    Row {
        server: &["sse.mjs", "better-sse"],
        kind: Kind::Sse,
        path: "/events",
        set: plain,
        failed: &["sse-retry-jitter", "sse-resume-no-gap"],
    },
    // With a history of the service's own it does not. Express runs the GET route for HEAD.
    Row {
        server: &["sse.mjs", "better-sse-history"],
        kind: Kind::Sse,
        path: "/events",
        set: plain,
        failed: &["sse-retry-jitter", "sse-head-finishes"],
    },
    // `streamSSE` sets its own Cache-Control; ids, and nothing that reads them.
    Row {
        server: &["sse.mjs", "hono"],
        kind: Kind::Sse,
        path: "/events",
        set: plain,
        failed: &[
            "sse-no-buffering-headers",
            "sse-no-transform",
            "sse-resume-no-gap",
            "sse-cursor-past",
        ],
    },
    Row {
        server: &["sse.mjs", "hono-careful"],
        kind: Kind::Sse,
        path: "/events",
        set: resumes,
        failed: &["sse-no-transform"],
    },
    // A HEAD request runs the GET route.
    Row {
        server: &["sse.mjs", "fastify"],
        kind: Kind::Sse,
        path: "/events",
        set: |options| {
            options.resumable = true;
            options.skip.push("sse-heartbeat*".to_owned());
        },
        failed: &["sse-no-transform", "sse-head-finishes"],
    },
    // It selects the first subprotocol that is offered, whatever it is, and limits nothing.
    Row {
        server: &["sockets.mjs", "ws"],
        kind: Kind::Ws,
        path: "/",
        set: sockets,
        failed: &["ws-subprotocol-not-echoed", "ws-flood-limited"],
    },
    Row {
        server: &["sockets.mjs", "ws-careful"],
        kind: Kind::Ws,
        path: "/",
        set: promised,
        failed: &[],
    },
    // Engine.IO is built on ws.
    Row {
        server: &["sockets.mjs", "socket.io"],
        kind: Kind::Ws,
        path: "/socket.io/?EIO=4&transport=websocket",
        set: sockets,
        failed: &["ws-subprotocol-not-echoed"],
    },
];

const PYTHON: &[Row] = &[
    Row {
        server: &["app.py"],
        kind: Kind::Sse,
        path: "/sse-starlette",
        set: resumes,
        failed: &["sse-no-transform"],
    },
    Row {
        server: &["app.py"],
        kind: Kind::Sse,
        path: "/fastapi",
        set: resumes,
        failed: &["sse-no-transform"],
    },
    Row {
        server: &["app.py"],
        kind: Kind::Ws,
        path: "/ws",
        // FastAPI's text handler fails on a binary message; whether its Close arrives before the end of the
        // connection differs between runs.
        set: |options| {
            sockets(options);
            options.skip.push("ws-binary-handled".to_owned());
        },
        failed: &["ws-flood-limited"],
    },
    Row {
        server: &["others.py", "websockets"],
        kind: Kind::Ws,
        path: "/",
        set: sockets,
        failed: &["ws-flood-limited"],
    },
    Row {
        server: &["others.py", "websockets-careful"],
        kind: Kind::Ws,
        path: "/",
        set: promised,
        failed: &[],
    },
    Row {
        server: &["others.py", "aiohttp"],
        kind: Kind::Sse,
        path: "/events",
        set: resumes,
        failed: &["sse-no-transform"],
    },
    // It takes frames without a mask.
    Row {
        server: &["others.py", "aiohttp"],
        kind: Kind::Ws,
        path: "/ws",
        set: sockets,
        failed: &["ws-unmasked-refused", "ws-flood-limited"],
    },
    // Its response headers are sent with the first flush.
    Row {
        server: &["others.py", "tornado"],
        kind: Kind::Sse,
        path: "/events",
        set: plain,
        failed: &[
            "sse-headers-before-first-event",
            "sse-no-buffering-headers",
            "sse-no-transform",
        ],
    },
];

/// Probes every row, a few at a time, and compares what failed with the table.
async fn judge(table: &'static [Row], start: fn(&[&str]) -> Server) {
    let wrong: Vec<String> = stream::iter(table)
        .map(|row| async move {
            let probing = async move {
                let server = start(row.server);
                let mut options = server.options(row.path);
                (row.set)(&mut options);
                probe(row.kind, &options).await
            };
            let report = tokio::spawn(probing).await.unwrap();
            let difference = report.difference(row.failed)?;
            let (server, path) = (row.server, row.path);
            let took = report.took.as_secs_f64();
            let all = show(&report);
            Some(format!(
                "{server:?} {path}:\n{difference}\n\nin {took:.1} s:\n{all}"
            ))
        })
        .buffer_unordered(4)
        .filter_map(|wrong| async { wrong })
        .collect()
        .await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs npm packages: run ./check"]
async fn libraries_of_node() {
    judge(NODE, Server::node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Python packages: run ./check"]
async fn libraries_of_python() {
    judge(PYTHON, Server::python).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs nginx with nchan: run ./check"]
async fn nchan() {
    let files = tempfile::tempdir().unwrap();
    let server = Server::nchan(files.path()).await;
    let mut events = server.options("/events");
    let mut sockets = server.options("/ws");
    // The process of the options would be nginx's master, which serves nothing.
    events.pid = None;
    sockets.pid = None;
    events.heartbeat = Some(Duration::from_secs(5));
    sockets.heartbeat = Some(Duration::from_secs(4));
    sockets.skip = vec!["ws-silent-peer-dropped".to_owned()];
    let (events, sockets) = tokio::join!(probe(Kind::Sse, &events), probe(Kind::Ws, &sockets));
    // By default it sends no Cache-Control, mirrors any Origin with credentials, and holds a HEAD request open.
    assert_failed(
        &events,
        &[
            "sse-not-cached",
            "sse-no-transform",
            "sse-head-finishes",
            "sse-cors-credentials",
        ],
    );
    // An empty Sec-WebSocket-Protocol where one is offered.
    assert_failed(&sockets, &["ws-subprotocol-not-echoed"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs npm packages: run ./check"]
async fn ai_sdk() {
    let report = async |shape| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let upstream = listener.local_addr().unwrap();
        drop(listener);
        let mut node = Command::new("node");
        node.args(["ai.mjs", shape])
            .env("UPSTREAM", format!("http://{upstream}/v1"));
        let server = Server::start(&mut node, &folder());
        let mut options = server.options("/");
        options.method = "POST".to_owned();
        options.body = Some(br#"{"prompt":"hello"}"#.to_vec());
        options.upstream = Some(upstream);
        options.heartbeat = Some(Duration::from_secs(2));
        // A cut in the wrong moment ends the process with an unhandled rejection in some runs.
        options.skip = vec![
            "llm-failures-survived".to_owned(),
            "llm-error-text-clean".to_owned(),
        ];
        probe(Kind::Llm, &options).await
    };
    let (text, messages) = tokio::join!(report("text"), report("ui"));
    // Plain text has no end and no failure of its own, and Node sends the head with the first token.
    assert_failed(
        &text,
        &[
            "llm-no-buffering-headers",
            "llm-headers-before-token",
            "llm-heartbeat-before-token",
            "llm-truncation-visible",
            "llm-provider-error-visible",
        ],
    );
    assert_failed(
        &messages,
        &["llm-no-buffering-headers", "llm-heartbeat-before-token"],
    );
}
