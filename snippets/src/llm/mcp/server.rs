//! One endpoint.

use std::{
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{self, DefaultBodyLimit, FromRequest, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use futures::stream::BoxStream;
use serde_json::{Value, json};

use super::{PROTOCOL_VERSION, Request};
use crate::sse::{
    event::Event,
    streams::{Chunk, Own, Source, Streams},
};

/// JSON-RPC 2.0, section 5.1.
const INTERNAL_ERROR: i32 = -32603;

/// Bytes of one request.
pub const MAX_REQUEST_BYTES: usize = 1024 * 1024;

// ANCHOR: tool
/// A tool: its definition for `tools/list`, and what it does.
pub struct Tool {
    /// A unique name.
    pub name: &'static str,
    /// What the model reads to choose it.
    pub description: &'static str,
    /// JSON Schema of the arguments.
    pub input_schema: Value,
    /// Takes the arguments, which nothing has checked. The tool runs while its stream is polled and stops when the
    /// stream is dropped, so a client that disconnects cancels it. Run work that must finish in its own task.
    pub run: Box<dyn Fn(Value) -> BoxStream<'static, ToolEvent> + Send + Sync>,
}

/// What a tool reports. The stream may end after [`ToolEvent::Result`]; nothing after it is sent.
#[derive(Debug, Clone, PartialEq)]
pub enum ToolEvent {
    /// Progress in a unit of the tool; it must grow.
    Progress(f64, String),
    /// The result, as text for the model. `Err`: the tool failed, and the model may try another way.
    Result(Result<String, String>),
}

/// A server: its tools, and the web pages that may call them.
pub struct Server {
    /// Name and version, for display.
    pub info: (&'static str, &'static str),
    /// Origins whose pages may call. Programs send no `Origin`; browsers always do.
    pub allowed_origins: Vec<String>,
    /// The tools.
    pub tools: Vec<Tool>,
    /// Limits the calls that run at a time; a shutdown or the maximum age answers a call with an error.
    pub streams: Streams,
}
// ANCHOR_END: tool

/// `POST /mcp`, and OPTIONS for the pages of allowed origins. Other methods get 405: there is no stream to open with GET, no session to DELETE.
pub fn router(server: Server) -> Router {
    Router::new()
        .route("/mcp", post(handle).options(preflight))
        .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
        .with_state(Arc::new(server))
}

// ANCHOR: handle
async fn handle(State(server): State<Arc<Server>>, request: extract::Request) -> Response {
    // Checked first, before the body is read: a page that reached this port by DNS rebinding has another origin.
    let headers = request.headers().clone();
    let page = match server.allows(&headers) {
        Err(refused) => return refused.into_response(),
        Ok(page) => page.map(cors),
    };
    match Bytes::from_request(request, &()).await {
        Err(refused) => (page, refused).into_response(),
        Ok(body) => (page, answer(&server, &headers, &body)).into_response(),
    }
}
// ANCHOR_END: handle

/// A page of an allowed origin asks first (Fetch, section CORS-preflight fetch): without this, its browser sends no POST.
async fn preflight(State(server): State<Arc<Server>>, headers: HeaderMap) -> Response {
    match server.allows(&headers) {
        Err(refused) => refused.into_response(),
        Ok(None) => (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "POST")]).into_response(),
        Ok(Some(page)) => {
            let allowed = [
                (header::ACCESS_CONTROL_ALLOW_METHODS, "POST"),
                (header::ACCESS_CONTROL_ALLOW_HEADERS, CORS_HEADERS),
                (header::ACCESS_CONTROL_MAX_AGE, "600"), // seconds
            ];
            (StatusCode::NO_CONTENT, cors(page), allowed).into_response()
        }
    }
}

/// The headers that a page sends.
const CORS_HEADERS: &str =
    "accept, authorization, content-type, mcp-method, mcp-name, mcp-protocol-version";

fn cors(page: HeaderValue) -> [(HeaderName, HeaderValue); 2] {
    [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, page),
        (header::VARY, HeaderValue::from_static("origin")), // a cache must not give it to another page
    ]
}

impl Server {
    /// The origin of a page that may call; `None` for a program.
    fn allows(&self, headers: &HeaderMap) -> Result<Option<HeaderValue>, StatusCode> {
        let Some(origin) = headers.get(header::ORIGIN) else {
            return Ok(None);
        };
        let mut allowed = self.allowed_origins.iter();
        match allowed.any(|allowed| allowed.as_bytes() == origin.as_bytes()) {
            true => Ok(Some(origin.clone())),
            false => Err(StatusCode::FORBIDDEN),
        }
    }
}

fn answer(server: &Server, headers: &HeaderMap, body: &[u8]) -> Response {
    let request = match Request::read(headers, body) {
        Ok(Some(request)) => request,
        // A notification: accepted, and never answered.
        Ok(None) => return StatusCode::ACCEPTED.into_response(),
        Err(rejection) => return rejection.into_response(),
    };
    let complete = |mut result: Value| {
        result["resultType"] = json!("complete");
        let (name, version) = server.info;
        result["_meta"] =
            json!({"io.modelcontextprotocol/serverInfo": {"name": name, "version": version}});
        result
    };
    // Both lists are the same for everyone until the next deployment.
    let cached = |mut result: Value| {
        result["ttlMs"] = json!(60_000);
        result["cacheScope"] = json!("public");
        request.answer(complete(result))
    };
    match request.method.as_str() {
        "server/discover" => Json(cached(json!({
            "supportedVersions": [PROTOCOL_VERSION], "capabilities": {"tools": {}},
        })))
        .into_response(),
        "tools/list" => {
            let tools = server.tools.iter().map(|tool| {
                json!({"name": tool.name, "description": tool.description, "inputSchema": tool.input_schema})
            });
            Json(cached(json!({"tools": tools.collect::<Vec<_>>()}))).into_response()
        }
        "tools/call" => {
            let name = request.params["name"].as_str().unwrap_or_default();
            let Some(tool) = server.tools.iter().find(|tool| tool.name == name) else {
                return Json(request.error(-32602, "unknown tool")).into_response();
            };
            let slot = match server.streams.admit() {
                Ok(slot) => slot,
                Err(refused) => return refused.into_response(),
            };
            let arguments = request.params["arguments"].clone();
            let events = (tool.run)(if arguments.is_null() {
                json!({})
            } else {
                arguments
            });
            let end = complete(json!({}));
            slot.respond(Call {
                request,
                events,
                end,
            })
        }
        // With a JSON-RPC error, so that it is not taken for a server without this endpoint.
        _ => {
            let body = request.error(-32601, "method not found");
            (StatusCode::NOT_FOUND, Json(body)).into_response()
        }
    }
}

/// The response to one request: progress if it was asked for, then the result, then the end. No event has an id: streams
/// cannot be resumed, a client that lost one asks again.
struct Call {
    request: Request,
    events: BoxStream<'static, ToolEvent>,
    end: Value,
}

impl Source for Call {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Chunk>> {
        let token = &self.request.params["_meta"]["progressToken"];
        let finished = loop {
            match ready!(self.events.as_mut().poll_next(cx)) {
                // No progress token: progress must not be sent.
                Some(ToolEvent::Progress(..)) if token.is_null() => {}
                Some(ToolEvent::Progress(progress, message)) => {
                    let params =
                        json!({"progress": progress, "message": message, "progressToken": token});
                    let message = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params});
                    return Poll::Ready(Some(Chunk::from(&Event::message(&message.to_string()))));
                }
                finished => break finished,
            }
        };
        let result = match finished {
            Some(ToolEvent::Result(result)) => result,
            _ => Err("the tool ended without a result".to_owned()),
        };
        let mut end = self.end.take();
        end["isError"] = json!(result.is_err());
        let text = result.unwrap_or_else(|error| error);
        end["content"] = json!([{"type": "text", "text": text}]);
        Poll::Ready(Some(last(&self.request.answer(end))))
    }

    // ANCHOR: call
    fn own(&mut self, what: Own) -> Option<Chunk> {
        Some(match what {
            Own::Prelude | Own::Heartbeat => Chunk::COMMENT,
            // The client waits for a response to its id: without one it waits for its own timeout.
            Own::Shutdown | Own::MaxAge => last(
                &self
                    .request
                    .error(INTERNAL_ERROR, "the server ended the call"),
            ),
        })
    }
    // ANCHOR_END: call
}

fn last(message: &Value) -> Chunk {
    Chunk::from(&Event::message(&message.to_string()).last())
}
