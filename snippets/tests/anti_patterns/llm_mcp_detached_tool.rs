//! Wrong: an MCP tool that runs in a spawned task and reports through a channel.
//! Harm: closing the response, which since 2026-07-28 is how a client cancels, does not stop a silent tool: it continues, and nobody gets its result.
//! Instead: llm/mcp
//! Probe: cannot see: the work of a tool leaves no trace on the wire

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::State;
use axum::response::Sse;
use axum::response::sse::Event;
use axum::routing::post;
use futures::{Stream, StreamExt, stream};
use serde_json::json;
use snippets::llm::mcp::{self, Tool, ToolEvent};
use snippets::sse::streams::{Config, Streams};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::support::{RawClient, Server, eventually, within};

/// Counts when it is dropped.
struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

type Reports = mpsc::Sender<Result<Event, Infallible>>;

/// As people write it. `reports` is handed out so that the test sees when the response is gone.
async fn call(
    State((ended, out)): State<(Arc<AtomicUsize>, mpsc::Sender<Reports>)>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let (reports, receiver) = mpsc::channel(8);
    let _ = out.send(reports.clone()).await;
    tokio::spawn(async move {
        let _running = Running(ended);
        let _ = reports.send(Ok(Event::default().data("waiting"))).await;
        // A query, a model, a build: minutes without a report.
        std::future::pending::<()>().await;
    });
    Sse::new(ReceiverStream::new(receiver))
}

async fn request(server: &Server) -> RawClient {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
        "name": "wait",
        "_meta": {
            "progressToken": 7,
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
        },
    }})
    .to_string();
    let length = format!("content-length: {}", body.len());
    let headers = [
        "content-type: application/json",
        "accept: application/json, text/event-stream",
        "mcp-protocol-version: 2026-07-28",
        "mcp-method: tools/call",
        "mcp-name: wait",
        &length,
    ];
    let mut client = RawClient::connect(server.addr).await;
    client.send_request("POST", "/mcp", &headers).await;
    tokio::io::AsyncWriteExt::write_all(&mut client.socket, body.as_bytes())
        .await
        .unwrap();
    client.read_until("waiting").await;
    client
}

#[tokio::test]
async fn the_tool_works_on_after_its_client_has_gone() {
    let ended = Arc::new(AtomicUsize::new(0));
    let (out, mut handed) = mpsc::channel(1);
    let app = Router::new()
        .route("/mcp", post(call))
        .with_state((ended.clone(), out));
    let server = Server::start(app).await;
    drop(request(&server).await);
    let reports = handed.recv().await.unwrap();
    within("the end of the response", reports.closed()).await;
    assert_eq!(ended.load(Ordering::SeqCst), 0, "the tool runs on");
}

#[tokio::test]
async fn the_pattern_ends_the_tool_with_the_response() {
    let ended = Arc::new(AtomicUsize::new(0));
    let runs = ended.clone();
    let run = move |_| {
        let running = Running(runs.clone());
        stream::iter([ToolEvent::Progress(1.0, "waiting".to_owned())])
            .chain(stream::pending())
            .inspect(move |_| {
                let _until_the_stream_is_dropped = &running;
            })
            .boxed()
    };
    let tool = Tool {
        name: "wait",
        description: "for the test",
        input_schema: json!({"type": "object"}),
        run: Box::new(run),
    };
    let server = mcp::Server {
        info: ("test", "1.0.0"),
        allowed_origins: Vec::new(),
        tools: vec![tool],
        streams: Streams::start(Config::default(), CancellationToken::new()),
    };
    let server = Server::start(mcp::router(server)).await;
    drop(request(&server).await);
    eventually("the end of the tool", || ended.load(Ordering::SeqCst) == 1).await;
}
