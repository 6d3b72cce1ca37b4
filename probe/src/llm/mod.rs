//! The checks of `stream-probe llm`.

mod answer;
mod provider;
mod upstream;

use std::time::Duration;

use crate::checks::{self, Check};
use crate::http1::{Head, Opened, Request};
use crate::report::quote;
use crate::sse::{judge_error, spread};
use crate::target::{Target, Unreachable};
use crate::wire_log::Event;
use crate::wire_log::Reader;
use crate::{Options, Run};
use answer::{Ends, Part};
use provider::Provider;

const PATIENCE: Duration = Duration::from_secs(5);

/// What all checks of one run share.
struct Probe<'a> {
	options: &'a Options,
	run: &'a Run,
	target: Target,
	request: Request,
	/// The service was seen to send its response headers with the first token only.
	holds_head: std::sync::atomic::AtomicBool,
	/// How a complete answer ends, once one was seen: the control of those that are not.
	complete: std::sync::OnceLock<Complete>,
}

/// The end of a complete answer.
struct Complete {
	/// It has a terminal event that the probe knows.
	known: bool,
	/// The shapes of the events after the text.
	tail: Vec<(String, Vec<String>)>,
}

pub(crate) async fn probe(options: &Options, run: &Run) -> Result<(), Unreachable> {
	let request = options.request("text/event-stream, application/x-ndjson, */*");
	let probe = Probe {
		options,
		run,
		target: options.target.clone(),
		request,
		holds_head: std::sync::atomic::AtomicBool::new(false),
		complete: std::sync::OnceLock::new(),
	};
	// A service that cannot be connected to is no finding but an error of the run.
	drop(probe.target.connect(crate::target::Link::Http1).await?);
	let work = async {
		match options.upstream {
			None => probe.alone().await,
			Some(addr) => {
				let provider = Provider::bind(addr).await.map_err(|error| Unreachable::Listen(addr, error))?;
				probe.with_provider(&provider).await;
			}
		}
		probe.bad_request().await;
		Ok(())
	};
	tokio::time::timeout(run.left(), work).await.unwrap_or(Ok(()))
}

/// What only the provider's side shows.
const NEEDS_UPSTREAM: &[&Check] = &[
	checks::LLM_GZIP_INCREMENTAL,
	checks::LLM_TRUNCATION_VISIBLE,
	checks::LLM_PROVIDER_ERROR_VISIBLE,
	checks::LLM_FAILURES_SURVIVED,
	checks::LLM_ABORT_STOPS_WORK,
	checks::LLM_SLOW_READER_BOUNDED,
	checks::LLM_SPLIT_UTF8,
	checks::LLM_UNSAFE_CHARACTERS,
];

impl Probe<'_> {
	/// One answer, as the service's own model gives it.
	async fn alone(&self) {
		for id in NEEDS_UPSTREAM {
			self.run.unknown(id, "needs --upstream");
		}
		let patience = self.run.left();
		// All of the budget, by the clock on the wall: what follows has to be judged within it.
		let opening = self.request.open(&self.target, Duration::MAX);
		let opened = tokio::time::timeout(patience, opening).await;
		let response = match opened.unwrap_or(Ok(Opened::Silent)) {
			Ok(Opened::Response(response)) => response,
			Ok(Opened::Silent) => {
				let why = format!("no response head within {} s", patience.as_secs());
				self.run.fail(checks::LLM_HEADERS_BEFORE_TOKEN, why.as_str());
				return self.give_up(&why);
			}
			Ok(Opened::Closed) | Err(_) => {
				self.run.fail(checks::LLM_STATUS_200, "the connection ended without an HTTP response");
				return self.give_up("no response came");
			}
		};
		self.run.endpoint(&response.head.describe());
		let response = match self.streams(*response).await {
			Some(response) => response,
			None => return,
		};
		let reader = Reader::start(response);
		drop(tokio::time::timeout(self.run.left(), reader.until(Duration::MAX, |log| log.end.is_some())).await);
		reader.with(|log| {
			let texts: Vec<Event> = log
				.events
				.iter()
				.filter(|event| matches!(answer::read(event, &self.options.terminals), Part::Text(_)))
				.cloned()
				.collect();
			self.arrival(&reader, &texts, log.first_byte_at);
			self.silence(&reader, &texts, log);
			match log.end {
				None => self.run.unknown(checks::LLM_ONE_TERMINAL, "the answer did not end within the budget"),
				Some((_, end)) if end.is_cut() => {
					self.run.fail(checks::LLM_ONE_TERMINAL, format!("the answer was cut: {}", end.text()))
				}
				Some(_) => self.judge_terminal(log),
			}
		});
	}

	fn give_up(&self, why: &str) {
		// The request that cannot be read still has its turn.
		for check in checks::CHECKS {
			if check.kind == crate::Kind::Llm && check.id != checks::LLM_ERROR_TEXT_CLEAN.id {
				self.run.unknown(check, why);
			}
		}
	}

	/// Judges the response headers; `None`, with everything decided, if there is no stream to read.
	async fn streams(&self, mut response: crate::http1::Response) -> Option<crate::http1::Response> {
		if self.judge_head(&response.head) {
			return Some(response);
		}
		let status = response.head.status;
		let body = response.text(self.run.at_most(Duration::from_secs(2))).await;
		let said = quote(body.as_bytes());
		if status == 200 {
			let kind = response.head.get("content-type").unwrap_or_default();
			self.run.fail(checks::LLM_CONTENT_TYPE, format!("content-type: {kind:?}: {said}"));
		} else {
			self.run.fail(checks::LLM_STATUS_200, format!("status {status}: {said}"));
		}
		let sent = self.sent();
		judge_error(self.run, checks::LLM_ERROR_TEXT_CLEAN, status, &body, &[&sent, &self.target.path]);
		self.give_up(&format!("no stream: status {status}"));
		None
	}

	/// The body that the probe sends, which a service may repeat.
	fn sent(&self) -> String {
		String::from_utf8_lossy(self.request.body.as_deref().unwrap_or_default()).into_owned()
	}

	/// Status, type, headers; false when there is no stream to read.
	fn judge_head(&self, head: &Head) -> bool {
		let run = self.run;
		if head.status != 200 {
			return false;
		}
		run.pass(checks::LLM_STATUS_200, format!("200 after {} ms", head.after.as_millis()));
		let kind = head.get("content-type").unwrap_or_default();
		let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
		let streaming = [
			"text/event-stream",
			"application/x-ndjson",
			"application/ndjson",
			"application/jsonl",
			"application/json-seq",
			"text/plain",
		];
		let length = head.get("content-length");
		if let Some(length) = length {
			run.fail(checks::LLM_CONTENT_TYPE, format!("content-length: {length}: the answer was collected first"));
		} else if streaming.contains(&essence.as_str()) {
			run.pass(checks::LLM_CONTENT_TYPE, format!("content-type: {kind}"));
		} else {
			return false;
		}
		let no_buffering = head.has("x-accel-buffering", "no");
		let no_transform = head.has("cache-control", "no-transform");
		let proxy = head.get("server").is_some_and(|s| s.to_ascii_lowercase().contains("nginx"));
		let id = checks::LLM_NO_BUFFERING_HEADERS;
		match (no_buffering || proxy, no_transform) {
			(true, true) => run.pass(id, "x-accel-buffering and no-transform"),
			(false, true) => run.fail(id, "no x-accel-buffering: no"),
			(true, false) => run.fail(id, "no cache-control: no-transform"),
			(false, false) => run.fail(id, "neither x-accel-buffering: no nor cache-control: no-transform"),
		}
		true
	}

	fn judge_terminal(&self, log: &crate::wire_log::Log) {
		const ID: &Check = checks::LLM_ONE_TERMINAL;
		let terminals = &self.options.terminals;
		let ends = answer::end_of(log, terminals);
		let complete = Complete { known: matches!(ends, Ends::Right(_)), tail: answer::tail(&log.events, terminals) };
		drop(self.complete.set(complete));
		match ends {
			Ends::Right(what) => self.run.pass(ID, what),
			Ends::Unclear(why) => self.run.unknown(ID, why),
			Ends::Wrong(wrong) => self.run.fail(ID, wrong),
		}
	}

	/// Without the provider's side, only extremes are visible.
	fn arrival(&self, reader: &Reader, texts: &[Event], first_byte: Option<std::time::Instant>) {
		const ID: &Check = checks::LLM_INCREMENTAL;
		const HEAD: &Check = checks::LLM_HEADERS_BEFORE_TOKEN;
		let after = reader.head.after;
		let Some(first) = texts.first() else {
			self.run.unknown(ID, "no text is recognised in the answer");
			return self.run.unknown(HEAD, "no text is recognised in the answer");
		};
		let spread = spread(texts);
		let waited = after + first.at.saturating_duration_since(reader.head_at);
		let length: usize = texts.iter().map(|event| event.data.len()).sum();
		if spread >= Duration::from_millis(50) && texts.len() >= 3 {
			self.run.pass(ID, format!("{} pieces over {} ms", texts.len(), spread.as_millis()));
		} else if waited > Duration::from_secs(1) && length > 200 {
			self.run.fail(
				ID,
				format!(
					"{length} bytes of text in {} pieces, all {} ms after the request",
					texts.len(),
					waited.as_millis()
				),
			);
		} else {
			self.run.unknown(
				ID,
				format!(
					"{} pieces within {} ms, which a fast model does too (--upstream)",
					texts.len(),
					spread.as_millis()
				),
			);
		}
		let between = first_byte.map_or(Duration::ZERO, |at| at.saturating_duration_since(reader.head_at));
		let alone = between >= Duration::from_millis(20) || first_byte.is_some_and(|at| at < first.at);
		if alone {
			self.run.pass(
				HEAD,
				format!(
					"the head came after {} ms, the first token after {} ms",
					after.as_millis(),
					waited.as_millis()
				),
			);
		} else if after > Duration::from_secs(1) {
			self.run.fail(HEAD, format!("the head came after {} ms, together with the first token", after.as_millis()));
		} else {
			self.run.unknown(
				HEAD,
				format!("the first token came with the head, after {} ms (--upstream)", after.as_millis()),
			);
		}
	}

	fn silence(&self, reader: &Reader, texts: &[Event], log: &crate::wire_log::Log) {
		const ID: &Check = checks::LLM_HEARTBEAT_BEFORE_TOKEN;
		let most = self.options.silence();
		let until = texts.first().map_or_else(std::time::Instant::now, |event| event.at);
		let waited = until.saturating_duration_since(reader.head_at);
		let early = |at: &&std::time::Instant| **at < until && **at > reader.head_at + Duration::from_secs(1);
		let marks = log.heartbeats.iter().chain(&log.events).map(|event| &event.at);
		let beats = log.comments.iter().chain(marks).filter(early).count();
		if beats > 0 {
			self.run.pass(ID, format!("{beats} heartbeats before the first token"));
		} else if waited > most.mul_f64(1.1) {
			self.run.fail(ID, format!("no byte for {:.1} s before the first token", waited.as_secs_f64()));
		} else {
			self.run
				.unknown(ID, format!("the first token came after {:.1} s already (--upstream)", waited.as_secs_f64()));
		}
	}

	/// A request that cannot be read.
	async fn bad_request(&self) {
		const ID: &Check = checks::LLM_ERROR_TEXT_CLEAN;
		if !self.run.needs(&[ID]) {
			return;
		}
		let mut request = self.request.clone();
		request.body = Some(b"{\"stream-probe\": [".to_vec());
		let Some(mut response) = request.response(&self.target, self.run.at_most(PATIENCE)).await else {
			self.died("a body that is not JSON").await;
			return self.run.unknown(ID, "a body that is not JSON was not answered");
		};
		let status = response.head.status;
		let body = response.text(self.run.at_most(Duration::from_secs(2))).await;
		judge_error(self.run, ID, status, &body, &["{\"stream-probe\": [", &self.target.path]);
		self.run.pass(ID, format!("a body that is not JSON is answered with {status} and {} bytes", body.len()));
	}

	/// Ends the run if the service has ended.
	async fn died(&self, after: &str) -> bool {
		let refused = |connected: Result<_, Unreachable>| match connected {
			Err(error) if error.is_refused() => Some(error),
			_ => None,
		};
		let connect = || self.target.connect(crate::target::Link::Http1);
		if refused(connect().await).is_none() {
			return false;
		}
		tokio::time::sleep(Duration::from_millis(300)).await;
		let Some(error) = refused(connect().await) else {
			return false;
		};
		self.run.abort(format!("the service has ended: {error}, after {after}; unless you stopped it, that ended it, and nothing after it was probed"));
		true
	}
}
