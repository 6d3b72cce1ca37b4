//! MCP over Streamable HTTP, 2026-07-28: the wire, the refusals, cancellation, the real client.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use snippets::llm::mcp::{self, Tool, ToolEvent};
use snippets::sse::streams::{Config, Streams};
use tokio_util::sync::CancellationToken;

use crate::llm_vendor_sdks::{node, run};
use crate::support::{RawClient, Server, Transcript, eventually, within};

/// Counts when it is dropped.
struct Ended(Arc<AtomicUsize>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn count(arguments: Value) -> BoxStream<'static, ToolEvent> {
    let to = arguments["to"].as_u64().unwrap_or(0);
    let steps = (1..=to).map(|n| ToolEvent::Progress(n as f64, format!("counted {n}")));
    let end = ToolEvent::Result(Ok(format!("counted to {to}")));
    stream::iter(steps.chain([end]).collect::<Vec<_>>()).boxed()
}

/// One report, then silence for ever.
fn wait(guard: Ended) -> BoxStream<'static, ToolEvent> {
    stream::iter([ToolEvent::Progress(1.0, "waiting".to_owned())])
        .chain(stream::pending())
        .inspect(move |_| {
            let _held_until_the_stream_is_dropped = &guard;
        })
        .boxed()
}

fn fail(_arguments: Value) -> BoxStream<'static, ToolEvent> {
    stream::iter([ToolEvent::Result(Err("no weather today".to_owned()))]).boxed()
}

/// The server, and how many runs of `wait` have ended.
async fn start_counting() -> (Server, Arc<AtomicUsize>) {
    start_with(Config::default(), CancellationToken::new()).await
}

async fn start_with(config: Config, shutdown: CancellationToken) -> (Server, Arc<AtomicUsize>) {
    type Run = Box<dyn Fn(Value) -> BoxStream<'static, ToolEvent> + Send + Sync>;
    let tool = |name, run: Run| Tool {
        name,
        description: "for the test",
        input_schema: json!({"type": "object"}),
        run,
    };
    let ended = Arc::new(AtomicUsize::new(0));
    let waits = Arc::clone(&ended);
    let server = mcp::Server {
        info: ("test", "1.0.0"),
        allowed_origins: vec!["https://app.example".to_owned()],
        tools: vec![
            tool("count", Box::new(count)),
            tool("zähle", Box::new(count)),
            tool("wait", Box::new(move |_| wait(Ended(Arc::clone(&waits))))),
            tool("fail", Box::new(fail)),
        ],
        streams: Streams::start(config, shutdown),
    };
    (Server::start(mcp::router(server)).await, ended)
}

async fn start() -> Server {
    start_counting().await.0
}

fn body(method: &str, params: Value) -> Value {
    let mut params = params;
    params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("2026-07-28");
    params["_meta"]["io.modelcontextprotocol/clientInfo"] = json!({"name": "test", "version": "1"});
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({});
    json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
}

async fn post(server: &Server, headers: &[(&str, &str)], body: &Value) -> (u16, Value) {
    let mut request = reqwest::Client::new().post(server.url("/mcp")).json(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = within("the response", request.send()).await.unwrap();
    let status = response.status().as_u16();
    let bytes: Bytes = within("the body", response.bytes()).await.unwrap();
    (
        status,
        serde_json::from_slice(&bytes).unwrap_or(Value::Null),
    )
}

const VERSION: (&str, &str) = ("mcp-protocol-version", "2026-07-28");

/// Sends `message` over a raw connection, whose bytes the test can see.
async fn send(server: &Server, name: &str, message: &Value) -> RawClient {
    let body = message.to_string();
    let mut client = RawClient::connect(server.addr).await;
    let (length, name) = (
        format!("content-length: {}", body.len()),
        format!("mcp-name: {name}"),
    );
    let headers = [
        "content-type: application/json",
        "accept: application/json, text/event-stream",
        "mcp-protocol-version: 2026-07-28",
        "mcp-method: tools/call",
        &name,
        &length,
    ];
    client.send_request("POST", "/mcp", &headers).await;
    tokio::io::AsyncWriteExt::write_all(&mut client.socket, body.as_bytes())
        .await
        .unwrap();
    client
}

#[tokio::test]
async fn a_call_streams_its_progress_and_ends_with_its_result() {
    let server = start().await;
    let params = json!({"name": "count", "arguments": {"to": 2}, "_meta": {"progressToken": "p1"}});
    let message = body("tools/call", params);
    let mut client = send(&server, "count", &message).await;
    client.read_to_end().await;
    let mut transcript = Transcript::new();
    let request = "POST /mcp\naccept: application/json, text/event-stream\nmcp-protocol-version: 2026-07-28\n\
        mcp-method: tools/call\nmcp-name: count";
    transcript
        .request(&format!("{request}\n\n{message}"))
        .response(&client);
    insta::assert_snapshot!(transcript.finish());

    // Without a token nobody asked for progress.
    let message = body(
        "tools/call",
        json!({"name": "count", "arguments": {"to": 2}}),
    );
    let mut client = send(&server, "count", &message).await;
    client.read_to_end().await;
    let data = client
        .body()
        .lines()
        .filter(|line| line.starts_with("data:"))
        .count();
    assert_eq!(data, 1, "{}", client.body());
    assert!(!client.body().contains("id:"), "{}", client.body());
}

#[tokio::test]
async fn closing_the_response_cancels_a_silent_tool() {
    let (server, ended) = start_counting().await;
    let params = json!({"name": "wait", "_meta": {"progressToken": 7}});
    let mut client = send(&server, "wait", &body("tools/call", params)).await;
    client.read_until("waiting").await;
    assert_eq!(ended.load(Ordering::SeqCst), 0);
    drop(client);
    eventually("the end of the tool", || ended.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn a_shutdown_answers_every_call_that_runs() {
    let config = Config {
        heartbeat: std::time::Duration::from_millis(5),
        drain_spread: std::time::Duration::ZERO,
        max_streams: 1,
        ..Config::default()
    };
    let shutdown = CancellationToken::new();
    let (server, ended) = start_with(config, shutdown.clone()).await;
    let params = json!({"name": "wait", "_meta": {"progressToken": 7}});
    let mut client = send(&server, "wait", &body("tools/call", params.clone())).await;
    // A heartbeat is a comment.
    client.read_until("waiting").await;
    within("a heartbeat", async {
        while client.body().matches(":\n\n").count() < 2 {
            assert!(client.read_some().await);
        }
    })
    .await;
    let headers = [VERSION, ("mcp-method", "tools/call"), ("mcp-name", "wait")];
    let (status, _) = post(&server, &headers, &body("tools/call", params)).await;
    assert_eq!(status, 503, "no permit is left");
    shutdown.cancel();
    client.read_to_end().await;
    let last = client.body();
    let last = last.trim_end().rsplit("data: ").next().unwrap();
    let last: Value = serde_json::from_str(last).unwrap();
    assert_eq!(
        (&last["id"], &last["error"]["code"]),
        (&json!(1), &json!(-32603))
    );
    assert_eq!(ended.load(Ordering::SeqCst), 1, "the tool has stopped");
    assert!(!client.body().contains("event:"), "{}", client.body());
}

#[tokio::test]
async fn a_foreign_origin_is_refused_before_the_body_is_read() {
    let server = start().await;
    for (origin, expected) in [
        ("https://evil.example", 403),
        ("null", 403),
        ("https://app.example", 200),
    ] {
        let headers = [VERSION, ("mcp-method", "tools/list"), ("origin", origin)];
        assert_eq!(
            post(&server, &headers, &body("tools/list", json!({})))
                .await
                .0,
            expected,
            "{origin}"
        );
    }
    // The body never comes.
    let mut client = RawClient::connect(server.addr).await;
    let headers = ["origin: https://evil.example", "content-length: 9"];
    client.send_request("POST", "/mcp", &headers).await;
    client.read_head().await;
    assert_eq!(client.status(), 403);
}

#[tokio::test]
async fn a_page_of_an_allowed_origin_can_call_and_no_other() {
    let server = start().await;
    let client = reqwest::Client::new();
    let preflight = async |origin: Option<&str>| {
        let mut request = client
            .request(reqwest::Method::OPTIONS, server.url("/mcp"))
            .header("access-control-request-method", "POST")
            .header(
                "access-control-request-headers",
                "content-type,mcp-method,mcp-name,mcp-protocol-version",
            );
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        request.send().await.unwrap()
    };
    let allowed = preflight(Some("https://app.example")).await;
    assert_eq!(allowed.status(), 204);
    let header = |response: &reqwest::Response, name: &str| {
        response
            .headers()
            .get(name)
            .map(|value| value.to_str().unwrap().to_owned())
    };
    assert_eq!(
        header(&allowed, "access-control-allow-origin").as_deref(),
        Some("https://app.example")
    );
    assert_eq!(header(&allowed, "vary").as_deref(), Some("origin"));
    let names = header(&allowed, "access-control-allow-headers").unwrap();
    for name in [
        "content-type",
        "mcp-method",
        "mcp-name",
        "mcp-protocol-version",
    ] {
        assert!(names.contains(name), "{names}");
    }
    let foreign = preflight(Some("https://evil.example")).await;
    assert_eq!(
        (
            foreign.status().as_u16(),
            header(&foreign, "access-control-allow-origin")
        ),
        (403, None)
    );
    assert_eq!(preflight(None).await.status(), 405);
    // The response to the call itself is readable too, also a refusal.
    for (method, status) in [("tools/list", 200), ("no/method", 404)] {
        let request = client
            .post(server.url("/mcp"))
            .header("origin", "https://app.example")
            .header(VERSION.0, VERSION.1)
            .header("mcp-method", method)
            .json(&body(method, json!({})));
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status);
        assert!(header(&response, "access-control-allow-origin").is_some());
    }
}

#[tokio::test]
async fn only_post_and_neither_sessions_nor_resumption() {
    let server = start().await;
    let client = reqwest::Client::new();
    for method in [reqwest::Method::GET, reqwest::Method::DELETE] {
        let request = client
            .request(method, server.url("/mcp"))
            .header("accept", "text/event-stream");
        assert_eq!(request.send().await.unwrap().status(), 405);
    }
    // What an older client sends besides is ignored, and no session comes back.
    let request = client
        .post(server.url("/mcp"))
        .header(VERSION.0, VERSION.1)
        .header("mcp-method", "tools/list")
        .header("mcp-session-id", "abc")
        .header("last-event-id", "7")
        .json(&body("tools/list", json!({})));
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers().get("mcp-session-id"), None);
    // A notification is accepted without a body.
    let notification = json!({"jsonrpc": "2.0", "method": "notifications/cancelled"});
    assert_eq!(
        post(&server, &[VERSION], &notification).await,
        (202, Value::Null)
    );
}

#[tokio::test]
async fn headers_must_say_what_the_body_says() {
    let server = start().await;
    let call = body("tools/call", json!({"name": "fail"}));
    let method = ("mcp-method", "tools/call");
    let name = ("mcp-name", "fail");
    let refused: &[&[(&str, &str)]] = &[
        &[method, name],
        &[VERSION, name],
        &[VERSION, method],
        &[VERSION, ("mcp-method", "tools/list"), name],
        &[VERSION, method, ("mcp-name", "count")],
        // The gateway may read one and the server the other.
        &[VERSION, method, name, ("mcp-name", "count")],
        &[VERSION, ("mcp-method", "=?base64?dG9vbHMvY2FsbA==?="), name],
        &[("mcp-protocol-version", "2025-11-25"), method, name],
    ];
    for headers in refused {
        let (status, answer) = post(&server, headers, &call).await;
        assert_eq!(
            (status, &answer["error"]["code"]),
            (400, &json!(-32020)),
            "{headers:?}: {answer}"
        );
        assert_eq!(answer["id"], 1);
    }
    assert_eq!(post(&server, &[VERSION, method, name], &call).await.0, 200);
    let encoded = ("mcp-name", "=?base64?ZmFpbA==?=");
    assert_eq!(
        post(&server, &[VERSION, method, encoded], &call).await.0,
        200
    );
}

#[tokio::test]
async fn refusals_say_what_a_client_needs_to_go_on() {
    let server = start().await;
    let mut older = body("tools/list", json!({}));
    older["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("2025-11-25");
    let headers = [
        ("mcp-protocol-version", "2025-11-25"),
        ("mcp-method", "tools/list"),
    ];
    let (status, answer) = post(&server, &headers, &older).await;
    assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32022)));
    assert_eq!(answer["error"]["data"]["supported"], json!(["2026-07-28"]));

    let headers = [VERSION, ("mcp-method", "resources/list")];
    let (status, answer) = post(&server, &headers, &body("resources/list", json!({}))).await;
    assert_eq!((status, &answer["error"]["code"]), (404, &json!(-32601)));

    // Batches went with an earlier revision, responses from the client with this one.
    for not_a_request in [
        json!([]),
        json!("text"),
        json!({"id": {}, "method": "tools/list"}),
        json!({"id": 1, "result": {}}),
    ] {
        let (status, answer) = post(&server, &[VERSION], &not_a_request).await;
        assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32600)));
    }
    let huge = json!("x".repeat(mcp::MAX_REQUEST_BYTES));
    assert_eq!(post(&server, &[VERSION], &huge).await.0, 413);
}

#[tokio::test]
#[ignore = "needs Node: run ./check"]
async fn the_typescript_client_lists_calls_and_cancels() {
    let (server, ended) = start_counting().await;
    let found = run(&node(), "mcp.mjs", &[&server.url("/mcp")])
        .await
        .remove(0);
    assert_eq!(
        found["server"],
        json!({"name": "test", "version": "1.0.0"}),
        "{found}"
    );
    assert_eq!(found["tools"], json!(["count", "zähle", "wait", "fail"]));
    assert_eq!(
        found["counted"]["content"],
        json!([{"type": "text", "text": "counted to 3"}])
    );
    assert_eq!(
        found["progress"],
        json!([[1, "counted 1"], [2, "counted 2"], [3, "counted 3"]])
    );
    assert_eq!(found["failed"]["isError"], true);
    assert_eq!(found["unknown"], -32602);
    assert_ne!(found["stopped"], "no");
    eventually("the end of the tool", || ended.load(Ordering::SeqCst) == 1).await;
    // It begins with `initialize` unless it is told to negotiate, and finds no server of that era here.
    assert_ne!(found["byDefault"], "connected");
    assert_eq!(found["auto"], 4);
}
