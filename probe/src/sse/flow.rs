//! How events flow: one by one, under gzip, to two readers; and what the end of a stream means.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::verdicts::{is_terminal, spread};
use super::{PATIENCE, Probe};
use crate::checks::{self, Check};
use crate::report::quote;
use crate::wire_log::Event;
use crate::wire_log::Reader;

/// The checks for which events must flow.
const NEED_EVENTS: &[&Check] = &[
	checks::SSE_HEADERS_BEFORE_FIRST_EVENT,
	checks::SSE_EVENTS_INCREMENTAL,
	checks::SSE_GZIP_INCREMENTAL,
	checks::SSE_UTF8,
	checks::SSE_NO_BOM,
	checks::SSE_LINE_ENDINGS,
	checks::SSE_KNOWN_FIELDS,
	checks::SSE_DATA_IN_EVERY_EVENT,
	checks::SSE_COMPLETE_LAST_EVENT,
	checks::SSE_RESERVED_NAMES,
	checks::SSE_RETRY_SANE,
	checks::SSE_RETRY_JITTER,
	checks::SSE_ENDS_CLEANLY,
	checks::SSE_TERMINAL_EVENT,
	checks::SSE_IDS_PRESENT,
	checks::SSE_IDS_UNIQUE,
	checks::SSE_IDS_ASCII,
	checks::SSE_RESUME_NO_GAP,
	checks::SSE_RESUME_NO_DUPLICATE,
	checks::SSE_CURSOR_PAST,
	checks::SSE_CURSOR_FUTURE,
	checks::SSE_FAN_OUT_ORDER,
	checks::SSE_STALLED_READER_ISOLATED,
	checks::SSE_STALLED_READER_MEMORY,
	checks::SSE_LAG_IS_TOLD,
	checks::SSE_ERRORS_CLEAN,
];

/// What makes two events the same for two readers.
type Key = (String, String, Option<String>);

fn key(event: &Event) -> Key {
	(event.event_type.clone(), event.data.clone(), event.id.clone())
}

/// Events in flight: since when all readers were open, and which types each --publish makes.
struct Flow {
	since: Instant,
	published: HashSet<String>,
}

impl Flow {
	/// The published events that a reader has received.
	fn of(&self, reader: &Reader) -> Vec<Key> {
		reader.with(|log| {
			log.events
				.iter()
				.filter(|event| event.at > self.since && self.published.contains(&event.event_type))
				.map(key)
				.collect()
		})
	}
}

impl Probe<'_> {
	/// Lets events flow to the first reader, to a plain second one and to two that accept compression.
	pub(super) async fn flow(&self) {
		if !self.run.needs(NEED_EVENTS) {
			return;
		}
		let accepting = |codings: &'static str| self.open(move |request| request.header("Accept-Encoding", codings));
		let second = self.open(|request| request).await;
		// As browsers offer it, over http and over https.
		let compressed = [
			("gzip, deflate", accepting("gzip, deflate").await),
			("gzip, deflate, br", accepting("gzip, deflate, br").await),
		];
		let mut flow = Flow { since: Instant::now(), published: HashSet::new() };
		let before = self.first.with(|log| log.events.len());
		if self.publisher.is_some() {
			flow = self.publish_some(second.as_ref().ok()).await;
		} else {
			let wait = self.run.at_most(Duration::from_secs(6));
			self.first.until(wait, |log| log.events.len() >= before + 3).await;
		}
		self.fan_out(second.as_ref(), &flow).await;
		self.compressed(second.as_ref().ok(), &compressed, &flow).await;
	}

	/// Publishes four times and waits for each event to arrive.
	async fn publish_some(&self, second: Option<&Reader>) -> Flow {
		const ID: &Check = checks::SSE_EVENTS_INCREMENTAL;
		// What comes without publishing is no published event.
		let quiet = Instant::now();
		self.first.until(self.run.at_most(Duration::from_millis(500)), |_| false).await;
		let types = |reader: &Reader, from: usize| -> HashSet<String> {
			reader.with(|log| {
				let events = log.events.iter().skip(from);
				events.map(|event| event.event_type.clone()).collect()
			})
		};
		let count = |reader: &Reader| reader.with(|log| log.events.len());
		let unasked: HashSet<String> = self.first.with(|log| {
			let events = log.events.iter().filter(|event| event.at > quiet);
			events.map(|event| event.event_type.clone()).collect()
		});
		let mut flow = Flow { since: Instant::now(), published: HashSet::new() };
		let mut slowest = Duration::ZERO;
		let mut windows = 0;
		for n in 1..=4 {
			let before = (count(&self.first), second.map(count));
			let sent = Instant::now();
			if let Err(why) = self.publisher.once().await {
				self.run.unknown(ID, why);
				break;
			}
			let patience = self.run.at_most(PATIENCE);
			let arrived = self.first.until(patience, |log| log.events.len() > before.0).await;
			if let (Some(second), Some(before)) = (second, before.1) {
				second.until(self.run.at_most(PATIENCE), |log| log.events.len() > before).await;
			}
			if !arrived {
				self.missing(ID, n, patience);
				break;
			}
			slowest = slowest.max(sent.elapsed());
			windows = n;
			let came = types(&self.first, before.0);
			flow.published = match n {
				1 => came.difference(&unasked).cloned().collect(),
				_ => flow.published.intersection(&came).cloned().collect(),
			};
			if n == 4 {
				self.run.pass(
					ID,
					format!(
						"4 published events arrived one by one, the slowest after {} ms (the command included)",
						slowest.as_millis()
					),
				);
			}
		}
		if windows < 2 {
			// One event may have come by chance.
			flow.published.clear();
		}
		flow
	}

	/// A published event that did not arrive.
	fn missing(&self, id: &'static Check, n: usize, patience: Duration) {
		if self.first.ended().is_some() || patience < PATIENCE {
			return;
		}
		let text = format!("published event {n} did not arrive within {} s", PATIENCE.as_secs());
		match self.publisher.doubt() {
			// Nothing shows that the command has done anything.
			Some(doubt) if n == 1 => {
				self.run.unknown(id, format!("{text}, which --publish may not have sent: {doubt}"))
			}
			_ => self.run.fail(id, text),
		}
	}

	/// Two readers, the same events in the same order. An event that only one connection is meant to receive is not
	/// judged: its type does not come with every --publish, or the other reader has some of its own.
	async fn fan_out(&self, second: Result<&Reader, &String>, flow: &Flow) {
		const ID: &Check = checks::SSE_FAN_OUT_ORDER;
		if !self.publisher.is_some() {
			return self.run.unknown(ID, "needs --publish");
		}
		let second = match second {
			Ok(second) => second,
			Err(why) => return self.run.unknown(ID, why.as_str()),
		};
		let first = flow.of(&self.first);
		if first.is_empty() {
			return self.run.unknown(ID, "no type of event came with every --publish and only then");
		}
		second
			.until(self.run.at_most(PATIENCE), |log| {
				let came = log.events.iter().filter(|event| event.at > flow.since);
				came.count() >= first.len()
			})
			.await;
		let (first, other) = (flow.of(&self.first), flow.of(second));
		let (sent, received): (HashSet<&Key>, HashSet<&Key>) = (first.iter().collect(), other.iter().collect());
		let own = other.iter().any(|event| !sent.contains(event));
		let missing: Vec<&Key> = first.iter().filter(|event| !received.contains(event)).collect();
		let same: Vec<&Key> = first.iter().filter(|event| received.contains(event)).collect();
		if own {
			self.run
				.unknown(ID, "each reader receives events of its own of the published type (other ids or other data)");
		} else if let Some((name, data, _)) = missing.first() {
			self.run.fail(
				ID,
				format!(
					"{} of {} published events did not reach the second reader, the first: {name} {}",
					missing.len(),
					first.len(),
					quote(data.as_bytes())
				),
			);
		} else if same.into_iter().ne(&other) {
			self.run.fail(ID, "two readers received the same events in another order");
		} else {
			self.run.pass(ID, format!("{} events reached both readers in one order", first.len()));
		}
	}

	/// The stream as browsers request it.
	async fn compressed(&self, plain: Option<&Reader>, readers: &[(&str, Result<Reader, String>)], flow: &Flow) {
		const ID: &Check = checks::SSE_GZIP_INCREMENTAL;
		let mut passed = Vec::new();
		for (accepted, reader) in readers {
			let reader = match reader {
				Ok(reader) => reader,
				// As far as the limit of streams allows.
				Err(why) if passed.is_empty() => return self.run.unknown(ID, why.as_str()),
				Err(why) => {
					passed.push(format!("{accepted} not tried: {why}"));
					continue;
				}
			};
			let coding = reader.head.get("content-encoding");
			let coding = coding.as_deref().unwrap_or("none");
			if !accepted.split(", ").chain(["none", "identity"]).any(|c| c == coding) {
				let text = format!("content-encoding: {coding} for a client that accepts only {accepted}");
				return self.run.fail(ID, text);
			}
			match self.held(plain, reader, flow).await {
				Ok(text) => passed.push(format!("content-encoding {coding}: {text}")),
				Err(Held::Wrong(text)) => {
					return self.run.fail(ID, format!("content-encoding {coding}: {text}"));
				}
				Err(Held::Unclear(why)) => return self.run.unknown(ID, why),
			}
		}
		passed.dedup();
		self.run.pass(ID, passed.join("; "));
	}

	/// Whether a reader that accepts compression received what a plain one did, when it did.
	async fn held(&self, plain: Option<&Reader>, reader: &Reader, flow: &Flow) -> Result<String, Held> {
		let Some(plain) = plain else {
			return Err(Held::Unclear("one more stream was not answered".to_owned()));
		};
		// A stream that is over soon: both readers see all of it.
		if self.first.ended().is_some() {
			for reader in [reader, plain] {
				reader.until(self.run.at_most(PATIENCE), |log| log.end.is_some()).await;
			}
		}
		let whole = |reader: &Reader| reader.with(|log| log.end.is_some() && log.events.len() >= 2);
		if whole(reader) && whole(plain) {
			let (count, burst) = reader.with(|log| (log.events.len(), spread(&log.events)));
			let steps = plain.with(|log| spread(&log.events));
			if burst < Duration::from_millis(50) && steps > Duration::from_millis(500) {
				return Err(Held::Wrong(format!(
					"all {count} events at the end, plain ones over {} ms",
					steps.as_millis()
				)));
			}
			return Ok(format!("{count} events as they were sent"));
		}
		let patience = self.run.at_most(Duration::from_secs(3));
		let due = flow.of(plain);
		if !due.is_empty() {
			let since = flow.since;
			let all = |log: &crate::wire_log::Log| {
				let came = log.events.iter().filter(|event| event.at > since);
				came.filter(|event| flow.published.contains(&event.event_type)).count() >= due.len()
			};
			reader.until(patience, all).await;
			let came = flow.of(reader).len();
			if came < due.len() && patience == Duration::from_secs(3) {
				return Err(Held::Wrong(format!(
					"{came} of {} published events, while a plain reader received them all",
					due.len()
				)));
			}
			return Ok(format!("{came} published events as they were sent"));
		}
		let since = flow.since;
		let count = |log: &crate::wire_log::Log| log.events.iter().filter(|event| event.at > since).count();
		let due = plain.with(count);
		if due < 2 {
			return Err(Held::Unclear(format!("too few events to compare: a plain reader received {due} (--publish)")));
		}
		// Each reader may have a clock of its own: one event less is no difference.
		reader.until(patience, |log| count(log) + 1 >= due).await;
		match reader.with(count) {
			came if came + 1 < due && reader.ended().is_none() => {
				Err(Held::Wrong(format!("{came} events, while a plain reader received {due}")))
			}
			came if came + 1 < due => {
				Err(Held::Unclear("the stream requested with compression ended before".to_owned()))
			}
			came => Ok(format!("{came} events as they were sent")),
		}
	}

	/// A stream that ended on its own: an EventSource then requests it again.
	pub(super) async fn ended(&self) {
		const ID: &Check = checks::SSE_TERMINAL_EVENT;
		if !self.run.wants(ID) {
			return;
		}
		let Some(end) = self.first.ended() else {
			return self.run.unknown(ID, "the stream did not end within the budget");
		};
		let reconnects = match (self.request.method.as_str(), self.options.client) {
			("GET", crate::Client::Fetch) => Some("a reader over fetch does not reconnect automatically"),
			("GET", _) => None,
			_ => Some("an EventSource cannot send this method, so nothing reconnects automatically"),
		};
		if end.is_cut() {
			return self.run.unknown(ID, "the stream was cut");
		}
		if self.first.with(|log| log.unfinished().is_some()) {
			return self.run.unknown(ID, "the last event is not complete");
		}
		let events = self.first.with(|log| log.events.clone());
		let Some(last) = events.last() else {
			return self.run.unknown(ID, "the stream ended without an event");
		};
		let same_type = events.iter().rev().skip(1).any(|e| e.event_type == last.event_type);
		if is_terminal(last) || (events.len() > 2 && !same_type) {
			return self.run.pass(ID, format!("the last event is {} {}", last.event_type, quote(last.data.as_bytes())));
		}
		if let Some(why) = reconnects {
			return self.run.unknown(ID, format!("no terminal event is recognized, and {why}"));
		}
		let cursor = events.iter().rev().find_map(|e| e.id.clone());
		let request = match cursor.as_deref() {
			Some(id) if !id.is_empty() => self.request.clone().header("Last-Event-ID", id),
			_ => self.request.clone(),
		};
		let Some(response) = request.response(&self.target, self.run.at_most(PATIENCE)).await else {
			return self.run.unknown(ID, "reconnecting was not answered");
		};
		let status = response.head.status;
		if status != 200 {
			return self.run.pass(ID, format!("reconnecting is answered with {status}, which stops an EventSource"));
		}
		let again = Reader::start(response);
		let most = events.len().min(3);
		again.until(self.run.at_most(PATIENCE), |log| log.events.len() >= most).await;
		let key = |e: &Event| (e.event_type.clone(), e.data.clone());
		let repeated: Vec<_> = again.with(|log| log.events.iter().take(most).map(key).collect());
		let began: Vec<_> = events.iter().take(most).map(key).collect();
		if repeated == began {
			self.run.fail(
				ID,
				format!(
					"the stream ended after {} events without a terminal one, and reconnecting sends them all again",
					events.len()
				),
			);
		} else {
			self.run.unknown(ID, "no terminal event is recognized, and reconnecting does not repeat the stream");
		}
	}
}

/// Why a reader that accepts compression did not receive what a plain one did.
enum Held {
	Wrong(String),
	Unclear(String),
}
