//! A relay in front of the scripted model, and a client that posts to it.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Router, http::StatusCode};
use futures::StreamExt;
use serde_json::json;
use snippets::connections::per_user::PerUser;
use snippets::llm::anthropic::Anthropic;
use snippets::llm::gemini::Gemini;
use snippets::llm::model_stream::model_events;
use snippets::llm::openai_chat::OpenAiChat;
use snippets::llm::openai_responses::OpenAiResponses;
use snippets::llm::public_error::UserId;
use snippets::llm::relay::{Config, Relay};
use snippets::llm::scripted_model::{Script, ScriptedModel};
use snippets::llm::upstream::{Decode, Dialect, InvalidUpstream, Upstream};
use snippets::sse::streams::{self, Streams};
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

use super::{RawClient, Server};
use testkit::raw::End;

/// The key that the relay holds and nobody else may see.
pub const KEY: &str = "sk-test-4f8a";

/// Stands in for authentication: the user is what `x-user` says, `alice` without it.
pub async fn as_user(mut request: Request, next: Next) -> Response {
    let user = match request.headers().get("x-user").map(|user| user.to_str()) {
        None => "alice".to_owned(),
        Some(Ok("")) | Some(Err(_)) => return StatusCode::UNAUTHORIZED.into_response(),
        Some(Ok(user)) => user.to_owned(),
    };
    request.extensions_mut().insert(UserId(user));
    next.run(request).await
}

/// Limits with which a test need not wait and is never cut by a slow machine.
pub fn patient() -> Config {
    Config {
        head: Duration::from_secs(15),
        silence: Duration::from_secs(60),
        window: Duration::ZERO,
        ..Config::default()
    }
}

/// An upstream with the decoder of its dialect.
pub fn upstream(
    dialect: Dialect,
    base: &str,
    key: &str,
    model: &str,
    silence: Duration,
) -> Result<Upstream, InvalidUpstream> {
    let decode: Decode = match dialect {
        Dialect::OpenAiChat => |body| model_events(body, OpenAiChat::default()).boxed(),
        Dialect::Anthropic => |body| model_events(body, Anthropic::default()).boxed(),
        Dialect::OpenAiResponses => |body| model_events(body, OpenAiResponses::default()).boxed(),
        Dialect::Gemini => |body| model_events(body, Gemini::default()).boxed(),
    };
    Upstream::new(dialect, base, key, model, silence, decode)
}

/// A relay to `url` with a heartbeat of 50 ms and two answers for each user.
pub fn relay(url: &str, config: Config) -> Relay {
    relay_with(url, config, &PerUser::new(2))
}

/// The same with these permits.
pub fn relay_with(url: &str, config: Config, places: &PerUser) -> Relay {
    let streams = streams::Config {
        heartbeat: Duration::from_millis(50),
        ..streams::Config::default()
    };
    let silence = config.silence * 2;
    let upstream = upstream(Dialect::OpenAiChat, url, KEY, "scripted", silence);
    Relay {
        model: upstream.unwrap().model(),
        streams: Streams::start(streams, CancellationToken::new()),
        places: places.permits(),
        config,
        shutdown: CancellationToken::new(),
    }
}

/// The scripted model on a port of its own, and a relay in front of it.
pub struct Chat {
    pub model: ScriptedModel,
    pub upstream: Server,
    pub places: PerUser,
    pub relay: Arc<Relay>,
    pub server: Server,
}

impl Chat {
    pub async fn start(script: Script, config: Config) -> Self {
        let model = ScriptedModel::new(script);
        let upstream = Server::start(model.router()).await;
        let places = PerUser::new(2);
        let relay = Arc::new(relay_with(&upstream.url(""), config, &places));
        let server = Server::start(app(relay.clone())).await;
        Self {
            model,
            upstream,
            places,
            relay,
            server,
        }
    }

    pub async fn ask(&self) -> RawClient {
        ask(self.server.addr).await
    }
}

/// Asks the relay at `addr`.
pub async fn ask(addr: std::net::SocketAddr) -> RawClient {
    // A status has a length and would leave the connection open.
    post(addr, "/chat", &question(), &["connection: close"]).await
}

pub fn app(relay: Arc<Relay>) -> Router {
    snippets::llm::relay::app(relay).layer(middleware::from_fn(as_user))
}

pub fn question() -> String {
    json!({ "messages": [{ "role": "user", "content": "What ends a stream?" }] }).to_string()
}

/// Sends a POST with a JSON body.
pub async fn post(
    addr: std::net::SocketAddr,
    path: &str,
    body: &str,
    headers: &[&str],
) -> RawClient {
    let mut client = RawClient::connect(addr).await;
    let length = format!("content-length: {}", body.len());
    let mut all = vec!["content-type: application/json", length.as_str()];
    all.extend(headers);
    client.send_request("POST", path, &all).await;
    client.socket.write_all(body.as_bytes()).await.unwrap();
    client
}

/// Reads to the end and insists that it is one: the last chunk, or for a status with a length, the close after it.
pub async fn finish(client: &mut RawClient) {
    let end = client.read_to_end().await;
    if end == End::Fin && client.head().contains("content-length: ") {
        client.end = End::Complete;
    }
    assert_eq!(client.end, End::Complete);
}

/// The events of an SSE body without heartbeats and the prelude: name and data.
pub fn events(body: &str) -> Vec<(String, String)> {
    body.split("\n\n")
        .filter_map(|block| {
            let field = |name: &str| {
                block
                    .lines()
                    .find_map(|line| line.strip_prefix(name))
                    .map(str::to_owned)
            };
            Some((field("event: ")?, field("data: ")?))
        })
        .filter(|(name, _)| name != "ping")
        .collect()
}
