//! Wrong: an agent loop in a spawned task that sends its text into a channel.
//! Harm: if the reader leaves while a tool runs, the tool runs to its end, and the next step is still requested and paid for.
//! Instead: llm/agents
//! Probe: cannot see: the next step of an agent leaves no trace on the wire

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use serde_json::json;
use snippets::llm::agent::{Agent, Run, Tool};
use snippets::llm::agent_turn::Session;
use snippets::llm::model_event::ModelEvent;
use snippets::llm::scripted_model::{Reply, Script, ScriptedModel};
use snippets::llm::upstream::{Dialect, Upstream};
use tokio::sync::{Notify, mpsc};

use crate::llm_agents::{FORMAT, weather};
use crate::support::chat::{patient, relay};
use crate::support::{Server, within};

/// As people write it.
async fn detached(upstream: Upstream, tool: Arc<Notify>, out: mpsc::Sender<String>) {
    let mut messages = vec![json!({"role": "user", "content": "Weather?"})];
    loop {
        let Ok(mut events) = upstream.open_messages(messages.clone()).await else {
            return;
        };
        let mut calls = Vec::new();
        while let Some(Ok(event)) = events.next().await {
            match event {
                ModelEvent::Text(text) => drop(out.send(text).await),
                ModelEvent::Finish { tool_calls, .. } => calls = tool_calls,
                _ => {}
            }
        }
        if calls.is_empty() {
            return;
        }
        tool.notified().await; // the work of the tools
        for call in calls {
            let content = "21";
            messages.push(json!({"role": "tool", "tool_call_id": call.id, "content": content}));
        }
    }
}

async fn start() -> (ScriptedModel, Server, Upstream) {
    let model = ScriptedModel::new(Script::reply(Reply::text("One moment.")));
    let server = Server::start(model.router()).await;
    let (url, silence) = (server.url(""), Duration::from_secs(60));
    let upstream =
        crate::support::chat::upstream(Dialect::OpenAiChat, &url, "key", "scripted/agent", silence);
    (model, server, upstream.unwrap())
}

#[tokio::test]
async fn the_next_step_is_paid_for_nobody() {
    let (model, _server, upstream) = start().await;
    let tool = Arc::new(Notify::new());
    let (out, mut texts) = mpsc::channel(8);
    tokio::spawn(detached(upstream, tool.clone(), out));
    within("the first text", texts.recv()).await.unwrap();
    drop(texts); // the reader has left
    tool.notify_one();
    let second = model.wait_for(|one| one.id == 2 && one.end.is_some());
    let second = within("the second step", second).await;
    assert!(second.tokens > 0, "generated, billed, and read by nobody");
}

static RUNNING: AtomicUsize = AtomicUsize::new(0);

#[tokio::test]
async fn with_the_pattern_the_tool_is_cancelled_and_nothing_is_asked() {
    struct Counted;
    impl Drop for Counted {
        fn drop(&mut self) {
            RUNNING.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let (model, server, upstream) = start().await;
    let mut relay = relay(&server.url(""), patient());
    relay.model = upstream.model();
    let tool = Tool {
        run: Arc::new(|_, _| {
            RUNNING.fetch_add(1, Ordering::SeqCst);
            let counted = Counted;
            async move {
                let _counted = counted;
                std::future::pending().await
            }
            .boxed()
        }),
        ..weather()
    };
    let agent = Agent {
        ask: Arc::new(relay).calls(),
        format: FORMAT,
        tools: vec![tool],
        most_steps: 4,
        parallel: 2,
        most_result_bytes: 1000,
        longest: Duration::from_secs(600),
    };
    let session = Session {
        messages: vec![FORMAT.question("Weather?", &[])],
        calls: Vec::new(),
        ..Session::default()
    };
    let mut run = Run::new(Arc::new(agent), "alice", session, &[]);
    while RUNNING.load(Ordering::SeqCst) == 0 {
        // `get_time`, which this agent does not have, gets its result meanwhile.
        let event = tokio::time::timeout(Duration::from_millis(5), run.next()).await;
        assert_ne!(event, Ok(None));
    }
    drop(run); // what dropping the response does
    assert_eq!(RUNNING.load(Ordering::SeqCst), 0);
    assert_eq!(model.exchanges().len(), 1);
}
