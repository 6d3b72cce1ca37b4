//! What a client of one event stream sees, read from its [`Source`] without a server.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use snippets::sse::streams::Source;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub name: String,
    pub id: String,
    pub data: String,
}

/// The events of a source, with a heartbeat every 20 ms.
pub struct Events {
    source: Option<Box<dyn Source>>,
    seen: VecDeque<Seen>,
}

impl Events {
    pub fn new(source: impl Source) -> Self {
        Self {
            source: Some(Box::new(source)),
            seen: VecDeque::new(),
        }
    }

    /// The next event; `None` after the end.
    pub async fn next(&mut self) -> Option<Seen> {
        loop {
            if let Some(seen) = self.seen.pop_front() {
                return Some(seen);
            }
            let source = self.source.as_mut()?;
            let chunk = poll_fn(|cx| source.poll(cx));
            match tokio::time::timeout(Duration::from_millis(20), chunk).await {
                Ok(Some(chunk)) => {
                    self.take(&chunk.bytes);
                    if chunk.last {
                        self.source = None;
                    }
                }
                Ok(None) => self.source = None,
                Err(_) => {
                    if let Some(end) = source.beat() {
                        self.take(&end.bytes());
                        self.source = None;
                    }
                }
            }
        }
    }

    /// Whether there is nothing to read right now.
    pub fn is_waiting(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let polled = self.source.as_mut().map(|source| source.poll(&mut cx));
        self.seen.is_empty() && matches!(polled, Some(Poll::Pending))
    }

    fn take(&mut self, bytes: &[u8]) {
        for block in std::str::from_utf8(bytes).unwrap().split_terminator("\n\n") {
            let field = |name: &str| {
                let lines = block.lines().filter_map(|line| line.strip_prefix(name));
                lines.collect::<Vec<_>>().join("\n")
            };
            self.seen.push_back(Seen {
                name: field("event: "),
                id: field("id: "),
                data: field("data: "),
            });
        }
    }
}
