//! HTTP/2 by the crate h2: the settings of one connection, and requests over it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::ext::Protocol;
use h2::{Ping, PingPong, Reason, RecvStream, SendStream};
use tokio::task::JoinHandle;

use crate::http1::{self, End, Head, Part};
use crate::patience::within;
use crate::target::{Link, Target};

/// Of a response that [`NoAnswer::Malformed`] is about.
pub(crate) const MALFORMED: &str = "its response headers are not allowed in HTTP/2: `Connection`, `Keep-Alive`, `Transfer-Encoding`, `Upgrade`, or a name that is not in lower case; browsers reset the stream (RFC 9113, section 8.2)";

/// A connection whose settings have arrived.
pub(crate) struct Http2 {
	send: SendRequest<Bytes>,
	pings: PingPong,
	driver: JoinHandle<()>,
	secure: bool,
}

impl Drop for Http2 {
	fn drop(&mut self) {
		self.driver.abort();
	}
}

/// An open stream; dropped, it is cancelled with RST_STREAM.
pub(crate) struct Stream {
	pub(crate) head: Head,
	pub(crate) sent_at: Instant,
	body: RecvStream,
	_request: SendStream<Bytes>,
}

impl Stream {
	/// The next bytes of the body.
	pub(crate) async fn next(&mut self) -> Part {
		match self.body.data().await {
			Some(Ok(data)) => {
				// Fails for a stream that has ended, of which nothing more comes.
				drop(self.body.flow_control().release_capacity(data.len()));
				Part::Data(data.into())
			}
			Some(Err(error)) if error.is_reset() => Part::End(End::Reset),
			Some(Err(_)) => Part::End(End::Cut),
			None => Part::End(End::Complete),
		}
	}
}

/// Why there is no response.
#[derive(Debug, PartialEq)]
pub(crate) enum NoAnswer {
	/// The request cannot be written as HTTP/2.
	Unwritable,
	/// The response is not valid HTTP/2: this client, like browsers, rejects it.
	Malformed,
	/// The service reset the stream.
	Reset(Reason),
	/// The connection ended.
	Ended(String),
	/// Nothing within the patience.
	Silent,
}

impl From<h2::Error> for NoAnswer {
	fn from(error: h2::Error) -> Self {
		match error.reason() {
			Some(Reason::PROTOCOL_ERROR) if error.is_library() => NoAnswer::Malformed,
			Some(reason) if error.is_reset() => NoAnswer::Reset(reason),
			_ => NoAnswer::Ended(error.to_string()),
		}
	}
}

impl Http2 {
	/// Connects by ALPN or, without TLS, with prior knowledge; `None`: no HTTP/2 is spoken here.
	pub(crate) async fn connect(target: &Target, patience: Duration) -> Option<Self> {
		let connected = within(patience, async {
			let conn = target.connect(Link::Http2).await.ok()?;
			if target.secure && !conn.speaks_http2() {
				return None;
			}
			let (send, mut connection) = h2::client::handshake(conn).await.ok()?;
			let pings = connection.ping_pong()?;
			let driver = tokio::spawn(async move { drop(connection.await) });
			let mut http2 = Self { send, pings, driver, secure: target.secure };
			// A server sends its SETTINGS first (RFC 9113, section 3.4): the answer comes after them.
			http2.pings.ping(Ping::opaque()).await.ok()?;
			Some(http2)
		});
		connected.await.ok().flatten()
	}

	/// Returns when all that was to be sent has been sent, a cancellation too: h2 may send the headers of a later
	/// request first. A connection that has ended shows at the next request.
	pub(crate) async fn flushed(&mut self, patience: Duration) {
		drop(within(patience, self.pings.ping(Ping::opaque())).await);
	}

	/// How many streams the service allows on this connection; `None`: any number.
	pub(crate) fn most_streams(&self) -> Option<usize> {
		Some(self.send.current_max_send_streams()).filter(|most| *most < u32::MAX as usize)
	}

	/// Whether WebSocket handshakes over HTTP/2 are announced (RFC 8441).
	pub(crate) fn extended_connect(&self) -> bool {
		self.send.is_extended_connect_protocol_enabled()
	}

	/// The connection in one clause.
	pub(crate) fn describe(&self) -> String {
		let how = if self.secure { "by ALPN" } else { "with prior knowledge" };
		let most = match self.most_streams() {
			Some(most) => format!("at most {most} streams per connection"),
			None => "any number of streams per connection".to_owned(),
		};
		let connect = if self.extended_connect() { "announced" } else { "not announced" };
		format!("HTTP/2 {how}, {most}, extended CONNECT for WebSockets {connect}")
	}

	/// Sends `request` on a stream of its own and waits for the response headers.
	pub(crate) async fn open(
		&self,
		request: &http1::Request,
		target: &Target,
		patience: Duration,
	) -> Result<Stream, NoAnswer> {
		self.answer(written(request, target, None)?, request.body.clone(), patience).await
	}

	/// Requests a WebSocket by extended CONNECT (RFC 8441, section 5).
	pub(crate) async fn web_socket(
		&self,
		request: &http1::Request,
		target: &Target,
		patience: Duration,
	) -> Result<Stream, NoAnswer> {
		let mut written = written(request, target, Some(Protocol::from_static("websocket")))?;
		*written.method_mut() = http::Method::CONNECT;
		// An empty body that does not end: the socket is open both ways.
		self.answer(written, Some(Vec::new()), patience).await
	}

	async fn answer(
		&self,
		request: http::Request<()>,
		body: Option<Vec<u8>>,
		patience: Duration,
	) -> Result<Stream, NoAnswer> {
		let answered = within(patience, async {
			let mut send = self.send.clone().ready().await?;
			let sent_at = Instant::now();
			let (response, mut sending) = send.send_request(request, body.is_none())?;
			if let Some(body) = body.filter(|body| !body.is_empty()) {
				sending.send_data(body.into(), true)?;
			}
			let (parts, body) = response.await?.into_parts();
			let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
			let headers = parts.headers.iter().map(|(name, value)| (name.to_string(), text(value)));
			let head = Head {
				status: parts.status.as_u16(),
				http11: false,
				headers: headers.collect(),
				after: sent_at.elapsed(),
			};
			Ok(Stream { head, sent_at, body, _request: sending })
		});
		answered.await.unwrap_or(Err(NoAnswer::Silent))
	}
}

/// The request without the headers that HTTP/2 forbids or replaces (RFC 9113, section 8.2.2).
fn written(
	request: &http1::Request,
	target: &Target,
	protocol: Option<Protocol>,
) -> Result<http::Request<()>, NoAnswer> {
	let scheme = if target.secure { "https" } else { "http" };
	let mut built = http::Request::builder().method(request.method.as_str()).uri(format!(
		"{scheme}://{}{}",
		target.authority(),
		target.path
	));
	if let Some(protocol) = protocol {
		built = built.extension(protocol);
	}
	for (name, value) in &request.numbered_headers() {
		let name = name.to_ascii_lowercase();
		if !matches!(name.as_str(), "connection" | "upgrade" | "sec-websocket-key" | "host") {
			built = built.header(name, value.as_slice());
		}
	}
	built.body(()).map_err(|_| NoAnswer::Unwritable)
}
