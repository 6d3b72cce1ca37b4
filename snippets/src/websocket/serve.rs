//! One WebSocket connection: a reader that always polls, one writer task fed by a bounded queue, and a closing handshake
//! that is finished. For every server; [`super::messages`] and [`super::rooms`] are endpoints on top of it.
//!
//! Promises: pings are answered and Close is seen while the peer reads slowly or work is running; every violation is
//! answered with its close code; a peer that is gone, or does not read, is dropped after a stated time.
//! Goes with [`super::limits`] and [`super::outbox`].

// ANCHOR: serve
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::limits::{End, Limits};
use super::outbox::{Outbox, message_len};

/// What an endpoint does with messages. It is not async: the reader must go back to reading at once, because pongs and
/// Close are only handled while the socket is polled. Slow work is spawned and answers through the outbox. The value
/// is dropped as soon as the connection ends.
pub trait Handler: Send + 'static {
    /// One whole message, text or binary, at most [`Limits::message`] long. To end the connection, close the outbox.
    fn on_message(&mut self, message: Message, outbox: &Outbox);

    /// A ping or pong has come. tungstenite answers pings itself; a pong sent by hand would replace its answer.
    fn on_control(&mut self, _outbox: &Outbox) {}
}

/// Accepts connections and knows the open ones. One per process; clones are the same.
#[derive(Clone)]
pub struct Sockets {
    /// The limits of every connection.
    pub limits: Arc<Limits>,
    shutdown: CancellationToken,
    open: TaskTracker,
}

impl Sockets {
    /// When `shutdown` is cancelled every connection is closed with 1001.
    pub fn new(limits: Limits, shutdown: CancellationToken) -> Self {
        Self {
            limits: Arc::new(limits),
            shutdown,
            open: TaskTracker::new(),
        }
    }

    /// Answers the handshake and runs the connection. `start` makes the handler once the socket is open.
    pub fn accept<H: Handler>(
        &self,
        ws: WebSocketUpgrade,
        start: impl FnOnce(&Outbox) -> H + Send + 'static,
    ) -> Response {
        let sockets = self.clone();
        let tracked = self.open.token(); // from here on: `drained` also waits for handshakes under way
        let limits = &self.limits;
        ws.read_buffer_size(limits.read_buffer)
            .write_buffer_size(4096) // gathers a burst into few writes; the buffer keeps the size it grew to
            .max_write_buffer_size(limits.queue_bytes + 64 * 1024) // default: unlimited; must exceed write_buffer_size
            // Above the handler's limit: up to here the message is read whole, so that Close 1009 surely arrives.
            .max_message_size(limits.message.saturating_mul(4))
            .max_frame_size(limits.message.saturating_mul(4))
            .on_upgrade(move |socket| {
                sockets.open(socket, start, tracked);
                std::future::ready(())
            })
    }

    /// Waits until all connections have ended, for at most `deadline`; call it after `shutdown` and after
    /// `axum::serve` has returned, which does not wait for upgraded connections. Returns how many are left.
    pub async fn drained(&self, deadline: Duration) -> usize {
        self.open.close();
        let _ = timeout(deadline, self.open.wait()).await;
        self.open.len()
    }

    /// A task of its own: the one that has waited for the upgrade keeps room for all that it ever held, 2.9 KiB and not 0.9.
    fn open<H: Handler>(
        self,
        socket: WebSocket,
        start: impl FnOnce(&Outbox) -> H,
        tracked: TaskTrackerToken,
    ) {
        let outbox = Outbox::new(self.limits.queue, self.limits.queue_bytes);
        let mut handler = start(&outbox);
        let (sink, mut stream) = socket.split();
        let writer = tokio::spawn(write(sink, outbox.clone(), self.limits.clone()));
        let mut writer = AbortOnDropHandle::new(writer); // a handler that panics must not leave it behind
        tokio::spawn(async move {
            let end = self
                .read(&mut stream, &mut handler, &outbox, &mut writer)
                .await;
            drop(handler);
            self.close(end, &mut stream, &outbox, &mut writer).await;
            tracing::debug!(?end, "websocket ended");
            drop(tracked);
        });
    }

    async fn close(
        &self,
        end: End,
        stream: &mut SplitStream<WebSocket>,
        outbox: &Outbox,
        writer: &mut Writer,
    ) {
        let deadline = self.limits.close_deadline;
        match end {
            // RFC 6455, 7.1.1: read until the peer's Close. Dropping a socket with unread input sends RST, and a peer
            // that is reset can lose the Close frame on its way.
            End::PeerClosed | End::WeClosed => {
                outbox.close(1000, "");
                let _ = timeout(deadline, async {
                    while let Some(Ok(_)) = stream.next().await {}
                })
                .await;
            }
            // The library stops reading at an error and sends no Close itself. Nothing can be drained then, so the
            // socket is held open until the Close has surely overtaken a reset: longer for a peer that is in the
            // middle of a message (1009) than for one that waits for the transport's end.
            End::Violation(code) => {
                outbox.close(code, "");
                let hold = if code == 1009 {
                    deadline
                } else {
                    deadline / 10
                };
                let sent = timeout(self.limits.send_deadline, &mut *writer).await;
                if sent.is_ok() {
                    sleep(hold).await;
                }
            }
            End::HalfOpen | End::NotReading | End::Lost => outbox.close(1006, ""), // never sent: the writer is aborted
        }
        writer.abort();
    }

    async fn read<H: Handler>(
        &self,
        stream: &mut SplitStream<WebSocket>,
        handler: &mut H,
        outbox: &Outbox,
        writer: &mut Writer,
    ) -> End {
        let limits = &*self.limits;
        let mut tick = interval(limits.ping_every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.reset();
        let mut heard = Instant::now();
        let mut shutdown = std::pin::pin!(async {
            self.shutdown.cancelled().await;
            sleep(limits.drain_spread.mul_f64(rand::random())).await;
        });
        let mut draining = false;
        loop {
            tokio::select! {
                frame = stream.next() => {
                    heard = Instant::now();
                    match frame {
                        Some(Ok(Message::Close(_))) => return End::PeerClosed,
                        Some(Ok(Message::Ping(_) | Message::Pong(_))) => handler.on_control(outbox),
                        Some(Ok(message)) if message_len(&message) > limits.message => outbox.close(1009, "message too big"),
                        // After our Close the peer's data is read and ignored.
                        Some(Ok(message)) => if !outbox.is_closed() { handler.on_message(message, outbox) },
                        Some(Err(error)) => return End::of(&error),
                        None => return End::Lost,
                    }
                }
                _ = tick.tick() => {
                    if heard.elapsed() >= limits.silence {
                        return End::HalfOpen;
                    }
                    outbox.ping();
                }
                _ = &mut shutdown, if !draining => {
                    draining = true;
                    outbox.close(1001, "going away");
                }
                written = &mut *writer => return match written {
                    Ok(Ok(())) => End::WeClosed,
                    Ok(Err(error)) if error.source().is_some_and(|e| e.is::<Stalled>()) => End::NotReading,
                    _ => End::Lost,
                },
            }
        }
    }
}

type Writer = AbortOnDropHandle<Result<(), axum::Error>>;

#[derive(Debug, thiserror::Error)]
#[error("the peer does not read")]
struct Stalled;

/// The only task that writes. Ends with Ok once Close is on the wire.
async fn write(
    mut sink: SplitSink<WebSocket, Message>,
    outbox: Outbox,
    limits: Arc<Limits>,
) -> Result<(), axum::Error> {
    loop {
        outbox.ready().await;
        let mut closing = false;
        let batch = async {
            // One flush for what has gathered, and a bound on what a peer can still be sent before its policy applies.
            let mut left = 16;
            while left > 0
                && let Some(message) = outbox.pop()
            {
                closing = matches!(message, Message::Close(_));
                sink.feed(message).await?;
                left -= 1;
            }
            sink.flush().await
        };
        // A send to a peer that does not read never ends by itself, not even that of a Close.
        timeout(limits.send_deadline, batch)
            .await
            .unwrap_or_else(|_| Err(axum::Error::new(Stalled)))?;
        if closing {
            return Ok(());
        }
    }
}
// ANCHOR_END: serve
