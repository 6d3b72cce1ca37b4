//! A client of event streams: checks each response, reconnects with its cursor by the rules of `super::reconnect`,
//! notices silence, and bounds its memory.
//!
//! The transport is a function from headers to a response, so that reqwest, hyper and a test all fit.
//! Drop the client to cancel: the connection closes. Events can come twice (the server may have sent more
//! than was read): apply them by id. Goes with `super::reconnect`, `super::wire`
//! and, for reqwest or hyper, `super::transports`.

use std::fmt::Display;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::header::{ACCEPT, CACHE_CONTROL, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::reconnect::{Policy, Reconnect, Request, Verdict};
use super::wire::{Limits, ParseError, Parser};

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The `event` field, or `message`.
    pub event_type: String,
    /// The data.
    pub data: String,
    /// The cursor after this event.
    pub last_event_id: String,
}

// ANCHOR: end
/// Why a client has stopped before the end of its stream.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// A retry would get the same status, such as 401 or 404.
    #[error("the server answered {0}")]
    Status(StatusCode),
    /// 200, but no event stream: a login page, or a proxy's error page.
    #[error("the answer is not text/event-stream")]
    NotAnEventStream,
    /// The server passed a bound.
    #[error(transparent)]
    TooLarge(#[from] ParseError),
    /// A request that must not be sent again was cut off. Whether its work was done is not known.
    #[error("the response was cut: {0}")]
    Cut(String),
    /// Too many failures in a row.
    #[error("gave up: {0}")]
    GaveUp(String),
}
// ANCHOR_END: end

/// A client of one event stream, over any transport.
pub struct EventSource<C, F, B> {
    connect: C,
    reconnect: Reconnect,
    parser: Parser,
    state: State<F, B>,
    /// The end of a wait, of an attempt, or of the silence of a response.
    deadline: Instant,
    /// What has been read and not parsed.
    chunk: Bytes,
}

/// Kept here and not in the future of [`EventSource::next`], which may be dropped.
enum State<F, B> {
    Waiting,
    Connecting(Pin<Box<F>>),
    /// With whether the reader was given the time below.
    Reading(Pin<Box<B>>, bool),
    Finished,
}

/// A caller that was away for longer than the idle timeout is given this long to take what came meanwhile: some
/// transports read from the socket only while they are polled.
const AWAY: Duration = Duration::from_secs(1);

impl<C, F, B, E> EventSource<C, F, B>
where
    C: FnMut(HeaderMap) -> F,
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes>,
    B::Error: Display,
    E: Display,
{
    /// A client that has not connected yet; `connect` sends the request with the headers it is given.
    pub fn new(policy: Policy, limits: Limits, connect: C) -> Self {
        Self {
            connect,
            reconnect: Reconnect::new(policy),
            parser: Parser::new(limits),
            state: State::Waiting,
            deadline: Instant::now(),
            chunk: Bytes::new(),
        }
    }

    /// Continues after an event of an earlier run.
    #[must_use]
    pub fn resume_after(mut self, last_event_id: &str) -> Self {
        self.parser = self.parser.resume_after(last_event_id);
        self
    }

    // ANCHOR: next
    /// The next event; `None` when the stream has finished (204, or the end of a request that is sent once).
    ///
    /// Call it in `select!` if you like: dropping the returned future loses no event, restarts no attempt and no timeout.
    ///
    /// # Errors
    /// See [`End`]; the client is finished then.
    pub async fn next(&mut self) -> Result<Option<Event>, End> {
        loop {
            if let Some(event) = self.parse()? {
                return Ok(Some(event));
            }
            match &mut self.state {
                State::Finished => return Ok(None),
                State::Waiting => {
                    sleep_until(self.deadline).await;
                    self.deadline = Instant::now() + self.reconnect.policy().open;
                    let headers = self.headers();
                    self.state = State::Connecting(Box::pin((self.connect)(headers)));
                }
                State::Connecting(answer) => match timeout_at(self.deadline, answer).await {
                    Err(_) => self.cut(&"no answer in time")?,
                    // Even a connection error does not show whether a request that does work has arrived.
                    Ok(Err(error)) => self.cut(&error)?,
                    Ok(Ok(response)) => self.answered(response)?,
                },
                State::Reading(body, away) => {
                    let now = Instant::now();
                    if !*away && self.deadline <= now {
                        (*away, self.deadline) = (true, now + AWAY);
                    }
                    match timeout_at(self.deadline, body.frame()).await {
                        Ok(Some(Ok(frame))) => {
                            self.chunk = frame.into_data().unwrap_or_default();
                            *away = false;
                            self.deadline = Instant::now() + self.reconnect.policy().idle;
                        }
                        Ok(Some(Err(error))) => self.cut(&error)?,
                        Err(_) => self.cut(&"silent for longer than the idle timeout")?,
                        Ok(None) if self.reconnect.policy().request == Request::Once => {
                            self.state = State::Finished;
                        }
                        Ok(None) => self.cut(&"the response ended")?,
                    }
                }
            }
        }
    }
    // ANCHOR_END: next

    fn parse(&mut self) -> Result<Option<Event>, End> {
        let mut events = self.parser.push(&self.chunk);
        let event = match events.next() {
            Ok(event) => event.map(|event| Event {
                event_type: event.event_type.to_owned(),
                data: event.data.to_owned(),
                last_event_id: event.last_event_id.to_owned(),
            }),
            Err(error) => return Err(self.fail(error.into())),
        };
        let rest = events.rest().len();
        self.chunk.advance(self.chunk.len() - rest);
        Ok(event)
    }

    fn answered(&mut self, response: Response<B>) -> Result<(), End> {
        match self.reconnect.judge(&response) {
            Verdict::Read => {
                self.deadline = Instant::now() + self.reconnect.policy().idle;
                self.state = State::Reading(Box::pin(response.into_body()), false);
                Ok(())
            }
            Verdict::Finished => {
                self.state = State::Finished;
                Ok(())
            }
            Verdict::Retry(asked) => self.failed(&response.status(), asked),
            Verdict::Refused if response.status() == StatusCode::OK => {
                Err(self.fail(End::NotAnEventStream))
            }
            Verdict::Refused => Err(self.fail(End::Status(response.status()))),
        }
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        let id = self.parser.last_event_id();
        // An id can be any UTF-8: its bytes, not its ASCII.
        if let (false, Ok(id)) = (id.is_empty(), HeaderValue::from_bytes(id.as_bytes())) {
            headers.insert(HeaderName::from_static("last-event-id"), id);
        }
        headers
    }

    /// The request may have had its effect.
    fn cut(&mut self, why: &dyn Display) -> Result<(), End> {
        match self.reconnect.policy().request {
            Request::Resume => self.failed(why, None),
            Request::Once => Err(self.fail(End::Cut(why.to_string()))),
        }
    }

    fn failed(&mut self, why: &dyn Display, asked: Option<Duration>) -> Result<(), End> {
        self.state = State::Waiting;
        self.parser.reset();
        let wait = self.reconnect.wait(asked, self.parser.retry());
        let wait = wait.ok_or_else(|| self.fail(End::GaveUp(why.to_string())))?;
        tracing::debug!(%why, ?wait, "event stream");
        self.deadline = Instant::now() + wait;
        Ok(())
    }

    fn fail(&mut self, end: End) -> End {
        self.state = State::Finished;
        end
    }
}
