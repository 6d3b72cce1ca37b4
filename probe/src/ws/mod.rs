//! The checks of `stream-probe ws`.

mod access;
mod frame;
mod load;
mod protocol;

use std::time::{Duration, Instant};

use tokio::sync::{Notify, OnceCell};

use crate::checks::{self, Check};
use crate::http1::Request;
use crate::patience::{Clock, STEP};
use crate::process::Publisher;
use crate::target::{Link, Target, Unreachable};
use crate::{Options, Payload, Run, leak, process};
use frame::{CLOSE, Next, PING, PONG, Socket, TEXT, Upgrade, Waited};

/// How long the probe waits for what must come, before it calls it missing.
const PATIENCE: Duration = Duration::from_secs(5);

/// What all checks of one run share.
struct Probe<'a> {
	options: &'a Options,
	run: &'a Run,
	publisher: &'a Publisher,
	target: Target,
	/// The handshake of a client that the service accepts.
	request: Request,
	/// Error bodies, error messages and close reasons.
	heard: std::sync::Mutex<String>,
	/// How the service ends a connection that sends the plain message, if it does: the control of all bad frames.
	refuses: OnceCell<Option<String>>,
}

pub(crate) async fn probe(options: &Options, run: &Run) -> Result<(), Unreachable> {
	let mut request = frame::upgrade(options.request("*/*").without("Accept"));
	request.method = "GET".to_owned();
	request.body = None;
	if !options.subprotocols.is_empty() {
		request = request.header("Sec-WebSocket-Protocol", options.subprotocols.join(", "));
	}
	let publisher = Publisher::new(&options.publish);
	let probe = Probe {
		options,
		run,
		publisher: &publisher,
		target: options.target.clone(),
		request,
		heard: std::sync::Mutex::default(),
		refuses: OnceCell::new(),
	};
	let mut first = frame::connect(&probe.request, &probe.target, run.at_most(PATIENCE * 2)).await?;
	if matches!(first, Upgrade::Closed) {
		// Once more: a service that has just started may end its first connection.
		first = frame::connect(&probe.request, &probe.target, run.at_most(PATIENCE * 2)).await?;
	}
	let Some(first) = probe.handshake(first).await else {
		return Ok(());
	};
	let Some(first) = probe.stays(first).await else {
		return Ok(());
	};
	let over = Notify::new();
	let rest = async {
		probe.protocol(first).await;
		if probe.violations().await {
			probe.access().await;
			probe.load().await;
		}
	};
	tokio::join!(probe.silent_peer(&over), async {
		drop(tokio::time::timeout(run.left(), rest).await);
		over.notify_one();
	});
	if options.pid.is_some_and(process::has_ended) {
		run.abort("the process of --pid ended during the run: the verdicts after its end would judge nothing");
		return Ok(());
	}
	probe.errors_clean();
	probe.shutdown().await;
	Ok(())
}

/// What to give the probe, by the code with which every connection is closed.
fn advice(code: Option<u16>) -> &'static str {
	match code {
		Some(4401 | 4403 | 3000 | 3003 | 1008) => {
			"give the credentials and the Origin that it accepts (--cookie, -H, --origin, --hello)"
		}
		Some(4406) => "give the subprotocol that it expects (--subprotocol)",
		Some(4400 | 4408) => "give the first message that it expects (--hello)",
		_ => "give what it expects of a client (--subprotocol, --hello, --cookie, -H, --origin)",
	}
}

impl Probe<'_> {
	async fn handshake(&self, first: Upgrade) -> Option<Box<Socket>> {
		const ID: &Check = checks::WS_HANDSHAKE;
		let run = self.run;
		let socket = match first {
			Upgrade::Open(socket) => socket,
			Upgrade::Refused(mut response) => {
				let status = response.head.status;
				let body = response.text(run.at_most(Duration::from_secs(2))).await;
				run.fail(ID, format!("status {status} instead of 101: {}", crate::report::quote(body.as_bytes())));
				crate::sse::judge_error(run, checks::WS_ERRORS_CLEAN, status, &body, &[&self.target.path]);
				run.unknown_all(&format!("the handshake was answered with {status}"));
				return None;
			}
			Upgrade::Closed => {
				run.fail(ID, "the connection ended without an HTTP response");
				run.unknown_all("the handshake was not answered");
				return None;
			}
			Upgrade::Silent => {
				run.fail(ID, "no answer to the handshake");
				run.unknown_all("the handshake was not answered");
				return None;
			}
		};
		let head = &socket.head;
		run.endpoint(&head.describe());
		let chosen = head.get("sec-websocket-protocol");
		let wrong = if !head.get("upgrade").is_some_and(|v| v.eq_ignore_ascii_case("websocket")) {
			Some("no Upgrade: websocket".to_owned())
		} else if !head.has("connection", "upgrade") {
			Some("no Connection: Upgrade".to_owned())
		} else if head.get("sec-websocket-accept").as_deref() != Some(frame::ACCEPT) {
			Some(format!("Sec-WebSocket-Accept is {:?}, not {}", head.get("sec-websocket-accept"), frame::ACCEPT))
		} else if let Some(extensions) = head.get("sec-websocket-extensions").filter(|v| !v.is_empty()) {
			Some(format!("extension {extensions} was not offered"))
		} else if self.options.subprotocols.is_empty() && chosen.is_some() {
			chosen.clone().map(|name| format!("subprotocol {name} was not offered"))
		} else {
			None
		};
		match wrong {
			Some(wrong) => run.fail(ID, wrong),
			None => run.pass(ID, format!("101 after {} ms", head.after.as_millis())),
		}
		let offered = &self.options.subprotocols;
		let id = checks::WS_SUBPROTOCOL_SELECTED;
		match chosen {
			_ if offered.is_empty() => run.unknown(id, "needs --subprotocol"),
			Some(name) if offered.contains(&name) => run.pass(id, format!("{name} of {}", offered.join(", "))),
			Some(name) => run.fail(id, format!("{name} was not among {}", offered.join(", "))),
			None => {
				run.fail(id, format!("none of {} was selected: a browser fails the connection", offered.join(", ")))
			}
		}
		Some(socket)
	}

	/// The first connection, if it stays open; a service that closes every connection at once ends the run.
	async fn stays(&self, mut first: Box<Socket>) -> Option<Box<Socket>> {
		self.greet(&mut first).await;
		let wait = Duration::from_millis(500);
		let mut ended = first.until(self.run.at_most(wait), |_| false).await;
		self.hear(&first.errors);
		if !ended.ended() {
			return Some(first);
		}
		let mut reason = first.errors.trim().to_owned();
		// Once more, and longer: a service may end one connection for a reason of its own.
		let second = frame::connect(&self.request, &self.target, self.run.at_most(PATIENCE)).await;
		if let Ok(Upgrade::Open(mut second)) = second {
			self.greet(&mut second).await;
			let again = second.until(self.run.at_most(Duration::from_secs(1)), |_| false).await;
			if !again.ended() {
				return Some(second);
			}
			ended = again;
			reason = second.errors.trim().to_owned();
		}
		let said = match reason.as_str() {
			"" => String::new(),
			reason => format!(" {}", crate::report::quote(reason.as_bytes())),
		};
		let code = match ended {
			Waited::Closed(code) => Some(code),
			_ => None,
		};
		self.run.abort(format!(
			"the service ends every connection at once ({}{said}), so nothing could be probed: {}",
			ended.text(),
			advice(code)
		));
		None
	}

	/// Ends the run if the service has ended.
	async fn died(&self, error: &Unreachable, after: &str) {
		if !error.is_refused() {
			return;
		}
		tokio::time::sleep(Duration::from_millis(300)).await;
		if self.target.connect(Link::Http1).await.is_err() {
			self.run.abort(format!("the service has ended: {error}, after {after}; unless you stopped it, that ended it, and nothing after it was probed"));
		}
	}

	/// One more connection, ready for use; `Err` says why there is none.
	async fn open(&self) -> Result<Box<Socket>, String> {
		let upgrade = frame::connect(&self.request, &self.target, self.run.at_most(PATIENCE)).await;
		match upgrade {
			Ok(Upgrade::Open(mut socket)) => {
				self.greet(&mut socket).await;
				Ok(socket)
			}
			Ok(Upgrade::Refused(mut response)) => {
				let status = response.head.status;
				self.hear(&response.text(self.run.at_most(Duration::from_secs(1))).await);
				Err(format!("one more connection was answered with {status}"))
			}
			Ok(Upgrade::Closed) => Err("one more connection was closed".to_owned()),
			Ok(Upgrade::Silent) => Err("one more connection was not answered".to_owned()),
			Err(error) => {
				self.died(&error, "the connections of this run").await;
				Err(error.to_string())
			}
		}
	}

	/// Sends the first messages that the service expects.
	async fn greet(&self, socket: &mut Socket) {
		for hello in &self.options.hello {
			socket.send(hello.opcode(), hello.bytes()).await;
		}
	}

	/// The message that the service is sent.
	fn message(&self) -> Payload {
		self.options.message.clone().unwrap_or_else(|| Payload::from("stream-probe"))
	}

	/// The control of a bad frame: how the service ends a connection that sends the plain message, if it does.
	async fn refuses(&self) -> Option<&str> {
		let refuses = self.refuses.get_or_init(|| async {
			let mut socket = self.open().await.ok()?;
			let message = self.message();
			socket.send(message.opcode(), message.bytes()).await;
			let mut ended = socket.ping(b"plain", self.run.at_most(PATIENCE)).await;
			if let Waited::Found(_) = ended {
				let wait = self.run.at_most(Duration::from_millis(500));
				ended = socket.until(wait, |_| false).await;
			}
			self.hear(&socket.errors);
			ended.ended().then(|| {
				format!(
					"the message alone ends the connection as well: {} (give one that the service accepts: --message, --message-hex)",
					ended.text()
				)
			})
		});
		refuses.await.as_deref()
	}

	fn hear(&self, text: &str) {
		let mut heard = self.heard.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
		if heard.len() < 256 * 1024 {
			heard.push_str(text);
			heard.push('\n');
		}
	}

	fn errors_clean(&self) {
		const ID: &Check = checks::WS_ERRORS_CLEAN;
		let heard = self.heard.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
		let message = self.message();
		let sent = String::from_utf8_lossy(message.bytes());
		match leak::find(&heard, &[&sent, &self.target.path]) {
			Some(sign) => self.run.fail(ID, format!("the service sent: {}", crate::report::quote(sign.as_bytes()))),
			None if heard.trim().is_empty() => {
				self.run.unknown(ID, "the service sent no error body, no error message and no close reason")
			}
			None => {
				self.run.pass(ID, format!("{} bytes of error bodies, error messages and close reasons", heard.len()))
			}
		}
	}

	/// A connection that sends nothing and answers nothing.
	///
	/// `over`: nothing else is left to do.
	async fn silent_peer(&self, over: &Notify) {
		const HEARTBEAT: &Check = checks::WS_HEARTBEAT;
		const DROPPED: &Check = checks::WS_SILENT_PEER_DROPPED;
		if !self.run.needs(&[HEARTBEAT, DROPPED]) {
			return;
		}
		let mut socket = match self.open().await {
			Ok(socket) => socket,
			Err(why) => {
				self.run.unknown(HEARTBEAT, why.as_str());
				return self.run.unknown(DROPPED, why);
			}
		};
		socket.answers = false;
		let began = Instant::now();
		let most = self.options.heartbeat.unwrap_or(Duration::from_secs(55)).mul_f64(1.1);
		let idle = self.options.idle.map(|idle| idle.mul_f64(1.25) + Duration::from_secs(2));
		// Both count the probe's own time: a frame that came while it could not run is no silence.
		let (mut lived, mut silent) = (Clock::start(), Clock::start());
		let mut alone = false;
		loop {
			// Only a named idle time, or the heartbeat, is worth waiting for to the end.
			let until_idle = idle.map(|idle| idle.saturating_sub(lived.elapsed()));
			let until_beat = (!self.run.decided(HEARTBEAT)).then(|| most.saturating_sub(silent.elapsed()));
			let left = self.run.left();
			let waits = |wait: Option<Duration>| wait.is_some_and(|wait| wait <= left);
			if alone && !waits(until_idle) && !waits(until_beat) {
				let needed = until_beat.unwrap_or_default();
				self.run.unknown(
					HEARTBEAT,
					format!(
						"no heartbeat in {:.0} s, within --heartbeat {} (give --budget {})",
						began.elapsed().as_secs_f64(),
						most.div_f64(1.1).as_secs(),
						self.run.budget_for(needed)
					),
				);
				return self.run.unknown(
					DROPPED,
					match idle {
						None => "needs --idle".to_owned(),
						Some(_) => format!(
							"not yet due (give --budget {})",
							self.run.budget_for(until_idle.unwrap_or_default())
						),
					},
				);
			}
			let pause = [until_idle, until_beat].into_iter().flatten().min().unwrap_or(Duration::MAX);
			let pause = self.run.at_most(pause).min(STEP);
			let next = tokio::select! {
				next = tokio::time::timeout(pause, socket.next()) => next,
				() = over.notified(), if !alone => {
					alone = true;
					continue;
				}
			};
			lived.count(STEP);
			silent.count(STEP);
			let after = began.elapsed().as_secs_f64();
			if self.run.left().is_zero() && matches!(next, Ok(Next::Frame(_))) {
				let why = "the service never stops sending";
				self.run.unknown(HEARTBEAT, why);
				return self.run.unknown(DROPPED, why);
			}
			match next {
				Ok(Next::Frame(frame)) if frame.opcode == CLOSE => {
					self.hear(&socket.errors);
					self.run.pass(DROPPED, format!("Close {} after {after:.1} s of silence", frame.close_code()));
					return self.run.unknown(HEARTBEAT, "the service closed the silent connection first");
				}
				Ok(Next::Frame(frame)) => {
					silent = Clock::start();
					let beat = frame.opcode == PING || (frame.opcode == TEXT && is_heartbeat(&frame.payload));
					if beat {
						self.run.pass(HEARTBEAT, format!("a heartbeat (opcode {}) after {after:.1} s", frame.opcode));
					}
				}
				Ok(Next::Eof | Next::Reset) => {
					self.run.pass(DROPPED, format!("dropped after {after:.1} s of silence"));
					return self.run.unknown(HEARTBEAT, "the service dropped the silent connection first");
				}
				Err(_) => {
					if silent.elapsed() >= most {
						self.run.fail(HEARTBEAT, format!("no frame for {:.1} s", silent.elapsed().as_secs_f64()));
					}
					if idle.is_some_and(|idle| lived.elapsed() >= idle) {
						return self
							.run
							.fail(DROPPED, format!("still open after {after:.1} s in which it answered nothing"));
					}
					if self.run.left().is_zero() {
						self.run.unknown(
							HEARTBEAT,
							format!(
								"silent for {after:.1} s, which may be within its interval (--heartbeat, --budget)"
							),
						);
						return self.run.unknown(
							DROPPED,
							format!(
								"still open after {after:.1} s, which may be within its idle time (--idle, --budget)"
							),
						);
					}
				}
			}
		}
	}

	/// SIGTERM to the service, where that is allowed.
	async fn shutdown(&self) {
		const ID: &Check = checks::WS_SHUTDOWN_1001;
		if !self.run.wants(ID) {
			return;
		}
		let (Some(pid), true) = (self.options.pid, self.options.shutdown) else {
			return self.run.unknown(ID, "needs --pid and --shutdown, which stops the service");
		};
		// The budget may be used up, and this is the last thing there is to see.
		let upgrade = frame::connect(&self.request, &self.target, PATIENCE).await;
		let Ok(Upgrade::Open(mut socket)) = upgrade else {
			return self.run.unknown(ID, "one more connection was not possible");
		};
		self.greet(&mut socket).await;
		let began = Instant::now();
		if !process::terminate(pid).await {
			return self.run.unknown(ID, format!("SIGTERM to {pid} was not possible"));
		}
		let ended = socket.until(Duration::from_secs(10), |_| false).await;
		let after = began.elapsed().as_millis();
		match ended {
			Waited::Closed(code @ (1001 | 1012)) => self.run.pass(ID, format!("Close {code} {after} ms after SIGTERM")),
			Waited::Silent => self.run.fail(ID, "still open 10 s after SIGTERM"),
			other => self.run.fail(ID, format!("{after} ms after SIGTERM: {}", other.text())),
		}
	}
}

/// Engine.IO's `2`, or a message that names itself so.
fn is_heartbeat(payload: &[u8]) -> bool {
	let text = String::from_utf8_lossy(payload).to_ascii_lowercase();
	text == "2"
		|| (text.len() < 200 && ["ping", "heartbeat", "keepalive", "keep-alive"].iter().any(|w| text.contains(w)))
}

/// Does `work` while `other` reads and answers Pings, as a client does; returns how `other` ended, if it did.
async fn beside<T>(other: &mut Socket, work: impl Future<Output = T>) -> (Option<Waited>, T) {
	let mut work = std::pin::pin!(work);
	tokio::select! {
		biased;
		done = &mut work => (None, done),
		ended = other.until(Duration::MAX, |_| false) => (Some(ended), work.await),
	}
}

/// Whether a socket is alive: its Pong comes, or an answer to it.
async fn alive(socket: &mut Socket, patience: Duration) -> bool {
	matches!(socket.ping(b"stream-probe", patience).await, Waited::Found(frame) if frame.opcode == PONG)
}
