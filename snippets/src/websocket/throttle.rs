//! A limit on the bytes that each connection may send, below HTTP and WebSocket: excess bytes stay in the kernel, and
//! TCP slows the sender.
//!
//! The only place that sees everything: fragments (tungstenite counts their bytes and not their number, so empty ones are
//! free), messages that never end, and peers that are not authenticated yet. Goes in front of any server of
//! `axum::serve`; [`super::rates`] limits whole messages, and answers.

// ANCHOR: throttle
use std::io;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// What one connection may send.
#[derive(Debug, Clone, Copy)]
pub struct Inflow {
    /// Bytes per second, in the long run.
    pub per_second: NonZeroU32,
    /// Bytes at once: at least the handshake, TLS included, and the largest message.
    pub burst: NonZeroU32,
}

/// `axum::serve(Throttle::new(listener, inflow), app)`.
pub struct Throttle<L> {
    inner: L,
    inflow: Inflow,
}

impl<L> Throttle<L> {
    /// Over a `TcpListener`, or whatever else `axum::serve` takes.
    pub fn new(inner: L, inflow: Inflow) -> Self {
        Self { inner, inflow }
    }
}

impl<L: Listener> Listener for Throttle<L> {
    type Io = Throttled<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (io, addr) = self.inner.accept().await;
        (Throttled::new(io, self.inflow), addr)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.inner.local_addr()
    }
}

/// A connection that is read no faster than its [`Inflow`].
pub struct Throttled<S> {
    inner: S,
    inflow: Inflow,
    /// Bytes that may be read now. Below zero when the last read, which nobody cuts short, took more.
    allowance: f64,
    counted: Instant,
    /// Only while it has used up its allowance: an idle connection has no timer.
    wait: Option<Pin<Box<Sleep>>>,
}

impl<S> Throttled<S> {
    /// With a full burst.
    pub fn new(inner: S, inflow: Inflow) -> Self {
        Self {
            inner,
            inflow,
            allowance: f64::from(inflow.burst.get()),
            counted: Instant::now(),
            wait: None,
        }
    }

    /// Ready when something may be read.
    fn poll_allowed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(wait) = &mut self.wait {
                ready!(wait.as_mut().poll(cx));
                self.wait = None;
            }
            let rate = f64::from(self.inflow.per_second.get());
            let passed = self.counted.elapsed().as_secs_f64();
            self.counted = Instant::now();
            let burst = f64::from(self.inflow.burst.get());
            self.allowance = (self.allowance + passed * rate).min(burst);
            if self.allowance >= 1.0 {
                return Poll::Ready(());
            }
            // Not for each byte: until there is enough for a tenth of a second.
            let missing = 1.0 - self.allowance + rate / 10.0;
            self.wait = Some(Box::pin(sleep(Duration::from_secs_f64(missing / rate))));
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Throttled<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_allowed(cx));
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.allowance -= (buf.filled().len() - before) as f64;
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Throttled<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
// ANCHOR_END: throttle
