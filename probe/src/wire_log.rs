//! Everything an event stream shows: lines, blocks and events, with the time of each; and the reader that keeps it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::http1::{Decoder, End, Head, Part, Response};
use crate::http2;
use crate::report::quote;
use crate::wire::{Limits, Parser};

/// An event that a client dispatches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
	pub(crate) at: Instant,
	pub(crate) event_type: String,
	pub(crate) data: String,
	/// The id in this very block, not the one that is still valid.
	pub(crate) id: Option<String>,
}

/// Names of events that only say that the stream lives.
const HEARTBEAT: &[&str] = &["ping", "heartbeat", "keepalive", "keep-alive", "keep_alive", "hb"];

impl Event {
	pub(crate) fn new(at: Instant, event_type: &str, data: &str, id: Option<String>) -> Self {
		Self { at, event_type: event_type.to_owned(), data: data.to_owned(), id }
	}

	fn is_heartbeat(&self) -> bool {
		let known = |name: &str| HEARTBEAT.contains(&name.to_ascii_lowercase().as_str());
		let json_type = || {
			// Heartbeats are short: a long text need not be read.
			let short = (self.data.len() < 200).then_some(&self.data)?;
			let value: serde_json::Value = serde_json::from_str(short).ok()?;
			Some(known(value.get("type")?.as_str()?))
		};
		known(&self.event_type) || known(&self.data) || json_type().unwrap_or(false)
	}
}

/// How a body is divided into events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
	/// `text/event-stream`
	Events,
	/// One JSON value in each line.
	Lines,
	/// As it arrives.
	Chunks,
	/// Text whose form its first line shows.
	Unknown,
}

/// The form of a text by its first line; `None` while that is not complete and may still be one of JSON or events.
fn sniff(bytes: &[u8]) -> Option<Form> {
	let text = bytes.trim_ascii_start();
	let first = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
	let complete = text.contains(&b'\n');
	let json = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).is_ok();
	let event = [&b"data: {"[..], b"data: [", b"event: "];
	let part = matches!(first, [b'0'..=b'9' | b'a'..=b'g', b':', ..]);
	match first {
		b"" => None,
		_ if event.iter().any(|begin| first.starts_with(begin)) => Some(Form::Events),
		_ if !complete && first.len() < 7 && event.iter().any(|begin| begin.starts_with(first)) => None,
		_ if !complete && first.len() < 1 << 20 && (first.starts_with(b"{") || part) => None,
		_ if first.starts_with(b"{") && json(first) => Some(Form::Lines),
		// AI SDK 3 and 4: `0:"text"`.
		_ if part && json(&first[2..]) => Some(Form::Lines),
		_ => Some(Form::Chunks),
	}
}

/// What was seen on one stream. Bounded: after [`MOST_BYTES`] only counters go on.
pub(crate) struct Log {
	pub(crate) form: Form,
	parser: Parser,
	line: Vec<u8>,
	block: Vec<u8>,
	block_id: Option<String>,
	block_names: Names,
	after_cr: bool,
	at_start: bool,
	pub(crate) bytes: usize,
	pub(crate) first_byte_at: Option<Instant>,
	pub(crate) last_byte_at: Option<Instant>,
	pub(crate) longest_silence: std::time::Duration,
	pub(crate) events: Vec<Event>,
	/// Events that only say that the stream lives.
	pub(crate) heartbeats: Vec<Event>,
	/// Comment lines outside events.
	pub(crate) comments: Vec<Instant>,
	/// Blocks that dispatch nothing but move the cursor (`id` without `data`).
	pub(crate) id_only: usize,
	pub(crate) retries: Vec<String>,
	crs: usize,
	pub(crate) bom: bool,
	pub(crate) bad_utf8: Option<String>,
	pub(crate) unknown_lines: Vec<String>,
	pub(crate) dataless: Vec<String>,
	pub(crate) too_long: Option<String>,
	pub(crate) end: Option<(Instant, End)>,
}

/// Which fields a block has had so far.
#[derive(Default)]
struct Names {
	data: bool,
	event: Option<String>,
	id: bool,
}

const MOST_BYTES: usize = 64 << 20;
const MOST_NOTES: usize = 20;

impl Log {
	pub(crate) fn new(form: Form) -> Self {
		Self {
			form,
			parser: Parser::new(Limits::default()),
			line: Vec::new(),
			block: Vec::new(),
			block_id: None,
			block_names: Names::default(),
			after_cr: false,
			at_start: true,
			bytes: 0,
			first_byte_at: None,
			last_byte_at: None,
			longest_silence: std::time::Duration::ZERO,
			events: Vec::new(),
			heartbeats: Vec::new(),
			comments: Vec::new(),
			id_only: 0,
			retries: Vec::new(),
			crs: 0,
			bom: false,
			bad_utf8: None,
			unknown_lines: Vec::new(),
			dataless: Vec::new(),
			too_long: None,
			end: None,
		}
	}

	/// Bytes of the stream that arrived at `now`.
	pub(crate) fn push(&mut self, bytes: &[u8], now: Instant) {
		self.bytes += bytes.len();
		self.first_byte_at.get_or_insert(now);
		if let Some(last) = self.last_byte_at.replace(now) {
			self.longest_silence = self.longest_silence.max(now - last);
		}
		if self.too_long.is_some() || self.bytes > MOST_BYTES {
			return;
		}
		match self.form {
			Form::Events => self.push_events(bytes, now),
			Form::Lines => {
				for &byte in bytes {
					if byte != b'\n' {
						self.line.push(byte);
						continue;
					}
					let line = std::mem::take(&mut self.line);
					self.push_message(line.trim_ascii(), now);
				}
			}
			// Read to its first line feed: JSON lines and events are often sent as plain text.
			Form::Unknown => {
				self.block.extend_from_slice(bytes);
				match sniff(&self.block) {
					None => {}
					Some(form) => {
						self.form = form;
						let begun = std::mem::take(&mut self.block);
						self.bytes -= begun.len();
						self.push(&begun, now);
					}
				}
			}
			Form::Chunks => {
				// A character may be cut: the rest waits for the next chunk.
				self.line.extend_from_slice(bytes);
				let whole = match std::str::from_utf8(&self.line) {
					Ok(text) => text.len(),
					Err(error) if error.error_len().is_none() => error.valid_up_to(),
					Err(_) => self.line.len(),
				};
				let rest = self.line.split_off(whole);
				let chunk = std::mem::replace(&mut self.line, rest);
				self.push_message(&chunk, now);
			}
		}
	}

	fn push_message(&mut self, data: &[u8], now: Instant) {
		if data.is_empty() {
			return;
		}
		self.events.push(Event::new(now, "message", &String::from_utf8_lossy(data), None));
	}

	fn push_events(&mut self, bytes: &[u8], now: Instant) {
		let mut rest = bytes;
		while let Some(&byte) = rest.first() {
			let run = match byte {
				b'\n' | b'\r' => 1,
				_ => memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len()),
			};
			let (bytes, after) = rest.split_at(run);
			rest = after;
			self.block.extend_from_slice(bytes);
			match byte {
				b'\n' if self.after_cr => {
					self.after_cr = false;
					self.crs -= 1;
				}
				b'\n' => self.end_line(now),
				b'\r' => {
					self.crs += 1;
					self.after_cr = true;
					self.end_line(now);
				}
				_ => {
					// The CR before this byte ended a line on its own.
					self.after_cr = false;
					self.line.extend_from_slice(bytes);
				}
			}
		}
		if self.after_cr {
			// Whether a LF follows is not known yet; the parser waits as well.
			return;
		}
		self.dispatch_held(now);
	}

	/// How many lines ended with a lone CR.
	pub(crate) fn lone_crs(&self) -> usize {
		self.crs - usize::from(self.after_cr)
	}

	fn end_line(&mut self, now: Instant) {
		let line = std::mem::take(&mut self.line);
		let mut text = line.as_slice();
		if self.at_start {
			self.at_start = false;
			if let Some(rest) = text.strip_prefix(b"\xef\xbb\xbf") {
				self.bom = true;
				text = rest;
			}
		}
		if std::str::from_utf8(text).is_err() && self.bad_utf8.is_none() {
			self.bad_utf8 = Some(quote(text));
		}
		if text.is_empty() {
			self.end_block(now);
			return;
		}
		let (name, value) = match text.iter().position(|byte| *byte == b':') {
			Some(0) => {
				if self.comments.len() < 10_000 {
					self.comments.push(now);
				}
				return;
			}
			Some(colon) => {
				let value = &text[colon + 1..];
				(&text[..colon], value.strip_prefix(b" ").unwrap_or(value))
			}
			None => (text, &b""[..]),
		};
		let value_text = || String::from_utf8_lossy(value).into_owned();
		match name {
			b"data" => self.block_names.data = true,
			b"event" => self.block_names.event = Some(value_text()),
			b"id" => {
				self.block_names.id = true;
				self.block_id = Some(value_text());
			}
			b"retry" => {
				if self.retries.len() < 1000 {
					self.retries.push(value_text());
				}
			}
			_ => {
				if self.unknown_lines.len() < MOST_NOTES {
					self.unknown_lines.push(quote(text));
				}
			}
		}
	}

	fn end_block(&mut self, now: Instant) {
		let names = std::mem::take(&mut self.block_names);
		let id = self.block_id.take();
		self.dispatch(id, now);
		if names.data {
			return;
		}
		if let Some(event) = names.event {
			// nchan and others keep a connection alive so: nothing is lost that does not fire.
			if HEARTBEAT.contains(&event.to_ascii_lowercase().as_str()) {
				if self.comments.len() < 10_000 {
					self.comments.push(now);
				}
			} else if self.dataless.len() < MOST_NOTES {
				self.dataless.push(event);
			}
		} else if names.id {
			self.id_only += 1;
		}
	}

	/// Gives the parser the bytes up to here, so that its event is that of the block that just ended.
	fn dispatch(&mut self, id: Option<String>, now: Instant) {
		let block = std::mem::take(&mut self.block);
		let mut events = self.parser.push(&block);
		loop {
			match events.next() {
				Ok(Some(event)) => {
					let event = Event::new(now, event.event_type, event.data, id.clone());
					if event.is_heartbeat() {
						self.heartbeats.push(event);
					} else {
						self.events.push(event);
					}
				}
				Ok(None) => return,
				Err(error) => {
					self.too_long = Some(error.to_string());
					return;
				}
			}
		}
	}

	fn dispatch_held(&mut self, now: Instant) {
		if self.block.len() > 64 * 1024 {
			let id = self.block_id.clone();
			self.dispatch(id, now);
		}
	}

	pub(crate) fn ended(&mut self, end: End, now: Instant) {
		if self.form == Form::Unknown {
			self.form = Form::Chunks;
			let begun = std::mem::take(&mut self.block);
			self.push_message(&begun, now);
		}
		self.end = Some((now, end));
	}

	/// The bytes after the last complete event, if they begin another.
	pub(crate) fn unfinished(&self) -> Option<String> {
		if self.form != Form::Events {
			return (!self.line.trim_ascii().is_empty()).then(|| quote(&self.line));
		}
		let begun = self.block_names.data
			|| self.block_names.event.is_some()
			|| (!self.line.is_empty() && !self.line.starts_with(b":"));
		begun.then(|| quote(&self.block))
	}
}

/// One stream that is being read. Dropped, it disconnects.
pub(crate) struct Reader {
	pub(crate) head: Head,
	pub(crate) head_at: Instant,
	log: Arc<Mutex<Log>>,
	changed: watch::Receiver<()>,
	task: JoinHandle<()>,
}

impl Reader {
	pub(crate) fn start(response: Response) -> Self {
		let head = response.head.clone();
		let head_at = response.sent_at + head.after;
		Self::reading(head, head_at, Body::Http1(response))
	}

	pub(crate) fn over_http2(stream: http2::Stream) -> Self {
		let head_at = stream.sent_at + stream.head.after;
		Self::reading(stream.head.clone(), head_at, Body::Http2(stream))
	}

	fn reading(head: Head, head_at: Instant, mut body: Body) -> Self {
		let mut decoder = head.get("content-encoding").and_then(|coding| Decoder::new(coding.trim()));
		let log = Arc::new(Mutex::new(Log::new(form(&head))));
		let (notify, changed) = watch::channel(());
		let written = Arc::clone(&log);
		let task = tokio::spawn(async move {
			loop {
				let part = body.next().await;
				let now = Instant::now();
				let mut log = written.lock().unwrap_or_else(PoisonError::into_inner);
				let ended = match part {
					Part::End(end) => Some(end),
					Part::Data(data) => {
						let text = match &mut decoder {
							Some(decoder) => decoder.push(&data),
							None => Ok(data),
						};
						match text {
							Ok(text) if text.is_empty() => None,
							Ok(text) => {
								log.push(&text, now);
								None
							}
							Err(_) => Some(End::Cut),
						}
					}
				};
				if let Some(end) = ended {
					log.ended(end, now);
					notify.send_replace(());
					return;
				}
				drop(log);
				notify.send_replace(());
			}
		});
		Self { head, head_at, log, changed, task }
	}

	/// Judges what was seen so far.
	pub(crate) fn with<T>(&self, look: impl FnOnce(&Log) -> T) -> T {
		look(&self.log.lock().unwrap_or_else(PoisonError::into_inner))
	}

	/// Waits until `condition` holds; false when it did not within `patience`, or cannot any more.
	pub(crate) async fn until(&self, patience: Duration, mut condition: impl FnMut(&Log) -> bool) -> bool {
		let mut changed = self.changed.clone();
		let wait = async {
			loop {
				changed.mark_unchanged();
				let (holds, ended) = self.with(|log| (condition(log), log.end.is_some()));
				if holds || ended {
					return holds;
				}
				if changed.changed().await.is_err() {
					return self.with(|log| condition(log));
				}
			}
		};
		match crate::patience::within(patience, wait).await {
			Ok(holds) => holds,
			Err(_) => self.with(|log| condition(log)),
		}
	}

	/// Disconnects, and returns when it has.
	pub(crate) async fn close(mut self) {
		self.task.abort();
		drop((&mut self.task).await);
	}

	pub(crate) fn ended(&self) -> Option<End> {
		self.with(|log| log.end.map(|(_, end)| end))
	}
}

/// Where the bytes of a reader come from.
enum Body {
	Http1(Response),
	Http2(http2::Stream),
}

impl Body {
	async fn next(&mut self) -> Part {
		match self {
			Body::Http1(response) => response.next().await,
			Body::Http2(stream) => stream.next().await,
		}
	}
}

impl Drop for Reader {
	fn drop(&mut self) {
		self.task.abort();
	}
}

fn form(head: &Head) -> Form {
	let kind = head.get("content-type").unwrap_or_default();
	let essence = kind.split(';').next().unwrap_or_default().trim();
	match essence.to_ascii_lowercase().as_str() {
		"text/event-stream" => Form::Events,
		kind if kind.contains("ndjson") || kind.contains("jsonl") || kind.contains("json-seq") => Form::Lines,
		_ => Form::Unknown,
	}
}

#[cfg(test)]
mod tests {
	use super::*;

	#[test]
	fn the_first_line_of_a_text_shows_its_form() {
		let form = |text: &str| sniff(text.as_bytes());
		assert_eq!(form("{\"id\":1}\n{"), Some(Form::Lines));
		assert_eq!(form("{\"id\":1}"), None);
		assert_eq!(form("{not json\n"), Some(Form::Chunks));
		assert_eq!(form("0:\"a\"\n"), Some(Form::Lines));
		assert_eq!(form("data: {\"id\":1}\n"), Some(Form::Events));
		assert_eq!(form("da"), None);
		assert_eq!(form("Once upon"), Some(Form::Chunks));
		assert_eq!(form("data are"), Some(Form::Chunks));
		let mut log = Log::new(Form::Unknown);
		for piece in ["{\"a\":", "1}\n{\"a\":2}\n", "{\"a\":3}\n"] {
			log.push(piece.as_bytes(), Instant::now());
		}
		assert_eq!(log.events.len(), 3);
		assert_eq!(log.bytes, 24);
	}
}
