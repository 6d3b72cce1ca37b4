//! The server: an axum `Router` on sockets with deadlines, for very many open streams.
//!
//! hyper reads each request and writes each ordinary response. An event stream that answers a GET over HTTP/1.1 is taken
//! over from it (`takeover.rs`): an idle stream then costs about 1 KiB instead of 19. Everything else stays with hyper:
//! other responses, HTTP/1.0, HEAD, requests with a body, upgrades, HTTP/2 with prior knowledge. There is no TLS: put a
//! proxy in front. Response heads are read as `axum::serve` reads them, `ConnectInfo<SocketAddr>` is set, and request heads over
//! 8 KiB get 431. Needs `takeover.rs` and `send_deadline.rs`.
//!
//! The takeover depends on how hyper treats an unanswered request; pin the version that you tested.

// ANCHOR: config
use std::{
    convert::Infallible,
    future::{pending, poll_fn},
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{Router, extract::ConnectInfo, response::Response};
use http::{Method, Request, Version, header};
use http_body::Body as _;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use socket2::SockRef;
use tokio::{
    io::{AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service as _;

use super::{
    send_deadline::SendDeadline,
    takeover::{Answer, Stream, is_event_stream, lists},
};

// ANCHOR: limits
/// What ends a connection that has stopped reading, and bounds what the kernel keeps for it.
#[derive(Debug, Clone, Copy)]
pub struct SocketLimits {
    /// How long a write may wait for the peer to take any byte.
    pub send: Duration,
    /// `TCP_USER_TIMEOUT` (Linux): how long sent bytes may stay unacknowledged. Without it, the kernel retransmits to a peer
    /// that vanished without FIN for about 15 minutes (tcp(7), `tcp_retries2`), while heartbeats look delivered.
    pub unacknowledged: Duration,
    /// `SO_SNDBUF` in bytes. Linux doubles it; unset, it grows the buffer of a stalled client to megabytes.
    pub send_buffer: usize,
}
// ANCHOR_END: limits

impl Default for SocketLimits {
    fn default() -> Self {
        Self {
            send: Duration::from_secs(20),
            unacknowledged: Duration::from_secs(30),
            send_buffer: 64 * 1024,
        }
    }
}

/// How to serve.
#[derive(Debug, Clone)]
pub struct Config {
    /// Limits of each socket.
    pub sockets: SocketLimits,
    /// How long a request head may take, and how long a connection may be idle between requests.
    pub head: Duration,
    /// Whether HTTP/2 with prior knowledge is served too, as a proxy speaks it. Its streams keep hyper's costs.
    pub http2: bool,
    /// How long responses may take after `stop`.
    pub drain: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sockets: SocketLimits::default(),
            head: Duration::from_secs(10),
            http2: true,
            drain: Duration::from_secs(20),
        }
    }
}
// ANCHOR_END: config

// ANCHOR: serve
/// Serves `app` until `stop`, closes the listener, then waits for the responses. Returns the number of connections that
/// were still open after [`Config::drain`]; they end with the runtime.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    config: Config,
    stop: CancellationToken,
) -> usize {
    let connections = TaskTracker::new();
    let (limits, drain) = (config.sockets, config.drain);
    let mut http = http1::Builder::new();
    http.max_buf_size(8 * 1024)
        .timer(TokioTimer::new())
        .header_read_timeout(config.head);
    // With its state, the router prepares its routes here and not for each request.
    let server = Arc::new(Server {
        http,
        config,
        app: app.with_state(()),
        stop,
    });
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = server.stop.cancelled() => break,
        };
        match accepted.and_then(|(tcp, peer)| Ok((prepare(tcp, limits)?, peer))) {
            Ok((io, peer)) => drop(connections.spawn(Connection::new(server.clone(), io, peer))),
            Err(error) => {
                // Perhaps out of file descriptors: accept would fail again immediately.
                tracing::warn!(%error, "cannot accept a connection");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    connections.close();
    let _ = timeout(drain, connections.wait()).await;
    connections.len()
}

fn prepare(tcp: TcpStream, limits: SocketLimits) -> io::Result<Io> {
    // Events are small writes: Nagle's algorithm would hold each back until the last one is acknowledged.
    tcp.set_nodelay(true)?;
    let socket = SockRef::from(&tcp);
    socket.set_send_buffer_size(limits.send_buffer)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(limits.unacknowledged))?;
    Ok(SendDeadline::new(tcp, limits.send))
}
// ANCHOR_END: serve

// ANCHOR: connection
type Io = SendDeadline<TcpStream>;
/// The socket and the event stream on it, if hyper's part ended with one.
type Taken = Option<(Io, Answer)>;

struct Server {
    http: http1::Builder,
    config: Config,
    app: Router,
    stop: CancellationToken,
}

/// The task of a connection, by hand: an `async fn` keeps room for all that it ever held, which is most of the cost of an
/// idle stream.
struct Connection {
    server: Arc<Server>,
    state: State,
}

enum State {
    /// Nothing has arrived: hyper and its buffers are made when it has. If all clients of another instance connect at once,
    /// their buffers would otherwise exist at the same time, and the allocator keeps what was once used.
    Waiting(Io, SocketAddr, Pin<Box<dyn Future<Output = ()> + Send>>),
    Http(Pin<Box<dyn Future<Output = Taken> + Send>>),
    Stream(Stream),
    Ending(Io),
    Ended,
}

impl Connection {
    fn new(server: Arc<Server>, io: Io, peer: SocketAddr) -> Self {
        Self {
            state: State::Waiting(io, peer, server.patience()),
            server,
        }
    }
}

impl Future for Connection {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            self.state = match &mut self.state {
                State::Waiting(io, _, timer) => {
                    let mut first = [0; 4];
                    if io
                        .inner
                        .poll_peek(cx, &mut ReadBuf::new(&mut first))
                        .is_pending()
                    {
                        ready!(timer.as_mut().poll(cx));
                        return Poll::Ready(());
                    }
                    let State::Waiting(io, peer, _) =
                        std::mem::replace(&mut self.state, State::Ended)
                    else {
                        return Poll::Ready(());
                    };
                    let server = self.server.clone();
                    // No method of HTTP/1 starts like the preface of HTTP/2 (RFC 9113, section 3.4).
                    State::Http(match server.config.http2 && first == *b"PRI " {
                        true => Box::pin(server.http2(io, peer)),
                        false => Box::pin(server.http(io, peer)),
                    })
                }
                State::Http(http) => match ready!(http.as_mut().poll(cx)) {
                    Some((io, answer)) => State::Stream(Stream::new(io, answer)),
                    None => State::Ended,
                },
                State::Stream(stream) => match ready!(stream.poll(cx)) {
                    Ok(()) => {
                        let State::Stream(stream) =
                            std::mem::replace(&mut self.state, State::Ended)
                        else {
                            return Poll::Ready(());
                        };
                        match stream.io.inner.peer_addr() {
                            Ok(peer)
                                if !stream.close
                                    && stream.discarded == 0
                                    && !self.server.stop.is_cancelled() =>
                            {
                                State::Waiting(stream.io, peer, self.server.patience())
                            }
                            _ => State::Ending(stream.io),
                        }
                    }
                    Err(error) => {
                        tracing::debug!(%error, "event stream");
                        State::Ended
                    }
                },
                State::Ending(io) => {
                    let _ = ready!(Pin::new(io).poll_shutdown(cx));
                    State::Ended
                }
                State::Ended => return Poll::Ready(()),
            }
        }
    }
}

impl Server {
    /// How long a connection may send nothing: the time for a head, or until the shutdown.
    fn patience(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let (stop, head) = (self.stop.clone(), self.config.head);
        Box::pin(async move {
            let _ = timeout(head, stop.cancelled()).await;
        })
    }

    async fn http2(self: Arc<Self>, io: Io, peer: SocketAddr) -> Taken {
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new())
            .keep_alive_interval(self.config.head)
            .enable_connect_protocol();
        let mut app = self.app.clone();
        let service = tower::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(peer));
            app.call(request)
        });
        let mut http =
            pin!(http.serve_connection(TokioIo::new(io), TowerToHyperService::new(service)));
        let served = tokio::select! {
            served = http.as_mut() => served,
            () = self.stop.cancelled() => {
                http.as_mut().graceful_shutdown();
                http.await
            }
        };
        served
            .inspect_err(|error| tracing::debug!(%peer, %error, "connection"))
            .ok();
        None
    }

    /// hyper, until the connection ends or an event stream starts.
    async fn http(self: Arc<Self>, io: Io, peer: SocketAddr) -> Taken {
        let found = Arc::new(Mutex::new(None));
        let service = Heads {
            app: self.app.clone(),
            peer,
            upgraded: AtomicBool::new(false),
            found: found.clone(),
        };
        let mut http = self.http.serve_connection(TokioIo::new(io), service);
        let mut stop = pin!(self.stop.cancelled());
        let mut stopping = false;
        let outcome = poll_fn(|cx| {
            if !stopping && stop.as_mut().poll(cx).is_ready() {
                stopping = true;
                Pin::new(&mut http).graceful_shutdown();
            }
            match Pin::new(&mut http).poll(cx) {
                Poll::Ready(served) => Poll::Ready(Err(served)),
                Poll::Pending => match lock(&found).take() {
                    Some(found) => Poll::Ready(Ok(found)),
                    None => Poll::Pending,
                },
            }
        });
        let served = match outcome.await {
            Ok(Found::Stream(mut answer)) => {
                // The service has not answered: hyper has written nothing for this request.
                let parts = http.into_parts();
                let io = parts.io.into_inner();
                answer.close |= stopping || !parts.read_buf.is_empty();
                // Only a client that sends a second request before it reads the first response has unsent bytes here.
                return (!io.waits()).then_some((io, answer));
            }
            Ok(Found::Upgrade) => {
                let mut http = pin!(http.with_upgrades());
                tokio::select! {
                    served = http.as_mut() => served,
                    () = stop => {
                        http.as_mut().graceful_shutdown();
                        http.await
                    }
                }
            }
            Err(served) => served,
        };
        served
            .inspect_err(|error| tracing::debug!(%peer, %error, "connection"))
            .ok();
        None
    }
}

/// What the service found in a request or its response.
enum Found {
    Upgrade,
    Stream(Answer),
}

/// The router, as hyper calls it.
struct Heads {
    app: Router,
    peer: SocketAddr,
    /// A client has asked for an upgrade, and hyper keeps the connection: also if it is refused, and for later requests.
    upgraded: AtomicBool,
    found: Arc<Mutex<Option<Found>>>,
}

impl hyper::service::Service<Request<Incoming>> for Heads {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let get = request.method() == Method::GET
            && request.version() == Version::HTTP_11
            && request.body().is_end_stream();
        let close = lists(request.headers(), header::CONNECTION, "close");
        let upgrade = request.headers().contains_key(header::UPGRADE);
        let upgraded = self.upgraded.fetch_or(upgrade, Ordering::Relaxed);
        request.extensions_mut().insert(ConnectInfo(self.peer));
        let (mut app, found) = (self.app.clone(), self.found.clone());
        Box::pin(async move {
            if upgrade && !upgraded {
                *lock(&found) = Some(Found::Upgrade);
                tokio::task::yield_now().await;
            }
            let response = app.call(request).await?;
            if !get || upgrade || upgraded || !is_event_stream(&response) {
                return Ok(response);
            }
            let close = close || lists(response.headers(), header::CONNECTION, "close");
            *lock(&found) = Some(Found::Stream(Answer { response, close }));
            pending().await
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
// ANCHOR_END: connection
