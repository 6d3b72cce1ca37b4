//! LLM: a chat through the relay (`llm/relay`), one that survives its connection (`llm/resume`) and an agent that asks before it
//! acts (`llm/use_chat`), in front of the scripted model with all its faults or of a real provider whose key is in the
//! environment.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::routing::get;
use axum::{Extension, Json, Router};
use futures::{FutureExt, StreamExt};
use serde_json::{Value, json};
use snippets::connections::per_user::PerUser;
use snippets::llm::agent::{Agent, Tool};
use snippets::llm::agent_turn::Format;
use snippets::llm::anthropic::Anthropic;
use snippets::llm::gemini::Gemini;
use snippets::llm::model_stream::model_events;
use snippets::llm::openai_chat::OpenAiChat;
use snippets::llm::openai_responses::OpenAiResponses;
use snippets::llm::public_error::UserId;
use snippets::llm::relay::{self, Config, Relay};
use snippets::llm::resume::{self, Generations, Limits};
use snippets::llm::scripted_model::{Reply, Script, ScriptedModel};
use snippets::llm::upstream::{Decode, Dialect, Upstream};
use snippets::llm::use_chat::{self, UseChat};
use snippets::llm::use_chat_history::Chats;
use snippets::sse::streams::{self, Streams};
use tokio_util::sync::CancellationToken;

const ANSWER: &str = "A stream ends twice: once in the protocol and once in the bytes. The bytes may \
    end for any reason — a proxy, a deploy, a laptop lid — so only the terminal event makes an answer \
    whole. „Fertig“ is said by the model, 完了 is not guessed by the client, and a cut in the middle of \
    👩🏽‍🚀 is a failure that you can see.";

/// Above the silence of any healthy script, so that the faults `stall` and `hold-head` are soon seen.
const SILENCE: Duration = Duration::from_secs(8);

/// Of the agent: longer than anyone watches a model that hangs.
const PATIENCE: Duration = Duration::from_secs(300);

/// `POST /<script>/chat` for each script of the scripted model, `POST /provider/chat` with a key;
/// `POST /resumable/generations` and what belongs to it; `/agent/<what hangs>/chat` of `llm/use_chat`; `GET /exchanges`.
pub fn router(shutdown: CancellationToken) -> Router {
    let pace = Duration::from_millis(45);
    let model = ScriptedModel::new(Script {
        pace,
        ..Script::reply(Reply::text(ANSWER))
    });
    let streams = streams::Config {
        max_streams: 100,
        heartbeat: Duration::from_secs(2),
        ..streams::Config::default()
    };
    let relay = |upstream: Upstream, silence| Relay {
        model: upstream.model(),
        streams: Streams::start(streams.clone(), CancellationToken::new()),
        places: PerUser::new(20).permits(),
        config: Config {
            silence,
            ..Config::default()
        },
        shutdown: shutdown.clone(),
    };
    let mut router = Router::new()
        .route("/exchanges", get(exchanges))
        .with_state(model.clone());
    match scripted(&model, shutdown.clone()) {
        Ok((scripted, patient)) => {
            for name in Script::NAMES {
                let chosen = relay(scripted.with_model(&format!("scripted/{name}")), SILENCE);
                router = router.nest(&format!("/{name}"), relay::app(Arc::new(chosen)));
            }
            let limits = || Limits {
                most: 50,
                per_user: 50,
                keep: Duration::from_secs(120),
                abandon: Duration::from_secs(30),
                ..Limits::default()
            };
            let resumable = Arc::new(relay(scripted.with_model("scripted/plain"), SILENCE));
            let (streams, places) = (resumable.streams.clone(), resumable.places.clone());
            let all = Generations::new(streams, places, limits(), shutdown.clone());
            let answer = move |user, question| resumable.events(user, question);
            router = router.nest("/resumable", resume::app(all, answer));
            for (hangs, script) in [("nothing", "agent"), ("model", "stall"), ("tool", "agent")] {
                let relay = relay(patient.with_model(&format!("scripted/{script}")), PATIENCE);
                let agent = agent(Arc::new(relay), limits(), hangs == "tool", &shutdown);
                router = router.nest(&format!("/agent/{hangs}"), agent);
            }
        }
        Err(error) => tracing::error!(%error, "the scripted model is not available"),
    }
    if let Some(provider) = provider() {
        let relay = Arc::new(relay(provider, Config::default().silence));
        router = router.nest("/provider", relay::app(relay));
    }
    router
        // The book has one reader; in a service this is what authentication found.
        .layer(Extension(UserId("reader".to_owned())))
}

/// A tool that runs at once, or never ends, and one that needs the reader's approval.
fn agent(relay: Arc<Relay>, limits: Limits, hangs: bool, shutdown: &CancellationToken) -> Router {
    let weather = Tool {
        name: "get_weather",
        description: "The weather of a city",
        schema: json!({ "type": "object", "properties": { "city": { "type": "string" } } }),
        approval: |_| false,
        longest: PATIENCE,
        run: Arc::new(move |_, input| {
            let result = async move { Ok(json!({ "city": input["city"], "degrees": 21 })) };
            match hangs {
                true => std::future::pending().boxed(),
                false => result.boxed(),
            }
        }),
    };
    let time = Tool {
        name: "get_time",
        description: "The time",
        schema: json!({ "type": "object" }),
        approval: |_| true,
        run: Arc::new(|_, _| async { Ok(json!("12:00")) }.boxed()),
        ..weather.clone()
    };
    let agent = Agent {
        ask: relay.calls(),
        format: Format {
            dialect: Dialect::OpenAiChat,
            reasoning: None,
        },
        tools: vec![weather, time],
        most_steps: 4,
        parallel: 2,
        most_result_bytes: 1000,
        longest: 2 * PATIENCE,
    };
    let (streams, places) = (relay.streams.clone(), relay.places.clone());
    use_chat::app(Arc::new(UseChat {
        agent: Arc::new(agent),
        generations: Generations::new(streams, places, limits, shutdown.clone()),
        chats: Chats::new(100, 100),
        stopped: "interrupted",
    }))
}

/// Serves the scripted model on a loopback port of its own: the relay talks to it as to any provider. Soon tired of silence, and
/// patient.
fn scripted(
    model: &ScriptedModel,
    shutdown: CancellationToken,
) -> io::Result<(Upstream, Upstream)> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    listener.set_nonblocking(true)?;
    let base = format!("http://{}", listener.local_addr()?);
    let serve = axum::serve(tokio::net::TcpListener::from_std(listener)?, model.router());
    tokio::spawn(async move { shutdown.run_until_cancelled(serve.into_future()).await });
    let upstream = |silence: Duration| {
        let (dialect, name) = (Dialect::OpenAiChat, "scripted");
        let upstream = Upstream::new(dialect, &base, name, name, silence * 2, decode(dialect));
        upstream.map_err(io::Error::other)
    };
    Ok((upstream(SILENCE)?, upstream(PATIENCE)?))
}

fn decode(dialect: Dialect) -> Decode {
    match dialect {
        Dialect::OpenAiChat => |body| model_events(body, OpenAiChat::default()).boxed(),
        Dialect::Anthropic => |body| model_events(body, Anthropic::default()).boxed(),
        Dialect::OpenAiResponses => |body| model_events(body, OpenAiResponses::default()).boxed(),
        Dialect::Gemini => |body| model_events(body, Gemini::default()).boxed(),
    }
}

/// The real provider, where its key is set (and the program was built with the feature `tls`). `OPENAI_BASE_URL`, `OPENAI_MODEL` and `ANTHROPIC_MODEL` choose further.
fn provider() -> Option<Upstream> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let or = |name: &str, default: &str| variable(name).unwrap_or_else(|| default.to_owned());
    let (dialect, base, key, model) = if let Some(key) = variable("OPENAI_API_KEY") {
        let base = or("OPENAI_BASE_URL", "https://api.openai.com");
        let base = base
            .trim_end_matches('/')
            .trim_end_matches("/v1")
            .to_owned();
        (
            Dialect::OpenAiChat,
            base,
            key,
            or("OPENAI_MODEL", "gpt-5-mini"),
        )
    } else {
        let key = variable("ANTHROPIC_API_KEY")?;
        let base = "https://api.anthropic.com".to_owned();
        (
            Dialect::Anthropic,
            base,
            key,
            or("ANTHROPIC_MODEL", "claude-haiku-4-5"),
        )
    };
    if base.starts_with("https:") && !cfg!(feature = "tls") {
        tracing::warn!("a provider's key is set: `cargo run --features tls` to use it");
        return None;
    }
    let silence = Config::default().silence * 2;
    match Upstream::new(dialect, &base, &key, &model, silence, decode(dialect)) {
        Ok(upstream) => Some(upstream),
        Err(error) => {
            tracing::error!(%error, "the provider is not available");
            None
        }
    }
}

/// What the provider saw of the last requests: how many tokens it sent, and how each one ended.
async fn exchanges(State(model): State<ScriptedModel>) -> Json<Value> {
    let exchanges = model.exchanges();
    let last = exchanges.iter().rev().take(5).map(|exchange| {
        json!({
            "id": exchange.id,
            "model": exchange.request["model"],
            "tokens": exchange.tokens,
            "end": exchange.end.map(|end| format!("{end:?}")),
            "ms": exchange.lasted.map(|lasted| lasted.as_millis() as u64),
        })
    });
    Json(last.collect())
}
