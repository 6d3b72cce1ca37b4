//! Serves the chat on 127.0.0.1:3000, or on the address that is the first argument.
//!
//! Without a key it answers with the scripted model. With `OPENAI_API_KEY` it asks OpenAI, or the host of `OPENAI_BASE_URL` that
//! speaks its format; `MODEL` chooses the model.

use std::{future::IntoFuture, io, time::Duration};

use futures::StreamExt;
use llm_chat::{Service, Settings};
use snippets::connections::listen;
use snippets::llm::model_stream::model_events;
use snippets::llm::openai_chat::OpenAiChat;
use snippets::llm::scripted_model::{Reply, Script, ScriptedModel};
use snippets::llm::upstream::{Decode, Dialect, Upstream};
use snippets::production::drain;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// For a provider with another format, copy its decoder: `sh copy llm/anthropic .`
const DECODE: Decode = |body| model_events(body, OpenAiChat::default()).boxed();

#[tokio::main]
async fn main() -> io::Result<()> {
    tracing_subscriber::fmt().init();
    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:3000".to_owned());
    let settings = Settings::default();
    let drain = settings.drain;
    let upstream = upstream(settings.relay.silence * 2).await?;
    let listener = TcpListener::bind(&address).await?;
    tracing::info!("listening on http://{}", listener.local_addr()?);
    let stop = CancellationToken::new();
    let service = Service::start(upstream, settings, stop.clone());
    let signalled = stop.clone();
    tokio::spawn(async move {
        drain::signal().await;
        signalled.cancel();
    });
    let config = listen::Config {
        drain,
        ..listen::Config::default()
    };
    let open = listen::serve(listener, service.app(), config, stop).await;
    if open > 0 {
        tracing::warn!(open, "connections were cut at the deadline");
    }
    service.finish(drain).await;
    Ok(())
}

async fn upstream(silence: Duration) -> io::Result<Upstream> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let Some(key) = variable("OPENAI_API_KEY") else {
        tracing::info!("no OPENAI_API_KEY: the scripted model answers");
        let model = ScriptedModel::new(Script {
            pace: Duration::from_millis(60),
            ..Script::reply(Reply::text(
                "This is the scripted model. Reload the page while it writes, or press Stop: nothing is lost, and nothing comes twice.",
            ))
        });
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let base = format!("http://{}", listener.local_addr()?);
        tokio::spawn(axum::serve(listener, model.router()).into_future());
        return Upstream::new(
            Dialect::OpenAiChat,
            &base,
            "none",
            "scripted",
            silence,
            DECODE,
        )
        .map_err(io::Error::other);
    };
    let base = variable("OPENAI_BASE_URL").unwrap_or_else(|| "https://api.openai.com".to_owned());
    let base = base.trim_end_matches('/').trim_end_matches("/v1");
    let model = variable("MODEL").unwrap_or_else(|| "gpt-5-mini".to_owned());
    let upstream = Upstream::new(Dialect::OpenAiChat, base, &key, &model, silence, DECODE);
    let upstream = upstream.map_err(io::Error::other)?;
    // Fields of each request. This one is OpenAI's (most hosts call it `max_tokens`) and counts the thinking: with less, an answer
    // can end empty.
    Ok(match base {
        "https://api.openai.com" => upstream.field("max_completion_tokens", 16_384),
        _ => upstream,
    })
}
