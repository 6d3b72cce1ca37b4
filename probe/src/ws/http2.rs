//! As much HTTP/2 as it takes to ask for a WebSocket by extended CONNECT (RFC 8441).

use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::http1::{READ, Request};
use crate::patience::within;
use crate::target::{Conn, Link, Target};

/// What the service says over HTTP/2.
#[derive(Debug, PartialEq)]
pub(crate) enum Answer {
	/// It does not speak it here.
	NotOffered,
	/// It does, without extended CONNECT: browsers use HTTP/1.1.
	NotAnnounced,
	/// It announces extended CONNECT and answered with this status.
	Status(u16),
	/// It announces extended CONNECT and reset the stream.
	Reset(u32),
	/// It announces extended CONNECT and did not answer.
	Silent,
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_OR_MORE: usize = 1 << 20;

pub(crate) async fn extended_connect(request: &Request, target: &Target, patience: Duration) -> Answer {
	let Ok(mut conn) = target.connect(Link::Http2).await else {
		return Answer::NotOffered;
	};
	if target.secure && !conn.speaks_http2() {
		return Answer::NotOffered;
	}
	let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
	hello.extend(frame(SETTINGS, 0, 0, &[]));
	if conn.write_all(&hello).await.is_err() {
		return Answer::NotOffered;
	}
	let mut received = BytesMut::new();
	let settings = within(patience, async {
		loop {
			match next(&mut conn, &mut received).await {
				Some((SETTINGS, flags, payload)) if flags & 1 == 0 => return Some(payload),
				Some(_) => {}
				None => return None,
			}
		}
	});
	let Ok(Some(settings)) = settings.await else {
		return Answer::NotOffered;
	};
	// SETTINGS_ENABLE_CONNECT_PROTOCOL = 8
	let announced = settings.as_chunks::<6>().0.iter().any(|s| s[..2] == [0, 8] && s[2..] == [0, 0, 0, 1]);
	if !announced {
		return Answer::NotAnnounced;
	}
	let mut block = Vec::new();
	let scheme = if target.secure { "https" } else { "http" };
	field(&mut block, ":method", b"CONNECT");
	field(&mut block, ":protocol", b"websocket");
	field(&mut block, ":scheme", scheme.as_bytes());
	field(&mut block, ":path", target.path.as_bytes());
	field(&mut block, ":authority", target.authority().as_bytes());
	for (name, value) in &request.headers {
		let name = name.to_ascii_lowercase();
		if !matches!(name.as_str(), "connection" | "upgrade" | "sec-websocket-key" | "host") {
			field(&mut block, &name, value);
		}
	}
	let mut ask = frame(SETTINGS, 1, 0, &[]);
	ask.extend(frame(HEADERS, 4, 1, &block));
	if conn.write_all(&ask).await.is_err() {
		return Answer::Silent;
	}
	let answer = within(patience, async {
		loop {
			match next(&mut conn, &mut received).await {
				Some((HEADERS, flags, payload)) => {
					// PADDED and PRIORITY put bytes in front of the block.
					let skip = usize::from(flags & 8 != 0) + if flags & 0x20 != 0 { 5 } else { 0 };
					return match payload.get(skip..).and_then(status) {
						Some(status) => Answer::Status(status),
						None => Answer::Silent,
					};
				}
				Some((RST_STREAM, _, payload)) => {
					let code = payload.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
					return Answer::Reset(code);
				}
				Some(_) => {}
				None => return Answer::Silent,
			}
		}
	});
	answer.await.unwrap_or(Answer::Silent)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
	let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
	bytes.extend([kind, flags]);
	bytes.extend(stream.to_be_bytes());
	bytes.extend_from_slice(payload);
	bytes
}

/// The next frame: kind, flags, payload. None at the end, or for what is no HTTP/2.
async fn next(conn: &mut Conn, received: &mut BytesMut) -> Option<(u8, u8, Vec<u8>)> {
	loop {
		if let [a, b, c, kind, flags, ..] = received[..] {
			let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
			if received.starts_with(b"HTTP/") || length > PUSH_OR_MORE {
				return None;
			}
			if received.len() >= 9 + length {
				let payload = received[9..9 + length].to_vec();
				received.advance(9 + length);
				return Some((kind, flags, payload));
			}
		}
		received.reserve(READ);
		if conn.read_buf(received).await.ok()? == 0 {
			return None;
		}
	}
}

/// A literal header field without indexing (RFC 7541, 6.2.2), without Huffman coding.
fn field(block: &mut Vec<u8>, name: &str, value: &[u8]) {
	block.push(0);
	for text in [name.as_bytes(), value] {
		integer(block, 7, text.len());
		block.extend_from_slice(text);
	}
}

/// RFC 7541, 5.1.
fn integer(block: &mut Vec<u8>, bits: u32, value: usize) {
	let most = (1_usize << bits) - 1;
	if value < most {
		block.push(value as u8);
		return;
	}
	block.push(most as u8);
	let mut rest = value - most;
	while rest >= 128 {
		block.push((rest % 128 + 128) as u8);
		rest /= 128;
	}
	block.push(rest as u8);
}

/// `:status`, which is the first field of every response; the static table has it at 8 to 14.
fn status(block: &[u8]) -> Option<u16> {
	let mut block = block;
	// Dynamic table size updates may come first (RFC 7541, 4.2).
	while block.first()? & 0xe0 == 0x20 {
		let long = block[0] & 0x1f == 0x1f;
		let more = if long { block[1..].iter().position(|byte| byte & 0x80 == 0)? + 1 } else { 0 };
		block = &block[1 + more..];
	}
	let first = *block.first()?;
	if first & 0x80 != 0 {
		let known = [200, 204, 206, 304, 400, 404, 500];
		return known.get(usize::from(first & 0x7f).checked_sub(8)?).copied();
	}
	let index = if first & 0x40 != 0 { first & 0x3f } else { first & 0x0f };
	if !(8..=14).contains(&index) {
		return None;
	}
	let length = block.get(1)?;
	let value = block.get(2..2 + usize::from(length & 0x7f))?;
	if length & 0x80 == 0 {
		return std::str::from_utf8(value).ok()?.parse().ok();
	}
	digits(value)
}

/// Three digits in the Huffman code of RFC 7541, appendix B: 0 to 2 have five bits, the others six.
fn digits(value: &[u8]) -> Option<u16> {
	let bits: Vec<u8> = value.iter().flat_map(|byte| (0..8).rev().map(move |n| byte >> n & 1)).collect();
	let (mut at, mut number) = (0, 0);
	for _ in 0..3 {
		let take =
			|n: usize| bits.get(at..at + n).map(|bits| bits.iter().fold(0, |sum, bit| sum << 1 | u16::from(*bit)));
		let five = take(5)?;
		let (digit, used) = if five <= 2 { (five, 5) } else { (take(6)?.checked_sub(0x19)? + 3, 6) };
		if digit > 9 {
			return None;
		}
		number = number * 10 + digit;
		at += used;
	}
	Some(number)
}

#[cfg(test)]
mod tests {
	use super::status;

	#[test]
	fn the_status_is_read_in_every_form() {
		assert_eq!(status(&[0x88]), Some(200));
		assert_eq!(status(&[0x8d]), Some(404));
		assert_eq!(status(&[0x20, 0x88]), Some(200));
		assert_eq!(status(b"\x08\x03405"), Some(405));
		// RFC 7541, appendix C.6.1: 302 in Huffman code.
		assert_eq!(status(&[0x48, 0x82, 0x64, 0x02]), Some(302));
		assert_eq!(status(&[]), None);
	}
}
