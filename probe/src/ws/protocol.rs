//! What RFC 6455 asks of a server, kept and broken.

use std::time::{Duration, Instant};

use super::frame::{self, BINARY, CLOSE, PING, PONG, Socket, TEXT, Waited};
use super::{PATIENCE, Probe, alive, beside};
use crate::checks::{self, Check};

/// Twice the largest default of the libraries in use.
const ANNOUNCED: u64 = 256 << 20;
/// How much of it is sent before the service counts as one without a limit.
const ACCEPTED: usize = 20 << 20;

/// The checks that see by a Pong whether a connection lives.
const ASK_BY_PING: &[&Check] = &[
	checks::WS_ONE_WRITER,
	checks::WS_FRAGMENTS_ACCEPTED,
	checks::WS_OVERSIZE_REFUSED,
	checks::WS_OVERSIZE_1009,
	checks::WS_INVALID_UTF8_REFUSED,
	checks::WS_INVALID_UTF8_1007,
	checks::WS_UNMASKED_REFUSED,
	checks::WS_VIOLATIONS_SURVIVED,
	checks::WS_BINARY_HANDLED,
	checks::WS_MALFORMED_ISOLATED,
	checks::WS_STALLED_READER_ISOLATED,
	checks::WS_QUEUE_BOUNDED,
	checks::WS_FLOOD_LIMITED,
];

impl Probe<'_> {
	/// Ping, fragments and Close on the first connection.
	pub(super) async fn protocol(&self, mut socket: Box<Socket>) {
		let run = self.run;
		match socket.ping(b"stream-probe ping", run.at_most(PATIENCE)).await {
			Waited::Found(_) => run.pass(checks::WS_PING_ANSWERED, "Pong with the same payload"),
			Waited::Silent if run.left().is_zero() => return,
			Waited::Silent => {
				run.fail(checks::WS_PING_ANSWERED, format!("no Pong within {} s", PATIENCE.as_secs()));
				for id in ASK_BY_PING {
					run.unknown(id, "needs a service that answers Ping");
				}
			}
			other => {
				run.unknown(checks::WS_PING_ANSWERED, format!("the service ended the connection: {}", other.text()));
				if let Ok(fresh) = self.open().await {
					socket = fresh;
				}
			}
		}
		self.close(socket).await;
		self.fragments().await;
	}

	async fn close(&self, mut socket: Box<Socket>) {
		const ID: &Check = checks::WS_CLOSE_ANSWERED;
		if !self.run.needs(&[ID]) {
			return;
		}
		socket.send(CLOSE, &[0x03, 0xe8]).await;
		let patience = self.run.at_most(PATIENCE);
		match socket.until(patience, |_| false).await {
			Waited::Closed(code) => match socket.until(self.run.at_most(PATIENCE), |_| false).await {
				Waited::Silent if self.run.left().is_zero() => {}
				Waited::Silent => self
					.run
					.fail(ID, format!("Close {code}, but the connection is open {} s later", PATIENCE.as_secs())),
				_ => self.run.pass(ID, format!("Close {code}, then the end of the connection")),
			},
			Waited::Dropped => self.run.fail(ID, "the connection ended without a Close frame"),
			_ if self.run.left().is_zero() => {}
			_ => self.run.fail(ID, format!("no Close within {} s", PATIENCE.as_secs())),
		}
		self.hear(&socket.errors);
	}

	/// One message in three frames, with a Ping between.
	async fn fragments(&self) {
		const ID: &Check = checks::WS_FRAGMENTS_ACCEPTED;
		if !self.run.needs(&[ID]) {
			return;
		}
		let mut socket = match self.open().await {
			Ok(socket) => socket,
			Err(why) => return self.run.unknown(ID, why),
		};
		let message = self.message();
		let bytes = message.bytes();
		let (first, rest) = bytes.split_at(bytes.len() / 3);
		let (second, third) = rest.split_at(rest.len() / 2);
		let mut bytes = frame::encode(false, message.opcode(), first, true);
		bytes.extend(frame::encode(true, PING, b"between", true));
		bytes.extend(frame::encode(false, 0, second, true));
		bytes.extend(frame::encode(true, 0, third, true));
		socket.send_raw(&bytes).await;
		let between = socket.until(self.run.at_most(PATIENCE), |f| f.opcode == PONG && f.payload == b"between").await;
		let refused = "the protocol is refused";
		match between {
			Waited::Found(_) => {}
			Waited::Silent if self.run.left().is_zero() => return,
			Waited::Silent => {
				return self.run.fail(ID, "the Ping between two fragments was not answered");
			}
			Waited::Closed(1002) => return self.run.fail(ID, format!("Close 1002: {refused}")),
			ended => {
				// A message may be refused for its content.
				return match self.refuses().await {
					Some(why) => self.run.unknown(ID, why),
					None => self.run.fail(ID, ended.text()),
				};
			}
		}
		match socket.ping(b"after", self.run.at_most(PATIENCE)).await {
			Waited::Found(_) => self.run.pass(ID, "the Ping between and the message were taken"),
			Waited::Closed(1002) => self.run.fail(ID, format!("Close 1002: {refused}")),
			Waited::Closed(code) => {
				self.run.pass(ID, format!("the frames were taken; the message was refused with Close {code}"))
			}
			Waited::Dropped => match self.refuses().await {
				Some(why) => self.run.unknown(ID, why),
				None => self.run.fail(ID, format!("after the last fragment: {}", Waited::Dropped.text())),
			},
			Waited::Silent => self.run.unknown(ID, "no Pong after the last fragment"),
		}
		self.hear(&socket.errors);
	}

	/// What no client may send, each on a connection of its own, next to one that must not notice.
	///
	/// False when the service is gone after them.
	pub(super) async fn violations(&self) -> bool {
		const SURVIVED: &Check = checks::WS_VIOLATIONS_SURVIVED;
		let mut bystander = self.open().await;
		self.malformed(&mut bystander).await;
		// Each is the message that the service accepts, with one fault.
		let message = self.message();
		let unmasked = frame::encode(true, message.opcode(), message.bytes(), false);
		let not_utf8 = frame::encode(true, TEXT, &not_utf8(message.bytes()), true);
		let frames = async {
			self.binary().await;
			self.refused(checks::WS_UNMASKED_REFUSED, 1002, None, &unmasked).await;
			let code = Some(checks::WS_INVALID_UTF8_1007);
			self.refused(checks::WS_INVALID_UTF8_REFUSED, 1007, code, &not_utf8).await;
			self.oversize().await;
		};
		let by = match &mut bystander {
			Ok(socket) => match beside(socket, Box::pin(frames)).await {
				(None, ()) => alive(socket, self.run.at_most(PATIENCE)).await,
				(Some(_), ()) => false,
			},
			Err(_) => {
				Box::pin(frames).await;
				true
			}
		};
		if !self.run.needs(&[SURVIVED]) {
			return true;
		}
		let fresh = self.open().await;
		match (by, fresh) {
			(true, Ok(_)) => self.run.pass(SURVIVED, "another connection still answers Ping, and a new one opens"),
			(true, Err(why)) if why.contains("answered with 4") => self.run.unknown(SURVIVED, why),
			_ if self.run.left().is_zero() => {}
			(true, Err(why)) => {
				self.run.fail(SURVIVED, format!("after violations on others, {why}"));
				self.run.abort(format!(
					"the service has ended: {why}, after protocol violations on other connections; nothing after them was probed"
				));
				return false;
			}
			(false, Ok(_)) => self.run.unknown(
				SURVIVED,
				"the second connection was ended meanwhile, which its own rules may say; a new one opens",
			),
			(false, Err(why)) => {
				self.run.fail(SURVIVED, format!("the second connection ended, and {why}"));
				self.run.abort(format!(
					"the service has ended: {why}, after protocol violations on other connections; nothing after them was probed"
				));
				return false;
			}
		}
		true
	}

	async fn malformed(&self, bystander: &mut Result<Box<Socket>, String>) {
		const ID: &Check = checks::WS_MALFORMED_ISOLATED;
		if !self.run.needs(&[ID, checks::WS_ERRORS_CLEAN]) {
			return;
		}
		let (other, mut socket) = match (bystander, self.open().await) {
			(Ok(other), Ok(socket)) => (other, socket),
			(Err(why), _) => return self.run.unknown(ID, why.as_str()),
			(_, Err(why)) => return self.run.unknown(ID, why),
		};
		if !alive(other, self.run.at_most(PATIENCE)).await {
			return self.run.unknown(ID, "the second connection did not answer before either");
		}
		let sending = async {
			socket.send(TEXT, b"{\"stream-probe").await;
			socket.ping(b"after", self.run.at_most(PATIENCE)).await
		};
		let (ended, answer) = beside(other, sending).await;
		self.hear(&socket.errors);
		let mut state = match ended {
			Some(ended) => ended,
			None => other.ping(b"still there", self.run.at_most(PATIENCE)).await,
		};
		if let Waited::Found(_) = state {
			// Closing the others may come a moment later.
			let later = other.until(self.run.at_most(Duration::from_millis(300)), |_| false).await;
			if later.ended() {
				state = later;
			}
		}
		match state {
			Waited::Found(_) => self.run.pass(
				ID,
				format!(
					"the sender: {}; the other connection answers",
					if answer.ended() { answer.text() } else { "open".to_owned() }
				),
			),
			Waited::Silent if self.run.left().is_zero() => {}
			ended => {
				// The control: one that is alone for as long.
				let mut control = match self.open().await {
					Ok(control) => control,
					Err(why) => return self.run.unknown(ID, why),
				};
				let wait = self.run.at_most(Duration::from_secs(1));
				match control.until(wait, |_| false).await {
					alone if alone.ended() => {
						self.run.unknown(ID, format!("a connection that is alone ends too: {}", alone.text()))
					}
					_ => self.run.fail(ID, format!("the other connection: {}", ended.text())),
				}
			}
		}
	}

	async fn binary(&self) {
		const ID: &Check = checks::WS_BINARY_HANDLED;
		if !self.run.needs(&[ID]) {
			return;
		}
		let mut socket = match self.open().await {
			Ok(socket) => socket,
			Err(why) => return self.run.unknown(ID, why),
		};
		let message = self.message();
		let own = message.opcode() == BINARY;
		let bytes = if own { message.bytes() } else { &[0, 1, 2, 0xff] };
		socket.send(BINARY, bytes).await;
		let mut ended = socket.ping(b"after", self.run.at_most(PATIENCE)).await;
		if let Waited::Found(_) = ended {
			// Some libraries answer Ping below the code that refuses the message.
			let later = socket.until(self.run.at_most(Duration::from_millis(500)), |_| false).await;
			if later.ended() {
				ended = later;
			}
		}
		match ended {
			Waited::Found(_) => self.run.pass(ID, "taken: the connection still answers"),
			Waited::Closed(code) => self.run.pass(ID, format!("refused with Close {code}")),
			Waited::Dropped => self.run.fail(ID, Waited::Dropped.text()),
			Waited::Silent if self.run.left().is_zero() => {}
			Waited::Silent => self.run.fail(ID, "open, but a Ping is no longer answered"),
		}
		self.hear(&socket.errors);
	}

	/// Sends a frame that must end the connection with `code`, and judges how it ends.
	async fn refused(&self, id: &'static Check, code: u16, code_id: Option<&'static Check>, bytes: &[u8]) {
		if !self.run.needs(&[id, code_id.unwrap_or(id)]) {
			return;
		}
		let mut socket = match self.open().await {
			Ok(socket) => socket,
			Err(why) => {
				if let Some(code_id) = code_id {
					self.run.unknown(code_id, why.as_str());
				}
				return self.run.unknown(id, why);
			}
		};
		socket.send_raw(bytes).await;
		// A Ping after it: a service that still answers has accepted it.
		let mut ended = socket.ping(b"after", self.run.at_most(PATIENCE)).await;
		if let Waited::Found(_) = ended {
			// Some libraries answer Ping below the code that judges the message.
			let later = socket.until(self.run.at_most(Duration::from_secs(2)), |_| false).await;
			if later.ended() {
				ended = later;
			}
		}
		self.hear(&socket.errors);
		let other = ended.ended() && !matches!(ended, Waited::Closed(seen) if seen == code);
		if other && let Some(why) = self.refuses().await {
			if let Some(code_id) = code_id {
				self.run.unknown(code_id, why);
			}
			return self.run.unknown(id, why);
		}
		self.judge_end(id, code_id.map(|code_id| (code_id, code)), &ended);
	}

	fn judge_end(&self, id: &'static Check, code: Option<(&'static Check, u16)>, ended: &Waited) {
		match ended {
			Waited::Closed(_) | Waited::Dropped => self.run.pass(id, ended.text()),
			Waited::Silent if self.run.left().is_zero() => return,
			Waited::Silent => self.run.fail(id, format!("the connection is open {} s later", PATIENCE.as_secs())),
			Waited::Found(_) => self.run.fail(id, "the connection continues: a Ping after it is answered"),
		}
		let Some((id, code)) = code else { return };
		match ended {
			// A service may refuse it before it reads the fault.
			Waited::Closed(1008 | 3000..=4999) => {
				self.run.unknown(id, format!("{}: refused for another reason", ended.text()))
			}
			Waited::Closed(seen) if *seen == code => self.run.pass(id, ended.text()),
			Waited::Closed(_) | Waited::Dropped => self.run.fail(id, format!("{}, not Close {code}", ended.text())),
			_ => self.run.unknown(id, "it was not refused"),
		}
	}

	async fn oversize(&self) {
		const ID: &Check = checks::WS_OVERSIZE_REFUSED;
		const CODE: (&Check, u16) = (checks::WS_OVERSIZE_1009, 1009);
		if !self.run.needs(&[ID, CODE.0]) {
			return;
		}
		let mut socket = match self.open().await {
			Ok(socket) => socket,
			Err(why) => {
				self.run.unknown(ID, why.as_str());
				return self.run.unknown(CODE.0, why);
			}
		};
		// Most libraries refuse the header alone; what is not sent cannot cause a reset either.
		socket.send_raw(&frame::header(true, TEXT, ANNOUNCED, true)).await;
		let mut ended = socket.until(self.run.at_most(Duration::from_secs(1)), |_| false).await;
		let mut sent = 0;
		if matches!(ended, Waited::Silent) {
			let until = Instant::now() + self.run.left();
			let pumped = socket.pump(&frame::filler(b'x'), ACCEPTED, true, until, Duration::from_secs(3)).await;
			sent = pumped.sent;
			ended = match pumped.outcome {
				Some(Waited::Silent) => socket.until(self.run.at_most(Duration::from_secs(2)), |_| false).await,
				Some(ended) => ended,
				None => {
					let text =
						format!("the service stopped reading after {} KiB and left the connection open", sent / 1024);
					self.run.unknown(ID, text.as_str());
					return self.run.unknown(CODE.0, text);
				}
			};
		}
		self.hear(&socket.errors);
		if matches!(ended, Waited::Silent) && !self.run.left().is_zero() {
			self.run.fail(ID, format!("{} MiB of one message were taken, and 256 MiB were announced", sent >> 20));
			return self.run.unknown(CODE.0, "it was not refused");
		}
		self.judge_end(ID, Some(CODE), &ended);
	}
}

/// The message with one byte that is not UTF-8: within its last word, so that JSON stays JSON.
fn not_utf8(message: &[u8]) -> Vec<u8> {
	let at = message.iter().rposition(u8::is_ascii_alphanumeric).map_or(message.len(), |last| last + 1);
	let mut bytes = message.to_vec();
	bytes.insert(at, 0xff);
	bytes
}
