//! An HTTP/1.1 client that sees when each byte arrived and how the body ended.

use std::io;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{Buf, BytesMut};
use flate2::{Decompress, FlushDecompress, Status};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::patience::within;
use crate::target::{Conn, Link, Target, Unreachable};

/// A request. Headers of the probe itself (Host, Content-Length) are added when it is sent.
#[derive(Debug, Clone)]
pub(crate) struct Request {
	pub(crate) method: String,
	pub(crate) headers: Vec<(String, Vec<u8>)>,
	pub(crate) body: Option<Vec<u8>>,
	pub(crate) link: Link,
}

impl Request {
	pub(crate) fn new(method: &str) -> Self {
		Self { method: method.to_owned(), headers: Vec::new(), body: None, link: Link::Http1 }
	}

	/// Sets a header; one of the same name is replaced.
	pub(crate) fn header(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
		self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
		self.headers.push((name.to_owned(), value.into()));
		self
	}

	pub(crate) fn without(mut self, name: &str) -> Self {
		self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
		self
	}

	/// The headers of one request that is about to be sent: `{n}` in a value is a number that no other request has, for
	/// services that remember a key (`Idempotency-Key: probe-{n}`).
	pub(crate) fn numbered_headers(&self) -> Vec<(String, Vec<u8>)> {
		// Milliseconds: a run does not repeat the keys of the one before it.
		static NEXT: LazyLock<AtomicU64> = LazyLock::new(|| {
			let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
			AtomicU64::new(u64::try_from(now.as_millis()).unwrap_or_default())
		});
		let mut headers = self.headers.clone();
		let mut n = None;
		for (_, value) in &mut headers {
			if let Ok(text) = str::from_utf8(value)
				&& text.contains("{n}")
			{
				let n = n.get_or_insert_with(|| NEXT.fetch_add(1, Ordering::Relaxed));
				*value = text.replace("{n}", &n.to_string()).into_bytes();
			}
		}
		headers
	}

	pub(crate) fn bytes(&self, target: &Target) -> Vec<u8> {
		let mut bytes =
			format!("{} {} HTTP/1.1\r\nHost: {}\r\n", self.method, target.path, target.authority()).into_bytes();
		for (name, value) in &self.numbered_headers() {
			bytes.extend_from_slice(name.as_bytes());
			bytes.extend_from_slice(b": ");
			bytes.extend_from_slice(value);
			bytes.extend_from_slice(b"\r\n");
		}
		if let Some(body) = &self.body {
			bytes.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
		}
		bytes.extend_from_slice(b"\r\n");
		bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
		bytes
	}

	/// Sends the request on a new connection.
	pub(crate) async fn send(&self, target: &Target) -> Result<Exchange, Unreachable> {
		let mut conn = target.connect(self.link).await?;
		let sent = conn.write_all(&self.bytes(target)).await;
		let flushed = match sent {
			Ok(()) => conn.flush().await,
			Err(error) => Err(error),
		};
		// A service may answer and close before it has read everything: what it said still counts.
		drop(flushed);
		Ok(Exchange { conn, received: BytesMut::new(), sent_at: Instant::now(), head_only: self.method == "HEAD" })
	}

	/// Sends the request and waits for the head. `Ok(None)`: none within `patience`.
	pub(crate) async fn open(&self, target: &Target, patience: Duration) -> Result<Opened, Unreachable> {
		let result = within(patience, async {
			let mut exchange = self.send(target).await?;
			match exchange.head().await {
				Ok(Some(head)) => Ok(Opened::Response(Box::new(exchange.into_response(head)))),
				Ok(None) => Ok(Opened::Closed),
				Err(_) => Ok(Opened::Closed),
			}
		});
		result.await.unwrap_or(Ok(Opened::Silent))
	}

	/// As [`Self::open`], for checks to which only a response matters.
	pub(crate) async fn response(&self, target: &Target, patience: Duration) -> Option<Response> {
		match self.open(target, patience).await {
			Ok(Opened::Response(response)) => Some(*response),
			_ => None,
		}
	}
}

/// What came of a request.
pub(crate) enum Opened {
	Response(Box<Response>),
	/// The connection ended without a response.
	Closed,
	/// Nothing within the patience.
	Silent,
}

/// A connection on which a request has been sent.
pub(crate) struct Exchange {
	pub(crate) conn: Conn,
	pub(crate) received: BytesMut,
	pub(crate) sent_at: Instant,
	head_only: bool,
}

/// A response head.
#[derive(Debug, Clone)]
pub(crate) struct Head {
	pub(crate) status: u16,
	pub(crate) http11: bool,
	pub(crate) headers: Vec<(String, String)>,
	/// Since the request was sent.
	pub(crate) after: Duration,
}

impl Head {
	/// All values of a header, joined with a comma.
	pub(crate) fn get(&self, name: &str) -> Option<String> {
		let values: Vec<&str> = self
			.headers
			.iter()
			.filter(|(known, _)| known.eq_ignore_ascii_case(name))
			.map(|(_, value)| value.as_str())
			.collect();
		(!values.is_empty()).then(|| values.join(", "))
	}

	/// The endpoint in one line, for the beginning of the report.
	pub(crate) fn describe(&self) -> String {
		let version = if self.http11 { "HTTP/1.1" } else { "HTTP/1.0" };
		let server = self.get("server").map(|name| format!(", server {name}"));
		format!(
			"{}, {}, {version}{}, after {} ms",
			self.status,
			self.get("content-type").unwrap_or_else(|| "no Content-Type".to_owned()),
			server.unwrap_or_default(),
			self.after.as_millis()
		)
	}

	/// Whether a comma-separated header has this token.
	pub(crate) fn has(&self, name: &str, token: &str) -> bool {
		self.get(name).is_some_and(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
	}
}

/// No head of a sane service is longer.
const HEAD_MOST: usize = 256 * 1024;
/// Nor is the line before a chunk, or one of a trailer.
const LINE_MOST: usize = 16 * 1024;
/// Room for each read.
pub(crate) const READ: usize = 16 * 1024;

impl Exchange {
	/// Reads the next head; 1xx responses other than 101 are passed over. Safe to drop at any await.
	pub(crate) async fn head(&mut self) -> io::Result<Option<Head>> {
		loop {
			if let Some(end) = find(&self.received, b"\r\n\r\n") {
				let head = parse_head(&self.received[..end], self.sent_at.elapsed());
				self.received.advance(end + 4);
				match head {
					Some(head) if (102..200).contains(&head.status) || head.status == 100 => {}
					Some(head) => return Ok(Some(head)),
					None => return Err(io::Error::other("no HTTP/1.1 response")),
				}
				continue;
			}
			if self.received.len() > HEAD_MOST {
				return Err(io::Error::other("the response head is too long"));
			}
			self.received.reserve(READ);
			if self.conn.read_buf(&mut self.received).await? == 0 {
				return Ok(None);
			}
		}
	}

	pub(crate) fn into_response(self, head: Head) -> Response {
		let chunked = head.has("transfer-encoding", "chunked");
		let length = head.get("content-length").and_then(|value| value.trim().parse().ok());
		let coding = if self.head_only || matches!(head.status, 204 | 304) {
			Coding::Length(0)
		} else if chunked {
			Coding::Size
		} else if let Some(length) = length {
			Coding::Length(length)
		} else {
			Coding::UntilClose
		};
		Response { head, conn: self.conn, received: self.received, coding, sent_at: self.sent_at }
	}
}

fn parse_head(bytes: &[u8], after: Duration) -> Option<Head> {
	let text = String::from_utf8_lossy(bytes);
	let mut lines = text.split("\r\n");
	let status_line = lines.next()?;
	let mut parts = status_line.splitn(3, ' ');
	let version = parts.next()?;
	if !version.starts_with("HTTP/1.") {
		return None;
	}
	let status = parts.next()?.parse().ok()?;
	let headers = lines
		.filter_map(|line| line.split_once(':'))
		.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
		.collect();
	Some(Head { status, http11: version == "HTTP/1.1", headers, after })
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
	bytes.windows(needle.len()).position(|w| w == needle)
}

/// How a body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
	/// With its last chunk, or all of its Content-Length.
	Complete,
	/// By the end of the connection, where nothing else marks the end.
	Close,
	/// By the end of the connection, though more was announced.
	Cut,
	/// By a reset.
	Reset,
}

impl End {
	pub(crate) fn text(self) -> &'static str {
		match self {
			End::Complete => "the last chunk",
			End::Close => "the end of the connection",
			End::Cut => "FIN without the last chunk",
			End::Reset => "a reset",
		}
	}

	pub(crate) fn is_cut(self) -> bool {
		matches!(self, End::Cut | End::Reset)
	}
}

/// Where the decoder of the transfer coding stands (RFC 9112, section 7.1).
#[derive(Debug, Clone, Copy)]
enum Coding {
	Size,
	Chunk(u64),
	AfterChunk,
	Trailer,
	Length(u64),
	UntilClose,
}

/// A response whose body is read as it arrives.
pub(crate) struct Response {
	pub(crate) head: Head,
	conn: Conn,
	received: BytesMut,
	coding: Coding,
	pub(crate) sent_at: Instant,
}

/// The next thing of a body.
pub(crate) enum Part {
	Data(Vec<u8>),
	End(End),
}

impl Response {
	pub(crate) fn is_event_stream(&self) -> bool {
		is_event_stream(&self.head)
	}

	/// The next bytes of the body. Safe to drop at any await.
	pub(crate) async fn next(&mut self) -> Part {
		loop {
			match self.decode() {
				Ok(Some(part)) => return part,
				Ok(None) => {}
				Err(()) => return Part::End(End::Cut),
			}
			self.received.reserve(READ);
			match self.conn.read_buf(&mut self.received).await {
				Ok(0) => {
					return Part::End(match self.coding {
						Coding::UntilClose => End::Close,
						_ => End::Cut,
					});
				}
				Ok(_) => {}
				// rustls says so when a peer ends TCP without close_notify, as many do.
				Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
					return Part::End(match self.coding {
						Coding::UntilClose => End::Close,
						_ => End::Cut,
					});
				}
				Err(_) => return Part::End(End::Reset),
			}
		}
	}

	fn decode(&mut self) -> Result<Option<Part>, ()> {
		let mut data = Vec::new();
		loop {
			match self.coding {
				Coding::UntilClose => data.extend_from_slice(&self.received.split()),
				Coding::Length(0) => {
					if data.is_empty() {
						return Ok(Some(Part::End(End::Complete)));
					}
				}
				Coding::Length(left) => {
					let take = self.take(left, &mut data);
					self.coding = Coding::Length(left - take);
					if take == left && data.is_empty() {
						continue;
					}
				}
				Coding::Size => {
					if let Some(end) = find(&self.received, b"\r\n") {
						let line = self.received.split_to(end + 2);
						let size = String::from_utf8_lossy(&line);
						let size = size.split(';').next().unwrap_or_default().trim();
						let size = u64::from_str_radix(size, 16).map_err(|_| ())?;
						self.coding = if size == 0 { Coding::Trailer } else { Coding::Chunk(size) };
						continue;
					}
					if self.received.len() > LINE_MOST {
						return Err(());
					}
				}
				Coding::Chunk(left) => {
					let take = self.take(left, &mut data);
					self.coding = if take == left { Coding::AfterChunk } else { Coding::Chunk(left - take) };
					if take == left {
						continue;
					}
				}
				Coding::AfterChunk => {
					if self.received.len() >= 2 {
						self.received.advance(2);
						self.coding = Coding::Size;
						continue;
					}
				}
				Coding::Trailer => {
					if data.is_empty() {
						while let Some(end) = find(&self.received, b"\r\n") {
							self.received.advance(end + 2);
							if end == 0 {
								self.coding = Coding::Length(0);
								return Ok(Some(Part::End(End::Complete)));
							}
						}
						if self.received.len() > LINE_MOST {
							return Err(());
						}
					}
				}
			}
			return Ok((!data.is_empty()).then_some(Part::Data(data)));
		}
	}

	fn take(&mut self, left: u64, data: &mut Vec<u8>) -> u64 {
		let take = usize::try_from(left).unwrap_or(usize::MAX).min(self.received.len());
		data.extend_from_slice(&self.received.split_to(take));
		take as u64
	}

	/// The body as text, at most 64 KiB and for at most `patience`.
	pub(crate) async fn text(&mut self, patience: Duration) -> String {
		let mut body = Vec::new();
		let read = async {
			while let Part::Data(data) = self.next().await {
				body.extend_from_slice(&data);
				if body.len() > 64 * 1024 {
					break;
				}
			}
		};
		// What has arrived is what there is to judge.
		drop(within(patience, read).await);
		String::from_utf8_lossy(&body).into_owned()
	}
}

pub(crate) fn is_event_stream(head: &Head) -> bool {
	head.get("content-type").is_some_and(|value| {
		let essence = value.split(';').next().unwrap_or_default().trim();
		essence.eq_ignore_ascii_case("text/event-stream")
	})
}

/// Decodes a compressed body as it arrives.
pub(crate) enum Decoder {
	Gzip(Gunzip),
	Deflate(Decompress),
	Brotli(Box<brotli_decompressor::DecompressorWriter<Vec<u8>>>),
}

impl Decoder {
	/// For the codings that the probe offers.
	pub(crate) fn new(coding: &str) -> Option<Self> {
		match coding {
			"gzip" | "x-gzip" => Some(Self::Gzip(Gunzip::new())),
			"deflate" => Some(Self::Deflate(Decompress::new(true))),
			"br" => Some(Self::Brotli(Box::new(brotli_decompressor::DecompressorWriter::new(Vec::new(), READ)))),
			_ => None,
		}
	}

	/// What `bytes` add to the text; `Err` for damaged data.
	pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Vec<u8>, &'static str> {
		match self {
			Decoder::Gzip(gunzip) => gunzip.push(bytes),
			Decoder::Deflate(inflate) => inflated(inflate, bytes),
			Decoder::Brotli(writer) => {
				use std::io::Write as _;
				writer.write_all(bytes).map_err(|_| "the brotli data is damaged")?;
				Ok(std::mem::take(writer.get_mut()))
			}
		}
	}
}

/// Inflates a gzip body as it arrives.
pub(crate) struct Gunzip {
	header: Vec<u8>,
	inflate: Option<Decompress>,
}

impl Gunzip {
	fn new() -> Self {
		Self { header: Vec::new(), inflate: None }
	}

	fn push(&mut self, bytes: &[u8]) -> Result<Vec<u8>, &'static str> {
		if let Some(inflate) = &mut self.inflate {
			return inflated(inflate, bytes);
		}
		self.header.extend_from_slice(bytes);
		let Some(length) = gzip_header(&self.header)? else {
			return Ok(Vec::new());
		};
		let rest = self.header.split_off(length);
		inflated(self.inflate.insert(Decompress::new(false)), &rest)
	}
}

fn inflated(inflate: &mut Decompress, mut input: &[u8]) -> Result<Vec<u8>, &'static str> {
	let mut out = Vec::new();
	loop {
		let (in_before, out_before) = (inflate.total_in(), inflate.total_out());
		let mut buffer = [0_u8; 16 * 1024];
		let status = inflate
			.decompress(input, &mut buffer, FlushDecompress::Sync)
			.map_err(|_| "the compressed data is damaged")?;
		let read = usize::try_from(inflate.total_in() - in_before).unwrap_or(0);
		let written = usize::try_from(inflate.total_out() - out_before).unwrap_or(0);
		input = &input[read..];
		out.extend_from_slice(&buffer[..written]);
		if status == Status::StreamEnd || (read == 0 && written == 0) {
			return Ok(out);
		}
	}
}

/// The length of a gzip header (RFC 1952), once it is complete.
fn gzip_header(bytes: &[u8]) -> Result<Option<usize>, &'static str> {
	if bytes.len() < 10 {
		return Ok(None);
	}
	if bytes[..3] != [0x1f, 0x8b, 8] {
		return Err("the body is not gzip");
	}
	let flags = bytes[3];
	let mut at = 10;
	if flags & 4 != 0 {
		let Some(size) = bytes.get(at..at + 2) else {
			return Ok(None);
		};
		at += 2 + usize::from(u16::from_le_bytes([size[0], size[1]]));
	}
	for flag in [8, 16] {
		if flags & flag != 0 {
			let Some(text) = bytes.get(at..) else {
				return Ok(None);
			};
			let Some(end) = text.iter().position(|byte| *byte == 0) else {
				return Ok(None);
			};
			at += end + 1;
		}
	}
	if flags & 2 != 0 {
		at += 2;
	}
	Ok((bytes.len() >= at).then_some(at))
}
