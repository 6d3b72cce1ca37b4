//! Servers that no one here wrote: what the probe says of each. A check that fails although the server
//! is right would be a bug of the probe.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use stream_probe::{Kind, Options, Publish};

use crate::support::{assert_failed, options, probe};

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

    fn python() -> Self {
        let python = folder().join("../../../target/venv/wild/bin/python");
        Self::start(Command::new(python).arg("app.py"), &folder())
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs npm packages: run ./check"]
async fn better_sse() {
    // Each event has a random id, and nothing is kept: a client that resumes misses what it missed.
    let server = Server::node(&["sse.mjs", "better-sse"]);
    let with_history = Server::node(&["sse.mjs", "better-sse-history"]);
    let (options, history_options) = (server.options("/events"), with_history.options("/events"));
    let (report, history) = tokio::join!(
        probe(Kind::Sse, &options),
        probe(Kind::Sse, &history_options)
    );
    assert_failed(&report, &["sse-retry-jitter", "sse-resume-no-gap"]);
    // With a history of the service's own it does not. Express runs the GET route for HEAD.
    assert_failed(&history, &["sse-retry-jitter", "sse-head-finishes"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs npm packages: run ./check"]
async fn ws() {
    let server = Server::node(&["sockets.mjs", "ws"]);
    let mut options = server.options("/");
    options.skip = vec![
        "ws-silent-peer-dropped".to_owned(),
        "ws-heartbeat".to_owned(),
    ];
    let report = probe(Kind::Ws, &options).await;
    // It selects the first subprotocol that is offered, whatever it is, and limits nothing.
    assert_failed(&report, &["ws-subprotocol-not-echoed", "ws-flood-limited"]);
    let server = Server::node(&["sockets.mjs", "ws-careful"]);
    let mut options = server.options("/");
    options.cookie = Some("sid=1".to_owned());
    options.origin = Some("https://app.example".to_owned());
    options.subprotocols = vec!["chat.v1".to_owned()];
    options.idle = Some(Duration::from_secs(6));
    options.heartbeat = Some(Duration::from_secs(5));
    assert_failed(&probe(Kind::Ws, &options).await, &[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs npm packages: run ./check"]
async fn socket_io() {
    let server = Server::node(&["sockets.mjs", "socket.io"]);
    let mut options = server.options("/socket.io/?EIO=4&transport=websocket");
    options.skip = vec![
        "ws-silent-peer-dropped".to_owned(),
        "ws-heartbeat".to_owned(),
    ];
    // Engine.IO stands on ws.
    assert_failed(
        &probe(Kind::Ws, &options).await,
        &["ws-subprotocol-not-echoed"],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Python packages: run ./check"]
async fn sse_starlette_and_fastapi() {
    let server = Server::python();
    let events = async |path| {
        let mut options = server.options(path);
        options.resumable = true;
        probe(Kind::Sse, &options).await
    };
    let mut options = server.options("/ws");
    options.skip = vec![
        "ws-silent-peer-dropped".to_owned(),
        "ws-heartbeat".to_owned(),
        // FastAPI's text handler fails on a binary message; whether its Close arrives before the end of the
        // connection differs between runs.
        "ws-binary-handled".to_owned(),
    ];
    let (starlette, fastapi, sockets) = tokio::join!(
        events("/sse-starlette"),
        events("/fastapi"),
        probe(Kind::Ws, &options)
    );
    assert_failed(&starlette, &["sse-no-transform"]);
    assert_failed(&fastapi, &["sse-no-transform"]);
    assert_failed(&sockets, &["ws-flood-limited"]);
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
            "llm-one-terminal",
            "llm-provider-error-visible",
        ],
    );
    assert_failed(
        &messages,
        &["llm-no-buffering-headers", "llm-heartbeat-before-token"],
    );
}
