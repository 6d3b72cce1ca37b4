//! AG-UI 1.0, written from Rust: the events of an agent for pages that are built on `@ag-ui/client`.
//!
//! Use it if the front end reads AG-UI; for `useChat` there is `use_chat`. Guarantees: a run ends with exactly one `RUN_FINISHED` or
//! `RUN_ERROR`; each message and each call that begins gets its end before; a call that was cut off gets an error as its result; after
//! Stop the outcome is `cancelled`, and with calls that wait for an approval it is `interrupt`.
//!
//! Needs `agent`, `generation` and their files. Other topics: `sse/event`, `sse/streams`.
//!
//! ```ignore
//! let (key, decisions) = ((user, run_id), decisions(&request.resume)); // under the lock of the thread, whose `session` is stored
//! if let Some(known) = generations.get(&key) { return known }; // sh copy llm/resume; Stop is `generation.stop.cancel()`
//! if !request.resume.is_empty() && session.waiting(&decisions).next().is_none() { return Err(PublicError::MESSAGE) }; // decided before
//! let run = Run::new(agent, &user, session.clone(), &decisions); // without decisions: `settle`, then the question is its last message
//! let answer = AgUiRun::new(run, &thread_id, &run_id, |run| store(&thread_id, &run.session)); // ids: `is_token`
//! let generation = generations.begin(key, 0, || answer)?; // one at a time: first await the end of that of this thread
//! session.decided(&decisions);
//! let events = generation.read(&LastEventId::None).map(|events| slot.respond(AgUiLog(events)));
//! ```

// ANCHOR: writer
use std::{
    collections::{BTreeMap, VecDeque},
    mem::take,
    task::{Context, Poll},
};

use serde_json::{Value, json};

use super::{
    agent::{AgentEvent, Run},
    agent_turn::Decision,
    generation::Answer,
    model_event::{FinishReason, ModelEvent},
    public_error::PublicError,
};
use crate::sse::{
    event::Event,
    streams::{Chunk, Own, Source},
};

/// Turns the events of one run into those of the protocol.
#[derive(Debug, Default)]
pub struct AgUi {
    /// Thread and run.
    ids: [String; 2],
    messages: u32,
    steps: u32,
    /// The message that grows: `TEXT_MESSAGE` or `REASONING_MESSAGE`, and its id.
    open: Option<(&'static str, String)>,
    /// Calls whose arguments arrive.
    calls: BTreeMap<u32, String>,
    /// Approvals that are asked for.
    waits: Vec<Value>,
}

impl AgUi {
    /// The first events. `thread` and `run` are the client's ids.
    pub fn start(thread: &str, run: &str, out: &mut Vec<Value>) -> Self {
        let mut this = Self {
            ids: [thread.to_owned(), run.to_owned()],
            ..Self::default()
        };
        out.push(
            json!({ "type": "RUN_STARTED", "threadId": thread, "runId": run,
            "protocolVersion": "1.0" }),
        );
        this.step(out);
        this
    }

    /// Takes one event of the run. After `End` and `Failed` it takes nothing more.
    pub fn event(&mut self, event: AgentEvent, out: &mut Vec<Value>) {
        match event {
            AgentEvent::Model(event) => self.model(event, out),
            AgentEvent::Output(call, output) => {
                let content = output.map_or_else(|error| error, |value| value.to_string());
                self.result(&call, &content, out);
            }
            AgentEvent::Approval(call, id) => {
                if self.waits.iter().all(|wait| wait["id"] != id) {
                    self.waits.push(json!({ "id": id, "toolCallId": call, "reason": "tool_call",
                        "responseSchema": { "type": "object", "required": ["approved"], "properties":
                            { "approved": { "type": "boolean" }, "reason": { "type": "string" } } } }));
                }
            }
            AgentEvent::Denied(call) => self.result(&call, "declined by the user", out),
            AgentEvent::Step => {
                self.end_step(out);
                self.step(out);
            }
            AgentEvent::End(reason) => {
                let outcome = match take(&mut self.waits) {
                    waits if waits.is_empty() => json!({ "type": "success" }),
                    waits => json!({ "type": "interrupt", "interrupts": waits }),
                };
                // `success` is the outcome of a cut answer, too.
                let reason = match reason {
                    FinishReason::Stop => "stop",
                    FinishReason::ToolCalls => "tool_calls",
                    FinishReason::MaxTokens => "length",
                    FinishReason::ContentFilter | FinishReason::Refusal => "content_filter",
                    _ => "other",
                };
                self.finish(outcome, reason, out);
            }
            AgentEvent::Failed(error) => self.fail(error, out),
        }
    }

    /// The user stopped the run.
    pub fn stop(&mut self, out: &mut Vec<Value>) {
        self.finish(json!({ "type": "cancelled" }), "stopped", out);
    }

    /// The run failed. The client gets a code, never provider text.
    pub fn fail(&mut self, error: PublicError, out: &mut Vec<Value>) {
        self.end_step(out);
        out.push(failed(error));
    }

    fn finish(&mut self, outcome: Value, reason: &str, out: &mut Vec<Value>) {
        self.end_step(out);
        let [thread, run] = &self.ids;
        out.push(
            json!({ "type": "RUN_FINISHED", "threadId": thread, "runId": run,
            "outcome": outcome, "result": { "finishReason": reason } }),
        );
    }

    fn model(&mut self, event: ModelEvent, out: &mut Vec<Value>) {
        match event {
            ModelEvent::Text(text) | ModelEvent::Refusal(text) => {
                self.append("TEXT_MESSAGE", "assistant", &text, out)
            }
            ModelEvent::Reasoning(text) => {
                self.append("REASONING_MESSAGE", "reasoning", &text, out)
            }
            ModelEvent::ToolCallStart { index, id, name } => {
                self.close(out);
                out.push(
                    json!({ "type": "TOOL_CALL_START", "toolCallId": id, "toolCallName": name }),
                );
                self.calls.insert(index, id);
            }
            ModelEvent::ToolCallDelta { index, fragment } => {
                if let Some(id) = self.calls.get(&index).filter(|_| !fragment.is_empty()) {
                    out.push(
                        json!({ "type": "TOOL_CALL_ARGS", "toolCallId": id, "delta": fragment }),
                    );
                }
            }
            ModelEvent::Finish { tool_calls, .. } => {
                self.close(out);
                for (_, id) in take(&mut self.calls) {
                    out.push(json!({ "type": "TOOL_CALL_END", "toolCallId": id }));
                    if !tool_calls.iter().any(|call| call.id == id) {
                        self.result(&id, "the call was cut off; it did not run", out);
                    }
                }
            }
            // Usage is `meter`'s; for citations that your page shows, write `CUSTOM`.
            _ => {}
        }
    }

    fn append(&mut self, kind: &'static str, role: &str, delta: &str, out: &mut Vec<Value>) {
        if delta.is_empty() {
            return; // the protocol refuses an empty one
        }
        if self.open.as_ref().is_none_or(|(open, _)| *open != kind) {
            self.close(out);
            let id = self.message_id();
            if kind == "REASONING_MESSAGE" {
                out.push(json!({ "type": "REASONING_START", "messageId": id }));
            }
            out.push(json!({ "type": format!("{kind}_START"), "messageId": id, "role": role }));
            self.open = Some((kind, id));
        }
        if let Some((_, id)) = &self.open {
            out.push(json!({ "type": format!("{kind}_CONTENT"), "messageId": id, "delta": delta }));
        }
    }

    fn close(&mut self, out: &mut Vec<Value>) {
        if let Some((kind, id)) = self.open.take() {
            out.push(json!({ "type": format!("{kind}_END"), "messageId": id }));
            if kind == "REASONING_MESSAGE" {
                out.push(json!({ "type": "REASONING_END", "messageId": id }));
            }
        }
    }

    /// A result is a message of its own.
    fn result(&mut self, call: &str, content: &str, out: &mut Vec<Value>) {
        let id = self.message_id();
        out.push(
            json!({ "type": "TOOL_CALL_RESULT", "messageId": id, "toolCallId": call,
            "content": content, "role": "tool" }),
        );
    }

    fn step(&mut self, out: &mut Vec<Value>) {
        self.steps += 1;
        out.push(json!({ "type": "STEP_STARTED", "stepName": self.steps.to_string() }));
    }

    /// Ends what is open: the client refuses `RUN_FINISHED` before.
    fn end_step(&mut self, out: &mut Vec<Value>) {
        let cut = ModelEvent::Finish {
            reason: FinishReason::Stop,
            tool_calls: Vec::new(),
        };
        self.model(cut, out);
        out.push(json!({ "type": "STEP_FINISHED", "stepName": self.steps.to_string() }));
    }

    fn message_id(&mut self) -> String {
        self.messages += 1;
        format!("{}-{}", self.ids[1], self.messages)
    }
}
// ANCHOR_END: writer

// ANCHOR: run
/// The user's decisions in `resume` of the request; an interrupt that is abandoned is declined. The question is the text of its newest
/// message; the rest of the history is the server's own, in the session of the thread.
pub fn decisions(resume: &[Value]) -> Vec<Decision> {
    let decision = |entry: &Value| {
        let (id, answer) = (entry["interruptId"].as_str()?.to_owned(), &entry["payload"]);
        let approved = entry["status"] == "resolved" && answer["approved"] == true;
        let reason = answer["reason"].as_str();
        let reason = reason.map(|text| text.chars().take(1000).collect());
        Some(Decision {
            id,
            approved,
            reason,
        })
    };
    resume.iter().filter_map(decision).collect()
}

/// One run as an answer of `generation`. `end` is called before the page sees the end: store the session of the run.
pub struct AgUiRun<F> {
    run: Run,
    writer: AgUi,
    ready: VecDeque<Value>,
    end: Option<F>,
}

impl<F: FnOnce(&Run) + Send + 'static> AgUiRun<F> {
    /// Nothing is asked before it is polled.
    pub fn new(run: Run, thread: &str, id: &str, end: F) -> Self {
        let mut out = Vec::new();
        let writer = AgUi::start(thread, id, &mut out);
        Self {
            run,
            writer,
            ready: out.into(),
            end: Some(end),
        }
    }

    fn ended(&mut self) {
        if let Some(end) = self.end.take() {
            end(&self.run);
        }
    }
}

impl<F: FnOnce(&Run) + Send + 'static> Answer for AgUiRun<F> {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(value) = self.ready.pop_front() {
                return Some(event(&value));
            }
            let event = self.run.next().await?;
            if matches!(event, AgentEvent::End(_) | AgentEvent::Failed(_)) {
                self.ended();
            }
            let mut out = Vec::new();
            if matches!(event, AgentEvent::End(_)) {
                // Those of an earlier run, which this one did not decide, are open too.
                for call in &self.run.session.calls {
                    if let (Some(id), None) = (&call.approval, &call.output) {
                        let waits = AgentEvent::Approval(call.call.id.clone(), id.clone());
                        self.writer.event(waits, &mut out);
                    }
                }
            }
            self.writer.event(event, &mut out);
            self.ready.extend(out);
        }
    }

    fn end(&mut self, why: PublicError) -> Vec<Event> {
        let mut out: Vec<Value> = self.ready.drain(..).collect();
        if self.end.is_some() {
            self.run.stop();
            self.ended();
            match why == PublicError::STOPPED {
                true => self.writer.stop(&mut out),
                false => self.writer.fail(why, &mut out),
            }
        }
        out.iter().map(event).collect()
    }

    fn broken(&self) -> Option<Event> {
        Some(event(&failed(PublicError::BROKEN)))
    }
}

// ANCHOR: log
/// The log of a run as a response: heartbeats are comments, and a shutdown is an error of the protocol.
pub struct AgUiLog<S>(pub S);
// ANCHOR_END: log

impl<S: Source> Source for AgUiLog<S> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Chunk>> {
        self.0.poll(cx)
    }

    fn own(&mut self, what: Own) -> Option<Chunk> {
        Some(match what {
            Own::Prelude | Own::Heartbeat => Chunk::COMMENT,
            Own::Shutdown | Own::MaxAge => Chunk::from(&event(&failed(PublicError::TRUNCATED))),
        })
    }
}

/// One event of the protocol; the terminal ones end the response.
fn event(value: &Value) -> Event {
    let event = Event::message(&value.to_string());
    match value["type"].as_str() {
        Some("RUN_FINISHED" | "RUN_ERROR") => event.last(),
        _ => event,
    }
}

fn failed(error: PublicError) -> Value {
    let again = if error.retryable { " Try again." } else { "" };
    json!({ "type": "RUN_ERROR", "message": format!("The answer failed.{again}"), "code": error.code })
}
// ANCHOR_END: run
