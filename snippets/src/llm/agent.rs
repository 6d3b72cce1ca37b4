//! An agent: asks the model, runs the tools that it calls, sends the results back, and asks again.
//!
//! Use it if the model has tools. Guarantees: tools run only after a complete turn, with a limit in number, time and size; a tool that
//! needs approval runs only after the user's approval of this very call; the steps are bounded; dropping a [`Run`] cancels its tools and
//! closes the provider's connection; the conversation stays one that the provider accepts, wherever the run was stopped.
//!
//! No task is spawned: the caller that polls the run does its work. The call of the model is a function: `relay` has it. Needs
//! `agent_turn`, `model_event`, `public_error`.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream, stream::BoxStream};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::{
    agent_turn::{Call, Decision, Format, Output, Session, Turn, UNNAMED},
    model_event::{FinishReason, ModelEvent, Question, ToolCall},
    public_error::PublicError,
};

// ANCHOR: tools
/// A tool that the model may call.
#[derive(Clone)]
pub struct Tool {
    /// The name by which the model calls it.
    pub name: &'static str,
    /// The description that the model reads.
    pub description: &'static str,
    /// The JSON schema of its input. Check the input anyway: the model may ignore the schema.
    pub schema: Value,
    /// Whether the user must approve this input first. Return true for everything that cannot be undone.
    pub approval: fn(&Value) -> bool,
    /// Longest duration of one call. Dropping the future must stop the work.
    pub longest: Duration,
    /// Does the work for this user: authorize it as if the user had sent the input.
    pub run: Arc<dyn Fn(String, Value) -> BoxFuture<'static, Output> + Send + Sync>,
}

/// One call of the model for a user. The stream itself must limit its silence and its size, and must end with
/// `Finish` or an error before the given instant. Dropping it must stop the model.
pub type Ask = dyn Fn(&str, Question, Instant) -> BoxStream<'static, Result<ModelEvent, PublicError>>
    + Send
    + Sync;

/// What is shared by all runs.
pub struct Agent {
    /// Asks the model: `relay::Relay::calls`.
    pub ask: Arc<Ask>,
    /// The provider's format, in which each turn (the output of one call of the model) is sent back.
    pub format: Format,
    /// The tools.
    pub tools: Vec<Tool>,
    /// Maximum number of model calls of one run; the run after an approval counts from 0.
    pub most_steps: usize,
    /// Maximum number of tools of one turn that run at the same time.
    pub parallel: usize,
    /// Largest result, in bytes of JSON: it is sent, and billed, again in every later step.
    pub most_result_bytes: usize,
    /// Longest duration of a run, its tools included.
    pub longest: Duration,
}
// ANCHOR_END: tools

// ANCHOR: run
// ANCHOR: events
/// One event of a run.
#[derive(Debug, Clone, PartialEq)]
pub enum AgentEvent {
    /// An event of the model. Calls have an id, even if the provider sends none.
    Model(ModelEvent),
    /// A call has its result.
    Output(String, Output),
    /// A call (id) waits for the approval (id).
    Approval(String, String),
    /// The user declined a call.
    Denied(String),
    /// The model is asked again.
    Step,
    /// The last event: the answer is complete, or waits for approvals (`ToolCalls`).
    End(FinishReason),
    /// The last event: the answer is not complete.
    Failed(PublicError),
}

// ANCHOR_END: events

/// One question and all that follows from it.
pub struct Run {
    agent: Arc<Agent>,
    user: String,
    /// Complete whenever the run has ended.
    pub session: Session,
    state: State,
    ready: VecDeque<AgentEvent>,
    steps: usize,
    end: Instant,
}

enum State {
    Ask,
    Answer(
        BoxStream<'static, Result<ModelEvent, PublicError>>,
        Box<Turn>,
    ),
    Tools(BoxStream<'static, (usize, Output)>),
    Ended,
}

impl Run {
    /// Continues `session`: with `decisions`, the calls that wait; without, the question that is its last message.
    pub fn new(agent: Arc<Agent>, user: &str, session: Session, decisions: &[Decision]) -> Self {
        let end = Instant::now() + agent.longest;
        let mut run = Self {
            agent,
            user: user.to_owned(),
            session,
            state: State::Ask,
            ready: VecDeque::new(),
            steps: 0,
            end,
        };
        match run.session.calls.is_empty() {
            true => run.session.question = run.session.messages.len().saturating_sub(1),
            false => run.decide(decisions),
        }
        run
    }

    /// The next event. A call that is dropped while it waits loses nothing.
    pub async fn next(&mut self) -> Option<AgentEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            match &mut self.state {
                State::Ended => return None,
                State::Ask => self.ask(),
                State::Answer(events, turn) => match events.next().await {
                    Some(Ok(mut event)) => {
                        identify(&mut event, self.steps);
                        turn.event(&event);
                        if let ModelEvent::Finish { reason, tool_calls } = &event {
                            let (reason, calls) = (reason.clone(), tool_calls.clone());
                            self.ready.push_back(AgentEvent::Model(event));
                            self.answered(reason, calls);
                            continue;
                        }
                        return Some(AgentEvent::Model(event));
                    }
                    Some(Err(error)) => self.fail(error),
                    None => self.fail(PublicError::BROKEN),
                },
                State::Tools(running) => match running.next().await {
                    Some((at, output)) => {
                        let call = &mut self.session.calls[at];
                        call.output = Some(output.clone());
                        return Some(AgentEvent::Output(call.call.id.clone(), output));
                    }
                    None => self.ran(),
                },
            }
        }
    }

    /// Ends it early. What the model had written stays in the conversation, and so do the results of its tools.
    pub fn stop(&mut self) {
        let state = std::mem::replace(&mut self.state, State::Ended); // drops tools and connection
        if let State::Answer(_, turn) = state {
            self.session.messages.extend(turn.stopped());
        }
        self.ready.clear();
        let Agent {
            format,
            most_result_bytes,
            ..
        } = *self.agent;
        self.session.settle(format, most_result_bytes);
    }

    fn fail(&mut self, error: PublicError) {
        self.stop();
        self.ready.push_back(AgentEvent::Failed(error));
    }

    fn ask(&mut self) {
        if self.steps == self.agent.most_steps || Instant::now() >= self.end {
            return self.fail(PublicError::TOO_LONG);
        }
        if self.steps > 0 {
            self.ready.push_back(AgentEvent::Step);
        }
        self.steps += 1;
        let Agent {
            ask, format, tools, ..
        } = &*self.agent;
        let tools = tools
            .iter()
            .map(|tool| format.tool(tool.name, tool.description, &tool.schema));
        let question = Question {
            system: None,
            messages: self.session.messages.clone(),
            tools: tools.collect(),
        };
        let events = ask(&self.user, question, self.end);
        self.state = State::Answer(events, Box::new(Turn::new(*format)));
    }

    fn answered(&mut self, reason: FinishReason, calls: Vec<ToolCall>) {
        let state = std::mem::replace(&mut self.state, State::Ended);
        let State::Answer(_, turn) = state else {
            return;
        };
        // Calls are released for these reasons only: a turn that was cut in a call goes back as its text.
        match reason {
            FinishReason::ToolCalls | FinishReason::Stop | FinishReason::Paused => {
                self.session.messages.extend(turn.messages(&calls));
            }
            // After a turn that was refused, Anthropic refuses every later one.
            FinishReason::Refusal | FinishReason::ContentFilter => {
                self.session.messages.truncate(self.session.question);
            }
            _ => self.session.messages.extend(turn.stopped()),
        }
        match reason {
            FinishReason::ToolCalls => {
                self.session.calls = calls
                    .into_iter()
                    .map(|call| Call {
                        call,
                        approval: None,
                        output: None,
                    })
                    .collect();
                self.start(|_| true);
            }
            // The provider continues its own turn.
            FinishReason::Paused => self.state = State::Ask,
            reason => self.ready.push_back(AgentEvent::End(reason)),
        }
    }

    /// Starts the calls that `may` start and need no approval, and asks for approval of the others.
    fn start(&mut self, may: impl Fn(&Call) -> bool) {
        let mut running = Vec::new();
        for (at, call) in self.session.calls.iter_mut().enumerate() {
            if call.output.is_some() || !may(call) {
                continue;
            }
            let tool = self
                .agent
                .tools
                .iter()
                .find(|tool| tool.name == call.call.name);
            let input = call.call.parse::<Value>();
            let future = match (tool, input) {
                (None, _) => ready_err("there is no tool of this name".to_owned()),
                (_, Err(error)) => ready_err(format!("the input is not JSON: {error}")),
                (Some(tool), Ok(input)) if call.approval.is_none() && (tool.approval)(&input) => {
                    let id = format!("{:032x}", rand::random::<u128>());
                    call.approval = Some(id.clone());
                    self.ready
                        .push_back(AgentEvent::Approval(call.call.id.clone(), id));
                    continue;
                }
                (Some(tool), Ok(input)) => {
                    call.approval = None; // given: from now on the call may have an effect
                    let (tool, user, end) = (tool.clone(), self.user.clone(), self.end);
                    // The clock starts with the call, which may wait for the others.
                    let work = async move {
                        let late = format!("the tool took longer than {:?}", tool.longest);
                        let last = end.min(Instant::now() + tool.longest);
                        let output = timeout_at(last, (tool.run)(user, input)).await;
                        output.unwrap_or(Err(late))
                    };
                    work.boxed()
                }
            };
            running.push(future.map(move |output| (at, output)));
        }
        let parallel = self.agent.parallel.max(1);
        self.state = State::Tools(stream::iter(running).buffer_unordered(parallel).boxed());
    }

    fn decide(&mut self, decisions: &[Decision]) {
        let of = |call: &Call| {
            decisions
                .iter()
                .find(|one| call.approval.as_ref() == Some(&one.id))
        };
        for call in self
            .session
            .calls
            .iter_mut()
            .filter(|call| call.output.is_none())
        {
            if let Some(Decision {
                approved: false,
                reason,
                ..
            }) = of(call)
            {
                let reason = reason.as_deref().unwrap_or("no reason given");
                call.output = Some(Err(format!("the user declined this call: {reason}")));
                self.ready
                    .push_back(AgentEvent::Denied(call.call.id.clone()));
            }
        }
        self.start(|call| of(call).is_some_and(|decision| decision.approved));
    }

    /// All that may run has run.
    fn ran(&mut self) {
        self.state = State::Ended;
        if self.session.calls.iter().any(|call| call.output.is_none()) {
            self.ready
                .push_back(AgentEvent::End(FinishReason::ToolCalls));
        } else {
            let Agent {
                format,
                most_result_bytes,
                ..
            } = *self.agent;
            self.session.settle(format, most_result_bytes);
            self.state = State::Ask;
        }
    }
}
// ANCHOR_END: run

fn ready_err(text: String) -> BoxFuture<'static, Output> {
    std::future::ready(Err(text)).boxed()
}

/// Some hosts have no ids; results and approvals need them.
fn identify(event: &mut ModelEvent, step: usize) {
    let name = |id: &mut String, index: usize| {
        if id.is_empty() {
            *id = format!("{UNNAMED}{step}_{index}");
        }
    };
    match event {
        ModelEvent::ToolCallStart { id, index, .. } => name(id, *index as usize),
        ModelEvent::Finish { tool_calls, .. } => {
            let calls = tool_calls.iter_mut().enumerate();
            calls.for_each(|(index, call)| name(&mut call.id, index));
        }
        _ => {}
    }
}
