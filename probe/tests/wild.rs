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

struct Server {
    child: Child,
    addr: SocketAddr,
}

impl Server {
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .current_dir(folder())
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
        Self::start(Command::new("node").args(arguments))
    }

    fn python() -> Self {
        let python = folder().join("../../../target/venv/wild/bin/python");
        Self::start(Command::new(python).arg("app.py"))
    }

    fn options(&self, path: &str) -> Options {
        let mut options = options(self.addr, path);
        options.pid = Some(self.child.id());
        options.heartbeat = Some(Duration::from_secs(17));
        let addr = self.addr;
        options.publish = Publish::Call(Arc::new(move |_| {
            let mut socket = std::net::TcpStream::connect(addr).unwrap();
            let request =
                format!("POST /publish HTTP/1.1\r\nhost: {addr}\r\ncontent-length: 0\r\n\r\n");
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
    let report = probe(Kind::Sse, &server.options("/events")).await;
    assert_failed(&report, &["sse-retry-jitter", "sse-resume-no-gap"]);
    // With a history of the service's own it does not. Express runs the GET route for HEAD.
    let server = Server::node(&["sse.mjs", "better-sse-history"]);
    let report = probe(Kind::Sse, &server.options("/events")).await;
    assert_failed(&report, &["sse-retry-jitter", "sse-head-finishes"]);
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
    for path in ["/sse-starlette", "/fastapi"] {
        let mut options = server.options(path);
        options.resumable = true;
        assert_failed(&probe(Kind::Sse, &options).await, &["sse-no-transform"]);
    }
    let mut options = server.options("/ws");
    options.skip = vec![
        "ws-silent-peer-dropped".to_owned(),
        "ws-heartbeat".to_owned(),
        // FastAPI's text handler fails on a binary message; whether its Close arrives before the end of the
        // connection differs between runs.
        "ws-binary-handled".to_owned(),
    ];
    assert_failed(&probe(Kind::Ws, &options).await, &["ws-flood-limited"]);
}
