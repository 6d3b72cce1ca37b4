//! What the bytes of the first reader show, judged at the end of the run.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Probe;
use crate::checks::{self, Check};
use crate::http1::End;
use crate::report::quote;
use crate::wire_log::{Event, Log};

/// Names by which services announce that a stream is over.
const TERMINAL: &[&str] = &[
	"done",
	"end",
	"ended",
	"eof",
	"complete",
	"completed",
	"finish",
	"finished",
	"close",
	"closed",
	"stop",
	"stopped",
	"success",
	"failed",
	"bye",
	"goodbye",
	"shutdown",
	"reconnect",
	"message_stop",
	"stream_end",
	"stream-end",
	"stream_error",
	"stream-error",
	"error",
];

/// Whether an event says, by the names in use, that nothing follows.
pub(crate) fn is_terminal(event: &Event) -> bool {
	let known = |name: &str| {
		let name = name.to_ascii_lowercase();
		let last = name.rsplit('.').next().unwrap_or_default();
		TERMINAL.contains(&name.as_str()) || TERMINAL.contains(&last)
	};
	if known(&event.event_type) || event.data.trim() == "[DONE]" {
		return true;
	}
	let Ok(Value::Object(data)) = serde_json::from_str::<Value>(&event.data) else {
		return known(event.data.trim());
	};
	let text = |key: &str| data.get(key).and_then(Value::as_str).is_some_and(known);
	let flag = |key: &str| data.get(key) == Some(&Value::Bool(true));
	["type", "event", "status", "state"].into_iter().any(text)
		|| ["done", "finished", "complete", "final"].into_iter().any(flag)
}

/// A heartbeat, if one was seen: what it is, and whether JavaScript sees it.
///
/// It comes alone: a comment before each event is none. And it comes again, or ends a silence of half of `most`.
pub(crate) fn heartbeat(log: &Log, opened: Instant, most: Duration) -> Option<(String, bool)> {
	const ALONE: Duration = Duration::from_millis(100);
	let soon = opened + Duration::from_secs(1);
	// In the order in which they came; this is asked for each heartbeat of a stream that may have very many events.
	let alone = |at: Instant| {
		let after = log.events.partition_point(|event| event.at < at);
		log.events.get(after).is_none_or(|event| event.at - at >= ALONE)
	};
	let events = log.heartbeats.iter().map(|event| event.at);
	let comments = log.comments.iter().copied();
	let signs = |times: &mut dyn Iterator<Item = Instant>| -> Vec<Instant> {
		let mut signs: Vec<Instant> = times.filter(|at| *at > soon && alone(*at)).collect();
		signs.dedup_by(|b, a| *b - *a < ALONE);
		signs
	};
	let found = |what: &str, signs: &[Instant], visible: bool| {
		let first = *signs.first()?;
		let before = log.events.iter().map(|event| event.at).rfind(|at| *at < first).unwrap_or(opened);
		if let Some(second) = signs.get(1) {
			let apart = (*second - first).as_secs_f64();
			return Some((format!("{what}, and another {apart:.1} s later"), visible));
		}
		let silence = first.saturating_duration_since(before);
		(silence > most / 2).then(|| {
			let text = format!("{what} after {:.1} s of silence", silence.as_secs_f64());
			(text, visible)
		})
	};
	let name = log.heartbeats.first().map(|event| &event.event_type);
	let event = format!("a {:?} event", name.map_or("", |name| name));
	found(&event, &signs(&mut events.into_iter()), true).or_else(|| {
		let comment = "a comment (or an event without data)";
		found(comment, &signs(&mut comments.into_iter()), false)
	})
}

/// Whether events came at different times: the first and the last moment.
pub(crate) fn spread(events: &[Event]) -> Duration {
	match (events.first(), events.last()) {
		(Some(first), Some(last)) => last.at - first.at,
		_ => Duration::ZERO,
	}
}

impl Probe<'_> {
	/// Everything that the log of the first reader decides.
	pub(super) fn wire(&self) {
		let run = self.run;
		self.first.with(|log| {
			let seen = format!("{} bytes, {} events", log.bytes, log.events.len());
			if log.bytes == 0 {
				let ids = [
					checks::SSE_UTF8,
					checks::SSE_NO_BOM,
					checks::SSE_LINE_ENDINGS,
					checks::SSE_KNOWN_FIELDS,
					checks::SSE_DATA_IN_EVERY_EVENT,
					checks::SSE_RESERVED_NAMES,
					checks::SSE_COMPLETE_LAST_EVENT,
				];
				for id in ids {
					run.unknown(id, "the stream sent nothing within the budget");
				}
			}
			let verdict = |id, wrong: Option<String>| match wrong {
				Some(wrong) => run.fail(id, wrong),
				None => run.pass(id, seen.as_str()),
			};
			verdict(checks::SSE_UTF8, log.bad_utf8.clone());
			verdict(checks::SSE_NO_BOM, log.bom.then(|| "the stream begins with EF BB BF".to_owned()));
			let crs = log.lone_crs();
			verdict(checks::SSE_LINE_ENDINGS, (crs > 0).then(|| format!("{crs} lines end with a lone CR")));
			let unknown = log.unknown_lines.first();
			let too_long = log.too_long.clone();
			verdict(
				checks::SSE_KNOWN_FIELDS,
				unknown
					.map(|line| format!("{} lines that no client reads, the first: {line}", log.unknown_lines.len()))
					.or(too_long),
			);
			verdict(
				checks::SSE_DATA_IN_EVERY_EVENT,
				log.dataless.first().map(|name| format!("event: {} without data never fires", quote(name.as_bytes()))),
			);
			let reserved = log.events.iter().find(|e| e.event_type == "error" || e.event_type == "open");
			match (reserved, self.options.client) {
				(Some(event), crate::Client::Fetch) => run.pass(
					checks::SSE_RESERVED_NAMES,
					format!("event: {}, which only an EventSource mistakes", event.event_type),
				),
				(reserved, _) => verdict(
					checks::SSE_RESERVED_NAMES,
					reserved
						.map(|e| format!("event: {} also fires the native listeners of an EventSource", e.event_type)),
				),
			}
			match log.end {
				None => run.pass(checks::SSE_COMPLETE_LAST_EVENT, format!("{seen}; the stream is open")),
				Some(_) => verdict(
					checks::SSE_COMPLETE_LAST_EVENT,
					log.unfinished().map(|rest| format!("ends inside an event: {rest}")),
				),
			}
			self.leaks(log);
			self.cut(log);
			self.retry(log);
			self.ids(log);
			self.head_timing(log);
			self.arrival(log);
		});
	}

	/// What the stream itself tells of a failure, in whatever shape.
	fn leaks(&self, log: &Log) {
		let names_failure = |event: &&Event| {
			let name = event.event_type.to_ascii_lowercase();
			name.contains("err") || name.contains("fail")
		};
		let failures = log.events.iter().filter(names_failure);
		let texts = failures.map(|event| event.data.as_str());
		for text in texts.chain(log.unknown_lines.iter().map(String::as_str)) {
			if let Some(sign) = crate::leak::find(text, &[&self.target.path]) {
				let shown = quote(sign.as_bytes());
				return self.run.fail(checks::SSE_ERRORS_CLEAN, format!("the stream says: {shown}"));
			}
		}
		match self.error_answers.get() {
			Some(Ok(answers)) => self.run.pass(checks::SSE_ERRORS_CLEAN, answers.as_str()),
			Some(Err(why)) => self.run.unknown(checks::SSE_ERRORS_CLEAN, why.as_str()),
			None => {}
		}
	}

	pub(super) fn cut(&self, log: &Log) {
		const ID: &Check = checks::SSE_ENDS_CLEANLY;
		match log.end {
			Some((at, end)) if end.is_cut() => {
				let after = (at - self.first.head_at).as_millis();
				self.run.fail(ID, format!("cut after {after} ms: {}", end.text()));
			}
			Some((_, End::Close)) if self.first.head.http11 => {
				self.run.unknown(ID, "the body has no length and no chunks: a cut looks like an end");
			}
			Some((_, end)) => self.run.pass(ID, format!("ended with {}", end.text())),
			None => {
				let open = self.first.head_at.elapsed().as_secs();
				let later = match (self.options.long.is_zero(), open < 60) {
					(true, true) => "; a cut at 30 or 60 s was not waited for (--long)",
					_ => "",
				};
				self.run.pass(ID, format!("open for {open} s{later}"));
			}
		}
	}

	fn retry(&self, log: &Log) {
		const ID: &Check = checks::SSE_RETRY_SANE;
		let wrong = log.retries.iter().find_map(|value| {
			if value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()) {
				return Some(format!("retry: {value} is not all digits, and ignored"));
			}
			match value.parse::<u64>() {
				Ok(ms) if ms < 100 => {
					Some(format!("retry: {ms} lets one client reconnect more than 10 times a second"))
				}
				Ok(ms) if ms <= 3_600_000 => None,
				_ => Some(format!("retry: {value} is more than an hour")),
			}
		});
		match (wrong, log.retries.first()) {
			(Some(wrong), _) => self.run.fail(ID, wrong),
			(None, Some(value)) => self.run.pass(ID, format!("retry: {value}")),
			(None, None) => self.run.pass(ID, "no retry field: clients use their own default"),
		}
	}

	fn ids(&self, log: &Log) {
		let with_id: Vec<(&str, &Event)> = log.events.iter().filter_map(|e| Some((e.id.as_deref()?, e))).collect();
		if log.events.is_empty() {
			for id in [checks::SSE_IDS_PRESENT, checks::SSE_IDS_UNIQUE, checks::SSE_IDS_ASCII] {
				self.run.unknown(id, "no event came within the budget");
			}
			return;
		}
		if with_id.is_empty() {
			if self.options.resumable {
				self.run.fail(
					checks::SSE_IDS_PRESENT,
					format!("none of {} events has an id, so no client can resume", log.events.len()),
				);
			}
			let why = "no event has an id: right if each event is complete in itself, wrong if a client must not miss one (--resumable makes this a failure)";
			for id in [checks::SSE_IDS_PRESENT, checks::SSE_IDS_UNIQUE, checks::SSE_IDS_ASCII] {
				self.run.unknown(id, why);
			}
			return;
		}
		self.run.pass(
			checks::SSE_IDS_PRESENT,
			format!(
				"{} of {} events have an id, such as {}",
				with_id.len(),
				log.events.len(),
				quote(with_id[0].0.as_bytes())
			),
		);
		let wrong = with_id
			.iter()
			.find(|(id, _)| !id.bytes().all(|b| (0x20..0x7f).contains(&b)) || id.trim() != *id || id.len() > 1024);
		match wrong {
			Some((id, _)) => self.run.fail(checks::SSE_IDS_ASCII, format!("id {}", quote(id.as_bytes()))),
			None => self.run.pass(checks::SSE_IDS_ASCII, format!("such as {}", quote(with_id[0].0.as_bytes()))),
		}
		let mut known: HashMap<&str, &Event> = HashMap::new();
		for (id, event) in &with_id {
			// A heartbeat or the last event may repeat the id that is valid already.
			if id.is_empty() || is_terminal(event) {
				continue;
			}
			let Some(earlier) = known.insert(id, event) else {
				continue;
			};
			if (&earlier.event_type, &earlier.data) != (&event.event_type, &event.data) {
				self.run.fail(
					checks::SSE_IDS_UNIQUE,
					format!(
						"two events have the id {}: {} and {}",
						quote(id.as_bytes()),
						quote(earlier.data.as_bytes()),
						quote(event.data.as_bytes())
					),
				);
				return;
			}
		}
		self.run.pass(checks::SSE_IDS_UNIQUE, format!("{} ids", with_id.len()));
	}

	/// Whether the head waited for the first event.
	fn head_timing(&self, log: &Log) {
		const ID: &Check = checks::SSE_HEADERS_BEFORE_FIRST_EVENT;
		let after = self.first.head.after;
		let ms = after.as_millis();
		let Some(first) = log.first_byte_at else {
			self.run.pass(ID, format!("the response headers came after {ms} ms, no event yet"));
			return;
		};
		let between = first.saturating_duration_since(self.first.head_at);
		let with_head = between < Duration::from_millis(20);
		// A comment or `retry` in front is what lets a server flush its head early.
		let event_first = log.events.first().is_some_and(|e| e.at == first)
			&& log.comments.first().is_none_or(|at| *at > first)
			&& log.retries.is_empty();
		if !with_head || !event_first {
			self.run.pass(ID, format!("the response headers came after {ms} ms, the first event later"));
			return;
		}
		// A slow authorization and a snapshot look the same. A clock whose first tick brings the headers does not: it
		// comes after one period.
		let mut gaps = log.events.windows(2).take(2).map(|two| two[1].at - two[0].at);
		let like = |gap: Duration| gap.abs_diff(after) < Duration::from_millis(60) + after / 20;
		let clock = after > Duration::from_millis(500) && gaps.len() == 2 && gaps.all(like);
		if clock {
			self.run.fail(ID, format!("the response headers came after {ms} ms, together with the first event, and each event comes as long after the one before"));
		} else {
			self.run.unknown(
                ID,
                format!("the first event came with the response headers, after {ms} ms: whether they waited for it, a service that is silent at first shows (--publish)"),
            );
		}
	}

	/// Whether the events of the first reader came one by one, where nothing else has decided it.
	fn arrival(&self, log: &Log) {
		const ID: &Check = checks::SSE_EVENTS_INCREMENTAL;
		let spread = spread(&log.events);
		let head_at = self.first.head_at;
		let waited = log.events.first().map(|e| e.at - (head_at - self.first.head.after));
		match (log.events.len(), waited, log.end) {
			(0 | 1, _, _) => self.run.unknown(ID, "fewer than two events came within the budget (--publish)"),
			// Charged to its cause: what the headers waited for, the first events waited for too.
			_ if self.run.failed(checks::SSE_HEADERS_BEFORE_FIRST_EVENT) => {
				self.run.unknown(ID, "the response headers wait for an event: see sse-headers-before-first-event")
			}
			(n, Some(waited), Some(_))
				if n >= 3 && waited > Duration::from_secs(1) && spread < Duration::from_millis(50) =>
			{
				self.run.fail(
					ID,
					format!(
						"all {n} events came at once, {} ms after the request, and then the stream ended",
						waited.as_millis()
					),
				);
			}
			(n, _, _) if spread >= Duration::from_millis(20) => {
				self.run.pass(ID, format!("{n} events over {} ms", spread.as_millis()));
			}
			(n, _, _) => self.run.unknown(
				ID,
				format!("{n} events came in one moment: whether they were sent so, the wire does not show"),
			),
		}
	}
}
