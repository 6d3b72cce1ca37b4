//! What the scripted model remembers of each request.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

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
