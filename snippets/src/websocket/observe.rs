//! Metrics of WebSocket connections: how many are open, how long they last, and why they end.
//!
//! Use it with `Sockets::observed`. Everything is recorded where it happens, the end in `Drop`: a handler that panics runs no line
//! after its loop. Labels are a fixed few: one [`SocketMetrics`] per kind of endpoint, never one per user or room. Needs
//! `serve.rs` with its files; `production/scrape.rs` is the endpoint to scrape.

// ANCHOR: observe
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use super::limits::End;
use super::serve::Observe;

/// The metrics of one kind of socket. Make it once, at start, after the recorder has been installed.
pub struct SocketMetrics {
    kind: &'static str,
    open: Gauge,
    opened: Counter,
    refused: Counter,
    duration: Histogram,
}

impl SocketMetrics {
    /// `websocket_open`, `websocket_opened_total`, `websocket_refused_total`, `websocket_duration_seconds` and
    /// `websocket_closed_total` by `reason` and `code`, all with the label `kind`.
    pub fn new(kind: &'static str) -> Self {
        Self {
            kind,
            open: gauge!("websocket_open", "kind" => kind),
            opened: counter!("websocket_opened_total", "kind" => kind),
            refused: counter!("websocket_refused_total", "kind" => kind),
            duration: histogram!("websocket_duration_seconds", "kind" => kind),
        }
    }
}

impl Observe for SocketMetrics {
    fn opened(&self) {
        self.opened.increment(1);
        self.open.increment(1);
    }

    fn refused(&self) {
        self.refused.increment(1);
    }

    fn ended(&self, end: Option<End>, lasted: Duration) {
        // The peer chooses neither of them: 1006 is an end without Close, as clients report it.
        let (reason, code) = match end {
            Some(End::PeerClosed) => ("peer", 1000),
            Some(End::WeClosed(code)) => ("server", code),
            Some(End::Violation(code)) => ("violation", code),
            Some(End::HalfOpen) => ("half_open", 1006),
            Some(End::NotReading) => ("not_reading", 1006),
            Some(End::Lost) => ("lost", 1006),
            None => ("panic", 1006),
        };
        self.open.decrement(1);
        self.duration.record(lasted);
        let labels = [
            ("kind", self.kind.to_owned()),
            ("reason", reason.to_owned()),
            ("code", code.to_string()),
        ];
        counter!("websocket_closed_total", &labels).increment(1);
    }
}
// ANCHOR_END: observe
