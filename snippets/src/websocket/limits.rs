//! What a WebSocket connection may use, and why it ended. Goes with [`super::serve`].

// ANCHOR: limits
use std::error::Error as _;
use std::time::Duration;

use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::error::ProtocolError;

/// What one connection may use, and how long each side may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest message accepted, in bytes. A larger one is answered with 1009.
    pub message: usize,
    /// Read buffer, in bytes, allocated at once: tungstenite's default of 128 KiB is most of an idle connection's memory.
    /// 1 KiB suits commands and chat; a message of 64 KiB then takes 64 reads.
    pub read_buffer: usize,
    /// Bound of the outbound queue, in messages.
    pub queue: usize,
    /// Bound of the outbound queue, in bytes.
    pub queue_bytes: usize,
    /// A ping goes out this often; keep it below half of the shortest idle limit on the way (proxies: often 60 s).
    pub ping_every: Duration,
    /// A peer from which no message, ping or pong has come for this long is gone: more than two pings. Parts of a message are
    /// not seen; a peer that sends one for longer must answer pings in between.
    pub silence: Duration,
    /// A write that takes longer means that the peer does not read.
    pub send_deadline: Duration,
    /// How long the peer may take to finish the closing handshake.
    pub close_deadline: Duration,
    /// At shutdown, Close goes out at a random time within this, so that not all peers reconnect at once.
    pub drain_spread: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message: 64 * 1024,
            read_buffer: 1024,
            queue: 64,
            queue_bytes: 256 * 1024,
            ping_every: Duration::from_secs(20),
            silence: Duration::from_secs(50),
            send_deadline: Duration::from_secs(10),
            close_deadline: Duration::from_secs(3),
            drain_spread: Duration::from_secs(2),
        }
    }
}

/// Why a connection ended: one label for logs and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The peer sent Close.
    PeerClosed,
    /// We sent Close (the outbox was closed).
    WeClosed,
    /// The peer broke the protocol or a limit of the library; it was sent this code.
    Violation(u16),
    /// No frame for [`Limits::silence`].
    HalfOpen,
    /// A write took longer than [`Limits::send_deadline`].
    NotReading,
    /// The transport ended without Close.
    Lost,
}

impl End {
    /// What an error of the library means, with the close code for it (RFC 6455, 7.4.1).
    pub fn of(error: &axum::Error) -> Self {
        match error.source().and_then(|error| error.downcast_ref()) {
            Some(WsError::Capacity(_)) => End::Violation(1009),
            Some(WsError::Utf8(_)) => End::Violation(1007),
            Some(WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => End::Lost,
            Some(WsError::Protocol(_)) => End::Violation(1002),
            _ => End::Lost, // the transport has failed
        }
    }
}
// ANCHOR_END: limits
