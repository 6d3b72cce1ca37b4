//! Sends a rendered answer, with its faults, at its pace, and remembers what came of each request.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use bytes::Bytes;
use futures::{Stream, stream};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Ending, Fault, Frame, Script};

/// One step of an answer.
pub(super) enum Step {
    /// Send one HTTP chunk that completes this many tokens.
    Send(Bytes, usize),
    Pause(Duration),
    /// Silence until the release.
    Hold,
    /// End the body without its last chunk.
    Abort,
}

/// What to do for `script`, whose answer is `frames`.
pub(super) fn plan(
    mut frames: Vec<Frame>,
    script: &Script,
    error_event: fn() -> String,
) -> VecDeque<Step> {
    let mut steps = VecDeque::new();
    let after_token = |frames: &[Frame], after: usize| {
        let mut tokens = frames.iter().enumerate().filter(|(_, frame)| frame.token);
        match after.checked_sub(1) {
            Some(last) => tokens.nth(last).map_or(frames.len(), |(at, _)| at + 1),
            None => tokens.next().map_or(frames.len(), |(at, _)| at),
        }
    };
    let mut last = Vec::new();
    match script.fault {
        Fault::None | Fault::Status { .. } | Fault::HoldHead => {}
        Fault::Stall { after } => {
            let rest = frames.split_off(after_token(&frames, after));
            send(&frames, script, &mut steps);
            steps.push_back(Step::Hold);
            frames = rest;
        }
        Fault::CutBetween { after, ending } => {
            frames.truncate(after_token(&frames, after));
            last.extend((ending == Ending::Abort).then_some(Step::Abort));
        }
        Fault::CutInside { after, ending } => {
            let mut rest = frames.split_off(after_token(&frames, after));
            if let Some(half) = rest.first_mut() {
                let line = half.bytes.trim_end().len();
                let cut = (line / 2..=line).find(|&at| half.bytes.is_char_boundary(at));
                frames.push(Frame::other(half.bytes[..cut.unwrap_or(0)].to_owned()));
            }
            last.extend((ending == Ending::Abort).then_some(Step::Abort));
        }
        Fault::Error { after } => {
            frames.truncate(after_token(&frames, after));
            frames.push(Frame::other(error_event()));
        }
    }
    send(&frames, script, &mut steps);
    steps.extend(last);
    steps
}

fn send(frames: &[Frame], script: &Script, steps: &mut VecDeque<Step>) {
    let Some(size) = script.chunk_bytes else {
        for frame in frames {
            if frame.token && !script.pace.is_zero() {
                steps.push_back(Step::Pause(script.pace));
            }
            let bytes = Bytes::copy_from_slice(frame.bytes.as_bytes());
            steps.push_back(Step::Send(bytes, usize::from(frame.token)));
        }
        return;
    };
    let mut chunk = Vec::new();
    let mut tokens = 0;
    for frame in frames {
        for (at, byte) in frame.bytes.bytes().enumerate() {
            chunk.push(byte);
            tokens += usize::from(frame.token && at + 1 == frame.bytes.len());
            if chunk.len() >= size {
                let bytes = Bytes::from(std::mem::take(&mut chunk));
                steps.push_back(Step::Send(bytes, std::mem::take(&mut tokens)));
            }
        }
    }
    if !chunk.is_empty() {
        steps.push_back(Step::Send(chunk.into(), tokens));
    }
}

/// Plays `steps` as a response body.
pub(super) fn play(
    steps: VecDeque<Step>,
    released: watch::Receiver<u64>,
    record: Record,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let start = (steps, released, record);
    stream::unfold(start, |(mut steps, mut released, mut record)| async move {
        loop {
            match steps.pop_front() {
                Some(Step::Send(bytes, tokens)) => {
                    record.add_tokens(tokens);
                    // hyper writes to the socket when the body is pending: each chunk goes out alone.
                    tokio::task::yield_now().await;
                    return Some((Ok(bytes), (steps, released, record)));
                }
                Some(Step::Pause(pause)) => tokio::time::sleep(pause).await,
                Some(Step::Hold) => wait_for_release(&mut released).await,
                Some(Step::Abort) => {
                    record.finish();
                    tokio::task::yield_now().await;
                    let error = io::Error::other("the script ends here");
                    steps.clear();
                    return Some((Err(error), (steps, released, record)));
                }
                None => {
                    record.finish();
                    return None;
                }
            }
        }
    })
}

/// Waits for a release since the exchange was opened.
pub(super) async fn wait_for_release(released: &mut watch::Receiver<u64>) {
    if released.changed().await.is_err() {
        // The handle is gone: nobody can release any more. Only the reader can end this.
        std::future::pending::<()>().await;
    }
}

/// Requests that are remembered.
const MAX_EXCHANGES: usize = 4096;

/// One request and what came of it.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// Counts from 1 in the order of arrival.
    pub id: u64,
    /// The request's path.
    pub path: String,
    /// The request's headers.
    pub headers: HeaderMap,
    /// The request's body.
    pub request: Value,
    /// Tokens handed to the connection.
    pub tokens: usize,
    /// How it ended; `None` while it is open.
    pub end: Option<ExchangeEnd>,
    /// From the request to the end.
    pub lasted: Option<Duration>,
    opened: Instant,
}

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExchangeEnd {
    /// The model sent all that the script says, the fault included.
    Finished,
    /// The reader went away before.
    ReaderGone,
}

type Exchanges = VecDeque<Exchange>;

/// All exchanges.
#[derive(Clone, Default)]
pub(super) struct Log {
    exchanges: Arc<watch::Sender<(u64, Exchanges)>>,
}

impl Log {
    pub(super) fn open(&self, path: &str, headers: HeaderMap, request: Value) -> Record {
        let mut id = 0;
        self.exchanges.send_modify(|(count, exchanges)| {
            *count += 1;
            id = *count;
            if exchanges.len() == MAX_EXCHANGES {
                exchanges.pop_front();
            }
            exchanges.push_back(Exchange {
                id,
                path: path.to_owned(),
                headers,
                request,
                tokens: 0,
                end: None,
                lasted: None,
                opened: Instant::now(),
            });
        });
        let log = self.clone();
        Record { log, id }
    }

    pub(super) fn all(&self) -> Vec<Exchange> {
        self.exchanges.borrow().1.iter().cloned().collect()
    }

    pub(super) async fn wait_for(&self, mut condition: impl FnMut(&Exchange) -> bool) -> Exchange {
        let mut receiver = self.exchanges.subscribe();
        loop {
            if let Some(found) = receiver.borrow_and_update().1.iter().find(|e| condition(e)) {
                return found.clone();
            }
            // The sender is in `self`, so it cannot be gone.
            let _ = receiver.changed().await;
        }
    }

    fn update(&self, id: u64, change: impl FnOnce(&mut Exchange)) {
        self.exchanges.send_modify(|(_, exchanges)| {
            // Ids are consecutive: the place follows from the first one.
            let first = exchanges.front().map_or(0, |exchange| exchange.id);
            let place = id.checked_sub(first).and_then(|n| usize::try_from(n).ok());
            if let Some(exchange) = place.and_then(|place| exchanges.get_mut(place)) {
                change(exchange);
            }
        });
    }
}

/// An open exchange; dropped before [`Record::finish`], the reader has gone away.
pub(super) struct Record {
    log: Log,
    id: u64,
}

impl Record {
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn add_tokens(&mut self, tokens: usize) {
        self.log
            .update(self.id, |exchange| exchange.tokens += tokens);
    }

    pub(super) fn finish(&mut self) {
        self.end(ExchangeEnd::Finished);
    }

    fn end(&self, end: ExchangeEnd) {
        self.log.update(self.id, |exchange| {
            if exchange.end.is_none() {
                exchange.end = Some(end);
                exchange.lasted = Some(exchange.opened.elapsed());
            }
        });
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.end(ExchangeEnd::ReaderGone);
    }
}
