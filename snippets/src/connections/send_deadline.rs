//! A deadline for writes: a peer that accepts nothing loses its connection.
//!
//! A client that has stopped reading is not a disconnect: it keeps its connection alive by acknowledging, and neither
//! hyper nor axum times out a write. `listen.rs` puts this around each socket, [`WithSendDeadline`] around those of
//! `axum::serve`; it works around any other transport too. Guarantee: a peer that accepts no byte for the limit, while there is
//! something to send, loses its connection. Its kernel announces room in steps, not byte by byte: leave a slow client the time
//! for one.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::serve::Listener;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// A transport whose writes fail with `TimedOut` if the peer has taken nothing for `limit`. Each byte that it takes starts
/// the time again: a slow client is not a stalled one.
pub struct SendDeadline<S> {
    pub(crate) inner: S,
    /// Milliseconds.
    limit: u32,
    /// Present only while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> SendDeadline<S> {
    /// Wraps `inner`. `limit` is at most 49 days.
    pub fn new(inner: S, limit: Duration) -> Self {
        let limit = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
        Self {
            inner,
            limit,
            stalled: None,
        }
    }

    /// Whether the last write had to wait.
    pub(crate) fn waits(&self) -> bool {
        self.stalled.is_some()
    }

    // ANCHOR: watch
    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if write.is_ready() {
            self.stalled = None;
            return write;
        }
        let limit = Duration::from_millis(self.limit.into());
        let timer = self.stalled.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the peer has stopped reading",
        )))
    }
    // ANCHOR_END: watch
}

impl<S: AsyncRead + Unpin> AsyncRead for SendDeadline<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for SendDeadline<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.watch(cx, write)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.inner).poll_write_vectored(cx, bytes);
        self.watch(cx, write)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored() // without it, hyper would copy all that it sends
    }

    // ANCHOR: flush
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A layer such as TLS keeps bytes and writes them here.
        let flush = Pin::new(&mut self.inner).poll_flush(cx);
        // A socket has nothing to flush and is always ready, so its flush does not show that a waiting write has made
        // progress.
        if flush.is_ready() {
            return flush;
        }
        self.watch(cx, flush)
    }
    // ANCHOR_END: flush

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shutdown = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.watch(cx, shutdown)
    }
}

/// A listener whose connections have a send deadline: `axum::serve(WithSendDeadline { listener, limit }, app)`.
pub struct WithSendDeadline<L> {
    /// The real listener.
    pub listener: L,
    /// See [`SendDeadline::new`].
    pub limit: Duration,
}

impl<L: Listener> Listener for WithSendDeadline<L> {
    type Io = SendDeadline<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (io, addr) = self.listener.accept().await;
        (SendDeadline::new(io, self.limit), addr)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}
