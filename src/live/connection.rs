//! A listener whose connections can be closed from outside, also after an upgrade.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request};
use axum::middleware::Next;
use axum::response::Response;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// A TCP listener whose connections are [`Connection`]s.
pub struct Closable {
    listener: TcpListener,
    open: TaskTracker,
}

impl Closable {
    /// Accepts from `listener`.
    pub fn new(listener: TcpListener) -> Self {
        Self {
            listener,
            open: TaskTracker::new(),
        }
    }

    /// The open connections. axum's graceful shutdown forgets those that were upgraded to a
    /// WebSocket; [`TaskTracker::wait`] waits for them too.
    pub fn open(&self) -> TaskTracker {
        self.open.clone()
    }
}

/// One accepted connection, as the `ConnectInfo` of its requests.
#[derive(Clone)]
pub struct Connection {
    /// The peer.
    pub addr: SocketAddr,
    /// Cancelled, it closes the socket without a word in whatever protocol is spoken.
    pub close: CancellationToken,
    /// Gone when the connection has ended.
    pub alive: Weak<()>,
}

/// The socket of a [`Connection`].
pub struct ClosableStream {
    socket: TcpStream,
    close: CancellationToken,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    alive: Arc<()>,
    _open: TaskTrackerToken,
}

impl Listener for Closable {
    type Io = ClosableStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (ClosableStream, SocketAddr) {
        // axum's own listener retries what accept reports, such as a lack of file descriptors.
        let (socket, addr) = Listener::accept(&mut self.listener).await;
        // Small events must not wait for the acknowledgement of earlier ones (Nagle).
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!("TCP_NODELAY: {error}");
        }
        let close = CancellationToken::new();
        let stream = ClosableStream {
            socket,
            closed: Box::pin(close.clone().cancelled_owned()),
            close,
            alive: Arc::new(()),
            _open: self.open.token(),
        };
        (stream, addr)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Connected<IncomingStream<'_, Closable>> for Connection {
    fn connect_info(stream: IncomingStream<'_, Closable>) -> Self {
        Self {
            addr: *stream.remote_addr(),
            close: stream.io().close.clone(),
            alive: Arc::downgrade(&stream.io().alive),
        }
    }
}

/// Middleware: gives the patterns the `ConnectInfo<SocketAddr>` that they ask for.
pub async fn socket_addr(mut request: Request, next: Next) -> Response {
    let connection = request.extensions().get::<ConnectInfo<Connection>>();
    if let Some(addr) = connection.map(|ConnectInfo(connection)| connection.addr) {
        request.extensions_mut().insert(ConnectInfo(addr));
    }
    next.run(request).await
}

impl AsyncRead for ClosableStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.closed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for ClosableStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.close.is_cancelled() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.close.is_cancelled() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
