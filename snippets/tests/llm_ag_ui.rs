//! AG-UI: every event in its order, approvals, Stop, and what its own client makes of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use snippets::connections::per_user::PerUser;
use snippets::llm::ag_ui::{AgUi, AgUiLog, AgUiRun, decisions};
use snippets::llm::agent::{Agent, AgentEvent, Run};
use snippets::llm::agent_turn::Session;
use snippets::llm::generation::Generation;
use snippets::llm::model_event::{FinishReason, ModelEvent};
use snippets::llm::public_error::PublicError;
use snippets::llm::relay::Relay;
use snippets::llm::resume::{Generations, Limits};
use snippets::llm::scripted_model::{ExchangeEnd, Reply, Script, ScriptedModel};
use snippets::llm::upstream::Dialect;
use snippets::sse::event::LastEventId;
use snippets::sse::streams::EVENT_STREAM;

use crate::llm_agents::{FORMAT, time, weather};
use crate::llm_vendor_sdks::{node, run};
use crate::support::chat::{finish, patient, relay, upstream};
use crate::support::{RawClient, Server, within};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Input {
    thread_id: String,
    run_id: String,
    messages: Vec<Value>,
    #[serde(default)]
    resume: Vec<Value>,
}

struct All {
    url: String,
    generations: Arc<Generations>,
    sessions: Arc<Mutex<HashMap<String, Session>>>,
    running: Mutex<HashMap<String, Arc<Generation>>>,
}

impl All {
    fn agent(&self, script: &str) -> Agent {
        let (config, dialect) = (patient(), Dialect::OpenAiChat);
        let (model, silence) = (format!("scripted/{script}"), config.silence * 2);
        let model = upstream(dialect, &self.url, "key", &model, silence).unwrap();
        let relay = Arc::new(Relay {
            model: model.model(),
            ..relay(&self.url, config)
        });
        Agent {
            ask: relay.calls(),
            format: FORMAT,
            tools: vec![weather(), time()],
            most_steps: 4,
            parallel: 2,
            most_result_bytes: 1000,
            longest: Duration::from_secs(600),
        }
    }
}

async fn ask(
    State(all): State<Arc<All>>,
    Path(script): Path<String>,
    Json(input): Json<Input>,
) -> Response {
    let slot = all.generations.admit().unwrap();
    let key = ("ada".to_owned(), input.run_id.clone());
    let generation = match all.generations.get(&key) {
        Some(known) => known,
        None => {
            let decisions = decisions(&input.resume);
            let mut sessions = all.sessions.lock().unwrap();
            let stored = sessions.entry(input.thread_id.clone()).or_default();
            if input.resume.is_empty() {
                stored.settle(FORMAT, 1000);
                let text = input.messages.last().unwrap()["content"].as_str().unwrap();
                stored.messages.push(FORMAT.question(text, &[]));
            } else if stored.waiting(&decisions).next().is_none() {
                return PublicError::MESSAGE.into_response();
            }
            let (all_sessions, thread) = (all.sessions.clone(), input.thread_id.clone());
            let answer = || {
                let agent = Arc::new(all.agent(&script));
                let run = Run::new(agent, "ada", stored.clone(), &decisions);
                AgUiRun::new(run, &input.thread_id, &input.run_id, move |run| {
                    let mut sessions = all_sessions.lock().unwrap();
                    sessions.insert(thread, run.session.clone());
                })
            };
            let generation = all.generations.begin(key, 0, answer).unwrap();
            stored.decided(&decisions);
            generation
        }
    };
    all.running
        .lock()
        .unwrap()
        .insert(input.run_id.clone(), generation.clone());
    slot.respond(AgUiLog(generation.read(&LastEventId::None).unwrap()))
}

async fn stop(State(all): State<Arc<All>>, Path((_, run)): Path<(String, String)>) -> StatusCode {
    all.running.lock().unwrap()[&run].stop.cancel();
    StatusCode::NO_CONTENT
}

/// A body that ends without the end of its run.
async fn no_end(Json(input): Json<Input>) -> Response {
    let ids = json!({ "threadId": input.thread_id, "runId": input.run_id, "messageId": "m" });
    let event = |kind: &str, more: Value| {
        let mut event = ids.clone();
        event["type"] = json!(kind);
        event
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        format!("data: {event}\n\n")
    };
    let body = [
        event("RUN_STARTED", json!({})),
        event("TEXT_MESSAGE_START", json!({ "role": "assistant" })),
        event("TEXT_MESSAGE_CONTENT", json!({ "delta": "Half" })),
    ];
    (EVENT_STREAM, body.concat()).into_response()
}

struct Service {
    model: ScriptedModel,
    _provider: Server,
    server: Server,
    all: Arc<All>,
}

impl Service {
    async fn start() -> Self {
        let model = ScriptedModel::new(Script::reply(Reply::text("One two.")));
        let provider = Server::start(model.router()).await;
        let relay = relay(&provider.url(""), patient());
        let places = PerUser::new(20).permits();
        let all = Arc::new(All {
            url: provider.url(""),
            generations: Generations::new(
                relay.streams.clone(),
                places,
                Limits {
                    per_user: 50,
                    ..Limits::default()
                },
                relay.shutdown.clone(),
            ),
            sessions: Arc::default(),
            running: Mutex::default(),
        });
        let app = Router::new()
            .route("/no-end/agent", post(no_end))
            .route("/{script}/agent", post(ask))
            .route("/{script}/agent/{run}", delete(stop))
            .with_state(all.clone());
        let server = Server::start(app).await;
        Self {
            model,
            _provider: provider,
            server,
            all,
        }
    }

    async fn ask(&self, script: &str, body: &Value) -> RawClient {
        let (path, close) = (format!("/{script}/agent"), ["connection: close"]);
        let body = body.to_string();
        let mut client = crate::support::chat::post(self.server.addr, &path, &body, &close).await;
        finish(&mut client).await;
        client
    }
}

fn events(client: &RawClient) -> Vec<Value> {
    let body = client.body();
    let data = body.lines().filter_map(|line| line.strip_prefix("data: "));
    data.map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// What the protocol demands: everything that begins ends, within the run, before its end.
fn check(events: &[Value]) {
    let kind = |event: &Value| event["type"].as_str().unwrap().to_owned();
    assert_eq!(kind(&events[0]), "RUN_STARTED");
    let mut open = Vec::new();
    for event in &events[1..] {
        let kind = kind(event);
        let id = ["messageId", "toolCallId", "stepName"].map(|name| event[name].as_str());
        let id = id.into_iter().flatten().next().unwrap_or_default();
        let of = |end: &str| (kind.trim_end_matches(end).to_owned(), id.to_owned());
        if kind.ends_with("_CONTENT") || kind.ends_with("_ARGS") {
            let of = (
                kind.trim_end_matches("_CONTENT")
                    .trim_end_matches("_ARGS")
                    .to_owned(),
                id.to_owned(),
            );
            assert!(
                open.contains(&of),
                "{kind} {id} before its start: {events:?}"
            );
            assert_ne!(event["delta"], "", "the schema refuses it");
        } else if kind.ends_with("_START") || kind.ends_with("_STARTED") {
            let of = of(if kind.ends_with("ED") {
                "_STARTED"
            } else {
                "_START"
            });
            assert!(!open.contains(&of), "{kind} twice");
            open.push(of);
        } else if kind == "RUN_FINISHED" {
            assert!(open.is_empty(), "{open:?}");
        } else if kind.ends_with("_END") || kind.ends_with("_FINISHED") {
            let of = of(if kind.ends_with("ED") {
                "_FINISHED"
            } else {
                "_END"
            });
            let at = open.iter().position(|open| *open == of);
            open.remove(at.expect("an end without its start"));
        }
    }
    let ends = |event: &&Value| ["RUN_FINISHED", "RUN_ERROR"].contains(&&*kind(event));
    assert_eq!(events.iter().filter(ends).count(), 1);
    assert!(ends(&events.last().unwrap()));
}

fn question(thread: &str, run: &str) -> Value {
    json!({ "threadId": thread, "runId": run, "state": {}, "tools": [], "context": [],
        "messages": [{ "id": "1", "role": "user", "content": "Weather and time?" }] })
}

#[tokio::test]
async fn a_run_waits_for_an_approval_and_the_next_one_continues_it() {
    for (approved, result) in [(true, "\"12:00\""), (false, "declined by the user")] {
        let service = Service::start().await;
        let first = service.ask("agent", &question("t", "r1")).await;
        let seen = events(&first);
        check(&seen);
        let outcome = &seen.last().unwrap()["outcome"];
        let interrupt = &outcome["interrupts"][0];
        assert_eq!(
            (&outcome["type"], &interrupt["toolCallId"]),
            (&json!("interrupt"), &json!("call_1"))
        );
        if approved {
            // Approval ids are random.
            let id = interrupt["id"].as_str().unwrap();
            let lines: Vec<String> = seen.iter().map(Value::to_string).collect();
            insta::assert_snapshot!("ag_ui", lines.join("\n").replace(id, "[approval]"));
        }
        let answer = json!({ "interruptId": interrupt["id"], "status": "resolved",
            "payload": { "approved": approved } });
        let mut again = question("t", "r2");
        again["resume"] = json!([answer]);
        let seen = events(&service.ask("agent", &again).await);
        check(&seen);
        let results: Vec<_> = seen
            .iter()
            .filter(|event| event["type"] == "TOOL_CALL_RESULT")
            .collect();
        assert_eq!((results.len(), &results[0]["content"]), (1, &json!(result)));
        let last = seen.last().unwrap();
        assert_eq!(
            (&last["outcome"]["type"], &last["result"]["finishReason"]),
            (&json!("success"), &json!("stop"))
        );
        // The session was stored before the end was sent.
        assert!(service.all.sessions.lock().unwrap()["t"].calls.is_empty());
    }
}

/// A double click, or a second tab: the same run is joined, another run of the same decision is refused.
#[tokio::test]
async fn a_decision_that_is_sent_again_runs_its_call_once() {
    let service = Service::start().await;
    let seen = events(&service.ask("agent", &question("t", "r1")).await);
    let interrupt = &seen.last().unwrap()["outcome"]["interrupts"][0]["id"];
    let decide = |run: &str| {
        let mut body = question("t", run);
        body["resume"] = json!([{ "interruptId": interrupt, "status": "resolved", "payload": { "approved": true } }]);
        body
    };
    let addr = service.server.addr;
    let send = async |run: &str| {
        let body = decide(run).to_string();
        crate::support::chat::post(addr, "/stall/agent", &body, &["connection: close"]).await
    };
    let mut first = send("r2").await;
    within("the first token", first.read_until("One ")).await;
    let mut again = send("r2").await;
    within("the first token", again.read_until("One ")).await;
    let mut other = send("r3").await;
    finish(&mut other).await;
    assert_eq!(other.status(), 422);
    assert!(other.body().contains("unknown_message"), "{}", other.body());
    service.model.release();
    finish(&mut first).await;
    finish(&mut again).await;
    assert_eq!(events(&first), events(&again));
    check(&events(&first));
    assert_eq!(service.model.exchanges().len(), 2);
    let session = service.all.sessions.lock().unwrap()["t"].clone();
    assert_eq!(session.messages.last().unwrap()["content"], "One two.");
    // After its end too.
    let mut late = send("r4").await;
    finish(&mut late).await;
    assert_eq!(late.status(), 422);
}

/// A run whose decisions leave a call open is interrupted again.
#[tokio::test]
async fn a_call_that_was_not_decided_keeps_the_run_interrupted() {
    let service = Service::start().await;
    let reply = Reply::text("One moment.").with_call("get_time", "{}", 9);
    service
        .model
        .push(Script::reply(reply.with_call("get_time", "{}", 9)));
    let seen = events(&service.ask("plain", &question("t", "r1")).await);
    let interrupts = seen.last().unwrap()["outcome"]["interrupts"].clone();
    let mut one = question("t", "r2");
    one["resume"] = json!([{ "interruptId": interrupts[0]["id"], "status": "resolved", "payload": { "approved": true } }]);
    let seen = events(&service.ask("plain", &one).await);
    check(&seen);
    let outcome = &seen.last().unwrap()["outcome"];
    assert_eq!(outcome["type"], "interrupt");
    assert_eq!(outcome["interrupts"], json!([interrupts[1]]));
    assert_eq!(service.model.exchanges().len(), 1);
}

#[test]
fn an_abandoned_interrupt_is_declined() {
    let resume = [
        json!({ "interruptId": "a", "status": "cancelled", "payload": { "approved": true } }),
        json!({ "interruptId": "b", "status": "resolved", "payload": { "approved": "yes" } }),
        json!({ "status": "resolved" }),
    ];
    let decisions = decisions(&resume);
    assert_eq!(decisions.len(), 2);
    assert!(decisions.iter().all(|decision| !decision.approved));
}

#[test]
fn what_is_open_ends_at_every_event_of_a_run() {
    let call = |id: &str| ModelEvent::ToolCallStart {
        index: 0,
        id: id.into(),
        name: "pay".into(),
    };
    let delta = ModelEvent::ToolCallDelta {
        index: 0,
        fragment: r#"{"amount":100"#.into(),
    };
    let finish = ModelEvent::Finish {
        reason: FinishReason::MaxTokens,
        tool_calls: Vec::new(),
    };
    let model = [
        ModelEvent::Reasoning("Hm.".into()),
        ModelEvent::Text(String::new()),
        ModelEvent::Text("One".into()),
        call("a"),
        delta,
        finish,
    ];
    for length in 0..=model.len() {
        for end in 0..3 {
            let mut out = Vec::new();
            let mut writer = AgUi::start("t", "r", &mut out);
            for event in &model[..length] {
                writer.event(AgentEvent::Model(event.clone()), &mut out);
            }
            match end {
                0 => writer.stop(&mut out),
                1 => writer.event(AgentEvent::Failed(PublicError::SILENT), &mut out),
                _ => writer.event(AgentEvent::End(FinishReason::MaxTokens), &mut out),
            }
            check(&out);
            // Half of a payment has a result that is an error, not an input that waits.
            let results = out
                .iter()
                .filter(|event| event["type"] == "TOOL_CALL_RESULT");
            assert_eq!(results.count(), usize::from(length > 3), "{out:?}");
        }
    }
}

#[tokio::test]
#[ignore = "needs the SDKs: run ./check"]
async fn its_own_client_reads_answers_approvals_failures_and_a_stop() {
    let service = Service::start().await;
    let lines = run(&node(), "ag_ui.mjs", &[&service.server.url("")]).await;
    let of = |script: &str| -> Vec<&Value> {
        lines
            .iter()
            .filter(|line| line["script"] == script)
            .collect()
    };
    let text =
        |line: &Value| line["messages"].as_array().unwrap().last().unwrap()["content"].clone();
    for (script, reason) in [("plain", "stop"), ("length", "length")] {
        let line = of(script)[0];
        assert_eq!(line["threw"], json!(null), "{line}");
        assert_eq!(line["result"]["finishReason"], reason);
        assert_eq!(text(line), "One two.");
    }
    for (script, code) in [("error", "model_failed"), ("cut", "truncated")] {
        let line = of(script)[0];
        assert_eq!(
            (&line["failed"][0], &line["outcome"]),
            (&json!(code), &json!(null)),
            "{line}"
        );
    }
    // It takes a body that just ends for a complete answer: only the outcome reveals the difference.
    let cut = of("no-end")[0];
    assert_eq!(
        (&cut["threw"], &cut["outcome"]),
        (&json!(null), &json!(null))
    );
    assert_eq!(text(cut), "Half");
    let again = of("again");
    assert_eq!(
        (text(again[0]), text(again[1])),
        (json!("One two."), json!("One two."))
    );

    for agent in of("agent") {
        assert_eq!(agent["outcome"]["type"], "interrupt", "{agent}");
        assert_eq!(agent["waits"][0]["toolCallId"], "call_1");
    }
    for (script, result) in [
        ("approved", "\"12:00\""),
        ("declined", "declined by the user"),
    ] {
        let line = of(script)[0];
        assert_eq!(
            (&line["threw"], &line["waits"]),
            (&json!(null), &json!([])),
            "{line}"
        );
        let messages = line["messages"].as_array().unwrap();
        let results: Vec<_> = messages
            .iter()
            .filter(|message| message["role"] == "tool")
            .collect();
        assert_eq!(results[1]["content"], result, "{line}");
        assert_eq!(text(line), "One two.");
    }
    let stopped = of("stall")[0];
    assert_eq!(stopped["outcome"]["type"], "cancelled", "{stopped}");
    let stalls = |exchange: &snippets::llm::scripted_model::Exchange| {
        exchange.request["model"] == "scripted/stall"
            && exchange.end == Some(ExchangeEnd::ReaderGone)
    };
    within("the provider is closed", service.model.wait_for(stalls)).await;
}
