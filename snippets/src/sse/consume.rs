//! A client of event streams that survives the real world: it checks what it was answered, comes back with
//! its cursor, waits as `super::reconnect` says, notices silence, and bounds what it holds.
//!
//! The transport is a function from headers to a response, so that reqwest, hyper and a test all fit.
//! Drop the client to cancel: the connection closes. Events can come twice (the server may have sent more
//! than was read): apply them by id. Goes with `super::reconnect` and `super::wire`.

// ANCHOR: client
use std::fmt::Display;
use std::pin::Pin;

use bytes::{Buf, Bytes};
use http::header::{ACCEPT, CACHE_CONTROL, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::{Instant, sleep_until, timeout};

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

/// Why a client has stopped without being told to.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// The status will not be better next time, such as 401 or 404.
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

/// A client of one event stream, over any transport.
pub struct EventSource<C, B> {
    connect: C,
    reconnect: Reconnect,
    parser: Parser,
    body: Option<Pin<Box<B>>>,
    /// What has been read and not parsed.
    chunk: Bytes,
    not_before: Instant,
    /// A request has been sent and its answer not seen.
    asked: bool,
    finished: bool,
}

impl<C, F, B, E> EventSource<C, B>
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
            body: None,
            chunk: Bytes::new(),
            not_before: Instant::now(),
            asked: false,
            finished: false,
        }
    }

    /// Continues after an event of an earlier run.
    #[must_use]
    pub fn resume_after(mut self, last_event_id: &str) -> Self {
        self.parser = self.parser.resume_after(last_event_id);
        self
    }

    /// The next event; `None` when the stream has finished (204, or the end of a request that is sent
    /// once). No event is lost when the returned future is dropped and called for again.
    ///
    /// # Errors
    /// See [`End`]; the client is finished then.
    pub async fn next(&mut self) -> Result<Option<Event>, End> {
        while !self.finished {
            if let Some(event) = self.parse()? {
                return Ok(Some(event));
            }
            let Some(body) = &mut self.body else {
                self.open().await?;
                continue;
            };
            match timeout(self.reconnect.policy().idle, body.frame()).await {
                Ok(Some(Ok(frame))) => self.chunk = frame.into_data().unwrap_or_default(),
                Ok(Some(Err(error))) => self.cut(&error)?,
                Err(_) => self.cut(&"silent for longer than the idle timeout")?,
                Ok(None) if self.reconnect.policy().request == Request::Once => {
                    self.finished = true
                }
                Ok(None) => self.cut(&"the response ended")?,
            }
        }
        self.body = None;
        Ok(None)
    }

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

    async fn open(&mut self) -> Result<(), End> {
        sleep_until(self.not_before).await;
        let headers = self.headers();
        if std::mem::take(&mut self.asked) {
            // The future that waited for the answer was dropped.
            return self.cut(&"cancelled before the answer");
        }
        self.asked = true;
        let answer = timeout(self.reconnect.policy().open, (self.connect)(headers)).await;
        self.asked = false;
        match answer {
            Err(_) => self.cut(&"no answer in time"),
            // Not even a connection error says whether a request that does work has arrived.
            Ok(Err(error)) => self.cut(&error),
            Ok(Ok(response)) => match self.reconnect.judge(&response) {
                Verdict::Read => {
                    self.body = Some(Box::pin(response.into_body()));
                    Ok(())
                }
                Verdict::Finished => {
                    self.finished = true;
                    Ok(())
                }
                Verdict::Retry(asked) => self.failed(&response.status(), asked),
                Verdict::Refused if response.status() == StatusCode::OK => {
                    Err(self.fail(End::NotAnEventStream))
                }
                Verdict::Refused => Err(self.fail(End::Status(response.status()))),
            },
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

    fn failed(&mut self, why: &dyn Display, asked: Option<std::time::Duration>) -> Result<(), End> {
        self.body = None;
        self.parser.reset();
        let wait = self.reconnect.wait(asked, self.parser.retry());
        let wait = wait.ok_or_else(|| self.fail(End::GaveUp(why.to_string())))?;
        tracing::debug!(%why, ?wait, "event stream");
        self.not_before = Instant::now() + wait;
        Ok(())
    }

    fn fail(&mut self, end: End) -> End {
        self.finished = true;
        self.body = None;
        end
    }
}
// ANCHOR_END: client

// ANCHOR: transports
/// Over reqwest. Its `timeout` must not be set: it limits the whole body.
pub fn over_reqwest(
    client: reqwest::Client,
    url: String,
) -> impl FnMut(
    HeaderMap,
) -> Pin<Box<dyn Future<Output = reqwest::Result<Response<reqwest::Body>>> + Send>> {
    move |headers| {
        let request = client.get(&url).headers(headers);
        Box::pin(async move { request.send().await.map(Response::from) })
    }
}

type HyperClient = hyper_util::client::legacy::Client<
    hyper_util::client::legacy::connect::HttpConnector,
    http_body_util::Empty<Bytes>,
>;

/// Over hyper's client. It follows no redirects.
pub fn over_hyper(
    client: HyperClient,
    uri: http::Uri,
) -> impl FnMut(HeaderMap) -> hyper_util::client::legacy::ResponseFuture {
    move |headers| {
        let mut request = http::Request::new(http_body_util::Empty::new());
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = headers;
        client.request(request)
    }
}
// ANCHOR_END: transports
