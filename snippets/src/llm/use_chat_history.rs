//! The conversations of `use_chat`: what the page shows, and what the model gets.
//!
//! Use it with `use_chat`, and put your database here. Guarantees: the model gets what this server stored, never the client's copy; a chat
//! of another user does not exist; chats are bounded in number, and a running one is never evicted.
//!
//! Siblings: `agent_turn`, `public_error`, `ui_message`, `use_chat_request`.

// ANCHOR: history
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use serde_json::Value;

use super::{
    agent_turn::{Decision, Format, Session},
    public_error::PublicError,
    ui_message::Message,
    use_chat_request::Wish,
};

/// One conversation; `G` is an answer that runs, such as `generation::Generation`.
pub struct Chat<G> {
    /// Questions and answers.
    pub turns: Vec<Turn>,
    /// The same for the model.
    pub session: Session,
    /// The newest answer, while it is kept.
    pub generation: Weak<G>,
    /// Answers that were begun.
    pub count: u64,
}

impl<G> Default for Chat<G> {
    fn default() -> Self {
        Self {
            turns: Vec::new(),
            session: Session::default(),
            generation: Weak::new(),
            count: 0,
        }
    }
}

/// A question and its answer.
#[derive(Clone)]
pub struct Turn {
    /// As the page has it.
    pub question: Message,
    /// As the page has it; `None` until it ends.
    pub answer: Option<Message>,
    /// For the model.
    asked: Value,
    /// Messages of the session before it.
    start: usize,
}

impl Turn {
    fn is_answer(&self, id: &str) -> bool {
        self.answer.as_ref().is_some_and(|answer| answer.id == id)
    }
}

impl<G> Chat<G> {
    /// Whether the newest answer is that to `wish`: the request was sent again.
    pub fn has_begun(&self, wish: &Wish) -> bool {
        let Some(turn) = self.turns.last() else {
            return false;
        };
        match wish {
            Wish::Answer {
                message, edited, ..
            } => !edited && turn.question == *message,
            Wish::Decide(id, decisions) => {
                turn.is_answer(id) && self.session.waiting(decisions).next().is_none()
            }
            Wish::Again(_) => false,
        }
    }

    /// Whether there is something to regenerate or to decide. Ask it before you stop an answer.
    ///
    /// # Errors
    /// [`PublicError::MESSAGE`].
    pub fn check(&self, wish: &Wish) -> Result<(), PublicError> {
        let known = match wish {
            Wish::Answer { .. } => true,
            Wish::Again(id) => self.turns.iter().any(|turn| turn.question.id == *id),
            Wish::Decide(id, decisions) => {
                let waits = self.session.waiting(decisions).next().is_some();
                waits && self.turns.last().is_some_and(|turn| turn.is_answer(id))
            }
        };
        known.then_some(()).ok_or(PublicError::MESSAGE)
    }

    /// Makes the history that `wish` continues: the session to run, the message that its answer begins or continues, and the decisions.
    /// `most_result_bytes` as in the agent.
    ///
    /// # Errors
    /// See [`Chat::check`].
    pub fn prepare(
        &mut self,
        format: Format,
        most_result_bytes: usize,
        wish: Wish,
    ) -> Result<(Session, Message, Vec<Decision>), PublicError> {
        self.check(&wish)?;
        let new = || Message::assistant(&format!("{:016x}", rand::random::<u64>()));
        let place =
            |chat: &Self, id: &str| chat.turns.iter().position(|turn| turn.question.id == id);
        match wish {
            Wish::Answer {
                message,
                text,
                images,
                ..
            } => {
                if let Some(at) = place(self, &message.id) {
                    self.cut(at);
                }
                // Calls that wait for an approval are declined by a new question.
                self.session.settle(format, most_result_bytes);
                let asked = format.question(&text, &images);
                self.push(message, asked);
                Ok((self.session.clone(), new(), Vec::new()))
            }
            Wish::Again(id) => {
                let at = place(self, &id).ok_or(PublicError::MESSAGE)?;
                let mut cut = self.cut(at).into_iter();
                let Turn {
                    question, asked, ..
                } = cut.next().ok_or(PublicError::MESSAGE)?;
                self.push(question, asked);
                Ok((self.session.clone(), new(), Vec::new()))
            }
            Wish::Decide(_, decisions) => {
                let waiting: Vec<Decision> = self.session.waiting(&decisions).cloned().collect();
                let answer = self.turns.last().and_then(|turn| turn.answer.clone());
                let mut message = answer.ok_or(PublicError::MESSAGE)?;
                waiting
                    .iter()
                    .for_each(|one| message.decide(&one.id, one.approved));
                Ok((self.session.clone(), message, waiting))
            }
        }
    }

    fn push(&mut self, question: Message, asked: Value) {
        let start = self.session.messages.len();
        self.session.messages.push(asked.clone());
        self.turns.push(Turn {
            question,
            answer: None,
            asked,
            start,
        });
    }

    fn cut(&mut self, at: usize) -> Vec<Turn> {
        let cut: Vec<Turn> = self.turns.drain(at..).collect();
        if let Some(first) = cut.first() {
            self.session.messages.truncate(first.start);
            self.session.calls.clear();
        }
        cut
    }
}
// ANCHOR_END: history

// ANCHOR: chats
/// Owner and id of a chat.
type Id = (String, String);

/// When it was last used, and the chat.
type Known<G> = (u64, Arc<Mutex<Chat<G>>>);

/// The conversations of this process.
pub struct Chats<G> {
    known: Mutex<HashMap<Id, Known<G>>>,
    most: usize,
    per_user: usize,
}

impl<G> Chats<G> {
    /// At most `most` chats, and `per_user` of one user: the one that was not used for the longest time makes room.
    pub fn new(most: usize, per_user: usize) -> Self {
        Self {
            known: Mutex::default(),
            most,
            per_user,
        }
    }

    /// The chat, if it exists.
    pub fn get(&self, id: &Id) -> Option<Arc<Mutex<Chat<G>>>> {
        lock(&self.known).get(id).map(|(_, chat)| chat.clone())
    }

    /// The chat, or a new one.
    ///
    /// # Errors
    /// If there is no room, since all of them are being answered.
    pub fn open(&self, user: &str, id: &str) -> Result<Arc<Mutex<Chat<G>>>, PublicError> {
        let mut known = lock(&self.known);
        let id = (user.to_owned(), id.to_owned());
        let now = known.values().map(|(used, _)| used + 1).max().unwrap_or(0);
        if let Some((used, chat)) = known.get_mut(&id) {
            *used = now;
            return Ok(chat.clone());
        }
        if known.keys().filter(|(owner, _)| owner == user).count() >= self.per_user {
            evict(&mut known, |owner| owner == user).ok_or(PublicError::BUSY)?;
        }
        if known.len() >= self.most {
            evict(&mut known, |_| true).ok_or(PublicError::FULL)?;
        }
        Ok(known.entry(id).or_insert((now, Arc::default())).1.clone())
    }
}

fn evict<G>(known: &mut HashMap<Id, Known<G>>, of: impl Fn(&str) -> bool) -> Option<()> {
    // One that a request has in its hands is in use, even before its answer runs.
    let idle = |chat: &Arc<Mutex<Chat<G>>>| Arc::strong_count(chat) == 1;
    let old = known
        .iter()
        .filter(|((owner, _), (_, chat))| of(owner) && idle(chat));
    let id = old.min_by_key(|(_, (used, _))| *used)?.0.clone();
    known.remove(&id).map(drop)
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
// ANCHOR_END: chats
