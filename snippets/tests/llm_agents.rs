//! Agents: the loop, its limits, what goes back to the provider, and Stop at every moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::{FutureExt, StreamExt, stream};
use serde_json::{Value, json};
use snippets::llm::agent::{Agent, AgentEvent, Run, Tool};
use snippets::llm::agent_turn::{Decision, Format, Session, Turn};
use snippets::llm::anthropic::Anthropic;
use snippets::llm::failure::ModelError;
use snippets::llm::gemini::Gemini;
use snippets::llm::meter::{Report, measure};
use snippets::llm::model_event::{FinishReason, ModelEvent, Question, ToolCall};
use snippets::llm::openai_chat::OpenAiChat;
use snippets::llm::openai_responses::OpenAiResponses;
use snippets::llm::providers::decode::{Decoder, Records};
use snippets::llm::public_error::PublicError;
use snippets::llm::relay::{Config, Relay};
use snippets::llm::scripted_model::{ExchangeEnd, Fault, Reply, Script, ScriptedModel};
use snippets::llm::upstream::Dialect;
use tokio::time::Instant;

use crate::support::chat::{patient, relay};
use crate::support::{Server, eventually, within};

const DIALECTS: [Dialect; 4] = [
    Dialect::OpenAiChat,
    Dialect::Anthropic,
    Dialect::OpenAiResponses,
    Dialect::Gemini,
];

pub const FORMAT: Format = Format {
    dialect: Dialect::OpenAiChat,
    reasoning: None,
};

/// Runs at once.
pub fn weather() -> Tool {
    Tool {
        name: "get_weather",
        description: "The weather of a city",
        schema: json!({"type": "object", "properties": {"city": {"type": "string"}}}),
        approval: |_| false,
        longest: Duration::from_secs(20),
        run: Arc::new(|user, input| {
            let city = input["city"].clone();
            async move { Ok(json!({"city": city, "degrees": 21, "for": user})) }.boxed()
        }),
    }
}

/// Needs an approval.
pub fn time() -> Tool {
    Tool {
        name: "get_time",
        description: "The time",
        schema: json!({"type": "object"}),
        approval: |_| true,
        run: Arc::new(|_, _| async { Ok(json!("12:00")) }.boxed()),
        ..weather()
    }
}

/// Never ends: counts how many are running.
fn stuck(running: &'static AtomicUsize, name: &'static str) -> Tool {
    // A function pointer captures nothing: one counter per test.
    assert!(std::ptr::eq(running, &RUNNING));
    Tool {
        name,
        approval: |_| false,
        run: Arc::new(|_, _| {
            struct Counted;
            impl Drop for Counted {
                fn drop(&mut self) {
                    RUNNING.fetch_sub(1, Ordering::SeqCst);
                }
            }
            RUNNING.fetch_add(1, Ordering::SeqCst);
            let counted = Counted;
            async move {
                let _counted = counted;
                std::future::pending().await
            }
            .boxed()
        }),
        ..weather()
    }
}

static RUNNING: AtomicUsize = AtomicUsize::new(0);

struct Rig {
    model: ScriptedModel,
    _upstream: Server,
    agent: Arc<Agent>,
}

/// A relay to the scripted model under this name.
fn of(dialect: Dialect, server: &Server, model: &str, config: Config) -> Arc<Relay> {
    let (url, silence) = (server.url(""), config.silence * 2);
    let upstream = crate::support::chat::upstream(dialect, &url, "key", model, silence);
    Arc::new(Relay {
        model: upstream.unwrap().model(),
        ..relay(&url, config)
    })
}

impl Rig {
    async fn start(dialect: Dialect, tools: Vec<Tool>, change: impl FnOnce(&mut Agent)) -> Self {
        let reply = Reply {
            reasoning: vec!["Look it up.".into()],
            ..Reply::text("One moment.")
        };
        let model = ScriptedModel::new(Script::reply(reply));
        let upstream = Server::start(model.router()).await;
        let relay = of(dialect, &upstream, "scripted/agent", patient());
        let mut agent = Agent {
            ask: relay.calls(),
            format: Format {
                dialect,
                reasoning: None,
            },
            tools,
            most_steps: 4,
            parallel: 2,
            most_result_bytes: 1000,
            longest: Duration::from_secs(600),
        };
        change(&mut agent);
        Self {
            model,
            _upstream: upstream,
            agent: Arc::new(agent),
        }
    }

    fn ask(&self) -> Run {
        let question = self.agent.format.question("Weather?", &[]);
        let messages = vec![question];
        let session = Session {
            messages,
            calls: Vec::new(),
            ..Session::default()
        };
        Run::new(self.agent.clone(), "alice", session, &[])
    }

    /// The bodies that the provider got.
    fn requests(&self) -> Vec<Value> {
        self.model
            .exchanges()
            .into_iter()
            .map(|one| one.request)
            .collect()
    }
}

async fn rest(run: &mut Run) -> Vec<AgentEvent> {
    let mut events = Vec::new();
    while let Some(event) = within("an event of the run", run.next()).await {
        events.push(event);
    }
    events
}

/// Without the model's own events.
fn ours(events: &[AgentEvent]) -> Vec<&AgentEvent> {
    let is_ours = |event: &&AgentEvent| !matches!(event, AgentEvent::Model(_));
    events.iter().filter(is_ours).collect()
}

#[tokio::test]
async fn the_results_go_back_and_the_model_answers() {
    for dialect in DIALECTS {
        let time = Tool {
            approval: |_| false,
            ..time()
        };
        let rig = Rig::start(dialect, vec![weather(), time], |_| {}).await;
        let mut run = rig.ask();
        let events = rest(&mut run).await;
        let ours = ours(&events);
        assert!(matches!(ours[0], AgentEvent::Output(_, Ok(_))), "{ours:?}");
        assert!(matches!(ours[1], AgentEvent::Output(_, Ok(_))), "{ours:?}");
        assert_eq!(
            ours[2..],
            [&AgentEvent::Step, &AgentEvent::End(FinishReason::Stop)]
        );
        let requests = rig.requests();
        assert_eq!(requests.len(), 2);
        let tools = match dialect {
            Dialect::Gemini => &requests[0]["tools"][0]["functionDeclarations"],
            _ => &requests[0]["tools"],
        };
        assert_eq!(tools.as_array().unwrap().len(), 2);
        let messages = &requests[1]["messages"];
        let weather = json!({"city": "Zürich", "degrees": 21, "for": "alice"}).to_string();
        let arguments = r#"{"city":"Zürich","days":3}"#;
        match dialect {
            Dialect::OpenAiChat => {
                let calls = &messages[1]["tool_calls"];
                assert_eq!(calls[0]["function"]["arguments"], arguments);
                assert_eq!(calls[1]["function"]["arguments"], "{}");
                let id = &calls[0]["id"];
                let result = json!({"role": "tool", "tool_call_id": id, "content": weather});
                assert_eq!(messages[2], result);
                assert_eq!(messages[3]["tool_call_id"], calls[1]["id"]);
            }
            Dialect::Anthropic => {
                let content = messages[1]["content"].as_array().unwrap();
                let thinking =
                    json!({"type": "thinking", "thinking": "Look it up.", "signature": "c2lnbmVk"});
                assert_eq!(
                    content[0], thinking,
                    "without its signature the turn is refused"
                );
                let kinds: Vec<_> = content
                    .iter()
                    .map(|block| block["type"].as_str().unwrap())
                    .collect();
                assert_eq!(kinds, ["thinking", "text", "tool_use", "tool_use"]);
                assert_eq!(content[2]["input"], json!({"city": "Zürich", "days": 3}));
                let results = messages[2]["content"].as_array().unwrap();
                assert_eq!(results.len(), 2, "all results of a turn are one message");
                assert_eq!(results[0]["tool_use_id"], content[2]["id"]);
                assert_eq!(results[0]["content"], weather);
            }
            Dialect::OpenAiResponses => {
                assert_eq!(
                    (&requests[1]["store"], &requests[1]["include"]),
                    (&json!(false), &json!(["reasoning.encrypted_content"]))
                );
                let input = requests[1]["input"].as_array().unwrap();
                let kinds: Vec<_> = input.iter().map(|item| item["type"].as_str()).collect();
                let call = Some("function_call");
                let result = Some("function_call_output");
                let items = [Some("reasoning"), Some("message"), call, call];
                assert_eq!(kinds[1..5], items, "the question has no type");
                assert_eq!(kinds[5..], [result, result]);
                assert_eq!(input[5]["call_id"], input[3]["call_id"]);
                assert_eq!(input[5]["output"], weather);
            }
            Dialect::Gemini => {
                let contents = &requests[1]["contents"];
                let question = json!({"role": "user", "parts": [{"text": "Weather?"}]});
                assert_eq!(contents[0], question);
                let call = json!({"name": "get_weather", "args": {"city": "Zürich", "days": 3}});
                let parts = &contents[1]["parts"];
                assert_eq!(contents[1]["role"], "model");
                assert_eq!(parts[0], json!({"text": "One moment."}));
                // It gave the call no id, and gets none back.
                assert_eq!(parts[1], json!({"functionCall": call}));
                let response = &contents[2]["parts"][0]["functionResponse"];
                assert_eq!(response["name"], "get_weather");
                assert_eq!(response["response"]["output"]["degrees"], 21);
                assert_eq!(response.get("id"), None);
            }
        }
        // The session is what the next question continues.
        let role = match dialect {
            Dialect::Gemini => "model",
            _ => "assistant",
        };
        assert_eq!(run.session.messages.last().unwrap()["role"], role);
        assert!(run.session.calls.is_empty());
    }
}

#[tokio::test]
async fn a_call_that_needs_approval_runs_only_after_it() {
    for (approved, result) in [
        (true, "\"12:00\""),
        (false, "the user declined this call: too late"),
    ] {
        let rig = Rig::start(Dialect::OpenAiChat, vec![weather(), time()], |_| {}).await;
        let mut run = rig.ask();
        let events = rest(&mut run).await;
        let ours = ours(&events);
        let AgentEvent::Approval(_, approval) = ours[0] else {
            panic!("{ours:?}")
        };
        assert!(
            matches!(ours[1], AgentEvent::Output(_, Ok(_))),
            "the other call runs: {ours:?}"
        );
        assert_eq!(ours[2..], [&AgentEvent::End(FinishReason::ToolCalls)]);
        assert_eq!(
            rig.requests().len(),
            1,
            "nothing is asked while a call waits"
        );

        // A decision on another call decides nothing.
        let of = |id: &str, approved| Decision {
            id: id.into(),
            approved,
            reason: Some("too late".into()),
        };
        let stored = run.session.clone();
        let mut other = Run::new(
            rig.agent.clone(),
            "alice",
            stored.clone(),
            &[of("guessed", true)],
        );
        assert_eq!(
            rest(&mut other).await,
            [AgentEvent::End(FinishReason::ToolCalls)]
        );
        assert_eq!(rig.requests().len(), 1);

        let decision = of(approval, approved);
        let mut run = Run::new(rig.agent.clone(), "alice", stored, &[decision]);
        let events = rest(&mut run).await;
        assert_eq!(events.last(), Some(&AgentEvent::End(FinishReason::Stop)));
        let denied = events
            .iter()
            .any(|event| matches!(event, AgentEvent::Denied(_)));
        assert_eq!(denied, !approved);
        let messages = &rig.requests()[1]["messages"];
        assert_eq!(messages[3]["content"], result);
        assert!(
            messages[2]["content"].as_str().unwrap().contains("21"),
            "the first result was kept"
        );
    }
}

#[tokio::test]
async fn steps_are_bounded() {
    let rig = Rig::start(Dialect::OpenAiChat, vec![weather()], |agent| {
        agent.most_steps = 3
    })
    .await;
    let tools = || Script::reply(Reply::default().with_call("get_weather", "{}", 9));
    (0..9).for_each(|_| {
        rig.model.push(Script {
            reply: tools().reply,
            ..tools()
        })
    });
    // `scripted` would apply `agent`: this upstream names no script.
    let relay = of(Dialect::OpenAiChat, &rig._upstream, "any", patient());
    let agent = Agent {
        ask: relay.calls(),
        tools: vec![weather()],
        most_steps: 3,
        ..copy(&rig.agent)
    };
    let mut run = Run::new(Arc::new(agent), "alice", asked(), &[]);
    let events = rest(&mut run).await;
    assert_eq!(
        events.last(),
        Some(&AgentEvent::Failed(PublicError::TOO_LONG))
    );
    assert_eq!(rig.requests().len(), 3, "the fourth is not paid for");
}

fn copy(agent: &Agent) -> Agent {
    Agent {
        ask: agent.ask.clone(),
        tools: agent.tools.clone(),
        ..*agent
    }
}

#[tokio::test]
async fn a_bad_call_is_a_result_for_the_model() {
    let huge = Tool {
        name: "get_time",
        run: Arc::new(|_, _| async { Ok(json!("x".repeat(2000))) }.boxed()),
        approval: |_| false,
        ..weather()
    };
    let rig = Rig::start(Dialect::OpenAiChat, vec![huge], |_| {}).await;
    let events = rest(&mut rig.ask()).await;
    assert_eq!(events.last(), Some(&AgentEvent::End(FinishReason::Stop)));
    let messages = &rig.requests()[1]["messages"];
    assert_eq!(messages[2]["content"], "there is no tool of this name");
    assert_eq!(
        messages[3]["content"],
        "the result has 2002 bytes, more than 1000"
    );
}

#[tokio::test]
async fn an_input_that_is_not_json_is_a_result_too_and_each_step_is_reported() {
    use std::sync::Mutex;
    let measured = Arc::new(Mutex::new(Vec::new()));
    let rig = Rig::start(Dialect::OpenAiChat, vec![weather()], |_| {}).await;
    let reply = Reply::default().with_call("get_weather", "{oops", 9);
    rig.model.push(Script::reply(reply));
    let mut config = patient();
    let report = measured.clone();
    let report: Report = Arc::new(move |one| report.lock().unwrap().push(one.user.clone()));
    config.watch = measure("any", report);
    let relay = of(Dialect::OpenAiChat, &rig._upstream, "any", config);
    let agent = Agent {
        ask: relay.calls(),
        ..copy(&rig.agent)
    };
    let mut run = Run::new(Arc::new(agent), "alice", asked(), &[]);
    let events = rest(&mut run).await;
    assert_eq!(events.last(), Some(&AgentEvent::End(FinishReason::Stop)));
    let result = rig.requests()[1]["messages"][2]["content"].clone();
    assert!(
        result
            .as_str()
            .unwrap()
            .starts_with("the input is not JSON")
    );
    assert_eq!(*measured.lock().unwrap(), ["alice", "alice"]);
}

#[tokio::test]
async fn as_many_tools_run_at_once_as_are_allowed() {
    static ACTIVE: AtomicUsize = AtomicUsize::new(0);
    static MOST: AtomicUsize = AtomicUsize::new(0);
    let busy = Tool {
        run: Arc::new(|_, _| {
            async {
                let active = ACTIVE.fetch_add(1, Ordering::SeqCst) + 1;
                MOST.fetch_max(active, Ordering::SeqCst);
                for _ in 0..20 {
                    tokio::task::yield_now().await;
                }
                ACTIVE.fetch_sub(1, Ordering::SeqCst);
                Ok(json!(1))
            }
            .boxed()
        }),
        ..weather()
    };
    for parallel in [1, 2] {
        let tools = vec![busy.clone()];
        let rig = Rig::start(Dialect::OpenAiChat, tools, |agent| {
            agent.parallel = parallel
        })
        .await;
        let reply = (0..3).fold(Reply::default(), |reply, _| {
            reply.with_call("get_weather", "{}", 9)
        });
        rig.model.push(Script::reply(reply));
        let relay = of(Dialect::OpenAiChat, &rig._upstream, "any", patient());
        let agent = Arc::new(Agent {
            ask: relay.calls(),
            ..copy(&rig.agent)
        });
        rest(&mut Run::new(agent, "alice", asked(), &[])).await;
        assert_eq!(MOST.swap(0, Ordering::SeqCst), parallel);
    }
}

/// A conversation with one question.
fn asked() -> Session {
    Session {
        messages: vec![FORMAT.question("?", &[])],
        ..Session::default()
    }
}

/// What stays in the conversation after each end that is not complete.
#[tokio::test]
async fn a_turn_that_was_cut_by_its_length_keeps_its_text_and_a_refused_one_nothing() {
    use snippets::llm::scripted_model::Stop;
    for (dialect, stop, reason) in [
        (Dialect::OpenAiChat, Stop::Length, FinishReason::MaxTokens),
        (Dialect::Anthropic, Stop::Refusal, FinishReason::Refusal),
    ] {
        let rig = Rig::start(dialect, vec![weather()], |_| {}).await;
        let reply = Reply::text("One moment.").with_call("get_weather", "{}", 9);
        rig.model.push(Script::reply(Reply { stop, ..reply }));
        let relay = of(dialect, &rig._upstream, "any", patient());
        let agent = Arc::new(Agent {
            ask: relay.calls(),
            ..copy(&rig.agent)
        });
        let mut run = Run::new(agent, "alice", asked(), &[]);
        let events = rest(&mut run).await;
        let Some(AgentEvent::End(end)) = events.last() else {
            panic!("{events:?}")
        };
        assert_eq!(*end, reason);
        // After a refusal, Anthropic refuses every turn that comes after it: its question goes too.
        let kept = match reason {
            FinishReason::MaxTokens => vec![
                FORMAT.question("?", &[]),
                json!({"role": "assistant", "content": "One moment."}),
            ],
            _ => Vec::new(),
        };
        assert_eq!(run.session.messages, kept);
        assert_eq!(rig.requests().len(), 1);
    }
}

/// The user has approved it: the model must not read that they have not.
#[tokio::test]
async fn an_approved_call_that_is_stopped_may_have_had_an_effect() {
    let pay = Tool {
        approval: |_| true,
        run: Arc::new(|_, _| std::future::pending().boxed()),
        ..weather()
    };
    let rig = Rig::start(Dialect::OpenAiChat, vec![pay, time()], |_| {}).await;
    let mut run = rig.ask();
    let events = rest(&mut run).await;
    let approvals: Vec<&String> = events
        .iter()
        .filter_map(|event| match event {
            AgentEvent::Approval(_, id) => Some(id),
            _ => None,
        })
        .collect();
    let decision = |id: &String| Decision {
        id: id.clone(),
        approved: true,
        reason: None,
    };
    let decisions = [decision(approvals[0])];
    let mut stored = run.session.clone();
    let mut run = Run::new(rig.agent.clone(), "alice", stored.clone(), &decisions);
    assert_eq!(stored.waiting(&decisions).count(), 1);
    stored.decided(&decisions);
    assert_eq!(stored.waiting(&decisions).count(), 0, "it counts once");
    assert!(run.next().now_or_never().is_none(), "it runs");
    run.stop();
    for session in [&mut run.session, &mut stored] {
        session.settle(FORMAT, 1000);
        let results = &session.messages[2..];
        let texts = [
            "the call was stopped; it may have had an effect",
            "the user did not approve this call",
        ];
        assert_eq!([&results[0]["content"], &results[1]["content"]], texts);
    }
}

/// A tool ends with its run, and its own time starts when it does.
#[tokio::test(start_paused = true)]
async fn the_time_of_a_tool_starts_with_it_and_ends_with_the_run() {
    let slow = |seconds: u64, longest: u64| Tool {
        longest: Duration::from_secs(longest),
        run: Arc::new(move |_, _| {
            async move {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                Ok(json!("done"))
            }
            .boxed()
        }),
        ..weather()
    };
    for (seconds, longest, run_longest, done) in
        [(8, 10, 600, [true, true]), (8, 60, 10, [true, false])]
    {
        let answered = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let ask = move |_: &str, _: Question, _: Instant| {
            let tool_calls = match answered.swap(true, Ordering::SeqCst) {
                true => Vec::new(),
                false => ["a", "b"]
                    .map(|id| ToolCall {
                        id: id.into(),
                        name: "get_weather".into(),
                        arguments: "{}".into(),
                    })
                    .to_vec(),
            };
            let reason = match tool_calls.is_empty() {
                true => FinishReason::Stop,
                false => FinishReason::ToolCalls,
            };
            stream::iter([Ok(ModelEvent::Finish { reason, tool_calls })]).boxed()
        };
        let agent = Agent {
            ask: Arc::new(ask),
            format: FORMAT,
            tools: vec![slow(seconds, longest)],
            most_steps: 4,
            parallel: 1,
            most_result_bytes: 1000,
            longest: Duration::from_secs(run_longest),
        };
        let session = Session {
            messages: vec![FORMAT.question("?", &[])],
            ..Session::default()
        };
        let mut run = Run::new(Arc::new(agent), "alice", session, &[]);
        let mut outputs = Vec::new();
        while let Some(event) = run.next().await {
            if let AgentEvent::Output(_, output) = event {
                outputs.push(output.is_ok());
            }
        }
        assert_eq!(outputs, done);
    }
}

#[tokio::test]
async fn a_tool_that_takes_too_long_is_dropped() {
    let slow = Tool {
        run: Arc::new(|_, _| std::future::pending().boxed()),
        longest: Duration::from_millis(20),
        ..weather()
    };
    let rig = Rig::start(Dialect::OpenAiChat, vec![slow], |_| {}).await;
    let events = rest(&mut rig.ask()).await;
    assert_eq!(events.last(), Some(&AgentEvent::End(FinishReason::Stop)));
    let messages = &rig.requests()[1]["messages"];
    assert_eq!(messages[2]["content"], "the tool took longer than 20ms");
}

/// What the provider demands of a history: every call of a turn has its result, directly after it.
fn check_session(session: &Session) {
    assert!(session.calls.is_empty());
    let messages = &session.messages;
    for (at, message) in messages.iter().enumerate() {
        let calls = message["tool_calls"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        for (n, call) in calls.iter().enumerate() {
            let result = messages.get(at + 1 + n).unwrap_or(&Value::Null);
            assert_eq!(result["tool_call_id"], call["id"], "{messages:?}");
        }
    }
}

#[tokio::test]
async fn stop_at_every_moment_cancels_and_leaves_a_valid_history() {
    let tools = vec![stuck(&RUNNING, "get_weather"), stuck(&RUNNING, "get_time")];
    // While the model has not answered, while it writes, while tools run.
    for fault in [Fault::HoldHead, Fault::Stall { after: 1 }, Fault::None] {
        let rig = Rig::start(Dialect::OpenAiChat, tools.clone(), |_| {}).await;
        let reply = Reply::text("One moment.")
            .with_call("get_weather", "{}", 9)
            .with_call("get_time", "{}", 9);
        rig.model.push(Script::reply(reply).with_fault(fault));
        let relay = of(Dialect::OpenAiChat, &rig._upstream, "any", patient());
        let agent = Agent {
            ask: relay.calls(),
            ..copy(&rig.agent)
        };
        let session = Session {
            messages: vec![FORMAT.question("?", &[])],
            calls: Vec::new(),
            ..Session::default()
        };
        let mut run = Run::new(Arc::new(agent), "alice", session, &[]);
        let until = async {
            match fault {
                Fault::HoldHead => drop(rig.model.wait_for(|_| true).await),
                Fault::Stall { .. } => std::future::pending().await, // until the text is here
                _ => eventually("both tools to run", || RUNNING.load(Ordering::SeqCst) == 2).await,
            }
        };
        let mut until = std::pin::pin!(until);
        let mut text = String::new();
        loop {
            tokio::select! {
                biased;
                event = run.next() => match event {
                    Some(AgentEvent::Model(ModelEvent::Text(more))) => {
                        text.push_str(&more);
                        if matches!(fault, Fault::Stall { .. }) {
                            break;
                        }
                    }
                    event => assert!(matches!(event, Some(AgentEvent::Model(_))), "{event:?}"),
                },
                () = &mut until => break,
            }
        }
        run.stop();
        assert_eq!(
            RUNNING.load(Ordering::SeqCst),
            0,
            "the tools are cancelled at once"
        );
        let end = within(
            "the end of the exchange",
            rig.model.wait_for(|one| one.end.is_some()),
        )
        .await
        .end;
        let cancelled = !matches!(fault, Fault::None);
        assert_eq!(
            end,
            Some(if cancelled {
                ExchangeEnd::ReaderGone
            } else {
                ExchangeEnd::Finished
            })
        );
        assert_eq!(rig.requests().len(), 1, "nothing more is asked");
        check_session(&run.session);
        let messages = &run.session.messages;
        match fault {
            Fault::HoldHead => assert_eq!(messages.len(), 1),
            Fault::Stall { .. } => assert_eq!(messages[1]["content"], text.trim()),
            _ => {
                let unknown = "the call was stopped; it may have had an effect";
                assert_eq!(
                    [&messages[2]["content"], &messages[3]["content"]],
                    [unknown, unknown]
                );
            }
        }
        assert_eq!(run.next().await, None);
    }
}

#[tokio::test]
async fn a_turn_that_fails_keeps_its_text_and_no_half_call() {
    let rig = Rig::start(Dialect::OpenAiChat, vec![weather()], |_| {}).await;
    let reply = Reply::text("One moment.").with_call("get_weather", r#"{"city":"Bern"}"#, 3);
    let relay = of(Dialect::OpenAiChat, &rig._upstream, "any", patient());
    let agent = Arc::new(Agent {
        ask: relay.calls(),
        ..copy(&rig.agent)
    });
    let after = reply.text.len() + 2;
    let cut = Fault::CutBetween {
        after,
        ending: snippets::llm::scripted_model::Ending::Clean,
    };
    rig.model.push(Script::reply(reply).with_fault(cut));
    let session = Session {
        messages: vec![FORMAT.question("?", &[])],
        calls: Vec::new(),
        ..Session::default()
    };
    let mut run = Run::new(agent, "alice", session, &[]);
    let events = rest(&mut run).await;
    let Some(AgentEvent::Failed(error)) = events.last() else {
        panic!("{events:?}")
    };
    assert_eq!(error.code, "truncated");
    let kept = json!({"role": "assistant", "content": "One moment."});
    assert_eq!(run.session.messages[1..], [kept]);
}

// --- What goes back, from recorded shapes of the hosts ---

fn turn_of(format: Format, file: &str) -> Vec<Value> {
    let path = format!("{}/tests/data/providers/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let bytes = text.split_once("\n\n").unwrap().1.as_bytes();
    let mut out = Vec::new();
    let result = match format.dialect {
        Dialect::Anthropic => decode(Anthropic::default(), bytes, &mut out),
        Dialect::OpenAiChat => decode(OpenAiChat::default(), bytes, &mut out),
        Dialect::OpenAiResponses => decode(OpenAiResponses::default(), bytes, &mut out),
        Dialect::Gemini => decode(Gemini::default(), bytes, &mut out),
    };
    result.unwrap();
    let mut turn = Turn::new(format);
    out.iter().for_each(|event| turn.event(event));
    let Some(ModelEvent::Finish { tool_calls, .. }) = out.last() else {
        panic!("{out:?}")
    };
    turn.messages(tool_calls)
}

fn decode(
    decoder: impl Decoder,
    bytes: &[u8],
    out: &mut Vec<ModelEvent>,
) -> Result<(), ModelError> {
    let mut records = Records::new(decoder);
    records.push(bytes, out)?;
    match out.last() {
        Some(ModelEvent::Finish { .. }) => Ok(()),
        _ => records.end(out),
    }
}

#[test]
fn signatures_and_server_tools_go_back_as_they_came() {
    let format = Format {
        dialect: Dialect::Anthropic,
        reasoning: None,
    };
    let turn = turn_of(format, "anthropic/thinking-and-tools.txt");
    let citation = json!({"type": "web_search_result_location", "url": "https://example.com/", "title": "Bern", "cited_text": "Bern"});
    let found = json!({"type": "web_search_result", "title": "Bern", "url": "https://example.com/", "encrypted_content": "EqgfC"});
    assert_eq!(
        turn[0]["content"],
        json!([
            {"type": "thinking", "thinking": "Look it up.", "signature": "EqQBCgIYAh"},
            {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "Bern"}},
            {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [found]},
            {"type": "text", "text": "One moment.", "citations": [citation]},
            {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Bern"}},
        ])
    );
    let gemini = turn_of(FORMAT, "gemini-openai/parallel-calls.txt");
    let calls = &gemini[0]["tool_calls"];
    assert_eq!(
        calls[0]["extra_content"]["google"]["thought_signature"],
        "EoYCCoMC"
    );
    assert_eq!(calls[1]["id"], "function-call-2");
    assert!(calls[1].get("extra_content").is_none());
    let openrouter = turn_of(FORMAT, "openrouter/reasoning-details.txt");
    let detail = json!({"type": "reasoning.text", "text": "Hm.", "signature": null, "format": "anthropic-claude-v1", "index": 0});
    assert_eq!(openrouter[0]["reasoning_details"], json!([detail]));
    let litellm = turn_of(FORMAT, "litellm/thinking-blocks.txt");
    let block = json!({"type": "thinking", "thinking": "Hm.", "signature": "EqQBCgIYAh"});
    assert_eq!(litellm[0]["thinking_blocks"], json!([block]));
    let reasoning = Some("reasoning_content");
    let deepseek = turn_of(
        Format {
            reasoning,
            ..FORMAT
        },
        "deepseek/reasoning.txt",
    );
    assert!(
        deepseek[0]["reasoning_content"]
            .as_str()
            .is_some_and(|text| !text.is_empty())
    );
    let of = |dialect| Format { dialect, ..FORMAT };
    let file = "openai-responses/reasoning-and-tool.txt";
    let responses = turn_of(of(Dialect::OpenAiResponses), file);
    let kinds: Vec<_> = responses.iter().map(|item| &item["type"]).collect();
    assert_eq!(kinds, ["reasoning", "message", "function_call"]);
    assert_eq!(responses[0]["encrypted_content"], "gAAAAABo");
    let gemini = turn_of(of(Dialect::Gemini), "gemini/thought-signature.txt");
    let call = json!({"name": "get_weather", "args": {"city": "Bern"}});
    let signed = json!({"functionCall": call, "thoughtSignature": "EoYCCoMC"});
    let parts = json!([{"text": "One moment."}, signed]);
    assert_eq!(gemini, [json!({"role": "model", "parts": parts})]);
}

#[test]
fn a_signature_of_gemini_stays_in_its_part_and_its_text_is_not_doubled() {
    let format = Format {
        dialect: Dialect::Gemini,
        ..FORMAT
    };
    let mut turn = Turn::new(format);
    let signed = |raw: Value| ModelEvent::Other {
        kind: "thoughtSignature".into(),
        raw: raw.to_string(),
    };
    for event in [
        ModelEvent::Text("one ".into()),
        ModelEvent::Text("two".into()),
        signed(json!({"text": "two", "thoughtSignature": "a"})),
        ModelEvent::Text("three".into()),
        signed(json!({"text": "", "thoughtSignature": "b"})),
        ModelEvent::Reasoning("Hm.".into()),
        signed(json!({"text": "Hm.", "thought": true, "thoughtSignature": "c"})),
        ModelEvent::Text("four".into()),
        signed(json!({"text": "four", "thoughtSignature": "d"})),
    ] {
        turn.event(&event);
    }
    let parts = json!([
        {"text": "one "},
        {"text": "two", "thoughtSignature": "a"},
        {"text": "three"},
        {"text": "", "thoughtSignature": "b"},
        {"text": "Hm.", "thought": true, "thoughtSignature": "c"},
        {"text": "four", "thoughtSignature": "d"},
    ]);
    let message = json!({"role": "model", "parts": parts});
    assert_eq!(turn.messages(&[]), [message]);
}

#[test]
fn a_part_of_another_type_breaks_nothing() {
    for dialect in DIALECTS {
        let mut turn = Turn::new(Format {
            dialect,
            reasoning: None,
        });
        let kinds = [
            "signature_delta",
            "citations_delta",
            "input_json_delta",
            "reasoning_details",
            "thinking_blocks",
            "tool_calls",
            "redacted_thinking",
            "response.output_item.done",
            "thoughtSignature",
        ];
        for kind in kinds {
            for raw in [
                "null",
                "3",
                "\"x\"",
                "[]",
                "[1,\"a\",{}]",
                "{}",
                "{\"delta\":3}",
                "{\"delta\":{\"citation\":1}}",
                "{",
            ] {
                let (kind, raw) = (kind.to_owned(), raw.to_owned());
                turn.event(&ModelEvent::Other { kind, raw });
            }
        }
        turn.event(&ModelEvent::Text("whole".into()));
        let call = ToolCall {
            id: "a".into(),
            name: "t".into(),
            arguments: "{".into(),
        };
        assert!(json!(turn.messages(&[call])).to_string().contains("whole"));
    }
}

#[test]
fn a_view_of_half_a_document_has_no_half_number_and_no_half_key() {
    use snippets::llm::partial_json::view;
    let text = r#"{"to":"Z\u00fcrich \ud83d\ude80 \"x\" \\","amount":100,"ok":true,"list":[1,{"a":null},"b"],"last":-2.5e3}"#;
    let whole: Value = serde_json::from_str(text).unwrap();
    let mut amounts = Vec::new();
    for end in (0..=text.len()).filter(|end| text.is_char_boundary(*end)) {
        let Some(seen) = view(&text[..end]) else {
            assert_eq!(end, 0);
            continue;
        };
        for (key, value) in seen.as_object().unwrap() {
            match (value, &whole[key]) {
                (Value::String(seen), Value::String(all)) => {
                    assert!(all.starts_with(seen.as_str()), "{seen:?}");
                }
                (Value::Array(seen), Value::Array(all)) => assert!(seen.len() <= all.len()),
                (seen, all) => assert_eq!(seen, all, "a part of {key}"),
            }
        }
        amounts.extend(seen.get("amount").cloned());
    }
    assert!(amounts.len() > 10 && amounts.iter().all(|amount| *amount == 100));
    assert_eq!(view(text), Some(whole));
    assert_eq!(view(r#"{"to":"Zü"#), Some(json!({"to": "Zü"})));
    assert_eq!(view("not JSON"), None);
    assert_eq!(view("]"), None);
}
