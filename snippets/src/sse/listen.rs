//! An accept loop for very many event streams, and connections that cannot stall for ever.
//!
//! [`Listener`] sets what each socket needs and puts a deadline on every write; it works with
//! `axum::serve(listener, app)` too. [`serve`] is for memory: hyper's HTTP/1 connection alone, with the
//! smallest buffers. HTTP/1.1 without TLS only, as behind a proxy; request heads over 8 KiB get 431.

use std::net::SocketAddr;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

// ANCHOR: limits
use std::time::Duration;

/// What ends a connection that has stopped reading, and bounds what the kernel keeps for it.
#[derive(Debug, Clone, Copy)]
pub struct SocketLimits {
    /// A write may wait this long for the peer to read. Not the kernel's business but the server's: a
    /// stalled reader keeps its connection alive by acknowledging.
    pub send: Duration,
    /// `TCP_USER_TIMEOUT`: sent bytes may stay unacknowledged, or the peer's window closed, for this long.
    /// Without it a peer that vanished without FIN is retransmitted to for about 15 minutes (tcp(7),
    /// `tcp_retries2`), while heartbeats go into the send buffer and look delivered.
    pub unacknowledged: Duration,
    /// `SO_SNDBUF` in bytes; Linux doubles it, and grows the buffer of a stalled reader to megabytes
    /// where it is not set.
    pub send_buffer: usize,
}

impl Default for SocketLimits {
    fn default() -> Self {
        Self {
            send: Duration::from_secs(20),
            unacknowledged: Duration::from_secs(30),
            send_buffer: 64 * 1024,
        }
    }
}

// ANCHOR_END: limits
/// Accepts connections that have [`SocketLimits`].
pub struct Listener {
    inner: TcpListener,
    limits: SocketLimits,
}

impl Listener {
    /// Takes over a bound listener.
    pub fn new(inner: TcpListener, limits: SocketLimits) -> Self {
        Self { inner, limits }
    }

    fn prepare(&self, stream: TcpStream) -> io::Result<SendDeadline<TcpStream>> {
        // Nagle's algorithm would hold a small event back until the last one is acknowledged.
        stream.set_nodelay(true)?;
        let socket = SockRef::from(&stream);
        socket.set_send_buffer_size(self.limits.send_buffer)?;
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(self.limits.unacknowledged))?;
        Ok(SendDeadline::new(stream, self.limits.send))
    }
}

impl axum::serve::Listener for Listener {
    type Io = SendDeadline<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            match self.inner.accept().await {
                Ok((stream, addr)) => match self.prepare(stream) {
                    Ok(io) => return (io, addr),
                    Err(error) => tracing::debug!(%error, "the peer has gone already"),
                },
                Err(error) => {
                    // Out of file descriptors: accept would fail again at once.
                    tracing::warn!(%error, "accept");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

/// Serves `app` until `stop`, then waits at most `drain` for the responses: end the streams yourself
/// (`Hub::close`). A connection that is older than `max_age` is dropped, whatever it does: set it above
/// the streams' own maximum age.
pub async fn serve(
    mut listener: Listener,
    app: Router,
    max_age: Duration,
    stop: CancellationToken,
    drain: Duration,
) {
    let connections = TaskTracker::new();
    let mut http = http1::Builder::new();
    // The least hyper takes. Its default lets both buffers of a connection grow to 400 KiB.
    http.max_buf_size(8 * 1024)
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(10));
    loop {
        use axum::serve::Listener as _;
        let (io, peer) = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let (app, http, stop) = (app.clone(), http.clone(), stop.clone());
        connections.spawn(async move {
            // Made here: a connection that is moved into the task is stored in it twice.
            let service = TowerToHyperService::new(app);
            let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(io), service));
            let served = async {
                tokio::select! {
                    served = connection.as_mut() => return served,
                    () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
                }
                connection.as_mut().await
            };
            match timeout(max_age, served).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%peer, %error, "connection"),
                Err(_) => tracing::debug!(%peer, "connection is too old"),
            }
        });
    }
    connections.close();
    if timeout(drain, connections.wait()).await.is_err() {
        tracing::warn!(
            open = connections.len(),
            "connections left after the drain time"
        );
    }
}

// ANCHOR: deadline
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Fails a write that the peer has not made room for in time. hyper does not poll the body of a response
/// while its buffer is full, so no timer inside the body can do this.
pub struct SendDeadline<S> {
    inner: S,
    limit: std::time::Duration,
    /// Only there while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> SendDeadline<S> {
    /// Writes to `inner` may wait for `limit`.
    pub fn new(inner: S, limit: std::time::Duration) -> Self {
        Self {
            inner,
            limit,
            stalled: None,
        }
    }

    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if write.is_ready() {
            self.stalled = None;
            return write;
        }
        let limit = self.limit;
        let timer = self.stalled.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the peer has stopped reading",
        )))
    }
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
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.inner).poll_write_vectored(cx, bytes);
        self.watch(cx, write)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shutdown = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.watch(cx, shutdown)
    }
}
// ANCHOR_END: deadline
