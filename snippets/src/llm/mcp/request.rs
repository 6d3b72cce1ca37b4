//! What an MCP request must be before anything is done for it.

// ANCHOR: request
use axum::Json;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// The revision that this server speaks, and the only one.
pub const PROTOCOL_VERSION: &str = "2026-07-28";

/// `HeaderMismatch`, MCP 2026-07-28, basic, section Error Codes.
const HEADER_MISMATCH: i32 = -32020;
/// `UnsupportedProtocolVersion`.
const UNSUPPORTED_VERSION: i32 = -32022;

/// A request whose headers say the same as its body.
#[derive(Debug)]
pub struct Request {
    id: Value,
    /// The JSON-RPC method.
    pub method: String,
    /// Its parameters; null when there are none.
    pub params: Value,
}

/// Why a request is refused.
#[derive(Debug, PartialEq)]
pub struct Rejection {
    /// The JSON-RPC error code.
    pub code: i32,
    /// The text of the error.
    pub message: String,
    body: Value,
}

impl Request {
    /// Reads a POST; `None` is a notification.
    ///
    /// # Errors
    /// A [`Rejection`], which answers with 400 as the transport asks (sections Request Metadata and
    /// Server Validation).
    pub fn read(headers: &HeaderMap, body: &[u8]) -> Result<Option<Self>, Rejection> {
        let invalid = |code, text| Rejection::new(Value::Null, code, text);
        let message = serde_json::from_slice(body).map_err(|_| invalid(-32700, "not JSON"))?;
        // A batch, or a response: since this revision clients may send neither.
        let Value::Object(mut message) = message else {
            return Err(invalid(-32600, "not a request"));
        };
        let Some(Value::String(method)) = message.remove("method") else {
            return Err(invalid(-32600, "not a request"));
        };
        let params = message.remove("params").unwrap_or_default();
        let id = match message.remove("id") {
            None => return Ok(None),
            Some(id @ (Value::String(_) | Value::Number(_))) => id,
            Some(_) => return Err(invalid(-32600, "the id is neither text nor number")),
        };
        // A gateway routes and limits by the headers, this server acts by the body: if they differ,
        // one of the two was deceived.
        let mismatch = |text: String| Rejection::new(id.clone(), HEADER_MISMATCH, &text);
        let expect = |name: &str, expected: Option<&str>| {
            let mut values = headers.get_all(name).iter();
            // Two values are two truths: the gateway may have read the other one.
            let value = values.next().filter(|_| values.next().is_none());
            let value = value.and_then(|value| decode(value.as_bytes(), name == "mcp-name"));
            if value.is_none() || value.as_deref() != expected {
                return Err(mismatch(format!("{name} does not say what the body says")));
            }
            Ok(())
        };
        let version = params["_meta"]["io.modelcontextprotocol/protocolVersion"].as_str();
        expect("mcp-protocol-version", version)?;
        if version != Some(PROTOCOL_VERSION) {
            let mut rejection = Rejection::new(id, UNSUPPORTED_VERSION, "unsupported version");
            let known = json!({"supported": [PROTOCOL_VERSION], "requested": version});
            rejection.body["error"]["data"] = known;
            return Err(rejection);
        }
        expect("mcp-method", Some(&method))?;
        match method.as_str() {
            "tools/call" | "prompts/get" => expect("mcp-name", params["name"].as_str())?,
            "resources/read" => expect("mcp-name", params["uri"].as_str())?,
            _ => {}
        }
        Ok(Some(Self { id, method, params }))
    }

    /// The JSON-RPC response with `result`.
    pub fn answer(&self, result: Value) -> Value {
        json!({"jsonrpc": "2.0", "id": self.id, "result": result})
    }

    /// The JSON-RPC response with an error.
    pub fn error(&self, code: i32, message: &str) -> Value {
        json!({"jsonrpc": "2.0", "id": self.id, "error": {"code": code, "message": message}})
    }
}

/// A header value; that of `Mcp-Name` may be `=?base64?…?=` (section Value Encoding).
fn decode(value: &[u8], encodable: bool) -> Option<String> {
    let text = str::from_utf8(value).ok()?;
    let encoded = text.strip_prefix("=?base64?");
    match encoded
        .and_then(|rest| rest.strip_suffix("?="))
        .filter(|_| encodable)
    {
        Some(encoded) => String::from_utf8(STANDARD.decode(encoded).ok()?).ok(),
        None => Some(text).filter(|text| text.is_ascii()).map(str::to_owned),
    }
}

impl Rejection {
    fn new(id: Value, code: i32, message: &str) -> Self {
        let mut body = json!({"jsonrpc": "2.0", "error": {"code": code, "message": message}});
        if !id.is_null() {
            body["id"] = id;
        }
        let message = message.to_owned();
        Self {
            code,
            message,
            body,
        }
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        (StatusCode::BAD_REQUEST, Json(self.body)).into_response()
    }
}
// ANCHOR_END: request
