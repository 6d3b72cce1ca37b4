//! What a WebSocket connection may use, and why it ended.
//!
//! Used by `serve.rs` and the endpoints.

// ANCHOR: limits
use std::io;
use std::time::Duration;

use tokio::time::Instant;
use tokio_tungstenite::tungstenite::{Error as WsError, error::ProtocolError};

/// What the sockets of a process may use, and how long each side may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Open sockets; further handshakes get 503. Keep it below the limit of file descriptors.
    pub sockets: usize,
    /// Largest message accepted, in bytes. The answer to a larger one is Close 1009.
    pub message: usize,
    /// Bound of the queue of answers, in messages.
    pub queue: usize,
    /// Bound of the queue of answers, in bytes.
    pub queue_bytes: usize,
    /// Time between two pings; keep it below half of the shortest idle timeout on the path (proxies: often 60 s).
    pub ping_every: Duration,
    /// A peer from which no byte has come for this many pings is dropped.
    pub silent_pings: u32,
    /// Longest time in which a write makes no progress; then the peer is dropped. The kernel reports room once a third of its
    /// send buffer is free: bound that with `SO_SNDBUF`, as `connections/listen.rs` does.
    pub send_deadline: Duration,
    /// How long the peer may take to finish the closing handshake.
    pub close_deadline: Duration,
    /// At shutdown the Close frames are sent evenly within this, so that not all peers reconnect at once.
    pub drain_spread: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sockets: 10_000,
            message: 64 * 1024,
            queue: 64,
            queue_bytes: 256 * 1024,
            ping_every: Duration::from_secs(20),
            silent_pings: 3,
            send_deadline: Duration::from_secs(10),
            close_deadline: Duration::from_secs(3),
            drain_spread: Duration::from_secs(2),
        }
    }
}

/// Why a connection ended: one label for logs and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// The peer sent Close.
    PeerClosed,
    /// The outbox was closed with this code.
    WeClosed(u16),
    /// The peer broke the protocol or a limit of the library; it was sent this code.
    Violation(u16),
    /// Nothing was heard for [`Limits::silent_pings`].
    HalfOpen,
    /// A write made no progress for [`Limits::send_deadline`].
    NotReading,
    /// The transport ended without Close.
    Lost,
}

impl From<WsError> for End {
    /// With the close code for it (RFC 6455, 7.4.1).
    fn from(error: WsError) -> Self {
        match error {
            WsError::Capacity(_) => End::Violation(1009),
            WsError::Utf8(_) => End::Violation(1007),
            WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => End::Lost,
            WsError::Protocol(_) => End::Violation(1002),
            WsError::ConnectionClosed => End::PeerClosed,
            _ => End::Lost, // the transport has failed
        }
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut => End::NotReading,
            _ => End::Lost,
        }
    }
}

/// Malformed messages of one connection, with a rate: a client that is open for a week may send one now and then.
#[derive(Debug, Default)]
pub struct Malformed {
    count: u32,
    since: Option<Instant>,
}

impl Malformed {
    /// Malformed messages that a connection may send within [`Malformed::WITHIN`].
    pub const MAX: u32 = 5;
    /// The time within which they are counted.
    pub const WITHIN: Duration = Duration::from_secs(60);

    /// Counts one; true if it is the last one allowed: close with 1008. Such a client is broken, and a retry fixes nothing.
    /// Refusals that depend on the state of the server (not joined, full, too fast) must not be counted here.
    pub fn is_too_many(&mut self) -> bool {
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        if now.duration_since(since) >= Self::WITHIN {
            (self.count, self.since) = (0, Some(now));
        }
        self.count += 1;
        self.count >= Self::MAX
    }
}
// ANCHOR_END: limits
