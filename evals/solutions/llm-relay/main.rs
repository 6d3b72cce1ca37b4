//! The relay on the pattern `llm/relay`, with the event names of the task.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use futures::StreamExt;
use serde::Deserialize;
use serde_json::json;
use snippets::connections::per_user::PerUser;
use snippets::llm::chat::{ChatEvent, Conversation, Role, Turn};
use snippets::llm::model_event::FinishReason;
use snippets::llm::model_stream::model_events;
use snippets::llm::openai_chat::OpenAiChat;
use snippets::llm::relay::{Config, Relay};
use snippets::llm::upstream::{Dialect, Upstream};
use snippets::sse::event::{Event, InvalidEvent};
use snippets::sse::streams::{self, Produced, Streams};
use tokio_util::sync::CancellationToken;

#[derive(Deserialize)]
struct Chat {
    model: String,
    prompt: String,
}

async fn chat(
    State((relay, upstream)): State<(Arc<Relay>, Upstream)>,
    Json(chat): Json<Chat>,
) -> Response {
    let slot = match relay.streams.admit() {
        Ok(slot) => slot,
        Err(refused) => return refused.into_response(),
    };
    let mut relay = (*relay).clone();
    relay.model = upstream.with_model(&chat.model).model();
    let turn = Turn {
        role: Role::User,
        content: chat.prompt,
    };
    // A failure before the head is an event as well: the task knows no statuses for it.
    let conversation = Conversation {
        turns: vec![turn],
        ..Conversation::default()
    };
    match relay.answer("", conversation).await {
        Ok(events) => slot.respond(Produced::new(events.map(|event| message(&event)))),
        Err(error) => {
            let failed = [message(&ChatEvent::Failed(error))];
            slot.respond(Produced::new(futures::stream::iter(failed)))
        }
    }
}

fn message(event: &ChatEvent) -> Result<Event, InvalidEvent> {
    match event {
        ChatEvent::Delta(_, text) => Event::new("delta", &json!({ "text": text })),
        ChatEvent::Failed(error) => {
            Event::new("failed", &json!({ "code": error.code })).map(Event::last)
        }
        ChatEvent::Done(done) => {
            let reason = match &done.reason {
                FinishReason::Stop => "stop",
                FinishReason::ToolCalls => "tool_calls",
                FinishReason::MaxTokens => "length",
                FinishReason::ContentFilter => "content_filter",
                _ => "other",
            };
            let usage = json!({ "input": done.usage.input, "output": done.usage.output });
            let data = json!({ "finish_reason": reason, "usage": usage });
            Event::new("done", &data).map(Event::last)
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let env = |name: &str, or: &str| std::env::var(name).unwrap_or_else(|_| or.into());
    let base = env("OPENAI_BASE_URL", "http://127.0.0.1:4010/v1");
    let silence = Duration::from_secs(90);
    let upstream = Upstream::new(
        Dialect::OpenAiChat,
        base.trim_end_matches('/').trim_end_matches("/v1"),
        &env("OPENAI_API_KEY", ""),
        "",
        silence * 2,
        |body| model_events(body, OpenAiChat::default()).boxed(),
    )?;
    let config = streams::Config {
        heartbeat: Duration::from_millis(env("HEARTBEAT_MS", "15000").parse()?),
        ..streams::Config::default()
    };
    let relay = Relay {
        model: upstream.model(),
        streams: Streams::start(config, CancellationToken::new()),
        places: PerUser::new(1000).permits(),
        config: Config::default(),
        shutdown: CancellationToken::new(),
    };
    let app = Router::new()
        .route("/chat", post(chat))
        .with_state((Arc::new(relay), upstream));
    let listener =
        tokio::net::TcpListener::bind(format!("127.0.0.1:{}", env("PORT", "3000"))).await?;
    axum::serve(listener, app).await?;
    Ok(())
}
