//! The services in Node, Hono and FastAPI that the book shows: with their default settings, no check fails and none warns.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use stream_probe::{Kind, Options, Publish};

use crate::support::{assert_failed, options, probe, without_stalls};
use crate::wild::Server;

fn start(file: &str, model: Option<SocketAddr>) -> Server {
    let python =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/venv/other-stacks/bin/python");
    let mut command = match file.ends_with(".py") {
        true => Command::new(python),
        false => Command::new("node"),
    };
    if let Some(model) = model {
        command.env("MODEL_URL", format!("http://{model}/v1"));
    }
    Server::start(command.args([file, "0"]), &folder())
}

fn options_of(service: &Server, path: &str) -> Options {
    let mut options = options(service.addr, path);
    options.pid = Some(service.child.id());
    options.heartbeat = Some(Duration::from_secs(17));
    options
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../services/other-stacks")
}

async fn feed(file: &str) {
    let service = start(file, None);
    let mut options = options_of(&service, "/events");
    options.resumable = true;
    options.shutdown = true;
    options.skip = without_stalls();
    let addr = service.addr;
    options.publish = Publish::Call(Arc::new(move |_| {
        let body = r#"{"event":"order","data":{"number":1}}"#;
        let head = format!(
            "POST /events HTTP/1.1\r\nhost: {addr}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let mut socket = std::net::TcpStream::connect(addr).unwrap();
        socket
            .write_all(format!("{head}{body}").as_bytes())
            .unwrap();
        let mut status = [0; 12];
        socket.read_exact(&mut status).unwrap();
        assert_eq!(&status, b"HTTP/1.1 202");
    }));
    assert_failed(&probe(Kind::Sse, &options).await, &[]);
}

async fn relay(file: &str) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let model = listener.local_addr().unwrap();
    drop(listener);
    let service = start(file, Some(model));
    let mut options = options_of(&service, "/chat");
    options.method = "POST".to_owned();
    options.body = Some(br#"{"messages":[{"role":"user","content":"hello"}]}"#.to_vec());
    options.upstream = Some(model);
    assert_failed(&probe(Kind::Llm, &options).await, &[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs npm packages: run ./check"]
async fn feeds_in_node_and_hono() {
    tokio::join!(feed("node-feed.mjs"), feed("hono-feed.mjs"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs npm packages: run ./check"]
async fn relays_in_node_and_hono() {
    tokio::join!(relay("node-relay.mjs"), relay("hono-relay.mjs"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Python packages: run ./check"]
async fn feed_and_relay_in_fastapi() {
    tokio::join!(feed("fastapi_feed.py"), relay("fastapi_relay.py"));
}

/// A client that reads nothing is cut once its queue is full, and the others go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs npm packages: run ./check"]
async fn a_reader_that_stops_is_cut() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    for file in ["node-feed.mjs", "hono-feed.mjs"] {
        let service = start(file, None);
        let mut stalled = tokio::net::TcpStream::connect(service.addr).await.unwrap();
        let get = b"GET /events HTTP/1.1\r\nhost: x\r\n\r\n";
        stalled.write_all(get).await.unwrap();
        stalled.readable().await.unwrap(); // the response has begun
        let data = "x".repeat(60_000);
        let body = format!(r#"{{"event":"order","data":"{data}"}}"#);
        let mut publisher = tokio::net::TcpStream::connect(service.addr).await.unwrap();
        // More than the queue and what the kernel buffers for a reader.
        for _ in 0..400 {
            let head = format!(
                "POST /events HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            publisher
                .write_all(format!("{head}{body}").as_bytes())
                .await
                .unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"\r\n\r\n") {
                assert!(publisher.read_buf(&mut answer).await.unwrap() > 0, "{file}");
            }
        }
        let mut received = Vec::new();
        // Ends or fails: a stream that had not been cut would stay open.
        let end = tokio::time::timeout(Duration::from_secs(60), stalled.read_to_end(&mut received));
        assert!(end.await.is_ok(), "{file}: the connection is still open");
        assert!(
            received.len() < 400 * 60_000,
            "{file}: everything was queued"
        );
    }
}
