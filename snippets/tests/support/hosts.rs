//! Requests for hosts that differ, as the chapter shows them.

// ANCHOR: hosts
use std::time::Duration;

use futures::StreamExt;
use serde_json::Value;
use snippets::llm::{
    model_stream::model_events,
    openai_chat::OpenAiChat,
    upstream::{Decode, Dialect, InvalidUpstream, Upstream},
};

/// Above the pauses of a model that thinks.
const SILENCE: Duration = Duration::from_secs(600);

/// For a host with another evidence of the end: `OpenAiChat::new(EndRule::Terminal)`.
const DECODE: Decode = |body| model_events(body, OpenAiChat::default()).boxed();

/// A deployment of Azure, whose key has a header of its own.
pub fn azure(base: &str, key: &str) -> Result<Upstream, InvalidUpstream> {
    Upstream::new(Dialect::OpenAiChat, base, "", "gpt-5", SILENCE, DECODE)?
        .path("/openai/deployments/chat/chat/completions?api-version=2024-10-21")?
        .header("api-key", key)
}

/// A strict host: the older name of the limit, and no `stream_options`.
pub fn mistral(base: &str, key: &str) -> Result<Upstream, InvalidUpstream> {
    let upstream = Upstream::new(
        Dialect::OpenAiChat,
        base,
        key,
        "mistral-medium",
        SILENCE,
        DECODE,
    )?;
    Ok(upstream
        .system("Answer in one sentence.")
        .field("max_tokens", 4000)
        .field("stream_options", Value::Null))
}
// ANCHOR_END: hosts
