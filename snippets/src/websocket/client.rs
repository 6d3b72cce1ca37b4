//! A client of the rooms that reconnects, resumes by sequence number, and keeps messages until they are acknowledged.
//!
//! Needs `client_session.rs`, `pending.rs` and the cursor of `rooms.rs`.
//! Guarantees: events of a room are delivered once and in order across reconnects, or `Reset` says that some are missing;
//! a refusal that is only for now (rate limit, overload, restart, expired session) never stops it; it stops if the server
//! says that a retry is useless.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::connect_async_with_config;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::client_session::{End, Session};
use super::pending::Pending;

pub use super::client_session::{Command, Update};

/// Closes after which a retry is useless: malformed messages, not authenticated, not allowed. All others are retried; for 4408
/// (session expired) `request` must fetch a new credential.
const FINAL_CODES: [u16; 3] = [1008, 4401, 4403];

// ANCHOR: config
/// How a client behaves.
pub struct Config {
    /// Called before each attempt, since a ticket or token may have expired.
    pub request: Box<dyn FnMut() -> Result<Request, Error> + Send>,
    /// How long a handshake may take.
    pub connect_timeout: Duration,
    /// Minimum delay before a new attempt; see [`backoff`].
    pub min_delay: Duration,
    /// Upper bound of the delay, unless the server asks for a longer one.
    pub max_delay: Duration,
    /// A connection that lived this long was healthy, and only such a connection resets the delay.
    pub stable_after: Duration,
    /// Time between two pings; after two without any frame the connection is dropped.
    pub heartbeat: Duration,
    /// Largest message accepted.
    pub max_message: usize,
    /// The messages that are not acknowledged.
    pub pending: Pending,
}
// ANCHOR_END: config

/// Why the client has stopped.
#[derive(Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The application dropped its end of a channel.
    ByApplication,
    /// The handshake was answered with 401 or 403.
    Status(u16),
    /// The server closed with one of the codes that are final.
    Code(u16),
    /// The request could not be made.
    Request,
}

// ANCHOR: run
/// Runs until it is stopped. Bound both channels; drop `commands` to stop.
pub async fn run(
    mut config: Config,
    mut commands: mpsc::Receiver<Command>,
    updates: mpsc::Sender<Update>,
) -> Stopped {
    let mut session = Session::new(config.pending, updates, config.heartbeat);
    let mut failures = 0;
    loop {
        let Ok(request) = (config.request)() else {
            return Stopped::Request;
        };
        // Both limits are needed, because a message may be one frame.
        let limits = WebSocketConfig::default()
            .read_buffer_size(16 * 1024)
            .max_message_size(Some(config.max_message))
            .max_frame_size(Some(config.max_message));
        let connecting = connect_async_with_config(request, Some(limits), true);
        let connecting = timeout(config.connect_timeout, connecting);
        let Some(connected) = session.meanwhile(&mut commands, connecting).await else {
            return Stopped::ByApplication;
        };
        let mut stable = false;
        let mut least = config.min_delay;
        match connected {
            Ok(Ok((socket, _))) => {
                let begun = Instant::now();
                match session.run(socket, &mut commands).await {
                    End::Closed(code) if FINAL_CODES.contains(&code) => return Stopped::Code(code),
                    End::ByApplication => return Stopped::ByApplication,
                    End::Closed(_) | End::Lost => {}
                }
                stable = begun.elapsed() >= config.stable_after;
            }
            Ok(Err(Error::Http(response))) if matches!(response.status().as_u16(), 401 | 403) => {
                return Stopped::Status(response.status().as_u16());
            }
            Ok(Err(Error::Http(response))) => least = least.max(retry_after(&response)),
            Ok(Err(_)) | Err(_) => {}
        }
        // Opening alone does not reset the delay: a server that accepts and fails would be retried without a pause.
        failures = if stable { 0 } else { failures + 1 };
        let delay = backoff(failures, least, config.max_delay.max(least * 2));
        if !session.wait(&mut commands, least, delay).await {
            return Stopped::ByApplication;
        }
    }
}
// ANCHOR_END: run

// ANCHOR: backoff
/// Returns at least `min`, plus a random part of up to `min` · 2ⁿ, and at most `max` in all. Clients that were cut off together
/// thus do not reconnect together, and none reconnects immediately.
pub fn backoff(failures: u32, min: Duration, max: Duration) -> Duration {
    let spread = min.saturating_mul(2_u32.saturating_pow(failures));
    min + spread.min(max.saturating_sub(min)).mul_f64(rand::random())
}
// ANCHOR_END: backoff

/// The seconds of `Retry-After` (RFC 9110, 10.2.3), at most an hour; none for a date.
fn retry_after<B>(response: &http::Response<B>) -> Duration {
    let value = response.headers().get("retry-after");
    let seconds = value.and_then(|value| value.to_str().ok()?.parse().ok());
    Duration::from_secs(seconds.unwrap_or(0).min(3600))
}
