//! A reader that stops reading, without leaving: a laptop lid, a dead tunnel, an attacker.
//!
//! Nothing in hyper or axum ends it: heartbeats disappear into its socket buffer, `TimeoutLayer` is over when the head is sent, and
//! the response keeps its buffers for as long as the peer keeps the connection. Use [`StallLimit`] for every server with long
//! responses; use [`send_within`] where one producer feeds many readers. Promise: a peer that accepts no byte for the limit loses
//! its connection. Its kernel announces room in steps, not byte by byte: leave a slow reader the time for one.
//!
//! Siblings: `backpressure` bounds what it costs until then, `deadline` is the same for sources, `tee` for a second reader.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::serve::Listener;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc::{self, error::SendTimeoutError},
    time::{Instant, Sleep},
};

/// A listener whose connections fail with [`io::ErrorKind::TimedOut`] when a write has waited for `limit`:
/// `axum::serve(StallLimit { listener, limit }, app)`.
pub struct StallLimit<L> {
    /// The real listener.
    pub listener: L,
    /// How long the peer may accept no byte while there is something to send.
    pub limit: Duration,
}

impl<L: Listener> Listener for StallLimit<L> {
    type Io = StallLimitIo<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (io, addr) = self.listener.accept().await;
        (StallLimitIo::new(io, self.limit), addr)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// One connection of [`StallLimit`].
pub struct StallLimitIo<I> {
    io: I,
    limit: Duration,
    /// Made at the first write that has to wait, so that a connection without trouble costs nothing.
    stalled: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

impl<I> StallLimitIo<I> {
    /// Wraps one connection, for servers that accept by themselves.
    pub fn new(io: I, limit: Duration) -> Self {
        Self {
            io,
            limit,
            stalled: None,
            waiting: false,
        }
    }

    fn check<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = false;
            return written;
        }
        let end = Instant::now() + self.limit;
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
        if !self.waiting {
            self.waiting = true;
            stalled.as_mut().reset(end);
        }
        stalled
            .as_mut()
            .poll(cx)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for StallLimitIo<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.check(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bytes);
        self.check(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        // A socket has nothing to flush and is always ready here: only what had to wait (TLS) counts.
        if flushed.is_ready() {
            flushed
        } else {
            self.check(cx, flushed)
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = Pin::new(&mut self.io).poll_shutdown(cx);
        self.check(cx, ended)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored() // left out, hyper would copy all it sends
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for StallLimitIo<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

/// Why an item was not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Undelivered {
    /// The queue was full for the whole limit: give the reader up (drop its sender).
    #[error("the reader is too slow")]
    Slow,
    /// The reader has left.
    #[error("the reader has left")]
    Gone,
}

/// Sends to one reader, waiting at most `limit` for room. Where one producer serves many readers, use a limit of zero
/// (`try_send`): one slow reader must not set the pace of the others.
///
/// # Errors
/// See [`Undelivered`].
pub async fn send_within<T>(
    reader: &mpsc::Sender<T>,
    item: T,
    limit: Duration,
) -> Result<(), Undelivered> {
    reader
        .send_timeout(item, limit)
        .await
        .map_err(|error| match error {
            SendTimeoutError::Timeout(_) => Undelivered::Slow,
            SendTimeoutError::Closed(_) => Undelivered::Gone,
        })
}
