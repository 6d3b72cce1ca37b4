//! A reader that does not read, readers that come and go, and more readers than there are places.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::resume::announces;
use super::{PATIENCE, Probe};
use crate::checks::{self, Check};
use crate::http1::{Exchange, Opened, Part, is_event_stream};
use crate::patience::within;
use crate::process;
use crate::report::quote;
use crate::target::Link;
use crate::wire_log::Reader;

/// More than the kernel and the libraries between hold back for one connection.
const ENOUGH: usize = 16 << 20;
/// How long the reader next to a stalled one waits for an event, before the stalled one is suspected: a busy machine is slow.
const SILENT: Duration = Duration::from_secs(8);
const LAG: &Check = checks::SSE_LAG_IS_TOLD;
const LIMIT: &Check = checks::SSE_LIMIT_COUNTS_STREAMS;

impl Probe<'_> {
	pub(super) async fn stalled_reader(&self) {
		const ISOLATED: &Check = checks::SSE_STALLED_READER_ISOLATED;
		const MEMORY: &Check = checks::SSE_STALLED_READER_MEMORY;
		if !self.run.needs(&[ISOLATED, MEMORY, LAG]) {
			return;
		}
		let unknown = |why: &str| {
			self.run.unknown(ISOLATED, why);
			self.run.unknown(MEMORY, why);
			self.run.unknown(LAG, why);
		};
		if self.first.ended().is_some() {
			return unknown("the stream ended");
		}
		if self.first.with(|log| log.events.is_empty()) {
			return unknown("no event came within the budget");
		}
		let mut request = self.request.clone();
		request.link = Link::Stalled;
		let Ok(stalled) = request.send(&self.target).await else {
			return unknown("one more connection was not possible");
		};
		let memory_before = self.options.pid.and_then(process::resident_kib);
		let (start, events) = self.first.with(|log| (log.bytes, log.events.len()));
		let began = Instant::now();
		let passed = || self.first.with(|log| log.bytes) - start;
		// Four seconds, and as long as it takes where each event is large: speed is no matter here.
		let mut silent_since = None;
		let sent = || self.first.with(|log| log.events.len()) - events;
		let large = || self.publisher.is_some() && passed() / sent().max(1) > 64 * 1024;
		let time = || match large() {
			true => Duration::from_secs(60),
			false => Duration::from_secs(4),
		};
		while passed() < ENOUGH && began.elapsed() < self.run.at_most(time()) {
			// Events, not bytes: heartbeats continue while nothing else does.
			let before = self.first.with(|log| log.events.len());
			if self.publisher.is_some() {
				drop(self.publisher.within(self.run.at_most(PATIENCE)).await);
			}
			let patience = self.run.at_most(SILENT);
			let arrived = |log: &crate::wire_log::Log| log.events.len() > before;
			if self.publisher.hung() || !self.first.until(patience, arrived).await {
				silent_since = Some(before);
				break;
			}
		}
		if silent_since.is_some() && self.run.left() > Duration::from_secs(1) {
			// Did the stalled reader hold it up? Without it the others must go on.
			let hung = self.publisher.hung();
			let before = self.first.with(|log| log.events.len());
			drop(stalled);
			if self.publisher.is_some() {
				drop(self.publisher.within(self.run.at_most(PATIENCE)).await);
			}
			let went_on = self.first.until(self.run.at_most(PATIENCE), |log| log.events.len() > before).await;
			if went_on && hung && !self.publisher.hung() {
				self.run.fail(
					ISOLATED,
					format!(
						"after {} KiB --publish hung for {} s, and returned at once when the stalled reader had left",
						passed() / 1024,
						PATIENCE.as_secs()
					),
				);
			} else if went_on && passed() > 64 * 1024 {
				self.run.fail(
					ISOLATED,
					format!(
						"after {} KiB the other reader received nothing for {} s, and went on when the stalled one left",
						passed() / 1024,
						SILENT.as_secs()
					),
				);
			}
			return unknown(if hung { "--publish hung" } else { "the stream fell silent" });
		}
		let after = self.options.pid.and_then(process::resident_kib);
		let kib = passed() / 1024;
		if passed() < ENOUGH {
			return unknown(&format!(
				"only {kib} KiB were sent next to the stalled reader, which its buffers may hold (16 MiB are enough, within 4 s: let each --publish send many events; where one has more than 64 KiB, within 60 s)"
			));
		}
		self.run.pass(ISOLATED, format!("the other reader received {kib} KiB in {} ms", began.elapsed().as_millis()));
		let grown = memory_before.zip(after).map(|(before, after)| after.saturating_sub(before));
		let due = self.lag(stalled, events).await;
		self.memory(grown, kib as u64, due).await;
	}

	/// Memory that grew is a queue only if the stalled reader is then sent what it is owed, and if the same volume
	/// without such a reader takes less: garbage, and a log that keeps all events, are resident too. Twice the volume,
	/// since what is kept of it may first fill the room of garbage. All in KiB.
	async fn memory(&self, grown: Option<u64>, kib: u64, due: u64) {
		const MEMORY: &Check = checks::SSE_STALLED_READER_MEMORY;
		if !self.run.needs(&[MEMORY]) {
			return;
		}
		let Some(grown) = grown else {
			return self.run.unknown(MEMORY, "needs --pid");
		};
		let text = format!("resident memory grew by {grown} KiB while {kib} KiB were sent");
		// Half of what was sent is far more than any fixed buffer in this volume.
		if grown <= kib / 2 {
			return self.run.pass(MEMORY, text);
		}
		if due <= kib / 2 {
			return self
				.run
				.pass(MEMORY, format!("{text}, but no more than {due} KiB lay ready for the stalled reader"));
		}
		let before = self.options.pid.and_then(process::resident_kib);
		let start = self.first.with(|log| log.bytes);
		let sent = || (self.first.with(|log| log.bytes) - start) as u64 / 1024;
		while sent() < 2 * kib && self.publisher.is_some() && !self.run.left().is_zero() {
			let seen = self.first.with(|log| log.events.len());
			let arrived = |log: &crate::wire_log::Log| log.events.len() > seen;
			let published = self.publisher.once().await;
			let patience = self.run.at_most(SILENT);
			if published.is_err() || !self.first.until(patience, arrived).await {
				break;
			}
		}
		let again = before
			.zip(self.options.pid.and_then(process::resident_kib))
			.map_or(0, |(before, after)| after.saturating_sub(before));
		if sent() >= 2 * kib && again > kib {
			self.run.unknown(
				MEMORY,
				format!(
					"{text}, and by {again} KiB for twice as much without a stalled reader: the service keeps its events"
				),
			);
		} else {
			self.run.fail(MEMORY, format!("{text}, and {due} KiB lay ready for the stalled reader"));
		}
	}

	/// The stalled reader reads again: what is missing must have been announced. The first reader's events
	/// from index `since` on were sent meanwhile.
	///
	/// Returns how many KiB lay ready for it.
	async fn lag(&self, mut stalled: Exchange, since: usize) -> u64 {
		let patience = self.run.at_most(PATIENCE);
		let head = match within(patience, stalled.head()).await {
			Ok(Ok(Some(head))) if head.status == 200 && is_event_stream(&head) => head,
			Ok(Ok(Some(head))) => {
				let why = format!("the reader was answered with {}", head.status);
				self.run.unknown(LAG, why);
				return 0;
			}
			_ => {
				self.run.pass(LAG, "the reader was cut off: it returns with its cursor");
				return 0;
			}
		};
		let reader = Reader::start(stalled.into_response(head));
		let last = self.first.with(|log| log.events.iter().rev().find_map(|event| event.id.clone()));
		// Only the events that are new: there may be hundreds of thousands.
		let mut looked = 0;
		let mut found = false;
		let mut reached = |log: &crate::wire_log::Log| {
			found = found || (last.is_some() && log.events[looked..].iter().any(|event| event.id == last));
			looked = log.events.len();
			found
		};
		let most = Instant::now() + self.run.at_most(PATIENCE * 12);
		// Without ids, until nothing more comes: how fast, is no matter.
		let mut caught_up = false;
		let mut seen = 0;
		while !caught_up && Instant::now() < most {
			let quiet = self.run.at_most(Duration::from_secs(3));
			let more = |log: &crate::wire_log::Log| log.bytes > seen || reached(log);
			let moved = reader.until(quiet, more).await;
			caught_up = reader.with(&mut reached);
			seen = reader.with(|log| log.bytes);
			if !moved {
				break;
			}
		}
		self.judge_lag(&reader, since, caught_up);
		reader.with(|log| log.bytes as u64 / 1024)
	}

	fn judge_lag(&self, reader: &Reader, since: usize, caught_up: bool) {
		let sent: Vec<String> = self.first.with(|log| {
			let ids = log.events[since..].iter().filter_map(|e| e.id.clone());
			ids.filter(|id| !id.is_empty()).collect()
		});
		if sent.is_empty() {
			return self.run.unknown(LAG, "events have no ids, so missing ones cannot be seen");
		}
		let types = self.first.with(|log| log.events.iter().map(|e| e.event_type.clone()).collect());
		let seen = reader.with(|log| log.events.clone());
		if let Some(event) = seen.iter().find(|event| announces(event, &types)) {
			let text = format!("the reader was notified with an event {}", event.event_type);
			return self.run.pass(LAG, text);
		}
		let seen: Vec<&str> = seen.iter().filter_map(|e| e.id.as_deref()).collect();
		let known: HashSet<&str> = seen.iter().copied().collect();
		let due = sent.iter().skip_while(|id| seen.first() != Some(&id.as_str()));
		let missing: Vec<&String> = due.filter(|id| !known.contains(id.as_str())).collect();
		match missing.first() {
			// Behind is not the same as left out.
			_ if reader.ended().is_some() => {
				self.run.pass(LAG, format!("the reader was cut off after {} events", seen.len()))
			}
			_ if !caught_up => self.run.unknown(LAG, "the reader is still behind"),
			Some(first) => self.run.fail(
				LAG,
				format!(
					"a reader that had fallen behind misses {} of {} events, the first {}, and nothing announces it",
					missing.len(),
					sent.len(),
					quote(first.as_bytes())
				),
			),
			None => self.run.pass(LAG, format!("a reader that had fallen behind was sent all {} events", seen.len())),
		}
	}

	/// Connects and disconnects, ten at a time.
	pub(super) async fn churn(&self) {
		const SURVIVED: &Check = checks::SSE_RECONNECTS_SURVIVED;
		const NOTICED: &Check = checks::SSE_DISCONNECT_NOTICED;
		const JITTER: &Check = checks::SSE_RETRY_JITTER;
		if !self.run.needs(&[SURVIVED, NOTICED, JITTER]) {
			return;
		}
		if self.options.connects == 0 || self.request.method != "GET" {
			for id in [SURVIVED, NOTICED, JITTER] {
				self.run.unknown(id, "no churn: --connects 0, or a method other than GET");
			}
			return;
		}
		let sends_retry = self.first.with(|log| !log.retries.is_empty());
		let before = self.options.pid.and_then(process::open_files);
		let mut statuses: Vec<u16> = Vec::new();
		let mut retries = Vec::new();
		let mut silent = 0;
		let mut left = self.options.connects;
		while left > 0 && !self.run.left().is_zero() {
			let batch = left.min(10);
			left -= batch;
			let mut connections = tokio::task::JoinSet::new();
			for _ in 0..batch {
				let (request, target) = (self.request.clone(), self.target.clone());
				let patience = self.run.at_most(PATIENCE);
				connections.spawn(async move {
					let response = request.response(&target, patience).await;
					let mut response = response?;
					let retry = if sends_retry { first_retry(&mut response).await } else { None };
					Some((response.head.status, retry))
				});
			}
			while let Some(joined) = connections.join_next().await {
				match joined {
					Ok(Some((status, retry))) => {
						statuses.push(status);
						retries.extend(retry);
					}
					_ => silent += 1,
				}
			}
		}
		if left > 0 {
			return;
		}
		self.jitter(sends_retry, &retries);
		let again = if self.holds_head.load(Ordering::Relaxed) {
			self.ask(&self.request, self.run.at_most(PATIENCE)).await
		} else {
			let patience = self.run.at_most(PATIENCE);
			self.request.open(&self.target, patience).await
		};
		let refused = statuses.iter().filter(|status| **status != 200).count();
		let text = format!(
			"{} connects and disconnects ({refused} refused, {silent} without an answer)",
			statuses.len() + silent
		);
		match again {
			Ok(Opened::Response(response)) if response.head.status < 500 || response.head.status == 503 => {
				self.run.pass(SURVIVED, format!("{text}, then {}", response.head.status));
			}
			Ok(Opened::Response(response)) => self.run.fail(SURVIVED, format!("{text}, then {}", response.head.status)),
			Ok(Opened::Silent) if self.run.left().is_zero() => {}
			Err(error) => {
				self.run.fail(SURVIVED, format!("{text}, then {error}"));
				self.died(&error).await;
			}
			_ => self.run.fail(SURVIVED, format!("{text}, then no answer")),
		}
		let (Some(pid), Some(before)) = (self.options.pid, before) else {
			return self.run.unknown(NOTICED, "needs --pid");
		};
		let heartbeat = self.options.silence() + PATIENCE;
		noticed(self.run, NOTICED, pid, before, heartbeat).await;
	}

	fn jitter(&self, sends_retry: bool, retries: &[String]) {
		const ID: &Check = checks::SSE_RETRY_JITTER;
		let mut different = retries.to_vec();
		different.sort();
		different.dedup();
		match (sends_retry, retries.len(), different.len()) {
			(false, _, _) => {
				self.run.unknown(ID, "no retry field at the beginning: every client reconnects after its own default")
			}
			(true, n, _) if n < 5 => self.run.unknown(ID, format!("only {n} connections sent retry")),
			(true, n, 1) => {
				self.run.fail(ID, format!("{n} connections were all sent retry: {}", quote(different[0].as_bytes())))
			}
			(true, n, m) => self.run.pass(ID, format!("{m} different values on {n} connections")),
		}
	}
}

/// The `retry` value in the first bytes of a stream.
async fn first_retry(response: &mut crate::http1::Response) -> Option<String> {
	let mut log = crate::wire_log::Log::new(crate::wire_log::Form::Events);
	let read = async {
		while let Part::Data(data) = response.next().await {
			log.push(&data, Instant::now());
			if let Some(retry) = log.retries.first() {
				return Some(retry.clone());
			}
		}
		None
	};
	within(Duration::from_secs(1), read).await.ok().flatten()
}

/// Waits until the process has closed the descriptors of connections that are gone.
pub(crate) async fn noticed(run: &crate::Run, id: &'static Check, pid: u32, before: usize, patience: Duration) {
	let began = Instant::now();
	// A few of the service's own may come and go.
	let allowed = before + 5;
	loop {
		let Some(now) = process::open_files(pid) else {
			return run.unknown(id, format!("the descriptors of {pid} cannot be read"));
		};
		if now <= allowed {
			return run.pass(
				id,
				format!(
					"{before} descriptors before, {now} {} ms after the last disconnect",
					began.elapsed().as_millis()
				),
			);
		}
		if began.elapsed() >= patience {
			return run.fail(
				id,
				format!(
					"{before} descriptors before, {now} still open {:.1} s after the last disconnect",
					began.elapsed().as_secs_f64()
				),
			);
		}
		if run.left().is_zero() {
			return run.unknown(id, format!("{before} descriptors before, {now} at the end of the budget"));
		}
		tokio::time::sleep(run.at_most(Duration::from_millis(50)).max(Duration::from_millis(5))).await;
	}
}

/// How one more stream was answered.
enum Answer {
	Stream(Reader),
	Refused(u16),
	None,
}

impl Probe<'_> {
	pub(super) async fn limit(&self) {
		if !self.run.needs(&[LIMIT]) {
			return;
		}
		let Some(limit) = self.options.limit else {
			return self.run.unknown(LIMIT, "needs --limit");
		};
		if self.request.method != "GET" {
			return self.run.unknown(LIMIT, "asking again with this method would run the request again");
		}
		let mut open = Vec::new();
		// The first reader counts, while it is there; the permits of readers that left are returned in their time.
		let first = usize::from(self.first.ended().is_none());
		while open.len() + first < limit {
			match self.place(Duration::from_secs(2)).await {
				Answer::Stream(reader) => open.push(reader),
				Answer::Refused(status) => {
					let n = open.len() + first + 1;
					return self.run.unknown(
						LIMIT,
						format!(
							"stream {n} of {limit} was answered with {status}: others hold places, or a reader that left still has one"
						),
					);
				}
				Answer::None => {
					return self.run.unknown(LIMIT, "one more stream was not answered");
				}
			}
		}
		match self.once_more().await {
			Answer::Refused(status @ (429 | 503)) => {
				if open.pop().is_none() {
					// The only place is the first reader's, which stays to the end of the run.
					return self.run.pass(LIMIT, format!("stream {} was answered with {status}", limit + 1));
				}
				let left = Instant::now();
				// A service may notice with its next heartbeat only.
				match self.place(self.options.silence() + PATIENCE).await {
					Answer::Stream(_) => self.run.pass(
						LIMIT,
						format!(
							"stream {} was answered with {status}; {} ms after a disconnect its place was free",
							limit + 1,
							left.elapsed().as_millis()
						),
					),
					_ if self.run.left().is_zero() => self
						.run
						.unknown(LIMIT, "refused beyond the limit; the budget ended before a place was free again"),
					Answer::Refused(status) => self.run.fail(
						LIMIT,
						format!(
							"{status} still, {:.1} s after one of {limit} streams was left",
							left.elapsed().as_secs_f64()
						),
					),
					Answer::None => self.run.unknown(LIMIT, "one more stream was not answered"),
				}
			}
			Answer::Refused(status) => self.run.fail(
				LIMIT,
				format!(
					"stream {} was answered with {status}, neither 429 nor 503, while {limit} were answered with 200",
					limit + 1
				),
			),
			Answer::None => self.run.unknown(LIMIT, "one more stream was not answered"),
			Answer::Stream(extra) => {
				// A service may close an older stream in its place.
				let others = || open.iter().chain([&extra]);
				let ended =
					|| others().any(|reader| reader.ended().is_some()) || (first == 1 && self.first.ended().is_some());
				let wait = self.run.at_most(Duration::from_secs(1));
				let deadline = Instant::now() + wait;
				while !ended() && Instant::now() < deadline {
					tokio::time::sleep(Duration::from_millis(20)).await;
				}
				if ended() {
					self.run.unknown(LIMIT, "one of the streams ended meanwhile");
				} else if wait < Duration::from_secs(1) {
					self.run.unknown(LIMIT, "the budget ended");
				} else {
					self.run.fail(LIMIT, format!("{} streams are open at the same time", limit + 1));
				}
			}
		}
	}

	/// Asks for a stream until there is a place, for `patience` at most.
	async fn place(&self, patience: Duration) -> Answer {
		let deadline = Instant::now() + self.run.at_most(patience);
		loop {
			let answer = self.once_more().await;
			if !matches!(answer, Answer::Refused(429 | 503)) || Instant::now() >= deadline {
				return answer;
			}
			tokio::time::sleep(Duration::from_millis(100)).await;
		}
	}

	async fn once_more(&self) -> Answer {
		let patience = self.run.at_most(PATIENCE);
		match self.ask(&self.request, patience).await {
			Ok(Opened::Response(response)) if response.head.status != 200 => Answer::Refused(response.head.status),
			Ok(Opened::Response(response)) => Answer::Stream(Reader::start(*response)),
			_ => Answer::None,
		}
	}
}
