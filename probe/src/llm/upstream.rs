//! The checks for which the probe plays the provider.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::answer::{self, Part};
use super::provider::{Call, INTERNAL, Provider, SECRET};
use super::{PATIENCE, Probe};
use crate::checks::{self, Check};
use crate::http1::{Opened, Request, Response};
use crate::patience::within;
use crate::report::quote;
use crate::target::Link;
use crate::wire_log::Reader;
use crate::wire_log::{Event, Log};

/// What breaks formats, markup and lines.
const UNSAFE: &[&str] = &[
	"begin ",
	"a\n\nb",
	"\r\n",
	"data: x\n\nevent: done\n",
	"\"quoted\\\" ",
	"</script><!-- ",
	"[DONE] ",
	"\u{2028}\u{2029}",
	"\u{0}",
	"{\"type\":\"finish\"} ",
	"e\u{301}🇩🇪👩\u{200d}💻 ",
	"end",
];

/// More than kernel and library buffers, and more than any answer of a model.
const TAKEN_MOST: usize = 32 << 20;

/// A request of the probe and the service's request to the provider.
struct Chat {
	response: tokio::task::JoinHandle<Option<Response>>,
	call: Call,
}

/// How waiting for the service's request to the provider ended.
enum Begun {
	Chat(Box<Chat>),
	/// The service answered on its own.
	Answered(Box<Response>),
	Nothing,
}

impl Probe<'_> {
	/// Sends the request and waits until the service has asked the provider.
	async fn begin(&self, provider: &Provider, request: &Request) -> Begun {
		let request = request.clone();
		let (target, patience) = (self.target.clone(), self.run.left());
		let mut response = tokio::spawn(async move {
			match request.open(&target, patience).await {
				Ok(Opened::Response(response)) => Some(*response),
				_ => None,
			}
		});
		// Kept over the answer: dropping it would drop the connection whose request it is reading.
		let mut calling = std::pin::pin!(provider.call(self.run.at_most(PATIENCE * 2)));
		tokio::select! {
			biased;
			call = &mut calling => match call {
				Some(call) => Begun::Chat(Box::new(Chat { response, call })),
				None => {
					response.abort();
					Begun::Nothing
				}
			},
			// The head may come at once; the provider is asked a moment later.
			answered = &mut response => match answered {
				Ok(Some(answer)) if answer.head.status == 200 => {
					match calling.await {
						Some(call) => Begun::Chat(Box::new(Chat { response: tokio::spawn(async move { Some(answer) }), call })),
						None => Begun::Answered(Box::new(answer)),
					}
				}
				Ok(Some(answer)) => Begun::Answered(Box::new(answer)),
				_ => Begun::Nothing,
			},
		}
	}

	/// A chat of which provider and client are ready, or why there is none.
	async fn chat(&self, provider: &Provider) -> Result<(Call, Reader), String> {
		self.chat_with(provider, &self.request).await
	}

	async fn chat_with(&self, provider: &Provider, request: &Request) -> Result<(Call, Reader), String> {
		match self.begin(provider, request).await {
			Begun::Chat(mut chat) => {
				chat.call.head().await;
				// A service that holds its head back until the first token is given one.
				let wait = match self.holds_head.load(Ordering::Relaxed) {
					true => Duration::from_millis(300),
					false => self.run.at_most(PATIENCE),
				};
				let mut response = chat.response;
				let answered = match within(wait, &mut response).await {
					Ok(answered) => answered,
					Err(_) => {
						self.holds_head.store(true, Ordering::Relaxed);
						chat.call.token("stream-probe ").await;
						within(self.run.at_most(PATIENCE), response)
							.await
							.map_err(|_| "no response head came, not even with a token".to_owned())?
					}
				};
				match answered {
					Ok(Some(answer)) => Ok((chat.call, Reader::start(answer))),
					_ => Err("the connection ended without a response".to_owned()),
				}
			}
			Begun::Answered(answer) => Err(format!("answered with {} without asking the provider", answer.head.status)),
			Begun::Nothing => Err("the service asked no provider at --upstream".to_owned()),
		}
	}

	pub(super) async fn with_provider(&self, provider: &Provider) {
		if !self.paced(provider).await {
			return;
		}
		self.gzip(provider).await;
		self.unsafe_characters(provider).await;
		self.split(provider).await;
		self.truncated(provider).await;
		self.provider_errors(provider).await;
		self.abort(provider).await;
		self.slow_reader(provider).await;
		self.thinking(provider).await;
		self.survived(provider).await;
	}

	/// Head before the first token, then each token before the next; false when nothing can be probed.
	async fn paced(&self, provider: &Provider) -> bool {
		const HEAD: &Check = checks::LLM_HEADERS_BEFORE_TOKEN;
		const ID: &Check = checks::LLM_INCREMENTAL;
		let mut chat = match self.begin(provider, &self.request).await {
			Begun::Chat(chat) => chat,
			Begun::Answered(answer) => {
				let status = answer.head.status;
				self.run.endpoint(&answer.head.describe());
				self.streams(*answer).await;
				self.give_up(&format!("answered with {status} without a request to the provider at --upstream"));
				return false;
			}
			Begun::Nothing => {
				self.give_up("the service neither answered nor asked the provider at --upstream");
				return false;
			}
		};
		if !chat.call.streams {
			self.run.fail(ID, "the service asks the provider without \"stream\": true");
		}
		chat.call.head().await;
		let held = Instant::now();
		let wait = self.run.at_most(Duration::from_secs(3));
		let mut response = chat.response;
		let early = within(wait, &mut response).await;
		let answered = match early {
			Ok(answered) => {
				self.run.pass(HEAD, "the head came while the model was held back");
				answered
			}
			Err(_) => {
				chat.call.token("stream-probe-0 ").await;
				let late = within(self.run.at_most(PATIENCE), response).await;
				match late {
					Ok(answered) => {
						self.holds_head.store(true, Ordering::Relaxed);
						self.run.fail(
							HEAD,
							format!(
								"the provider's head was held for {} ms, and the service's came with the first token",
								held.elapsed().as_millis()
							),
						);
						answered
					}
					Err(_) => {
						self.run.fail(HEAD, "no head after the first token either");
						self.run.fail(ID, "no response while the provider streams");
						chat.call.finish().await;
						self.give_up("the service answers only when the provider has finished");
						return false;
					}
				}
			}
		};
		let Ok(Some(answer)) = answered else {
			self.run.fail(checks::LLM_STATUS_200, "the connection ended without a response");
			self.give_up("no response came");
			return false;
		};
		self.run.endpoint(&answer.head.describe());
		let Some(answer) = self.streams(answer).await else {
			return false;
		};
		let reader = Reader::start(answer);
		let mut slowest = Duration::ZERO;
		for n in 1..=5 {
			let token = format!("stream-probe-{n} ");
			let sent = Instant::now();
			chat.call.token(&token).await;
			let name = token.trim_end();
			if !reader.until(self.run.at_most(PATIENCE), |log| contains(log, name)).await {
				if !self.run.left().is_zero() {
					self.run.fail(
						ID,
						format!("token {n} did not arrive within {} s while the provider waited", PATIENCE.as_secs()),
					);
				}
				break;
			}
			slowest = slowest.max(sent.elapsed());
		}
		self.run.pass(ID, format!("5 tokens arrived one by one, the slowest after {} ms", slowest.as_millis()));
		chat.call.finish().await;
		if reader.until(self.run.at_most(PATIENCE), |log| log.end.is_some()).await {
			reader.with(|log| self.judge_terminal(log));
		} else if !self.run.left().is_zero() {
			self.run.fail(
				checks::LLM_ONE_TERMINAL,
				format!("the answer is open {} s after the provider has finished", PATIENCE.as_secs()),
			);
		}
		true
	}

	/// The answer as a browser asks for it.
	async fn gzip(&self, provider: &Provider) {
		const ID: &Check = checks::LLM_GZIP_INCREMENTAL;
		if !self.run.needs(&[ID]) {
			return;
		}
		if self.run.failed(checks::LLM_INCREMENTAL) {
			return self.run.unknown(ID, "tokens are held back without gzip too");
		}
		let mut passed = Vec::new();
		// As browsers offer it, over http and over https.
		for accepted in ["gzip, deflate", "gzip, deflate, br"] {
			match self.compressed(provider, accepted).await {
				Some(coding) => passed.push(coding),
				None => return,
			}
		}
		passed.dedup();
		self.run
			.pass(ID, format!("content-encoding {}: 3 tokens arrived one by one, and the end", passed.join(" and ")));
	}

	/// One answer for a client that accepts compression; `None`, with the check decided, if it is not right.
	async fn compressed(&self, provider: &Provider, accepted: &str) -> Option<String> {
		const ID: &Check = checks::LLM_GZIP_INCREMENTAL;
		let request = self.request.clone().header("Accept-Encoding", accepted);
		let (mut call, reader) = match self.chat_with(provider, &request).await {
			Ok(chat) => chat,
			Err(why) => {
				self.run.unknown(ID, why);
				return None;
			}
		};
		let coding = reader.head.get("content-encoding");
		let coding = coding.as_deref().unwrap_or("none");
		if !accepted.split(", ").chain(["none", "identity"]).any(|c| c == coding) {
			let text = format!("content-encoding: {coding} for a client that accepts only {accepted}");
			self.run.fail(ID, text);
			return None;
		}
		for n in 1..=3 {
			let token = format!("stream-probe-{n} ");
			call.token(&token).await;
			let arrived = |log: &Log| contains(log, token.trim_end());
			if !reader.until(self.run.at_most(PATIENCE), arrived).await {
				if !self.run.left().is_zero() {
					self.run.fail(
						ID,
						format!(
							"content-encoding {coding}: token {n} did not arrive within {} s while the provider waited",
							PATIENCE.as_secs()
						),
					);
				}
				return None;
			}
		}
		call.finish().await;
		let patience = self.run.at_most(PATIENCE);
		reader.until(patience, |log| log.end.is_some()).await;
		match reader.ended() {
			Some(end) if end.is_cut() => {
				let text = format!("content-encoding {coding}: the answer was cut: {}", end.text());
				self.run.fail(ID, text);
				None
			}
			Some(_) => Some(coding.to_owned()),
			// Without compression it did not end either, or the budget is used up.
			None => {
				self.run.unknown(ID, "the answer did not end");
				None
			}
		}
	}

	fn text(&self, events: &[Event]) -> String {
		answer::whole_text(events, &self.options.terminals)
	}

	/// Sends tokens, and compares the text that arrives.
	async fn unsafe_characters(&self, provider: &Provider) {
		const ID: &Check = checks::LLM_UNSAFE_CHARACTERS;
		if !self.run.needs(&[ID]) {
			return;
		}
		let (mut call, reader) = match self.chat(provider).await {
			Ok(chat) => chat,
			Err(why) => return self.run.unknown(ID, why),
		};
		for token in UNSAFE {
			call.token(token).await;
		}
		call.finish().await;
		self.compare(ID, &reader, &UNSAFE.concat(), "end").await;
	}

	async fn split(&self, provider: &Provider) {
		const ID: &Check = checks::LLM_SPLIT_UTF8;
		const TEXT: &str = "😀ä漢👩‍💻";
		if !self.run.needs(&[ID]) {
			return;
		}
		let (mut call, reader) = match self.chat(provider).await {
			Ok(chat) => chat,
			Err(why) => return self.run.unknown(ID, why),
		};
		// Whole ones around it: a service that loses the split one is known by them.
		call.token("begin ").await;
		call.token_by_bytes(TEXT).await;
		call.token(" end").await;
		call.finish().await;
		let sent = format!("begin {TEXT} end");
		self.compare(ID, &reader, &sent, "end").await;
	}

	async fn compare(&self, id: &'static Check, reader: &Reader, sent: &str, last: &str) {
		reader.until(self.run.at_most(PATIENCE), |log| log.end.is_some()).await;
		if self.run.left().is_zero() {
			return;
		}
		let got = reader.with(|log| self.text(&log.events));
		// The token that frees a held head may come first.
		let got = got.strip_prefix("stream-probe ").unwrap_or(&got);
		if got == sent {
			self.run.pass(id, format!("{} bytes of text arrived unchanged", sent.len()));
		} else if !got.contains("begin") && !got.contains(last) {
			self.run.unknown(id, "the text is not recognised in the shape of this answer");
		} else {
			let at = got.bytes().zip(sent.bytes()).take_while(|(a, b)| a == b).count();
			let show = |text: &str| quote(&text.as_bytes()[at.min(text.len())..]);
			self.run.fail(id, format!("after {at} bytes came {} instead of {}", show(got), show(sent)));
		}
	}

	async fn truncated(&self, provider: &Provider) {
		const ID: &Check = checks::LLM_TRUNCATION_VISIBLE;
		if !self.run.needs(&[ID]) {
			return;
		}
		let (mut call, reader) = match self.chat(provider).await {
			Ok(chat) => chat,
			Err(why) => return self.run.unknown(ID, why),
		};
		call.token("half of an ").await;
		reader.until(self.run.at_most(PATIENCE), |log| contains(log, "half of an")).await;
		call.end().await;
		if !reader.until(self.run.at_most(PATIENCE), |log| log.end.is_some()).await {
			if !self.run.left().is_zero() {
				self.run.fail(
					ID,
					format!("the answer is open {} s after the provider's connection has ended", PATIENCE.as_secs()),
				);
			}
			return;
		}
		reader.with(|log| {
			let parts: Vec<Part> = self.parts(log);
			let failed = parts.contains(&Part::Failure);
			let done = self.looks_done(log, &parts);
			let cut = log.end.map(|(_, end)| end).filter(|end| end.is_cut());
			let last = || log.events.last().map(|e| quote(e.data.as_bytes())).unwrap_or_default();
			let tail = || answer::tail(&log.events, &self.options.terminals);
			match (failed, done, cut, self.complete.get()) {
				(true, ..) => self.run.pass(ID, "an error event"),
				(false, true, ..) => self.run.fail(
					ID,
					format!("the provider was cut in the middle, and the answer ends as a complete one: {}", last()),
				),
				(false, false, Some(end), _) => self.run.pass(ID, format!("the answer is cut: {}", end.text())),
				(.., Some(complete)) if complete.known => {
					self.run.pass(ID, "no terminal event, which complete answers have")
				}
				(.., Some(complete)) if complete.tail != tail() => {
					self.run.pass(ID, "it does not end with the events with which complete answers end")
				}
				(.., Some(_)) => self.run.fail(
					ID,
					format!(
						"the provider was cut in the middle, and the answer ends exactly as a complete one does: {}",
						last()
					),
				),
				(.., None) => self.run.unknown(ID, "the end of a complete answer was not seen"),
			}
		});
	}

	/// Whether an answer has the end of a success.
	fn looks_done(&self, log: &Log, parts: &[Part]) -> bool {
		parts.iter().any(|part| matches!(part, Part::Done | Part::Sentinel))
			|| log.events.iter().any(|event| answer::finish_reason(&event.data))
	}

	fn parts(&self, log: &Log) -> Vec<Part> {
		log.events.iter().map(|event| answer::read(event, &self.options.terminals)).collect()
	}

	async fn provider_errors(&self, provider: &Provider) {
		const VISIBLE: &Check = checks::LLM_PROVIDER_ERROR_VISIBLE;
		const CLEAN: &Check = checks::LLM_ERROR_TEXT_CLEAN;
		if !self.run.needs(&[VISIBLE, CLEAN]) {
			return;
		}
		// In the stream.
		if let Ok((mut call, reader)) = self.chat(provider).await {
			call.token("before the error ").await;
			call.error_event().await;
			reader.until(self.run.at_most(PATIENCE), |log| log.end.is_some()).await;
			reader.with(|log| {
				let text: String = log.events.iter().map(|event| event.data.as_str()).collect();
				self.judge_leak(CLEAN, "an error in the stream", &text);
			});
		}
		// Before it; SDKs ask again, and are refused again.
		let begun = Instant::now();
		match self.begin(provider, &self.request).await {
			Begun::Chat(mut chat) => {
				chat.call.refuse().await;
				let mut response = chat.response;
				let answered = loop {
					tokio::select! {
						answered = &mut response => break answered.ok().flatten(),
						call = provider.call(self.run.left()) => match call {
							Some(mut call) => call.refuse().await,
							None => break None,
						},
					}
				};
				let Some(mut answer) = answered else {
					return self.run.unknown(
						VISIBLE,
						format!("no answer {:.1} s after the provider's 500", begun.elapsed().as_secs_f64()),
					);
				};
				let status = answer.head.status;
				if status != 200 {
					let body = answer.text(self.run.at_most(Duration::from_secs(2))).await;
					self.judge_leak(CLEAN, "an error before the stream", &body);
					return self.run.pass(VISIBLE, format!("status {status}"));
				}
				let reader = Reader::start(answer);
				loop {
					tokio::select! {
						ended = reader.until(self.run.at_most(PATIENCE * 2), |log| log.end.is_some()) => {
							if !ended {
								return self.run.unknown(VISIBLE, "200, and no end after the provider's 500");
							}
							break;
						}
						call = provider.call(self.run.left()) => match call {
							Some(mut call) => call.refuse().await,
							None => return,
						},
					}
				}
				reader.with(|log| {
					let text: String = log.events.iter().map(|event| event.data.as_str()).collect();
					self.judge_leak(CLEAN, "an error before the stream", &text);
					let cut = log.end.is_some_and(|(_, end)| end.is_cut());
					let parts = self.parts(log);
					let known = self.complete.get().is_some_and(|complete| complete.known);
					let how = if cut {
						Some("200, then a cut")
					} else if parts.contains(&Part::Failure) {
						Some("200, then an error event")
					} else if known && !self.looks_done(log, &parts) {
						Some("200, and no terminal event, which complete answers have")
					} else {
						None
					};
					match how {
						Some(how) => self.run.pass(VISIBLE, how),
						None => self.run.fail(
							VISIBLE,
							format!(
								"the provider answered 500, the service 200 and a normal end: {}",
								quote(text.as_bytes())
							),
						),
					}
				});
			}
			Begun::Answered(answer) => self.run.pass(VISIBLE, format!("status {}", answer.head.status)),
			Begun::Nothing => self.run.unknown(VISIBLE, "the service asked no provider"),
		}
	}

	fn judge_leak(&self, id: &'static Check, when: &str, text: &str) {
		for secret in [SECRET, INTERNAL, "worker.py"] {
			if text.contains(secret) {
				return self
					.run
					.fail(id, format!("{when} shows the client the provider's text: {}", quote(text.as_bytes())));
			}
		}
		judge_text(self, id, when, text);
	}

	/// The client goes while the model is silent.
	async fn abort(&self, provider: &Provider) {
		const ID: &Check = checks::LLM_ABORT_STOPS_WORK;
		if !self.run.needs(&[ID]) {
			return;
		}
		if self.options.resumable {
			return self.run.unknown(ID, "--resumable: the generation is to go on when the client has gone");
		}
		let (mut call, reader) = match self.chat(provider).await {
			Ok(chat) => chat,
			Err(why) => return self.run.unknown(ID, why),
		};
		call.token("before the abort ").await;
		reader.until(self.run.at_most(PATIENCE), |log| contains(log, "before the abort")).await;
		drop(reader);
		let gone = Instant::now();
		let patience = self.run.at_most(PATIENCE);
		if call.closed(patience).await {
			self.run.pass(
				ID,
				format!(
					"the provider's connection was closed {} ms after the client had gone",
					gone.elapsed().as_millis()
				),
			);
		} else if patience == PATIENCE {
			self.run.fail(
				ID,
				format!(
					"the provider's connection is open {} s after the client has gone: the tokens are paid for",
					PATIENCE.as_secs()
				),
			);
		}
		call.end().await;
	}

	/// The client reads nothing; how much does the service take?
	async fn slow_reader(&self, provider: &Provider) {
		const ID: &Check = checks::LLM_SLOW_READER_BOUNDED;
		if !self.run.needs(&[ID]) {
			return;
		}
		let mut request = self.request.clone();
		request.link = Link::Stalled;
		let mut chat = match self.begin(provider, &request).await {
			Begun::Chat(chat) => chat,
			_ => return self.run.unknown(ID, "the service asked no provider"),
		};
		chat.call.head().await;
		let token = "x".repeat(16 * 1024);
		let mut taken = 0;
		let mut slowest = Duration::ZERO;
		while taken < TAKEN_MOST {
			// A service on a busy machine is slow, which is not the same as waiting for its reader.
			let patience = (slowest * 20).clamp(Duration::from_secs(4), Duration::from_secs(12));
			let began = std::time::Instant::now();
			match within(self.run.at_most(patience), chat.call.token(&token)).await {
				Ok(true) => {
					taken += token.len();
					slowest = slowest.max(began.elapsed());
				}
				Ok(false) => {
					self.run.pass(ID, format!("the service ended it after {} KiB", taken / 1024));
					break;
				}
				Err(_) if self.run.left().is_zero() => return,
				Err(_) => {
					self.run.pass(ID, format!("the service took {} KiB and then waited for the reader", taken / 1024));
					break;
				}
			}
		}
		if taken >= TAKEN_MOST {
			self.run.fail(
				ID,
				format!("the service took {} MiB from the provider for a client that reads nothing", taken >> 20),
			);
		}
		chat.response.abort();
	}

	/// The provider's connection is cut, after a token and before the first.
	async fn survived(&self, provider: &Provider) {
		const ID: &Check = checks::LLM_FAILURES_SURVIVED;
		if !self.run.needs(&[ID]) {
			return;
		}
		for token in [Some("before the cut "), None] {
			let (mut call, reader) = match self.chat(provider).await {
				Ok(chat) => chat,
				Err(why) => return self.gone(ID, &why).await,
			};
			if let Some(token) = token {
				call.token(token).await;
				let arrived = |log: &Log| contains(log, token.trim_end());
				reader.until(self.run.at_most(PATIENCE), arrived).await;
			}
			drop(call);
			let patience = self.run.at_most(PATIENCE);
			reader.until(patience, |log| log.end.is_some()).await;
		}
		match self.chat(provider).await {
			Ok(_) => self.run.pass(ID, "after two cuts the next answer begins"),
			Err(why) => self.gone(ID, &why).await,
		}
	}

	/// An answer did not begin: is the service still there?
	async fn gone(&self, id: &'static Check, why: &str) {
		if self.run.left().is_zero() {
			return;
		}
		match self.target.connect(Link::Http1).await {
			Ok(_) => self.run.unknown(id, why),
			Err(error) => {
				let when = "the provider's connection was cut";
				self.run.fail(id, format!("after {when}: {error}"));
				self.died(when).await;
			}
		}
	}

	/// The model thinks for longer than proxies wait.
	async fn thinking(&self, provider: &Provider) {
		const ID: &Check = checks::LLM_HEARTBEAT_BEFORE_TOKEN;
		if !self.run.needs(&[ID]) {
			return;
		}
		let (_call, reader) = match self.chat(provider).await {
			Ok(chat) => chat,
			Err(why) => return self.run.unknown(ID, why),
		};
		let most = self.options.silence().mul_f64(1.1);
		// What comes with the head is no heartbeat yet.
		reader.until(self.run.at_most(Duration::from_secs(1)), |_| false).await;
		let before = reader.with(|log| log.bytes);
		let began = Instant::now();
		let beat = reader.until(self.run.at_most(most), |log| log.bytes > before).await;
		let waited = began.elapsed().as_secs_f64() + 1.0;
		if beat {
			self.run.pass(ID, format!("something to read after {waited:.1} s without a token"));
		} else if began.elapsed() >= most {
			self.run.fail(ID, format!("no byte for {waited:.1} s while the model was silent"));
		} else if reader.ended().is_some() {
			self.run.unknown(ID, format!("the service ended the answer after {waited:.1} s of silence"));
		} else {
			self.run.unknown(ID, format!("silent for {waited:.1} s, within --heartbeat (--budget)"));
		}
	}
}

fn judge_text(probe: &Probe<'_>, id: &'static Check, when: &str, text: &str) {
	if let Some(sign) = crate::leak::find(text, &[]) {
		probe.run.fail(id, format!("{when}: {}", quote(sign.as_bytes())));
	}
}

/// Whether a token has arrived, in whatever shape.
fn contains(log: &Log, token: &str) -> bool {
	log.events.iter().rev().take(50).any(|event| event.data.contains(token))
		|| answer::whole_text(&log.events, &[]).contains(token)
}
