//! A relay between client and provider (OpenAI chat completions), and one fault.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use stream_probe::wire::{Limits, Parser};
use stream_probe::{Kind, Options, Report};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Request, chunk, options, probe};

/// What is wrong with the relay; `None` is the right one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// NDJSON instead of events: right.
    Ndjson,
    /// The provider's own events, passed through as they are: right.
    PassThrough,
    /// The provider is asked by OpenAI's Responses API: right.
    Responses,
    Status500,
    WrongType,
    NoHeaders,
    HeadHeld,
    Collects,
    NoHeartbeat,
    NoTerminal,
    TwoTerminals,
    TruncationIsDone,
    ErrorIsDone,
    Detached,
    Unbounded,
    LeaksProvider,
    LeaksTrace,
    SplitsUtf8,
    RawData,
}

pub struct Relay {
    pub addr: SocketAddr,
    upstream: SocketAddr,
}

impl Relay {
    pub async fn start(fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        // A free port, which the probe binds a moment later.
        let upstream = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(async move { drop(serve(socket, upstream, fault).await) });
            }
        });
        Self { addr, upstream }
    }

    pub fn options(&self) -> Options {
        let mut options = options(self.addr, "/chat");
        options.method = "POST".to_owned();
        options.body = Some(b"{\"prompt\":\"hello\"}".to_vec());
        options.upstream = Some(self.upstream);
        options.heartbeat = Some(Duration::from_secs(6));
        options
    }

    pub async fn report(&self) -> Report {
        probe(Kind::Llm, &self.options()).await
    }
}

/// What comes from the provider.
enum Piece {
    Text(String),
    Raw(Vec<u8>),
    Done,
    Failed,
    Cut,
}

async fn plain(socket: &mut TcpStream, status: &str, body: &str) -> std::io::Result<()> {
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(answer.as_bytes()).await
}

async fn serve(mut socket: TcpStream, upstream: SocketAddr, fault: Fault) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let Some(request) = Request::read(&mut socket).await else {
        return Ok(());
    };
    if serde_json::from_slice::<Value>(&request.body).is_err() {
        let body = match fault {
            Fault::LeaksTrace => {
                "Traceback (most recent call last):\n  File \"/srv/app/main.py\", line 7"
            }
            _ => "{\"code\":\"bad_request\"}",
        };
        return plain(&mut socket, "400 Bad Request", body).await;
    }
    if fault == Fault::Status500 {
        return plain(&mut socket, "500 Internal Server Error", "{}").await;
    }
    let mut provider = TcpStream::connect(upstream).await?;
    let body = json!({"model": "m", "stream": true, "messages": []}).to_string();
    let path = match fault {
        Fault::Responses => "/v1/responses",
        _ => "/v1/chat/completions",
    };
    let ask = format!(
        "POST {path} HTTP/1.1\r\nhost: {upstream}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    provider.write_all(ask.as_bytes()).await?;
    // The client may go while the provider has not answered.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        provider.read_exact(&mut byte).await?;
        head.push(byte[0]);
    }
    if !head.starts_with(b"HTTP/1.1 200") && fault != Fault::ErrorIsDone {
        let mut text = String::new();
        provider.read_to_string(&mut text).await?;
        let body = if fault == Fault::LeaksProvider {
            text
        } else {
            "{\"code\":\"upstream\"}".to_owned()
        };
        return plain(&mut socket, "502 Bad Gateway", &body).await;
    }
    let refused = !head.starts_with(b"HTTP/1.1 200");
    let (pieces, incoming) = tokio::sync::mpsc::channel(16);
    // An endless queue behind the bounded one is the fault of a relay without backpressure.
    let (endless, queued) = tokio::sync::mpsc::unbounded_channel();
    let reading = tokio::spawn(async move {
        if refused {
            drop(pieces.send(Piece::Done).await);
        } else if fault == Fault::Unbounded {
            read_provider(provider, fault, |piece| {
                let sent = endless.send(piece).is_ok();
                async move { sent }
            })
            .await;
        } else if fault == Fault::Detached {
            // Goes on whether or not someone listens.
            read_provider(provider, fault, |piece| {
                let pieces = pieces.clone();
                async move {
                    drop(pieces.send(piece).await);
                    true
                }
            })
            .await;
        } else {
            read_provider(provider, fault, |piece| {
                let pieces = pieces.clone();
                async move { pieces.send(piece).await.is_ok() }
            })
            .await;
        }
    });
    let source = if fault == Fault::Unbounded {
        Source::Endless(queued)
    } else {
        Source::Bounded(incoming)
    };
    let written = write_client(socket, source, fault).await;
    if fault != Fault::Detached {
        reading.abort();
    }
    written
}

enum Source {
    Bounded(tokio::sync::mpsc::Receiver<Piece>),
    Endless(tokio::sync::mpsc::UnboundedReceiver<Piece>),
}

impl Source {
    async fn next(&mut self) -> Option<Piece> {
        match self {
            Source::Bounded(pieces) => pieces.recv().await,
            Source::Endless(pieces) => pieces.recv().await,
        }
    }
}

/// Decodes the provider's stream into pieces.
async fn read_provider<F: Future<Output = bool>>(
    mut provider: TcpStream,
    fault: Fault,
    send: impl Fn(Piece) -> F,
) {
    let mut parser = Parser::new(Limits::default());
    let mut received: Vec<u8> = Vec::new();
    let mut data = Vec::new();
    loop {
        // Chunked coding, as far as the probe's provider uses it.
        while let Some(end) = received.windows(2).position(|w| w == b"\r\n") {
            let size =
                usize::from_str_radix(&String::from_utf8_lossy(&received[..end]), 16).unwrap_or(0);
            if size == 0 {
                send(Piece::Cut).await;
                return;
            }
            if received.len() < end + 2 + size + 2 {
                break;
            }
            data.extend_from_slice(&received[end + 2..end + 2 + size]);
            received.drain(..end + 2 + size + 2);
            let mut bytes = std::mem::take(&mut data);
            if fault == Fault::SplitsUtf8 {
                bytes = String::from_utf8_lossy(&bytes).into_owned().into_bytes();
            }
            if fault == Fault::PassThrough {
                if !send(Piece::Raw(bytes)).await {
                    return;
                }
                continue;
            }
            let mut events = parser.push(&bytes);
            while let Ok(Some(event)) = events.next() {
                let piece = if event.data == "[DONE]" {
                    Piece::Done
                } else {
                    let json: Value = serde_json::from_str(event.data).unwrap_or_default();
                    let text = match json["type"].as_str() {
                        Some("response.output_text.delta") => json.get("delta"),
                        _ => json.pointer("/choices/0/delta/content"),
                    };
                    match text.and_then(Value::as_str) {
                        Some("") => continue,
                        None if json["type"] == "response.completed" => Piece::Done,
                        None if json["type"] == "error" => Piece::Failed,
                        Some(text) => Piece::Text(text.to_owned()),
                        None if json.get("error").is_some() && fault == Fault::LeaksProvider => {
                            Piece::Text(json["error"]["message"].to_string())
                        }
                        None if json.get("error").is_some() => Piece::Failed,
                        None => continue,
                    }
                };
                let last = !matches!(piece, Piece::Text(_));
                if !send(piece).await || last {
                    return;
                }
            }
        }
        if !matches!(provider.read_buf(&mut received).await, Ok(1..)) {
            send(Piece::Cut).await;
            return;
        }
    }
}

async fn write_client(
    mut socket: TcpStream,
    mut source: Source,
    fault: Fault,
) -> std::io::Result<()> {
    let kind = match fault {
        Fault::WrongType => "application/json",
        Fault::Ndjson => "application/x-ndjson",
        _ => "text/event-stream",
    };
    let extra = if fault == Fault::NoHeaders {
        ""
    } else {
        "cache-control: no-cache, no-transform\r\nx-accel-buffering: no\r\n"
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n{extra}transfer-encoding: chunked\r\n\r\n"
    );
    let mut held = Vec::new();
    let mut waits = matches!(fault, Fault::HeadHeld);
    if waits {
        held.extend_from_slice(head.as_bytes());
    } else {
        socket.write_all(head.as_bytes()).await?;
    }
    let line = |name: &str, data: Value| match fault {
        Fault::Ndjson => format!("{}\n", json!({"type": name, "text": data.get("text")})),
        _ => format!("event: {name}\ndata: {data}\n\n"),
    };
    let done = line("done", json!({"reason": "stop"}));
    let failed = line("stream_error", json!({"code": "upstream"}));
    let mut gone = [0];
    loop {
        let beat = async {
            match fault {
                Fault::NoHeartbeat | Fault::HeadHeld | Fault::Collects | Fault::PassThrough => {
                    std::future::pending().await
                }
                _ => tokio::time::sleep(Duration::from_millis(700)).await,
            }
        };
        let piece = tokio::select! {
            piece = source.next() => piece,
            () = beat => {
                let beat = if fault == Fault::Ndjson { "{\"type\":\"ping\"}\n" } else { ":\n\n" };
                socket.write_all(&chunk(beat.as_bytes())).await?;
                continue;
            }
            read = socket.read(&mut gone) => {
                if matches!(read, Ok(1..)) {
                    continue;
                }
                return Ok(());
            }
        };
        let (text, last) = match piece.unwrap_or(Piece::Cut) {
            Piece::Raw(bytes) => {
                socket.write_all(&chunk(&bytes)).await?;
                continue;
            }
            Piece::Text(text) if fault == Fault::RawData => {
                (format!("event: token\ndata: {text}\n\n"), false)
            }
            Piece::Text(text) => (line("token", json!({ "text": text })), false),
            Piece::Done if fault == Fault::NoTerminal => (String::new(), true),
            Piece::Done if fault == Fault::TwoTerminals => (format!("{done}{done}"), true),
            Piece::Done => (done.clone(), true),
            Piece::Cut if fault == Fault::TruncationIsDone => (done.clone(), true),
            Piece::Cut if fault == Fault::PassThrough => (String::new(), true),
            Piece::Cut | Piece::Failed => (failed.clone(), true),
        };
        if !text.is_empty() {
            held.extend(chunk(text.as_bytes()));
            waits = false;
        }
        if last {
            held.extend_from_slice(b"0\r\n\r\n");
        }
        if last || !(waits || fault == Fault::Collects) {
            socket.write_all(&held).await?;
            held.clear();
        }
        if last {
            return Ok(());
        }
    }
}
