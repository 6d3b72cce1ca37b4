//! Many messages, many connections, a reader that does not read.

use std::time::{Duration, Instant};

use super::frame::{self, BINARY, Frame, PING, PONG, Pumped, Socket, TEXT, Upgrade, Waited};
use super::{PATIENCE, Probe, alive};
use crate::checks::{self, Check};
use crate::http2::{Http2, MALFORMED, NoAnswer};
use crate::process;

/// Sent to a connection that reads nothing: more than the buffers of kernel and library take.
const ENOUGH: usize = 16 << 20;
/// With --pid: so much that half of it is more than a bounded queue and those buffers hold together.
const FOR_MEMORY: usize = 48 << 20;
/// Owed to one connection, more than a bounded queue and the kernel's buffers, in KiB.
const QUEUE_MOST: u64 = 20 << 10;
/// Messages a second of one connection, below which a service counts as one that throttles.
const SLOWLY: usize = 200;

fn is_message(frame: &Frame) -> bool {
	matches!(frame.opcode, TEXT | BINARY)
}

impl Probe<'_> {
	pub(super) async fn load(&self) {
		self.http2().await;
		self.push().await;
		self.stalled_reader().await;
		self.flood().await;
		self.churn().await;
	}

	async fn http2(&self) {
		const ID: &Check = checks::WS_HTTP2_CONNECT;
		if !self.run.needs(&[ID]) {
			return;
		}
		let patience = self.run.at_most(Duration::from_secs(3));
		let Some(http2) = Http2::connect(&self.target, patience).await else {
			return self.run.pass(ID, "HTTP/2 is not offered here: browsers use HTTP/1.1");
		};
		if !http2.extended_connect() {
			return self.run.pass(ID, format!("{}: browsers use HTTP/1.1", http2.describe()));
		}
		match http2.web_socket(&self.request, &self.target, self.run.at_most(patience)).await {
			Ok(stream) if stream.head.status == 200 => self.run.pass(ID, "extended CONNECT is answered with 200"),
			Ok(stream) if matches!(stream.head.status, 404 | 405 | 501) => self.run.fail(
				ID,
				format!(
					"extended CONNECT is announced, and answered with {}: the route takes GET only",
					stream.head.status
				),
			),
			Ok(stream) => self.run.unknown(ID, format!("extended CONNECT is answered with {}", stream.head.status)),
			Err(NoAnswer::Unwritable) => self.run.unknown(ID, "the request cannot be written as HTTP/2"),
			Err(NoAnswer::Silent) if self.run.left().is_zero() => {}
			Err(NoAnswer::Silent) => self.run.fail(ID, "extended CONNECT is announced, and not answered within 3 s"),
			Err(NoAnswer::Reset(reason)) => {
				self.run.fail(ID, format!("extended CONNECT is announced, and the stream reset with {reason:?}"))
			}
			Err(NoAnswer::Malformed) => self.run.fail(ID, format!("extended CONNECT: {MALFORMED}")),
			Err(NoAnswer::Ended(why)) => {
				self.run.fail(ID, format!("extended CONNECT is announced, and ended the connection: {why}"))
			}
		}
	}

	/// A message that the service has to say, to a connection that says nothing.
	async fn push(&self) {
		const ID: &Check = checks::WS_ONE_WRITER;
		if !self.run.needs(&[ID]) {
			return;
		}
		if !self.publisher.is_some() {
			return self.run.unknown(ID, "needs --publish");
		}
		let mut socket = match self.open().await {
			Ok(socket) => socket,
			Err(why) => return self.run.unknown(ID, why),
		};
		// Whatever greets a new connection, and no Pong that would wake the reader.
		socket.answers = false;
		let greeting = self.run.at_most(Duration::from_millis(300));
		socket.until(greeting, |_| false).await;
		if let Err(why) = self.publisher.once().await {
			return self.run.unknown(ID, why);
		}
		let sent = Instant::now();
		let pushed = socket.until(self.run.at_most(PATIENCE), is_message).await;
		match pushed {
			Waited::Found(_) => self.run.pass(ID, format!("pushed {} ms after --publish", sent.elapsed().as_millis())),
			Waited::Silent if self.run.left().is_zero() => {}
			Waited::Silent => {
				socket.send(PING, b"wake").await;
				let woken = socket.until(self.run.at_most(PATIENCE), is_message).await;
				match woken {
					Waited::Found(_) => self.run.fail(
						ID,
						format!(
							"what was published came only when the client had sent a Ping {} s later",
							PATIENCE.as_secs()
						),
					),
					_ => self.run.unknown(ID, "what is published does not reach this connection (--hello)"),
				}
			}
			ended => self.run.unknown(ID, ended.text()),
		}
	}

	/// One connection makes the service answer, and never reads; another must not notice.
	async fn stalled_reader(&self) {
		const ID: &Check = checks::WS_STALLED_READER_ISOLATED;
		const QUEUE: &Check = checks::WS_QUEUE_BOUNDED;
		if !self.run.needs(&[ID, QUEUE]) {
			return;
		}
		let unknown = |why: &str| {
			self.run.unknown(ID, why);
			self.run.unknown(QUEUE, why);
		};
		let mut other = match self.open().await {
			Ok(other) => other,
			Err(why) => return unknown(&why),
		};
		let asked = Instant::now();
		if !alive(&mut other, self.run.at_most(PATIENCE)).await {
			return unknown("the second connection does not answer Ping");
		}
		// A service on a busy machine is slow, which is not the same as stalled.
		let stall = (asked.elapsed() * 20).clamp(Duration::from_secs(3), Duration::from_secs(10));
		let pushes = self.run.passed(checks::WS_ONE_WRITER) && self.reaches(&mut other).await;
		let request = frame::stalled(self.request.clone());
		let Ok(Upgrade::Open(mut stalled)) = frame::connect(&request, &self.target, self.run.at_most(PATIENCE)).await
		else {
			return unknown("one more connection was refused");
		};
		let before = self.options.pid.and_then(process::resident_kib);
		self.greet(&mut stalled).await;
		let mut unit = Vec::new();
		let message = self.options.message.clone().unwrap_or_else(|| crate::Payload::Text("stream-probe ".repeat(80)));
		for _ in 0..32 {
			unit.extend(frame::encode(true, message.opcode(), message.bytes(), true));
			unit.extend(frame::encode(true, PING, &[b'p'; 100], true));
		}
		let total = if before.is_some() { FOR_MEMORY } else { ENOUGH };
		let limit = self.run.left().saturating_sub(PATIENCE).min(Duration::from_secs(120));
		let until = Instant::now() + limit;
		let mut pumped = frame::Pumped { sent: 0, outcome: None };
		loop {
			// Where the last write ended, which may be inside a frame.
			let at = pumped.sent % unit.len();
			unit.rotate_left(at);
			let rest = total - pumped.sent;
			let pumping =
				tokio::time::timeout(limit + Duration::from_secs(1), stalled.pump(&unit, rest, false, until, stall));
			// The other one reads and answers Pings all the time, as a client does.
			let more = tokio::select! {
				more = pumping => more.ok(),
				ended = other.until(Duration::MAX, |_| false) => {
					return unknown(&format!("the other connection: {}", ended.text()));
				}
			};
			let Some(more) = more else {
				return unknown("sending to the service took too long");
			};
			unit.rotate_right(at);
			pumped.sent += more.sent;
			pumped.outcome = more.outcome;
			if matches!(pumped.outcome, Some(Waited::Silent)) && pumped.sent < total {
				return unknown("sending to the service took too long");
			}
			// Slow is not stalled: a service that answers the other one, and then reads on, had only paused.
			let paused = pumped.outcome.is_none() && more.sent > 0;
			if !paused || !alive(&mut other, self.run.at_most(PATIENCE)).await {
				break;
			}
		}
		let how = match &pumped.outcome {
			None => format!("the service stopped reading after {} KiB", pumped.sent / 1024),
			Some(Waited::Silent) => format!("{} KiB were sent", pumped.sent / 1024),
			Some(_) => format!("the service ended it after {} KiB", pumped.sent / 1024),
		};
		// Broadcasts reach the stalled one too, until its buffers are full.
		let broadcasting = Instant::now();
		let mut received = 0;
		for _ in 0..200 {
			let time = self.run.at_most(Duration::from_secs(8));
			if !self.publisher.is_some() || self.publisher.hung() || received > ENOUGH || broadcasting.elapsed() >= time
			{
				break;
			}
			let counting = |frame: &Frame| {
				received += frame.payload.len();
				false
			};
			tokio::select! {
				// What failed once fails two hundred times.
				published = self.publisher.within(PATIENCE) => if published.is_err() {
					break;
				},
				ended = other.until(Duration::MAX, counting) => {
					return unknown(&format!("the other connection: {}", ended.text()));
				}
			}
		}
		if self.publisher.hung() {
			drop(stalled);
			let again = self.publisher.within(self.run.at_most(PATIENCE)).await;
			if again.is_ok() {
				self.run.fail(ID, format!("next to a connection that reads nothing ({how}), --publish hung for {} s, and returned at once when that connection had gone", PATIENCE.as_secs()));
			}
			return unknown("--publish hung");
		}
		let patience = self.run.at_most(PATIENCE);
		let beside = other.ping(b"beside", patience).await;
		let after = self.options.pid.and_then(process::resident_kib);
		let grown = before.zip(after).map(|(b, a)| a.saturating_sub(b));
		let mut stalled = Some(stalled);
		match beside {
			Waited::Found(_) if pushes && self.held_up(&mut other).await => {
				drop(stalled.take());
				if self.reaches(&mut other).await {
					self.run.fail(
						ID,
						format!(
							"next to a connection that reads nothing ({how}), what is published reached no other until the first was gone"
						),
					);
				}
				self.run.unknown(ID, "what is published does not arrive any more");
			}
			Waited::Found(_) => self.run.pass(
				ID,
				format!(
					"next to a connection that reads nothing ({how}), another {}",
					if pushes { "is sent what is published" } else { "answers Ping" }
				),
			),
			Waited::Silent if patience < PATIENCE => {}
			Waited::Silent => {
				drop(stalled.take());
				let again = other.ping(b"again", self.run.at_most(PATIENCE)).await;
				match again {
					// A Close counts too: it had been waiting behind the first connection.
					Waited::Found(_) | Waited::Closed(_) => self.run.fail(
						ID,
						format!(
							"next to a connection that reads nothing ({how}), another had no Pong for {} s, until the first was gone",
							PATIENCE.as_secs()
						),
					),
					_ => self
						.run
						.unknown(ID, format!("another connection stopped answering ({how}), and did not resume")),
				}
			}
			ended => self.run.unknown(ID, format!("the other connection: {}", ended.text())),
		}
		match stalled {
			Some(stalled) => self.queue(grown, &pumped, *stalled).await,
			None => self.run.unknown(QUEUE, "the others were held up"),
		}
	}

	/// What a connection that read nothing has cost the service's process: memory, for messages that it is still owed.
	/// `grown` is in KiB.
	async fn queue(&self, grown: Option<u64>, pumped: &Pumped, mut stalled: Socket) {
		const ID: &Check = checks::WS_QUEUE_BOUNDED;
		let Some(grown) = grown else {
			return self.run.unknown(ID, "needs --pid");
		};
		let kib = pumped.sent as u64 / 1024;
		if !matches!(pumped.outcome, Some(Waited::Silent)) {
			// It stopped reading, or ended the connection: both are bounds.
			return self.run.pass(ID, format!("after {kib} KiB the service took no more"));
		}
		let text =
			format!("resident memory grew by {grown} KiB while {kib} KiB were sent by a connection that reads nothing");
		// Half of what was sent is far more than any fixed buffer in this volume.
		if grown <= kib / 2 {
			return self.run.pass(ID, text);
		}
		if kib / 2 < QUEUE_MOST {
			return self.run.unknown(ID, format!("{text}: too few for a verdict (--budget)"));
		}
		// Garbage counts as resident too: a queue is what arrives when the connection reads again.
		let mut owed = 0;
		let most = Instant::now() + self.run.at_most(PATIENCE * 12);
		// Message by message, as long as they come: how fast, is no matter.
		while owed <= kib * 1024 / 2 && Instant::now() < most {
			let quiet = self.run.at_most(Duration::from_secs(3));
			match stalled.until(quiet, |_| true).await {
				Waited::Found(frame) => owed += frame.payload.len() as u64,
				_ => break,
			}
		}
		let owed = owed / 1024;
		if owed >= kib / 2 {
			self.run.fail(ID, format!("{text}, and more than {owed} KiB lay ready for it"));
		} else {
			self.run.pass(ID, format!("{text}, but no more than {owed} KiB lay ready for it"));
		}
	}

	/// Whether what is published arrives on a connection.
	async fn reaches(&self, socket: &mut Socket) -> bool {
		let published = self.publisher.once().await.is_ok();
		let arrived = socket.until(self.run.at_most(PATIENCE), is_message).await;
		published && matches!(arrived, Waited::Found(_))
	}

	/// Whether nothing that is published arrives, once what was on its way has.
	async fn held_up(&self, socket: &mut Socket) -> bool {
		let quiet = Duration::from_millis(500);
		let most = Instant::now() + PATIENCE;
		while Instant::now() < most {
			match socket.until(self.run.at_most(quiet), is_message).await {
				Waited::Found(_) => {}
				Waited::Silent => return !self.reaches(socket).await && !self.run.left().is_zero(),
				_ => return false,
			}
		}
		false
	}

	/// Five thousand messages at once.
	async fn flood(&self) {
		const ID: &Check = checks::WS_FLOOD_LIMITED;
		const COUNT: usize = 5000;
		if !self.run.needs(&[ID]) {
			return;
		}
		let mut socket = match self.open().await {
			Ok(socket) => socket,
			Err(why) => return self.run.unknown(ID, why),
		};
		let message = self.message();
		if let Some(why) = self.refuses().await {
			return self.run.unknown(ID, why);
		}
		let before = socket.messages;
		let heard = socket.heard.len();
		let unit = frame::encode(true, message.opcode(), message.bytes(), true);
		let began = Instant::now();
		// So long takes a service, or a machine, that handles SLOWLY messages a second.
		let most = Duration::from_secs((COUNT / SLOWLY) as u64);
		let limit = self.run.at_most(most);
		let total = unit.len() * COUNT;
		let pumped = socket.pump(&unit, total, true, began + limit, Duration::from_secs(3)).await;
		let sent = pumped.sent / unit.len();
		if pumped.sent < total && matches!(pumped.outcome, Some(Waited::Silent)) {
			if limit == most {
				self.run.pass(ID, format!("the service takes less than {SLOWLY} messages a second"));
			}
			return;
		}
		let ended = match pumped.outcome {
			None => {
				return self.run.pass(ID, format!("the service stopped reading after {sent} messages"));
			}
			Some(Waited::Silent) => self.after_the_flood(&mut socket).await,
			Some(ended) => ended,
		};
		self.hear(&socket.errors);
		let said = socket.heard.get(heard..).unwrap_or_default().to_ascii_lowercase();
		let limited = [
			"rate",
			"too many",
			"too fast",
			"limit",
			"429",
			"slow down",
			"slow_down",
			"slow-down",
			"throttl",
			"quota",
			"flood",
		]
		.iter()
		.any(|word| said.contains(word));
		match ended {
			_ if ended.ended() && sent < 10 => self.run.unknown(
				ID,
				format!("one of the first messages ended the connection: {} (--message, --message-hex)", ended.text()),
			),
			Waited::Closed(code) => self.run.pass(ID, format!("Close {code} after at most {sent} messages")),
			Waited::Dropped => self.run.pass(ID, format!("dropped after at most {sent} messages")),
			Waited::Found(_) if limited => self.run.pass(ID, "the service answers that there were too many"),
			Waited::Found(_) => self.run.fail(
				ID,
				format!(
					"{COUNT} messages in {} ms were all taken ({} messages came back)",
					began.elapsed().as_millis(),
					socket.messages - before
				),
			),
			Waited::Silent if self.run.left().is_zero() => {}
			Waited::Silent => self.run.pass(
				ID,
				format!(
					"a Ping behind {COUNT} messages is not answered within {} s: the service takes them slowly",
					PATIENCE.as_secs()
				),
			),
		}
	}

	/// A Ping behind the flood. As long as answers come, and not slowly, the service has not stopped: the machine is
	/// busy.
	async fn after_the_flood(&self, socket: &mut Socket) -> Waited {
		const PAYLOAD: &[u8] = b"after the flood";
		let mut before = socket.messages;
		let mut ended = socket.ping(PAYLOAD, self.run.at_most(PATIENCE)).await;
		while matches!(ended, Waited::Silent) && socket.messages - before >= SLOWLY * PATIENCE.as_secs() as usize {
			before = socket.messages;
			let pong = |frame: &Frame| frame.opcode == PONG && frame.payload == PAYLOAD;
			ended = socket.until(self.run.at_most(PATIENCE), pong).await;
		}
		// Some libraries answer Ping below the code that counts messages: as long as answers come, it is not done.
		let most = Instant::now() + self.run.at_most(PATIENCE * 6);
		while matches!(ended, Waited::Found(_)) && Instant::now() < most {
			match socket.until(self.run.at_most(Duration::from_secs(2)), is_message).await {
				Waited::Silent => break,
				Waited::Found(_) => {}
				later => ended = later,
			}
		}
		ended
	}

	/// Connections that are cut without Close.
	async fn churn(&self) {
		const SURVIVED: &Check = checks::WS_RECONNECTS_SURVIVED;
		const NOTICED: &Check = checks::WS_DISCONNECT_NOTICED;
		if !self.run.needs(&[SURVIVED, NOTICED]) {
			return;
		}
		if self.options.connects == 0 {
			self.run.unknown(SURVIVED, "no churn: --connects 0");
			return self.run.unknown(NOTICED, "no churn: --connects 0");
		}
		// The control: a service that is still busy with the messages of other checks answers nobody.
		let control = frame::connect(&self.request, &self.target, self.run.at_most(PATIENCE * 2)).await;
		if matches!(control, Ok(Upgrade::Silent)) {
			for check in [SURVIVED, NOTICED] {
				self.run.unknown(check, "a new connection was not answered before any was cut");
			}
			return;
		}
		drop(control);
		let before = self.options.pid.and_then(process::open_files);
		let mut refused = 0;
		let mut left = self.options.connects;
		while left > 0 && !self.run.left().is_zero() {
			let batch = left.min(10);
			left -= batch;
			let mut connections = tokio::task::JoinSet::new();
			for _ in 0..batch {
				let (request, target) = (self.request.clone(), self.target.clone());
				let patience = self.run.at_most(PATIENCE);
				connections.spawn(async move { frame::connect(&request, &target, patience).await });
			}
			while let Some(joined) = connections.join_next().await {
				refused += usize::from(!matches!(joined, Ok(Ok(Upgrade::Open(_)))));
			}
		}
		if left > 0 {
			return;
		}
		let text = format!("{} connections cut without Close ({refused} had been refused)", self.options.connects);
		match frame::connect(&self.request, &self.target, self.run.at_most(PATIENCE)).await {
			Ok(Upgrade::Open(_)) => self.run.pass(SURVIVED, format!("{text}, then 101")),
			Ok(Upgrade::Refused(response)) if response.head.status < 500 || response.head.status == 503 => {
				self.run.pass(SURVIVED, format!("{text}, then {}", response.head.status));
			}
			_ if self.run.left().is_zero() => {}
			Err(error) => {
				self.run.fail(SURVIVED, format!("{text}, then {error}"));
				self.died(&error, "connections that were cut").await;
			}
			_ => self.run.fail(SURVIVED, format!("{text}, then no handshake")),
		}
		let (Some(pid), Some(before)) = (self.options.pid, before) else {
			return self.run.unknown(NOTICED, "needs --pid");
		};
		crate::sse::noticed(self.run, NOTICED, pid, before, PATIENCE * 2).await;
	}
}
