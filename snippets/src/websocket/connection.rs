//! One WebSocket connection: one task that polls both directions and writes frames that others have encoded.
//!
//! tungstenite parses, answers pings and keeps the state of the closing handshake, but never sees the socket: it reads from a
//! buffer that all connections of a thread share, and its own frames go out between ours. Used by `serve.rs`.

// ANCHOR: connection
use std::cell::Cell;
use std::io::{self, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use axum::extract::ws::{Message, Utf8Bytes};
use bytes::{Buf, Bytes};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tokio_tungstenite::tungstenite as ts;
use tokio_tungstenite::tungstenite::protocol::{
    CloseFrame, Role, WebSocketConfig, WebSocketContext,
};

use super::outbox::{Outbox, TOO_SLOW};
use super::serve::End;
use super::serve::{Handler, Shared};
use crate::connections::crowd::{Due, Place};
use crate::connections::send_deadline::SendDeadline;

/// Bytes that are read or written with one system call.
const BATCH: usize = 16 * 1024;
/// Pongs that wait for a peer that pings and does not read; then it is not read either.
const CONTROL: usize = 4096;

thread_local! {
    /// What is written next, and what was read last: no connection keeps a buffer.
    static OUT: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static IN: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The task of one connection: spawn it.
pub struct Connection<H> {
    io: SendDeadline<TokioIo<Upgraded>>,
    protocol: WebSocketContext,
    /// Frames of the protocol itself: pongs, Close.
    control: Vec<u8>,
    /// What the socket had no room for.
    rest: Option<Box<Bytes>>,
    /// `None` from the Close on.
    handler: Option<H>,
    outbox: Outbox,
    shared: Arc<Shared>,
    place: Place,
    /// The beat in which the peer was heard last, and the one it is now.
    heard: u32,
    now: u32,
    /// The beat of its maximum age.
    last: u32,
    ping: bool,
    /// Why it ends; what is left is the closing handshake.
    end: Option<End>,
    input: Input,
    /// For a Close that is due before the next beat; then for the rest of the closing handshake. An idle connection has none.
    deadline: Option<Pin<Box<Sleep>>>,
    waker: Option<Waker>,
    opened: Option<Box<Opened>>,
}

/// Reports the end of a connection, even that of one whose handler panics.
struct Opened {
    shared: Arc<Shared>,
    at: Instant,
    end: Option<End>,
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Some(observer) = &self.shared.observer {
            observer.ended(self.end, self.at.elapsed());
        }
    }
}

/// What the bytes of the peer are.
#[derive(PartialEq)]
enum Input {
    Frames,
    /// After a violation they have no meaning. They are still read: dropping a socket with unread input sends RST, and a
    /// peer that is reset can lose the Close frame that is on its way (RFC 6455, 7.1.1).
    Ignored,
    /// Both sides have sent Close.
    Finished,
}

impl<H: Handler> Connection<H> {
    /// A connection on `transport`; `start` makes its handler.
    pub fn new(
        transport: Upgraded,
        shared: Arc<Shared>,
        place: Place,
        start: impl FnOnce(&Outbox) -> H,
    ) -> Self {
        let limits = &shared.limits;
        let beats = limits.max_age.div_duration_f64(limits.ping_every);
        // The cast saturates: `Duration::MAX` is no limit.
        let last = (beats * rand::random_range(0.8..=1.0)).ceil().max(1.0) as u32;
        let outbox = Outbox::new(limits.queue, limits.queue_bytes);
        // Above the limit: up to here the message is read whole, and the closing handshake can be finished.
        let most = Some(limits.message.saturating_mul(4));
        let config = WebSocketConfig::default()
            .read_buffer_size(64)
            .write_buffer_size(0)
            .max_message_size(most)
            .max_frame_size(most);
        let io = SendDeadline::new(TokioIo::new(transport), limits.send_deadline);
        let opened = shared.observer.as_ref().map(|observer| {
            observer.opened();
            Box::new(Opened {
                shared: shared.clone(),
                at: Instant::now(),
                end: None,
            })
        });
        Self {
            io,
            protocol: WebSocketContext::new(Role::Server, Some(config)),
            control: Vec::new(),
            rest: None,
            handler: Some(start(&outbox)),
            outbox,
            shared,
            place,
            opened,
            heard: 0,
            now: 0,
            last,
            ping: false,
            end: None,
            input: Input::Frames,
            deadline: None,
            waker: None,
        }
    }

    /// Sends what there is. Ready if there is nothing more.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let mut out = OUT.take();
        let sent = self.poll_send(cx, &mut out);
        if out.capacity() <= 8 * BATCH {
            OUT.set(out);
        }
        sent
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<Result<(), End>> {
        loop {
            while let Some(rest) = &mut self.rest {
                let sent = ready!(Pin::new(&mut self.io).poll_write(cx, rest))?;
                rest.advance(sent);
                if rest.is_empty() {
                    self.rest = None;
                }
            }
            out.clear();
            out.append(&mut std::mem::take(&mut self.control));
            let shared = self.gather(cx, out);
            let bytes = shared.as_deref().unwrap_or(out);
            if bytes.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let sent = match Pin::new(&mut self.io).poll_write(cx, bytes) {
                Poll::Ready(sent) => sent?,
                Poll::Pending => 0,
            };
            if sent < bytes.len() {
                self.rest = Some(Box::new(match shared {
                    Some(shared) => shared.slice(sent..),
                    None => Bytes::copy_from_slice(&out[sent..]),
                }));
            }
        }
    }

    /// Puts the next frames into `out`, or returns shared ones if they are alone: those are not copied.
    fn gather(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Option<Bytes> {
        let handler = self.handler.as_mut()?;
        if std::mem::take(&mut self.ping) {
            out.extend_from_slice(&[0x89, 0]);
        }
        if let Some(close) = self.outbox.take(out, BATCH) {
            // The events that the peer has not yet been sent go before it, unless it is too slow for them.
            while close.code != TOO_SLOW.0
                && out.len() < 4 * BATCH
                && let Poll::Ready(frames) = handler.poll_frames(cx, &self.outbox)
            {
                out.extend_from_slice(&frames);
            }
            let reason = ts::Utf8Bytes::from(close.reason.as_str());
            self.close(End::WeClosed(close.code), close.code, reason, out);
            return None;
        }
        if out.len() < BATCH
            && let Poll::Ready(frames) = handler.poll_frames(cx, &self.outbox)
        {
            if out.is_empty() {
                return Some(frames);
            }
            out.extend_from_slice(&frames);
        }
        None
    }

    /// Close goes out and nothing after it.
    fn close(&mut self, end: End, code: u16, reason: ts::Utf8Bytes, out: &mut Vec<u8>) {
        let mut wire = Wire {
            input: &[],
            eof: false,
            output: out,
        };
        let code = code.into();
        let _ = self
            .protocol
            .close(&mut wire, Some(CloseFrame { code, reason }));
        self.finish(end);
    }

    fn finish(&mut self, end: End) {
        if self.end.is_none() {
            self.end = Some(end);
            self.deadline = None;
        }
        self.handler = None;
        self.outbox.close(1000, ""); // never sent: who holds the outbox must see that it is over
    }

    /// Reads what there is. Ready at the end only.
    fn poll_in(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let mut space = IN.take();
        space.resize(BATCH, 0);
        let end = self.poll_read(cx, &mut space);
        IN.set(space);
        end
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, space: &mut [u8]) -> Poll<End> {
        loop {
            if self.control.len() > CONTROL || self.input == Input::Finished {
                return Poll::Pending; // the write that it waits for wakes this task
            }
            let mut read = ReadBuf::new(space);
            if let Err(error) = ready!(Pin::new(&mut self.io).poll_read(cx, &mut read)) {
                return Poll::Ready(error.into());
            }
            self.heard = self.now;
            let eof = read.filled().is_empty();
            if self.input == Input::Ignored {
                if eof {
                    return Poll::Ready(End::Lost);
                }
                continue;
            }
            let mut input = read.filled();
            loop {
                let output = &mut self.control;
                let mut wire = Wire { input, eof, output };
                let message = self.protocol.read(&mut wire);
                input = wire.input;
                match message {
                    Ok(message) => {
                        let most = self.shared.limits.message;
                        Self::receive(&mut self.handler, message, &self.outbox, most);
                    }
                    Err(ts::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Poll::Ready(error.into()),
                }
                if self.outbox.is_half_full()
                    && let Poll::Ready(Err(end)) = self.poll_out(cx)
                {
                    return Poll::Ready(end);
                }
            }
        }
    }

    fn receive(handler: &mut Option<H>, message: ts::Message, outbox: &Outbox, most: usize) {
        let Some(handler) = handler else {
            return; // after our Close the peer's data is read and ignored
        };
        let message = match message {
            ts::Message::Close(_) => return, // answered with the next read, which ends
            ts::Message::Ping(_) | ts::Message::Pong(_) => return handler.on_control(outbox),
            message if message.len() > most => return outbox.close(1009, "message too big"),
            ts::Message::Text(text) => match Utf8Bytes::try_from(Bytes::from(text)) {
                Ok(text) => Message::Text(text),
                Err(_) => return, // it was checked already
            },
            ts::Message::Binary(data) => Message::Binary(data),
            ts::Message::Frame(_) => return,
        };
        if !outbox.is_closed() {
            handler.on_message(message, outbox);
        }
    }

    /// Sets the timer for [`Outbox::close_at`], if that is due before the next beat.
    fn arm(&mut self) {
        let soon = Instant::now() + 2 * self.shared.limits.ping_every;
        let at = self.outbox.closes_at().filter(|at| *at <= soon);
        self.deadline = at.map(|at| Box::pin(sleep_until(at)));
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let due = self.place.poll(cx);
        let beat = matches!(due, Due::Beat(_));
        match due {
            Due::Nothing => {}
            Due::Beat(now) => {
                self.now = now;
                self.ping = true;
                if now.wrapping_sub(self.heard) >= self.shared.limits.silent_pings {
                    return Poll::Ready(End::HalfOpen);
                }
                if now >= self.last {
                    self.outbox.close(1001, "maximum age: reconnect");
                }
            }
            Due::Shutdown => self.outbox.close(1001, "going away"),
        }
        if self.end.is_none() {
            if self.outbox.has_moved() || beat {
                self.arm();
            }
            if let Some(due) = &mut self.deadline
                && due.as_mut().poll(cx).is_ready()
            {
                self.deadline = None;
                self.outbox.close_now();
            }
        }
        loop {
            let sent = match self.poll_out(cx) {
                Poll::Ready(Err(end)) => return Poll::Ready(end),
                sent => sent,
            };
            if sent.is_ready()
                && let Some(end) = self.end
            {
                if self.input == Input::Finished {
                    return Poll::Ready(end);
                }
                let deadline = self.shared.limits.close_deadline;
                let timer = self
                    .deadline
                    .get_or_insert_with(|| Box::pin(sleep(deadline)));
                if timer.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(end);
                }
            }
            match self.poll_in(cx) {
                Poll::Ready(End::Violation(code)) => {
                    if self.end.is_none() {
                        let mut out = std::mem::take(&mut self.control);
                        let reason = ts::Utf8Bytes::from_static("");
                        self.close(End::Violation(code), code, reason, &mut out);
                        self.control = out;
                    }
                    self.input = Input::Ignored;
                }
                Poll::Ready(End::PeerClosed) => {
                    self.finish(End::PeerClosed);
                    self.input = Input::Finished;
                }
                Poll::Ready(end) => return Poll::Ready(self.end.unwrap_or(end)),
                Poll::Pending if sent.is_ready() && !self.control.is_empty() => {}
                // What the handler has queued wakes this task: it is polled again.
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

// Nothing in it is pinned, whatever the handler is.
impl<H> Unpin for Connection<H> {}

impl<H: Handler> Future for Connection<H> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self
            .waker
            .as_ref()
            .is_none_or(|waker| !waker.will_wake(cx.waker()))
        {
            self.waker = Some(cx.waker().clone());
            self.outbox.set_writer(cx.waker());
        }
        let end = ready!(self.poll_end(cx));
        self.finish(end);
        let end = self.end;
        if let Some(opened) = &mut self.opened {
            opened.end = end;
        }
        tracing::debug!(?end, "websocket ended");
        Poll::Ready(())
    }
}

/// The socket, as tungstenite sees it.
struct Wire<'i, 'o> {
    input: &'i [u8],
    eof: bool,
    output: &'o mut Vec<u8>,
}

impl Read for Wire<'_, '_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() && !self.eof {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.input.read(out)
    }
}

impl Write for Wire<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
// ANCHOR_END: connection
