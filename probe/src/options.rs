//! What the user gives: the endpoint, and what makes more of it visible.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use crate::http1;
use crate::process::Publish;
use crate::target::Target;
use crate::wire_log::Event;

/// What reads the stream in production; some advice depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Client {
	/// Not said.
	#[default]
	Unknown,
	/// The browser's EventSource.
	EventSource,
	/// A client over fetch, or none in a browser.
	Fetch,
}

/// What to probe, and with what. Durations are budgets of the wall clock.
pub struct Options {
	/// The endpoint.
	pub target: Target,
	/// HTTP method of `sse` and `llm`.
	pub method: String,
	/// Headers of every request, credentials among them; `{n}` in a value becomes a new number for each request.
	pub headers: Vec<(String, String)>,
	/// The Cookie header.
	pub cookie: Option<String>,
	/// The Origin that the service is to accept.
	pub origin: Option<String>,
	/// The request body of `sse` and `llm`.
	pub body: Option<Vec<u8>>,
	/// How long the run may take.
	pub budget: Duration,
	/// `sse`: how long the first reader stays when all else is done, to see a cut; zero: not at all.
	pub long: Duration,
	/// Ids, or beginnings of ids with `*`; empty: all.
	pub only: Vec<String>,
	/// Ids, or beginnings of ids with `*`.
	pub skip: Vec<String>,
	/// What makes the service send an event.
	pub publish: Publish,
	/// The service's process.
	pub pid: Option<u32>,
	/// Whether `pid` may be stopped with SIGTERM at the end.
	pub shutdown: bool,
	/// The longest silence without a heartbeat; `None`: 15 s for event streams (HTML 9.2.7), 55 s for
	/// WebSockets, where the client may be the one that sends it.
	pub heartbeat: Option<Duration>,
	/// How many connects and disconnects the churn checks make; 0 leaves them out.
	pub connects: usize,
	/// `sse`: how many streams the service promises to keep open, for this caller or in all.
	pub limit: Option<usize>,
	/// What reads the stream.
	pub client: Client,
	/// The service promises resume.
	pub resumable: bool,
	/// `ws`: the subprotocols to offer.
	pub subprotocols: Vec<String>,
	/// `ws`: a message that the service accepts.
	pub message: Option<Payload>,
	/// `ws`: the messages that the service expects first on every connection, in order.
	pub hello: Vec<Payload>,
	/// `ws`: after this time the service promises to drop a silent peer.
	pub idle: Option<Duration>,
	/// `llm`: the address on which the probe plays the provider.
	pub upstream: Option<SocketAddr>,
	/// `llm`: how the service's own terminal events are recognized.
	pub terminals: Vec<Terminal>,
}

impl Options {
	/// The defaults of the command line.
	pub fn new(target: Target) -> Self {
		Self {
			target,
			method: "GET".to_owned(),
			headers: Vec::new(),
			cookie: None,
			origin: None,
			body: None,
			budget: Duration::from_secs(20),
			long: Duration::ZERO,
			only: Vec::new(),
			skip: Vec::new(),
			publish: Publish::None,
			pid: None,
			shutdown: false,
			heartbeat: None,
			connects: 50,
			limit: None,
			client: Client::Unknown,
			resumable: false,
			subprotocols: Vec::new(),
			message: None,
			hello: Vec::new(),
			idle: None,
			upstream: None,
			terminals: Vec::new(),
		}
	}

	/// The longest silence of an event stream.
	pub(crate) fn silence(&self) -> Duration {
		self.heartbeat.unwrap_or(Duration::from_secs(15))
	}

	/// The request that a client of the service would send.
	pub(crate) fn request(&self, accept: &str) -> http1::Request {
		let mut request =
			http1::Request::new(&self.method).header("User-Agent", "stream-probe").header("Accept", accept);
		if let Some(cookie) = &self.cookie {
			request = request.header("Cookie", cookie.as_str());
		}
		if let Some(origin) = &self.origin {
			request = request.header("Origin", origin.as_str());
		}
		for (name, value) in &self.headers {
			request = request.header(name, value.as_str());
		}
		request.body.clone_from(&self.body);
		if let Some(body) = &self.body {
			let given = self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
			let json = serde_json::from_slice::<serde_json::Value>(body).is_ok();
			if !given {
				let kind = if json { "application/json" } else { "application/x-www-form-urlencoded" };
				request = request.header("Content-Type", kind);
			}
		}
		request
	}
}

/// A WebSocket message that the service accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
	/// A text message.
	Text(String),
	/// A binary message.
	Binary(Vec<u8>),
}

impl Payload {
	/// Reads hexadecimal digits, blanks between them ignored; `None` for anything else.
	pub fn hex(digits: &str) -> Option<Self> {
		let digits: Vec<u8> = digits
			.chars()
			.filter(|c| !c.is_whitespace())
			.map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
			.collect::<Option<_>>()?;
		let (pairs, rest) = digits.as_chunks::<2>();
		let bytes = pairs.iter().map(|[high, low]| high << 4 | low).collect();
		(rest.is_empty() && !pairs.is_empty()).then_some(Self::Binary(bytes))
	}

	/// The bytes of the message.
	pub(crate) fn bytes(&self) -> &[u8] {
		match self {
			Payload::Text(text) => text.as_bytes(),
			Payload::Binary(bytes) => bytes,
		}
	}

	/// The opcode of its frame (RFC 6455, 5.6).
	pub(crate) fn opcode(&self) -> u8 {
		match self {
			Payload::Text(_) => 1,
			Payload::Binary(_) => 2,
		}
	}
}

impl From<&str> for Payload {
	fn from(text: &str) -> Self {
		Payload::Text(text.to_owned())
	}
}

/// How a terminal event is recognized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Terminal {
	/// By its event name, its whole data, or the `type` in its JSON.
	Name(String),
	/// By a field of its JSON: keys and indexes joined by dots, and the value, as JSON or as text.
	/// Without a value any but `null` and `false` counts.
	Field(String, Option<String>),
}

impl Terminal {
	/// Reads `NAME`, `event:NAME`, `data:TEXT`, `PATH=VALUE` or `.PATH`.
	pub fn parse(text: &str) -> Self {
		if let Some(name) = text.strip_prefix("event:").or_else(|| text.strip_prefix("data:")) {
			return Self::Name(name.trim().to_owned());
		}
		if let Some(path) = text.strip_prefix('.') {
			return match path.split_once('=') {
				Some((path, value)) => Self::Field(path.to_owned(), Some(value.to_owned())),
				None => Self::Field(path.to_owned(), None),
			};
		}
		let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
		match text.split_once('=') {
			Some((path, value)) if !path.is_empty() && path.chars().all(plain) => {
				Self::Field(path.to_owned(), Some(value.to_owned()))
			}
			_ => Self::Name(text.to_owned()),
		}
	}

	pub(crate) fn matches(&self, event: &Event, json: Option<&Value>) -> bool {
		match self {
			Self::Name(name) => {
				let inner = json.and_then(|json| json.get("type")).and_then(Value::as_str);
				*name == event.event_type || *name == event.data.trim() || inner == Some(name)
			}
			Self::Field(path, value) => {
				let pointer = format!("/{}", path.replace('.', "/"));
				let found = json.and_then(|json| json.pointer(&pointer));
				match (found, value) {
					(Some(Value::String(found)), Some(value)) => found == value,
					(Some(found), Some(value)) => serde_json::from_str(value).is_ok_and(|value: Value| value == *found),
					(Some(found), None) => !matches!(found, Value::Null | Value::Bool(false)),
					(None, _) => false,
				}
			}
		}
	}
}

#[cfg(test)]
mod tests {
	use super::{Payload, Terminal};
	use crate::wire_log::Event;

	#[test]
	fn hexadecimal_digits_are_bytes() {
		let bytes = Payload::Binary(vec![0x10, 0xff]);
		assert_eq!(Payload::hex("10 fF"), Some(bytes));
		for wrong in ["", "1", "0x10", "1g", "1é"] {
			assert_eq!(Payload::hex(wrong), None, "{wrong}");
		}
	}

	#[test]
	fn a_terminal_event_is_named_by_name_data_or_field() {
		let is = |terminal: &str, name: &str, data: &str| {
			let event = Event::new(std::time::Instant::now(), name, data, None);
			let json = serde_json::from_str(data).ok();
			Terminal::parse(terminal).matches(&event, json.as_ref())
		};
		assert!(is("over", "over", "{}"));
		assert!(is("over", "message", "{\"type\":\"over\"}"));
		assert!(is("event:over", "over", "{}"));
		assert!(is("data:OVER", "message", "OVER"));
		assert!(is("stop=true", "message", "{\"stop\":true,\"timings\":{}}"));
		assert!(!is("stop=true", "message", "{\"stop\":false}"));
		assert!(is("meta.kind=end", "message", "{\"meta\":{\"kind\":\"end\"}}"));
		assert!(is(".choices.0.finish_reason", "message", "{\"choices\":[{\"finish_reason\":\"stop\"}]}"));
		assert!(!is(".choices.0.finish_reason", "message", "{\"choices\":[{\"finish_reason\":null}]}"));
	}
}
