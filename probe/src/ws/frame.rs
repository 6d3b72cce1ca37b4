//! A WebSocket client that can do what a client must not (RFC 6455).

use std::io;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::coop::consume_budget;

use crate::http1::{Head, READ, Request, Response};
use crate::patience::within;
use crate::target::{Conn, Link, Target, Unreachable};

pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// The key of every handshake: it guards against caches, not against people.
const KEY: &str = "c3RyZWFtLXByb2JlLWtleQ==";
/// The server's answer to it (RFC 6455, 4.2.2); a test derives it.
pub(crate) const ACCEPT: &str = "Waoznp38y9grX2x/sZSkwa0cq2k=";

/// One frame as it came.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
	pub(crate) opcode: u8,
	pub(crate) payload: Vec<u8>,
}

impl Frame {
	/// The code of a Close frame; 1005 when it has none.
	pub(crate) fn close_code(&self) -> u16 {
		match self.payload.as_slice() {
			[high, low, ..] => u16::from_be_bytes([*high, *low]),
			_ => 1005,
		}
	}
}

/// The next thing on a connection.
#[derive(Debug, Clone)]
pub(crate) enum Next {
	Frame(Frame),
	/// FIN.
	Eof,
	/// RST, or another error.
	Reset,
}

/// How waiting for a frame ended.
#[derive(Debug, Clone)]
pub(crate) enum Waited {
	Found(Frame),
	/// A Close frame with this code.
	Closed(u16),
	/// The end of the connection without a Close frame.
	Dropped,
	Silent,
}

impl Waited {
	pub(crate) fn text(&self) -> String {
		match self {
			Waited::Found(frame) => format!("a frame of opcode {}", frame.opcode),
			Waited::Closed(code) => format!("Close {code}"),
			Waited::Dropped => "dropped without a Close frame, which a client sees as 1006".to_owned(),
			Waited::Silent => "still open".to_owned(),
		}
	}

	pub(crate) fn ended(&self) -> bool {
		matches!(self, Waited::Closed(_) | Waited::Dropped)
	}
}

/// What came of a handshake.
pub(crate) enum Upgrade {
	Open(Box<Socket>),
	Refused(Box<Response>),
	Closed,
	Silent,
}

/// An open WebSocket.
pub(crate) struct Socket {
	conn: Conn,
	received: BytesMut,
	pub(crate) head: Head,
	/// The text of messages.
	pub(crate) heard: String,
	/// The text of close reasons, and of messages that name a failure: what may leak.
	pub(crate) errors: String,
	/// How many text and binary messages came.
	pub(crate) messages: usize,
	/// Whether Pings of the server are answered.
	pub(crate) answers: bool,
}

/// The upgrade headers on top of the client's own request.
pub(crate) fn upgrade(request: Request) -> Request {
	request
		.header("Connection", "Upgrade")
		.header("Upgrade", "websocket")
		.header("Sec-WebSocket-Version", "13")
		.header("Sec-WebSocket-Key", KEY)
}

pub(crate) async fn connect(request: &Request, target: &Target, patience: Duration) -> Result<Upgrade, Unreachable> {
	let opened = within(patience, async {
		let mut exchange = request.send(target).await?;
		Ok(match exchange.head().await {
			Ok(Some(head)) if head.status == 101 => Upgrade::Open(Box::new(Socket {
				conn: exchange.conn,
				received: exchange.received,
				head,
				heard: String::new(),
				errors: String::new(),
				messages: 0,
				answers: true,
			})),
			Ok(Some(head)) => Upgrade::Refused(Box::new(exchange.into_response(head))),
			Ok(None) | Err(_) => Upgrade::Closed,
		})
	});
	opened.await.unwrap_or(Ok(Upgrade::Silent))
}

/// `byte` once the peer has unmasked it, repeated to 64 KiB: what follows the header of a masked frame.
pub(crate) fn filler(byte: u8) -> Vec<u8> {
	MASK.iter().cycle().map(|mask| byte ^ mask).take(64 * 1024).collect()
}

/// One frame as bytes.
pub(crate) fn encode(fin: bool, opcode: u8, payload: &[u8], masked: bool) -> Vec<u8> {
	let mut bytes = header(fin, opcode, payload.len() as u64, masked);
	if masked {
		bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
	} else {
		bytes.extend_from_slice(payload);
	}
	bytes
}

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// The header of a frame, which may announce more than follows.
pub(crate) fn header(fin: bool, opcode: u8, length: u64, masked: bool) -> Vec<u8> {
	let mut bytes = vec![opcode | if fin { 0x80 } else { 0 }];
	let mask_bit = if masked { 0x80 } else { 0 };
	match length {
		0..=125 => bytes.push(mask_bit | length as u8),
		126..=65535 => {
			bytes.push(mask_bit | 126);
			bytes.extend_from_slice(&(length as u16).to_be_bytes());
		}
		_ => {
			bytes.push(mask_bit | 127);
			bytes.extend_from_slice(&length.to_be_bytes());
		}
	}
	if masked {
		bytes.extend_from_slice(&MASK);
	}
	bytes
}

/// More than any message that the probe waits for.
const FRAME_MOST: u64 = 64 << 20;

fn decode(received: &mut BytesMut) -> Result<Option<Frame>, ()> {
	let [first, second, ..] = received[..] else {
		return Ok(None);
	};
	let (mut at, length) = match second & 0x7f {
		126 => match received.get(2..4) {
			Some(bytes) => (4, u64::from(bytes[0]) << 8 | u64::from(bytes[1])),
			None => return Ok(None),
		},
		127 => match received.get(2..10) {
			Some(bytes) => (10, bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))),
			None => return Ok(None),
		},
		short => (2, u64::from(short)),
	};
	if length > FRAME_MOST {
		return Err(());
	}
	let mut mask = [0; 4];
	if second & 0x80 != 0 {
		let Some(bytes) = received.get(at..at + 4) else {
			return Ok(None);
		};
		mask.copy_from_slice(bytes);
		at += 4;
	}
	let end = at + length as usize;
	if received.len() < end {
		return Ok(None);
	}
	let payload = received[at..end].iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
	let frame = Frame { opcode: first & 0x0f, payload: payload.collect() };
	received.advance(end);
	Ok(Some(frame))
}

/// How sending much at once ended.
pub(crate) struct Pumped {
	pub(crate) sent: usize,
	/// Closed or dropped; Silent when all was sent, or the time was up; None when the peer stopped reading.
	pub(crate) outcome: Option<Waited>,
}

impl Socket {
	pub(crate) async fn send(&mut self, opcode: u8, payload: &[u8]) -> bool {
		self.send_raw(&encode(true, opcode, payload, true)).await
	}

	pub(crate) async fn send_raw(&mut self, bytes: &[u8]) -> bool {
		let write = async {
			self.conn.write_all(bytes).await?;
			self.conn.flush().await
		};
		matches!(within(super::PATIENCE, write).await, Ok(Ok(())))
	}

	/// The next frame. Safe to drop at any await.
	pub(crate) async fn next(&mut self) -> Next {
		loop {
			// A flood of small frames must not keep timeouts from being checked.
			consume_budget().await;
			match decode(&mut self.received) {
				Ok(Some(frame)) => {
					self.note(&frame);
					return Next::Frame(frame);
				}
				Ok(None) => {}
				Err(()) => return Next::Reset,
			}
			self.received.reserve(READ);
			match self.conn.read_buf(&mut self.received).await {
				Ok(0) => return Next::Eof,
				Ok(_) => {}
				Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Next::Eof,
				Err(_) => return Next::Reset,
			}
		}
	}

	/// Waits for a frame that `wanted` takes, for a Close, or for the end.
	pub(crate) async fn until(&mut self, patience: Duration, mut wanted: impl FnMut(&Frame) -> bool) -> Waited {
		let wait = async {
			loop {
				match self.next().await {
					Next::Frame(frame) if wanted(&frame) => return Waited::Found(frame),
					Next::Frame(frame) if frame.opcode == CLOSE => {
						return Waited::Closed(frame.close_code());
					}
					Next::Frame(frame) if frame.opcode == PING && self.answers => {
						self.send(PONG, &frame.payload).await;
					}
					Next::Frame(_) => {}
					Next::Eof | Next::Reset => return Waited::Dropped,
				}
			}
		};
		within(patience, wait).await.unwrap_or(Waited::Silent)
	}

	/// Sends a Ping and waits for its Pong.
	pub(crate) async fn ping(&mut self, payload: &[u8], patience: Duration) -> Waited {
		if !self.send(PING, payload).await {
			return self.until(patience, |_| false).await;
		}
		self.until(patience, |frame| frame.opcode == PONG && frame.payload == payload).await
	}

	/// Keeps the text of a frame.
	fn note(&mut self, frame: &Frame) {
		const MOST: usize = 64 * 1024;
		self.messages += usize::from(matches!(frame.opcode, TEXT | BINARY));
		if frame.opcode == TEXT && self.heard.len() < MOST {
			let text = String::from_utf8_lossy(&frame.payload);
			self.heard.push_str(&text);
			if self.errors.len() < MOST && crate::leak::names_failure(&text) {
				self.errors.push_str(&text);
				self.errors.push('\n');
			}
		}
		if let (CLOSE, Some(reason)) = (frame.opcode, frame.payload.get(2..)) {
			self.errors.push_str(&String::from_utf8_lossy(reason));
			self.errors.push('\n');
		}
	}

	/// Sends `total` bytes made of `unit` repeated, as fast as the peer takes them, but not beyond `until`; reads
	/// meanwhile when `reads`. A peer that takes nothing for `stall` has stopped reading.
	pub(crate) async fn pump(
		&mut self,
		unit: &[u8],
		total: usize,
		reads: bool,
		until: Instant,
		stall: Duration,
	) -> Pumped {
		let mut sent = 0;
		let mut noted = Vec::new();
		let (mut reader, mut writer) = tokio::io::split(&mut self.conn);
		let mut outcome = Some(Waited::Silent);
		'pumping: while sent < total && Instant::now() < until {
			let rest = &unit[sent % unit.len()..];
			self.received.reserve(READ);
			tokio::select! {
				biased;
				read = reader.read_buf(&mut self.received), if reads => {
					if !matches!(read, Ok(1..)) {
						outcome = Some(Waited::Dropped);
						break;
					}
					while let Ok(Some(frame)) = decode(&mut self.received) {
						consume_budget().await;
						noted.push(frame.clone());
						if frame.opcode == CLOSE {
							outcome = Some(Waited::Closed(frame.close_code()));
							break 'pumping;
						}
					}
				}
				written = within(stall, writer.write(rest)) => match written {
					Ok(Ok(n)) => sent += n,
					Ok(Err(_)) => {
						outcome = Some(Waited::Dropped);
						break;
					}
					Err(_) => {
						outcome = None;
						break;
					}
				},
			}
		}
		drop((reader, writer));
		noted.iter().for_each(|frame| self.note(frame));
		if matches!(outcome, Some(Waited::Dropped)) && reads {
			// The Close frame may have been on its way when writing failed.
			if let Waited::Closed(code) = self.until(Duration::from_millis(500), |_| false).await {
				outcome = Some(Waited::Closed(code));
			}
		}
		Pumped { sent, outcome }
	}
}

/// A request whose reader will not read.
pub(crate) fn stalled(mut request: Request) -> Request {
	request.link = Link::Stalled;
	request
}

#[cfg(test)]
mod tests {
	#![allow(clippy::unwrap_used)]
	use super::*;

	#[test]
	fn frames_come_back_as_they_were_sent() {
		for length in [0, 125, 126, 65535, 65536] {
			let payload = vec![7; length];
			for masked in [false, true] {
				let mut bytes = BytesMut::from(&encode(true, BINARY, &payload, masked)[..]);
				let cut = bytes.split_off(bytes.len() - 1);
				assert!(decode(&mut bytes).unwrap().is_none());
				bytes.extend_from_slice(&cut);
				let frame = decode(&mut bytes).unwrap().unwrap();
				assert_eq!((frame.opcode, frame.payload.len()), (BINARY, length));
				assert_eq!(frame.payload, payload);
				assert!(bytes.is_empty());
			}
		}
	}

	#[test]
	fn the_accept_header_is_derived_from_the_key() {
		use base64::Engine as _;
		use sha1::Digest as _;
		let digest = sha1::Sha1::digest(format!("{KEY}258EAFA5-E914-47DA-95CA-C5AB0DC85B11"));
		let accept = base64::engine::general_purpose::STANDARD.encode(digest);
		assert_eq!(accept, ACCEPT);
	}

	#[test]
	fn filler_is_text_for_the_peer() {
		let mut bytes = BytesMut::from(&header(true, TEXT, 64 * 1024, true)[..]);
		bytes.extend_from_slice(&filler(b'x'));
		let frame = decode(&mut bytes).unwrap().unwrap();
		assert!(frame.payload.iter().all(|byte| *byte == b'x'));
	}
}
