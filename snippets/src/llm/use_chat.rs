//! The server of `useChat`: one endpoint for questions, approvals, resume and Stop, with the history on the server.
//!
//! Use it if the front end is built on the AI SDK. An answer survives its reader, as in `resume`: Stop is a request. Guarantees: a chat has
//! one answer at a time; a question or decision that is sent again joins its answer; a page that returns gets the running answer from its start, or
//! 204; the history holds what the page has, and is stored before the page sees the end.
//!
//! Needs `agent`, `use_chat_request`, `use_chat_history`, `ui_message_stream`, `resume` and their files; `relay` has the call of the model.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use axum::{
    Extension, Json, Router,
    extract::{DefaultBodyLimit, Path, State},
    http::{HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::json;
use tower_http::cors::CorsLayer;

use super::{
    agent::{Agent, AgentEvent, Run},
    generation::{Answer, Generation},
    public_error::{Body, PublicError, UserId},
    resume::Generations,
    ui_message::Message,
    ui_message_stream::{UiLog, event, ui_response},
    ui_part::UiPart,
    ui_writer::UiWriter,
    use_chat_history::{self as history, Chats, lock},
    use_chat_request::{UiRequest, Wish},
};
use crate::sse::{
    event::{Event, LastEventId},
    streams::{self, Slot},
};

// ANCHOR: service
/// The service.
pub struct UseChat {
    /// Answers the questions; without tools it is a plain chat.
    pub agent: Arc<Agent>,
    /// The running answers, and the limits of a request.
    pub generations: Arc<Generations>,
    /// The conversations.
    pub chats: Chats<Generation>,
    /// `finish` after Stop: `interrupted` for the AI SDK 7, `other` for 5 and 6.
    pub stopped: &'static str,
}
// ANCHOR_END: service

type All = State<Arc<UseChat>>;
type User = Extension<UserId>;
type Chat = history::Chat<Generation>;

/// The answer that is being written.
fn running(chat: &Chat) -> Option<Arc<Generation>> {
    chat.generation.upgrade().filter(|kept| !kept.has_ended())
}

// ANCHOR: routes
/// `POST /chat` asks, regenerates and decides. `GET /chat/{id}` has the history, `GET /chat/{id}/stream` the running answer or 204, and
/// `DELETE /chat/{id}/stream` stops it. Put [`cors`] around your authentication: a preflight has no credentials.
pub fn app(all: Arc<UseChat>) -> Router {
    let limit = DefaultBodyLimit::max(all.generations.limits().most_request_bytes);
    let stream = get(attach).head(streams::head).delete(stop);
    Router::new()
        .route("/chat", post(ask))
        .route("/chat/{id}", get(history))
        .route("/chat/{id}/stream", stream)
        .layer(limit)
        .with_state(all)
}
// ANCHOR_END: routes

/// Lets the pages of exactly these origins in, with their cookies.
pub fn cors(origins: Vec<HeaderValue>) -> CorsLayer {
    CorsLayer::new()
        .allow_origin(origins)
        .allow_credentials(true)
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers([header::CONTENT_TYPE, header::AUTHORIZATION])
        .expose_headers([header::RETRY_AFTER])
}

// ANCHOR: ask
async fn ask(
    State(all): All,
    Extension(UserId(user)): User,
    Body(request): Body<UiRequest>,
) -> Response {
    let begun = async {
        let (id, wish) = request?.wish()?;
        let slot = all.generations.admit()?; // first, because a refused question must not run
        Ok((slot, all.begin(user, id, wish).await?))
    };
    match begun.await {
        Ok((slot, generation)) => respond(slot, &generation),
        Err(refused) => (all.generations.limits().refuse)(refused),
    }
}
// ANCHOR_END: ask

async fn history(
    State(all): All,
    Extension(UserId(user)): User,
    Path(id): Path<String>,
) -> Response {
    let Some(chat) = all.chats.get(&(user, id)) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let chat = lock(&chat);
    let turns = chat.turns.iter();
    let pairs = turns.flat_map(|turn| [Some(&turn.question), turn.answer.as_ref()]);
    let messages: Vec<&Message> = pairs.flatten().collect();
    // `active` and a 204 on resume: the answer has ended in between, load the history again.
    Json(json!({ "messages": messages, "active": running(&chat).is_some() })).into_response()
}

async fn attach(
    State(all): All,
    Extension(UserId(user)): User,
    Path(id): Path<String>,
) -> Response {
    let chat = all.chats.get(&(user, id));
    let active = chat.and_then(|chat| running(&lock(&chat)));
    match (active, all.generations.admit()) {
        (Some(generation), Ok(slot)) => respond(slot, &generation),
        (Some(_), Err(refused)) => (all.generations.limits().refuse)(refused),
        (None, _) => StatusCode::NO_CONTENT.into_response(), // `useChat` has nothing to resume
    }
}

// ANCHOR: stop
async fn stop(
    State(all): All,
    Extension(UserId(user)): User,
    Path(id): Path<String>,
) -> StatusCode {
    let chat = all.chats.get(&(user, id));
    if let Some(generation) = chat.and_then(|chat| running(&lock(&chat))) {
        generation.stop.cancel();
        generation.ended().await; // so that after the 204 the history has the partial answer
    }
    StatusCode::NO_CONTENT
}
// ANCHOR_END: stop

/// From the start of the answer: the client has no cursor, and builds the message again.
fn respond(slot: Slot, generation: &Arc<Generation>) -> Response {
    match generation.read(&LastEventId::None) {
        Some(events) => ui_response(slot, UiLog(events)),
        None => StatusCode::NO_CONTENT.into_response(),
    }
}

impl UseChat {
    async fn begin(
        self: &Arc<Self>,
        user: String,
        id: String,
        wish: Wish,
    ) -> Result<Arc<Generation>, PublicError> {
        let chat = self.chats.open(&user, &id)?;
        loop {
            let other = {
                let mut open = lock(&chat);
                let kept = open.generation.upgrade();
                match (kept.filter(|_| open.has_begun(&wish)), running(&open)) {
                    (Some(same), _) => return Ok(same), // sent again: its answer is read again
                    (None, Some(other)) => {
                        open.check(&wish)?; // what is refused stops nothing
                        other
                    }
                    (None, None) => {
                        let before = (open.turns.clone(), open.session.clone());
                        let (session, message, decisions) =
                            open.prepare(self.agent.format, self.agent.most_result_bytes, wish)?;
                        open.count += 1;
                        let key = (user.clone(), format!("{id}/{}", open.count)); // no key of a client has a slash
                        let agent = self.agent.clone();
                        let run = || Run::new(agent, &user, session, &decisions);
                        let answer = || Answering::new(run(), message, self.stopped, chat.clone());
                        let begun = self.generations.begin(key, 0, answer);
                        let generation = begun.inspect_err(|_| {
                            (open.turns, open.session) = before; // as the page has it
                        })?;
                        open.generation = Arc::downgrade(&generation);
                        open.session.decided(&decisions);
                        return Ok(generation);
                    }
                }
            };
            // One answer at a time. A decision on another call of its turn waits; with all else, the user has moved on.
            if !matches!(wish, Wish::Decide(..)) {
                other.stop.cancel();
            }
            other.ended().await;
        }
    }
}

/// One answer in the parts of the protocol.
struct Answering {
    run: Run,
    writer: Option<UiWriter>,
    ready: VecDeque<UiPart>,
    message: Message,
    stopped: &'static str,
    done: bool,
    chat: Arc<Mutex<Chat>>,
}

impl Answering {
    fn new(run: Run, message: Message, stopped: &'static str, chat: Arc<Mutex<Chat>>) -> Self {
        let mut out = Vec::new();
        let writer = Some(UiWriter::start(&message.id, &mut out));
        let ready = out.into();
        Self {
            run,
            writer,
            ready,
            message,
            stopped,
            done: false,
            chat,
        }
    }

    fn write(&mut self, event: AgentEvent) -> Option<()> {
        let mut out = Vec::new();
        let mut writer = self.writer.take()?;
        match event {
            AgentEvent::Model(event) => drop(writer.event(event, &mut out)),
            AgentEvent::Output(call, output) => UiWriter::tool_result(&call, output, &mut out),
            AgentEvent::Approval(call, approval) => UiWriter::approval(&call, &approval, &mut out),
            AgentEvent::Denied(call) => UiWriter::denied(&call, &mut out),
            AgentEvent::Step => writer.next_step(&mut out),
            AgentEvent::End(reason) => {
                writer.finish(&reason, &mut out);
                return self.last(out);
            }
            AgentEvent::Failed(error) => {
                writer.fail(error, &mut out);
                return self.last(out);
            }
        }
        self.writer = Some(writer);
        self.ready.extend(out);
        Some(())
    }

    /// Stores the message before anyone can see its end.
    fn last(&mut self, parts: Vec<UiPart>) -> Option<()> {
        self.ready.extend(parts);
        self.ready.iter().for_each(|part| self.message.apply(part));
        let mut chat = lock(&self.chat);
        chat.session = self.run.session.clone();
        if let Some(turn) = chat.turns.last_mut() {
            turn.answer = Some(self.message.clone());
        }
        Some(())
    }
}

impl Answer for Answering {
    async fn next(&mut self) -> Option<Event> {
        loop {
            match (self.ready.pop_front(), &self.writer) {
                (Some(part), writer) => {
                    if writer.is_some() {
                        self.message.apply(&part); // later parts are in it: see `last`
                    }
                    return Some(event(&part));
                }
                (None, None) => {
                    let done = std::mem::replace(&mut self.done, true);
                    return (!done).then(|| Event::message("[DONE]").last());
                }
                (None, Some(_)) => {
                    let event = self.run.next().await?;
                    self.write(event)?;
                }
            }
        }
    }

    fn end(&mut self, why: PublicError) -> Vec<Event> {
        self.run.stop();
        let mut out = Vec::new();
        if let Some(writer) = self.writer.take() {
            match why == PublicError::STOPPED {
                true => writer.stop(self.stopped, &mut out),
                false => writer.fail(why, &mut out),
            }
            self.last(out);
        }
        let parts = self.ready.drain(..).map(|part| event(&part));
        parts.chain([Event::message("[DONE]").last()]).collect()
    }

    fn broken(&self) -> Option<Event> {
        let error_text = UiPart::TRUNCATED;
        Some(event(&UiPart::Error { error_text }).last())
    }
}
