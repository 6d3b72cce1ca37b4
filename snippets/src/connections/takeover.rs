//! An event stream on its socket, without hyper.
//!
//! hyper's HTTP/1 connection keeps two buffers of 8 KiB. When the answer to a GET is an event stream, `listen.rs` drops that
//! connection, and this file writes the one response head and its chunks (RFC 9112, section 7.1). The body is the ordinary
//! axum body, so that layers and guards in it work unchanged.

// ANCHOR: takeover
use std::{
    cell::RefCell,
    io::{self, Write as _},
    pin::Pin,
    task::{Context, Poll, ready},
    time::SystemTime,
};

use axum::{body::Body, response::Response};
use bytes::{Buf, Bytes};
use futures::FutureExt;
use http::{HeaderMap, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::send_deadline::SendDeadline;

/// A response that is taken over.
pub(super) struct Answer {
    pub(super) response: Response,
    /// Whether the connection ends with it.
    pub(super) close: bool,
}

/// Whether `response` can be written here: 200, an event stream, of unknown length.
pub(super) fn is_event_stream(response: &Response) -> bool {
    let headers = response.headers();
    response.status() == StatusCode::OK
        && lists(headers, header::CONTENT_TYPE, "text/event-stream")
        && response.body().size_hint().exact().is_none()
        && !headers.contains_key(header::CONTENT_LENGTH)
        && !headers.contains_key(header::TRANSFER_ENCODING)
        && !headers.contains_key(header::TRAILER)
}

/// Whether `value` is one of the parts of the header `name`.
pub(super) fn lists(headers: &HeaderMap, name: header::HeaderName, value: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|has| has.to_str().ok())
        .any(|has| {
            has.split([',', ';'])
                .any(|part| part.trim().eq_ignore_ascii_case(value))
        })
}

/// An event stream on its socket.
pub(super) struct Stream {
    pub(super) io: SendDeadline<TcpStream>,
    /// `None` when it has ended and only `rest` is left.
    body: Option<Body>,
    /// What the socket had no room for.
    rest: Option<Box<Bytes>>,
    /// Bytes that came from a client that has nothing to say.
    pub(super) discarded: u16,
    pub(super) close: bool,
}

/// A client may send this much while it reads; then its connection ends.
const MAX_DISCARDED: u16 = 4096;
/// A thread's buffer does not stay larger than this.
const MAX_SCRATCH: usize = 64 * 1024;

thread_local! {
    /// A chunk on its way to the socket: no stream keeps a buffer.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Stream {
    pub(super) fn new(io: SendDeadline<TcpStream>, answer: Answer) -> Self {
        let (parts, mut body) = answer.response.into_parts();
        let mut first = Vec::with_capacity(512);
        put(
            &mut first,
            &[b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n"],
        );
        for (name, value) in parts
            .headers
            .iter()
            .filter(|(name, _)| !answer.close || *name != header::CONNECTION)
        {
            put(
                &mut first,
                &[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"],
            );
        }
        if answer.close {
            put(&mut first, &[b"connection: close\r\n"]);
        }
        if !parts.headers.contains_key(header::DATE) {
            // Writing to memory cannot fail.
            let _ = write!(
                first,
                "date: {}\r\n",
                httpdate::HttpDate::from(SystemTime::now())
            );
        }
        put(&mut first, &[b"\r\n"]);
        // The first bytes of the body leave with the head.
        if let Some(Some(Ok(frame))) = body.frame().now_or_never()
            && let Ok(data) = frame.into_data()
            && !data.is_empty()
        {
            put_chunk(&mut first, &data);
        }
        Self {
            io,
            body: Some(body),
            rest: Some(Box::new(first.into())),
            discarded: 0,
            close: answer.close,
        }
    }

    /// Sends until the body has ended (`Ok`) or the client has disconnected (`Err`).
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(sent) = self.poll_send(cx) {
            return Poll::Ready(sent);
        }
        let mut space = [0; 64];
        let mut read = ReadBuf::new(&mut space);
        loop {
            read.clear();
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
            self.discarded += read.filled().len() as u16;
            if read.filled().is_empty() || self.discarded > MAX_DISCARDED {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while let Some(rest) = &mut self.rest {
                let sent = ready!(Pin::new(&mut self.io).poll_write(cx, rest))?;
                if sent == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                rest.advance(sent);
                if rest.is_empty() {
                    self.rest = None;
                }
            }
            let Some(body) = &mut self.body else {
                return Poll::Ready(Ok(()));
            };
            let frame = ready!(Pin::new(&mut *body).poll_frame(cx))
                .transpose()
                .map_err(io::Error::other)?;
            let ended = frame.is_none() || body.is_end_stream();
            let data = frame
                .and_then(|frame| frame.into_data().ok())
                .unwrap_or_default();
            if ended {
                self.body = None;
            }
            self.write(cx, &data, ended)?;
        }
    }

    /// Writes a chunk, and keeps what the socket does not take.
    fn write(&mut self, cx: &mut Context<'_>, data: &[u8], ended: bool) -> io::Result<()> {
        if data.is_empty() && !ended {
            return Ok(());
        }
        SCRATCH.with_borrow_mut(|out| {
            out.clear();
            if !data.is_empty() {
                put_chunk(out, data);
            }
            if ended {
                put(out, &[b"0\r\n\r\n"]);
            }
            let sent = match Pin::new(&mut self.io).poll_write(cx, out) {
                Poll::Ready(sent) => sent?,
                Poll::Pending => 0,
            };
            if sent < out.len() {
                self.rest = Some(Box::new(Bytes::copy_from_slice(&out[sent..])));
            }
            if out.capacity() > MAX_SCRATCH {
                *out = Vec::new();
            }
            Ok(())
        })
    }
}

fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

fn put_chunk(out: &mut Vec<u8>, data: &[u8]) {
    let _ = write!(out, "{:X}\r\n", data.len());
    put(out, &[data, b"\r\n"]);
}
// ANCHOR_END: takeover
