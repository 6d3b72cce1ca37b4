//! A client of the rooms that comes back: full-jitter reconnect, resume by sequence number, a heartbeat, and messages that
//! are kept until they are acknowledged. Goes with [`super::client_session`], [`super::pending`]
//! and [`super::rooms::Cursor`].
//!
//! Promises: events of a room are delivered once and in order across reconnects, or `Reset` says that some are missing;
//! nothing of an earlier connection is seen after a new one has begun; it stops when the server says that retrying is useless.

// ANCHOR: client
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

/// Closes after which asking again is useless: policy, not authenticated, not allowed.
const FINAL_CODES: [u16; 3] = [1008, 4401, 4403];

/// How a client behaves.
pub struct Config {
    /// Asked before each attempt, since a ticket or token may have expired.
    pub request: Box<dyn FnMut() -> Result<Request, Error> + Send>,
    /// The delay before attempt n is random between 0 and `min_delay` · 2ⁿ, at most `max_delay`.
    pub min_delay: Duration,
    /// Upper bound of the delay.
    pub max_delay: Duration,
    /// A connection that lived this long counts as good: only then does the delay start over.
    pub stable_after: Duration,
    /// A ping goes out this often; after two without any frame the connection is given up.
    pub heartbeat: Duration,
    /// Largest message accepted: a replay is one message.
    pub max_message: usize,
    /// Messages that are not acknowledged.
    pub pending: Pending,
}

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

/// Runs until it is stopped. Bound both channels; drop `commands` to stop.
pub async fn run(
    mut config: Config,
    mut commands: mpsc::Receiver<Command>,
    updates: mpsc::Sender<Update>,
) -> Stopped {
    let mut session = Session::new(config.pending, updates, config.heartbeat);
    let mut failures = 0;
    loop {
        let mut stable = false;
        let Ok(request) = (config.request)() else {
            return Stopped::Request;
        };
        // The same limit twice: a message may come in one frame.
        let limits = WebSocketConfig::default()
            .read_buffer_size(16 * 1024)
            .max_message_size(Some(config.max_message))
            .max_frame_size(Some(config.max_message));
        let connecting = connect_async_with_config(request, Some(limits), true);
        match timeout(config.max_delay, connecting).await {
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
            Ok(Err(_)) | Err(_) => {}
        }
        // Not reset by an open alone: a server that accepts and fails would be asked without pause.
        failures = if stable { 0 } else { failures + 1 };
        let delay = full_jitter(failures, config.min_delay, config.max_delay);
        if !session.wait(&mut commands, delay).await {
            return Stopped::ByApplication;
        }
    }
}

/// Random between 0 and min · 2ⁿ, so that clients that were cut off together do not come back together.
pub fn full_jitter(failures: u32, min: Duration, max: Duration) -> Duration {
    min.saturating_mul(2_u32.saturating_pow(failures))
        .min(max)
        .mul_f64(rand::random())
}
// ANCHOR_END: client
