//! An event-stream service with a log, resume, heartbeats and one fault.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flate2::{Compression, write::GzEncoder};
use futures::StreamExt as _;
use stream_probe::{Kind, Options, Publish, Report};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::{One, Request, chunk, http2, options, probe};

/// What is wrong with the service; `None` is the right one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Lines end with CRLF, as sse-starlette sends them: right.
    CrLf,
    Status500,
    WrongType,
    Latin1,
    NoCacheControl,
    NoTransformMissing,
    NoAccelHeader,
    ContentLength,
    HeadWithFirstEvent,
    /// Events wait for more of them, as in a buffer.
    HeldBack,
    GzipHeld,
    GzipFlushed,
    BadUtf8,
    Bom,
    LoneCr,
    RawNewline,
    EventWithoutData,
    UnfinishedEnd,
    ReservedName,
    RetryText,
    RetryConstant,
    CutEnd,
    RunsAgain,
    Ends,
    Ends204,
    NoHeartbeat,
    CommentHeartbeat,
    HeadHangs,
    NoIds,
    SameId,
    IdNotAscii,
    Gap,
    Duplicate,
    CursorPanics,
    PastSilent,
    FutureSilent,
    /// The log was wiped and the answer says `reset`: right.
    ResetSignal,
    /// Keeps three events, and begins each reader at the first of them, after a `reset` with the id before it: right.
    Trimmed,
    /// The same with a name that the probe does not know.
    TrimmedByAnotherName,
    /// Allows [`LIMIT`] streams: right.
    Limited,
    /// Counts the streams that were ever opened.
    PlacesLost,
    OnlyOneReader,
    Blocks,
    Dies,
    CorsStar,
    CorsAny,
    Leak,
    /// Answers all but streams with 429, as a limit does that the probe has reached: nothing to judge.
    Throttled,
    /// Keeps the connections of readers that have gone.
    Unnoticed,
    /// Queues without a bound for a reader that does not read.
    Hoards,
    /// Ends streams on SIGTERM without their last chunk.
    CutsOff,
    /// Speaks HTTP/2 too, as the next four do: right.
    Http2,
    /// `Connection` in the response headers of HTTP/2.
    Http2Connection,
    /// Holds events back over HTTP/2 only.
    Http2Held,
    /// Ends the connection of HTTP/2 if one of its streams is cancelled.
    Http2Cancelled,
    Http2FewStreams,
}

/// How many streams may be open at the same time.
pub const LIMIT: usize = 4;

/// An open stream.
struct Place(Arc<Hub>);

impl Drop for Place {
    fn drop(&mut self) {
        if self.0.fault != Fault::PlacesLost {
            self.0.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl One for Fault {
    fn bit(self) -> u64 {
        1 << self as u64
    }
}

type Faults = super::Faults<Fault>;

pub struct Service {
    pub addr: SocketAddr,
    pub hub: Arc<Hub>,
}

pub struct Hub {
    fault: Faults,
    /// Only the number of each event: the log must not be what grows.
    log: Mutex<Vec<usize>>,
    changed: watch::Sender<usize>,
    opened: AtomicUsize,
    /// Readers without a cursor, a coding or an Origin, in the order in which they came.
    plain: AtomicUsize,
    /// Streams that are open.
    open: AtomicUsize,
    /// Held while an event is written, in the service that blocks.
    turn: tokio::sync::Mutex<()>,
    /// Bytes of one event.
    pub size: AtomicUsize,
    pub stop: watch::Sender<bool>,
}

impl Hub {
    pub fn publish(&self, n: usize) {
        let mut log = self.log.lock().unwrap();
        log.push(n);
        self.changed.send_replace(log.len());
    }

    fn text(&self, n: usize) -> String {
        let filler = "x".repeat(self.size.load(Ordering::Relaxed));
        format!("{{\"n\":{n},\"x\":\"{filler}\"}}")
    }
}

impl Service {
    pub async fn start(fault: impl Into<Faults>) -> Self {
        let fault = fault.into();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let hub = Arc::new(Hub {
            fault,
            log: Mutex::default(),
            changed: watch::Sender::new(0),
            opened: AtomicUsize::new(0),
            plain: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            turn: tokio::sync::Mutex::default(),
            size: AtomicUsize::new(0),
            stop: watch::Sender::new(false),
        });
        if fault.any(&[Fault::Trimmed, Fault::TrimmedByAnotherName]) {
            (0..20).for_each(|n| hub.publish(n));
        }
        let shared = Arc::clone(&hub);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                if fault == Fault::Dies && shared.opened.load(Ordering::Relaxed) > 20 {
                    // Accepts no more, as a process without descriptors does.
                    std::future::pending::<()>().await;
                }
                let hub = Arc::clone(&shared);
                tokio::spawn(async move { drop(serve(socket, hub).await) });
            }
        });
        Self { addr, hub }
    }

    /// The options of a reader who knows the service.
    pub fn options(&self) -> Options {
        let mut options = options(self.addr, "/events");
        let hub = Arc::clone(&self.hub);
        options.publish = Publish::Call(Arc::new(move |n| hub.publish(n)));
        options.heartbeat = Some(Duration::from_secs(4));
        options
    }

    pub async fn report(&self) -> Report {
        let mut options = self.options();
        // It needs megabytes: a test of its own.
        options.skip = crate::support::without_stalls();
        probe(Kind::Sse, &options).await
    }
}

const HTTP2: &[Fault] = &[
    Fault::Http2,
    Fault::Http2Connection,
    Fault::Http2Held,
    Fault::Http2Cancelled,
    Fault::Http2FewStreams,
];

/// The stream over HTTP/2.
async fn over_http2(socket: TcpStream, hub: Arc<Hub>) -> std::io::Result<()> {
    let fault = hub.fault;
    let mut block = http2::field(":status", "200");
    block.extend(http2::field("content-type", "text/event-stream"));
    if fault == Fault::Http2Connection {
        block.extend(http2::field("connection", "keep-alive"));
    }
    let answer = http2::Answer {
        block,
        streams: if fault == Fault::Http2FewStreams {
            8
        } else {
            128
        },
        connect: false,
        prelude: "retry: 3000\n\n".to_owned(),
        ends_when_cancelled: fault == Fault::Http2Cancelled,
    };
    let from = (
        hub.log.lock().unwrap().len(),
        hub.changed.subscribe(),
        hub.clone(),
    );
    let events = futures::stream::unfold(from, async |(mut next, mut changed, hub)| {
        loop {
            let n = hub.log.lock().unwrap().get(next).copied();
            if let Some(n) = n.filter(|_| hub.fault != Fault::Http2Held) {
                next += 1;
                let bytes = event(hub.fault, next, &hub.text(n));
                return Some((bytes, (next, changed, hub)));
            }
            changed.changed().await.ok()?;
        }
    });
    http2::serve(socket, answer, events.boxed()).await
}

async fn serve(mut socket: TcpStream, hub: Arc<Hub>) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    while let Some(request) = Request::read(&mut socket).await {
        if request.method == "PRI" && hub.fault.any(HTTP2) {
            return over_http2(socket, hub).await;
        }
        let path = request.path.split('?').next().unwrap_or_default();
        let plain = |status: &str, body: &str| {
            format!(
                "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            )
        };
        let streams = path == "/events" && request.method == "GET";
        if hub.fault == Fault::Throttled && !streams {
            let answer = plain("429 Too Many Requests", "slow down");
            socket.write_all(answer.as_bytes()).await?;
            continue;
        }
        if path == "/publish" {
            hub.publish(0);
            socket.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await?;
            continue;
        }
        if path != "/events" {
            let body = match () {
                _ if hub.fault == Fault::Leak => {
                    "Error: no route\n    at Router.handle (/srv/app/node_modules/express/router.js:42:9)"
                }
                _ => "not found",
            };
            socket
                .write_all(plain("404 Not Found", body).as_bytes())
                .await?;
            continue;
        }
        if hub.fault == Fault::Status500 {
            socket
                .write_all(plain("500 Internal Server Error", "sorry").as_bytes())
                .await?;
            continue;
        }
        match request.method.as_str() {
            "GET" => return stream(socket, request, hub).await,
            "HEAD" => {
                socket
                    .write_all(head(&hub, &request, false).as_bytes())
                    .await?;
                if hub.fault == Fault::HeadHangs {
                    let mut rest = Vec::new();
                    socket.read_to_end(&mut rest).await?;
                }
            }
            _ => {
                socket
                    .write_all(plain("405 Method Not Allowed", "GET only").as_bytes())
                    .await?
            }
        }
    }
    Ok(())
}

fn head(hub: &Hub, request: &Request, gzip: bool) -> String {
    let fault = hub.fault;
    let mut head = String::from("HTTP/1.1 200 OK\r\n");
    let mut add = |line: &str| {
        head.push_str(line);
        head.push_str("\r\n");
    };
    add(match () {
        _ if fault == Fault::WrongType => "content-type: text/plain",
        _ if fault == Fault::Latin1 => "content-type: text/event-stream; charset=ISO-8859-1",
        _ => "content-type: text/event-stream; charset=utf-8",
    });
    match () {
        _ if fault == Fault::NoCacheControl => add("cache-control: no-transform"),
        _ if fault == Fault::NoTransformMissing => add("cache-control: no-cache"),
        _ => add("cache-control: no-cache, no-transform"),
    }
    if fault != Fault::NoAccelHeader {
        add("x-accel-buffering: no");
    }
    if fault == Fault::ContentLength {
        add("content-length: 100000000");
    } else {
        add("transfer-encoding: chunked");
    }
    if gzip {
        add("content-encoding: gzip");
    }
    let origin = request.header("origin");
    match origin {
        Some(_) if fault == Fault::CorsStar => {
            add("access-control-allow-origin: *\r\naccess-control-allow-credentials: true")
        }
        Some(origin) if fault == Fault::CorsAny => add(&format!(
            "access-control-allow-origin: {origin}\r\naccess-control-allow-credentials: true"
        )),
        _ => {}
    }
    head.push_str("\r\n");
    head
}

/// How a stream is written: chunked or not, compressed or not.
struct Out {
    socket: TcpStream,
    chunked: bool,
    gzip: Option<GzEncoder<Vec<u8>>>,
    flushes: bool,
    crlf: bool,
}

impl Out {
    async fn send(&mut self, text: &[u8]) -> std::io::Result<()> {
        let mut bytes = text.to_vec();
        if self.crlf {
            bytes = String::from_utf8_lossy(text)
                .replace('\n', "\r\n")
                .into_bytes();
        }
        if let Some(gzip) = &mut self.gzip {
            gzip.write_all(&bytes)?;
            if self.flushes {
                gzip.flush()?;
            }
            bytes = std::mem::take(gzip.get_mut());
        }
        if bytes.is_empty() {
            return Ok(());
        }
        if self.chunked {
            bytes = chunk(&bytes);
        }
        self.socket.write_all(&bytes).await
    }
}

fn event(fault: Faults, n: usize, data: &str) -> Vec<u8> {
    let id = match () {
        _ if fault == Fault::NoIds
            || fault == Fault::Ends
            || fault == Fault::RunsAgain
            || fault == Fault::CutEnd
            || fault == Fault::UnfinishedEnd =>
        {
            String::new()
        }
        _ if fault == Fault::SameId => "id: 7\n".to_owned(),
        _ if fault == Fault::IdNotAscii => format!("id: é{n}\n"),
        _ => format!("id: {n}\n"),
    };
    let name = if fault == Fault::ReservedName {
        "event: error\n"
    } else {
        ""
    };
    let mut text = match () {
        _ if fault == Fault::RawNewline => format!("{name}{id}data: first\nsecond {data}\n\n"),
        _ if fault == Fault::LoneCr => format!("{name}{id}data: a\rdata: {data}\n\n"),
        _ if fault == Fault::EventWithoutData => {
            format!("event: tick\n\n{name}{id}data: {data}\n\n")
        }
        _ => format!("{name}{id}data: {data}\n\n"),
    }
    .into_bytes();
    if fault == Fault::BadUtf8 {
        text = [
            format!("{id}data: ").as_bytes(),
            b"\xff",
            data.as_bytes(),
            b"\n\n",
        ]
        .concat();
    }
    text
}

async fn stream(mut socket: TcpStream, request: Request, hub: Arc<Hub>) -> std::io::Result<()> {
    let fault = hub.fault;
    let nth = hub.opened.fetch_add(1, Ordering::Relaxed);
    let open = hub.open.fetch_add(1, Ordering::Relaxed);
    let is_plain = request.path == "/events"
        && ["accept-encoding", "last-event-id", "origin"]
            .iter()
            .all(|name| request.header(name).is_none());
    // The first two are the probe's first and second reader: others may come at the same time as these, in any order.
    let forgotten =
        fault == Fault::OnlyOneReader && is_plain && hub.plain.fetch_add(1, Ordering::Relaxed) == 1;
    let _place = Place(Arc::clone(&hub));
    if fault.any(&[Fault::Limited, Fault::PlacesLost]) && open >= LIMIT {
        return socket
            .write_all(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")
            .await;
    }
    let mut changed = hub.changed.subscribe();
    let published = || hub.log.lock().unwrap().len();
    // Before the head: an event that is published as soon as the client is answered is its own.
    let tail = published();
    let cursor = request.raw("last-event-id").map(|value| {
        let text = String::from_utf8_lossy(value);
        text.trim_start_matches('é').parse::<usize>().ok()
    });
    if fault == Fault::CursorPanics && cursor == Some(None) {
        return socket
            .write_all(b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n")
            .await;
    }
    if fault == Fault::Ends204 && cursor == Some(Some(3)) {
        return socket.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
    }
    let held = fault == Fault::HeadWithFirstEvent;
    if held {
        // Only here the right moment is the wrong one: nothing is sent before the first event.
        while published() == 0 && changed.changed().await.is_ok() {}
    }
    let accepts = request.header("accept-encoding").unwrap_or_default();
    let gzip = accepts.contains("gzip") && fault.any(&[Fault::GzipHeld, Fault::GzipFlushed]);
    socket
        .write_all(head(&hub, &request, gzip).as_bytes())
        .await?;
    let mut out = Out {
        socket,
        chunked: fault != Fault::ContentLength,
        gzip: gzip.then(|| GzEncoder::new(Vec::new(), Compression::default())),
        flushes: fault == Fault::GzipFlushed,
        crlf: fault == Fault::CrLf,
    };
    if fault == Fault::Bom {
        out.send(b"\xef\xbb\xbf").await?;
    }
    let retry = match () {
        _ if fault == Fault::RetryText => format!("retry: {}ms\n\n", 3000 + nth),
        _ if fault == Fault::RetryConstant => "retry: 3000\n\n".to_owned(),
        _ => format!("retry: {}\n\n", 3000 + nth),
    };
    if !held {
        out.send(retry.as_bytes()).await?;
    }
    if fault.any(&[
        Fault::Ends,
        Fault::Ends204,
        Fault::RunsAgain,
        Fault::CutEnd,
        Fault::UnfinishedEnd,
    ]) {
        return ending(out, fault, cursor.flatten().unwrap_or(0)).await;
    }
    let kept = tail.saturating_sub(3);
    let mut next = match cursor.flatten() {
        from if fault.any(&[Fault::Trimmed, Fault::TrimmedByAnotherName])
            && from.unwrap_or(0) < kept =>
        {
            let name = match () {
                _ if fault == Fault::Trimmed => "reset",
                _ => "stale",
            };
            let text = format!("event: {name}\nid: {kept}\ndata: {{}}\n\n");
            out.send(text.as_bytes()).await?;
            kept
        }
        None if fault == Fault::Duplicate => 0,
        None => tail,
        Some(cursor) => match () {
            _ if fault == Fault::Gap => tail, // as before the head: what is published after it must arrive
            _ if fault == Fault::Duplicate => 0,
            _ if fault == Fault::PastSilent && cursor == 0 => published(),
            _ if fault == Fault::FutureSilent && cursor > published() => usize::MAX,
            _ if cursor > published() => {
                out.send(b"event: reset\ndata: {}\n\n").await?;
                published()
            }
            _ if fault == Fault::ResetSignal => {
                out.send(b"event: reset\ndata: {}\n\n").await?;
                published()
            }
            _ => cursor,
        },
    };
    let mut gone = [0];
    let mut stop = hub.stop.subscribe();
    if fault == Fault::Hoards {
        return hoard(out, changed, hub).await;
    }
    loop {
        let due: Vec<(usize, usize)> = {
            let log = hub.log.lock().unwrap();
            log.iter().copied().enumerate().skip(next).collect()
        };
        for (index, n) in due {
            let skipped = fault == Fault::HeldBack || forgotten;
            if !skipped {
                let bytes = event(fault, index + 1, &hub.text(n));
                if fault == Fault::Blocks {
                    // One lock for all readers, held over the write.
                    let _turn = hub.turn.lock().await;
                    out.send(&bytes).await?;
                } else {
                    out.send(&bytes).await?;
                }
            }
            next = index + 1;
        }
        let heartbeat = async {
            match () {
                _ if fault == Fault::NoHeartbeat => std::future::pending().await,
                _ => tokio::time::sleep(Duration::from_millis(1200)).await,
            }
        };
        tokio::select! {
            // Whoever resumes from beyond the end is never served by the faulty one.
            _ = changed.changed() => {}
            () = heartbeat => match () {
                _ if fault == Fault::CommentHeartbeat => out.send(b":\n\n").await?,
                _ if fault == Fault::FutureSilent && next == usize::MAX => {}
                _ => out.send(b"event: ping\ndata: {}\n\n").await?,
            },
            read = out.socket.read(&mut gone) => {
                if !matches!(read, Ok(1..)) {
                    if fault == Fault::Unnoticed {
                        std::future::pending::<()>().await;
                    }
                    return Ok(());
                }
            }
            _ = stop.changed() => match () {
                _ if fault == Fault::CutsOff => return Ok(()),
                _ => {
                    out.send(b"retry: 2000\n\n").await?;
                    return out.socket.write_all(b"0\r\n\r\n").await;
                }
            },
        }
    }
}

/// Takes every event for every reader, whether it is read or not.
async fn hoard(
    mut out: Out,
    mut changed: watch::Receiver<usize>,
    hub: Arc<Hub>,
) -> std::io::Result<()> {
    let (queue, mut queued) = tokio::sync::mpsc::unbounded_channel();
    let taking = tokio::spawn(async move {
        let mut next = 0;
        while changed.changed().await.is_ok() {
            let log = hub.log.lock().unwrap().clone();
            for (index, n) in log.iter().enumerate().skip(next) {
                drop(queue.send(event(Fault::None.into(), index + 1, &hub.text(*n))));
            }
            next = log.len();
        }
    });
    let mut sent = Ok(());
    while let Some(bytes) = queued.recv().await {
        sent = out.send(&bytes).await;
        if sent.is_err() {
            break;
        }
    }
    taking.abort();
    sent
}

/// A stream that ends by itself.
async fn ending(mut out: Out, fault: Faults, from: usize) -> std::io::Result<()> {
    for n in from + 1..=3 {
        out.send(&event(fault, n, &format!("step {n}"))).await?;
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    match () {
        _ if fault == Fault::CutEnd => return out.socket.shutdown().await,
        _ if fault == Fault::UnfinishedEnd => out.send(b"event: done\ndata: {}\n").await?,
        _ if fault == Fault::Ends => out.send(b"event: done\ndata: {}\n\n").await?,
        _ => {}
    }
    out.socket.write_all(b"0\r\n\r\n").await?;
    let mut rest = Vec::new();
    out.socket.read_to_end(&mut rest).await?;
    Ok(())
}
