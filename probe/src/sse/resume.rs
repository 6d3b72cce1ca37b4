//! Reconnecting with a cursor: real, garbage, before the log, beyond it.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{PATIENCE, Probe};
use crate::checks::{self, Check};
use crate::http1::{End, Opened};
use crate::report::quote;
use crate::wire_log::Event;
use crate::wire_log::Reader;

/// How many events are published, at most, while the service answers a reconnect.
const MEANWHILE: usize = 10;

const GAP: &Check = checks::SSE_RESUME_NO_GAP;
const DUPLICATE: &Check = checks::SSE_RESUME_NO_DUPLICATE;
const GARBAGE: &Check = checks::SSE_CURSOR_GARBAGE;
const PAST: &Check = checks::SSE_CURSOR_PAST;
const FUTURE: &Check = checks::SSE_CURSOR_FUTURE;

/// What a service never gave out: markup, a path, a number that no integer type holds, and bytes
/// that are not ASCII, which a client sends back as they are.
const WRONG_CURSORS: &[&[u8]] =
	&[b"../../stream-probe'\"<garbage>%00", b"99999999999999999999999999999999", b"-1", "é1".as_bytes()];

impl Probe<'_> {
	pub(super) async fn resume(&self) {
		self.garbage().await;
		let (with_id, types) = self.first.with(|log| {
			let with_id: Vec<Event> =
				log.events.iter().filter(|e| e.id.as_deref().is_some_and(|id| !id.is_empty())).cloned().collect();
			let types: HashSet<String> = log.events.iter().map(|e| e.event_type.clone()).collect();
			(with_id, types)
		});
		let all = |why: &str| {
			for id in [GAP, DUPLICATE, PAST, FUTURE] {
				self.run.unknown(id, why);
			}
		};
		if with_id.is_empty() {
			return all("no event with an id came within the budget, so there is no cursor to resume from");
		}
		let ids: Vec<&str> = with_id.iter().filter_map(|e| e.id.as_deref()).collect();
		if ids.iter().collect::<HashSet<_>>().len() < ids.len() {
			return all("ids repeat, so a cursor does not name one event");
		}
		if self.request.method != "GET" {
			return all("reconnecting with this method would run the request again");
		}
		if with_id.len() < 2 {
			self.run.unknown(GAP, "only one event with an id came within the budget (--publish)");
			self.run.unknown(DUPLICATE, "only one event with an id came within the budget (--publish)");
		} else {
			self.after_cursor(&with_id, &types).await;
		}
		self.past(&with_id, &types).await;
		self.future(&with_id).await;
	}

	/// Reconnects with the id of an event that others followed.
	async fn after_cursor(&self, with_id: &[Event], types: &HashSet<String>) {
		if !self.run.needs(&[GAP, DUPLICATE]) {
			return;
		}
		// Three back where possible: near the end, so that it is not trimmed in the meantime.
		let at = with_id.len().saturating_sub(3);
		let id_of = |event: &Event| event.id.clone().unwrap_or_default();
		let cursor = id_of(&with_id[at]);
		let before: HashSet<String> = with_id[..=at].iter().map(id_of).collect();
		let must = with_id.len() - at - 1;
		let shown = quote(cursor.as_bytes());
		let request = self.request.clone().header("Last-Event-ID", cursor.as_str());
		// Between what is stored and what is new events get lost: some are published while the service looks.
		let count = self.first.with(|log| log.events.len());
		let published = AtomicUsize::new(0);
		let publishing = async {
			for _ in 0..MEANWHILE {
				if self.publisher.once().await.is_ok() {
					published.fetch_add(1, Ordering::Relaxed);
				}
				tokio::time::sleep(Duration::from_millis(20)).await;
			}
			std::future::pending::<Infallible>().await
		};
		let opened = tokio::select! {
			biased;
			opened = self.ask(&request, self.run.at_most(PATIENCE)) => opened,
			never = publishing, if self.publisher.is_some() => match never {},
		};
		let published = published.into_inner();
		let resumed = match opened {
			Ok(Opened::Response(response)) if response.head.status == 204 => {
				self.run.fail(
					GAP,
					format!("Last-Event-ID: {shown} is answered with 204 although {must} events followed it"),
				);
				self.run.unknown(DUPLICATE, "resume was refused");
				return;
			}
			Ok(Opened::Response(response)) if response.head.status == 200 && response.is_event_stream() => {
				Reader::start(*response)
			}
			Ok(Opened::Response(response)) => {
				let why = format!("resume was answered with {}", response.head.status);
				self.run.unknown(GAP, why.as_str());
				self.run.unknown(DUPLICATE, why);
				return;
			}
			_ => {
				self.run.unknown(GAP, "resume was not answered");
				self.run.unknown(DUPLICATE, "resume was not answered");
				return;
			}
		};
		// The seam between replay and live is where events get lost: publish into it.
		let mut expected = must;
		if self.first.ended().is_none() && self.publisher.is_some() {
			for _ in 0..2 {
				drop(self.publisher.once().await);
			}
			self.first.until(self.run.at_most(PATIENCE), |log| log.events.len() >= count + published + 2).await;
			expected += self
				.first
				.with(|log| log.events[count.min(log.events.len())..].iter().filter(|e| e.id.is_some()).count());
		}
		let with = |log: &crate::wire_log::Log| {
			let told = log.events.first().is_some_and(|e| announces(e, types));
			told || log.events.iter().filter(|e| e.id.is_some()).count() >= expected
		};
		resumed.until(self.run.at_most(PATIENCE), with).await;
		// Nothing is known to be missing before the first reader has it too.
		let seen = resumed.with(|log| log.events.clone());
		let last_seen = seen.iter().rev().find_map(|e| e.id.clone());
		if let Some(last) = last_seen {
			self.first
				.until(self.run.at_most(Duration::from_secs(2)), |log| {
					log.events.iter().any(|e| e.id.as_deref() == Some(&last))
				})
				.await;
		}
		let after: Vec<String> = self.first.with(|log| {
			let ids = log.events.iter().filter_map(|e| e.id.clone());
			ids.skip_while(|id| *id != cursor).skip(1).collect()
		});
		match judge(&before, &after, must, &seen, types) {
			Resumed::Whole(n) => {
				let text = format!("after Last-Event-ID: {shown} came exactly the {n} events that follow it");
				self.run.pass(GAP, text.as_str());
				self.run.pass(DUPLICATE, text);
			}
			Resumed::Announced(name) => {
				let text = format!(
					"Last-Event-ID: {shown} is answered with an event {name}, which says that the client must start again"
				);
				self.run.pass(GAP, text.as_str());
				self.run.pass(DUPLICATE, text);
			}
			Resumed::Gap(why) => {
				self.run.fail(GAP, format!("after Last-Event-ID: {shown} {why} (a feed of states, of which only the latest counts, has gaps by design: --skip 'sse-resume*,sse-cursor*')"));
				self.run.unknown(DUPLICATE, "resume has a gap");
			}
			Resumed::Duplicate(why) => {
				self.run.fail(DUPLICATE, format!("after Last-Event-ID: {shown} {why}"));
				self.run.unknown(GAP, "resume repeats events");
			}
		}
	}

	async fn garbage(&self) {
		if !self.run.needs(&[GARBAGE]) {
			return;
		}
		let mut answers = Vec::new();
		// A stream that is cut without a cursor too has another fault.
		let always_cut = self.first.ended().is_some_and(End::is_cut);
		for cursor in WRONG_CURSORS {
			let shown = quote(cursor);
			let request = self.request.clone().header("Last-Event-ID", *cursor);
			let wrong = match self.ask(&request, self.run.at_most(PATIENCE)).await {
				Err(error) => Some(error.to_string()),
				Ok(Opened::Closed) => Some("the connection ended without an answer".to_owned()),
				Ok(Opened::Silent) if self.run.left().is_zero() => return,
				Ok(Opened::Silent) => Some(format!("no answer within {} s", PATIENCE.as_secs())),
				Ok(Opened::Response(mut response)) => {
					let status = response.head.status;
					answers.push(status.to_string());
					if status == 200 {
						let reader = Reader::start(*response);
						reader.until(self.run.at_most(Duration::from_millis(300)), |log| log.end.is_some()).await;
						let cut = reader.ended().filter(|end| end.is_cut() && !always_cut);
						cut.map(|end| format!("the stream broke: {}", end.text()))
					} else {
						if status != 204 {
							let body = response.text(self.run.at_most(Duration::from_secs(2))).await;
							let sent = [String::from_utf8_lossy(cursor).into_owned()];
							let sent: Vec<&str> = sent.iter().map(String::as_str).collect();
							super::judge_error(self.run, checks::SSE_ERRORS_CLEAN, status, &body, &sent);
						}
						(status >= 500).then(|| format!("status {status}"))
					}
				}
			};
			let Some(wrong) = wrong else { continue };
			// The control: the same request without the cursor.
			let plain = self.ask(&self.request, self.run.at_most(PATIENCE)).await;
			return match plain {
				Ok(Opened::Response(plain)) if plain.head.status < 500 => {
					self.run.fail(GARBAGE, format!("{shown}: {wrong}"));
				}
				Ok(Opened::Response(plain)) => self
					.run
					.unknown(GARBAGE, format!("{shown}: {wrong}, and without a cursor status {}", plain.head.status)),
				_ => self.run.unknown(GARBAGE, format!("{wrong}, with a wrong cursor and without one")),
			};
		}
		self.run.pass(GARBAGE, format!("{} wrong cursors answered with {}", answers.len(), answers.join(", ")));
	}

	/// Reconnects from before the first event.
	async fn past(&self, with_id: &[Event], types: &HashSet<String>) {
		if !self.run.needs(&[PAST]) {
			return;
		}
		let Some((prefix, first)) = with_id.first().and_then(number) else {
			return self.run.unknown(PAST, "ids have no number at their end, so the probe cannot name an older one");
		};
		if first == 0 {
			return self.run.unknown(PAST, "the first id is 0: there is none before it");
		}
		let cursor = format!("{prefix}{}", if first == 1 { 0 } else { 1 });
		let reader = match self.open(|request| request.header("Last-Event-ID", cursor.as_str())).await {
			Ok(reader) => reader,
			Err(why) => return self.run.unknown(PAST, why),
		};
		let greeting = self.greeting().await;
		let answers = |event: &&Event| {
			let greets = |known: &Event| event.id.is_none() && known.event_type == event.event_type;
			!greeting.iter().any(greets)
		};
		let ready = |log: &crate::wire_log::Log| log.events.iter().any(|event| answers(&event));
		reader.until(self.run.at_most(PATIENCE), ready).await;
		let all = reader.with(|log| log.events.clone());
		let events: Vec<Event> = all.iter().filter(answers).cloned().collect();
		// What was sent to the first reader too is an ordinary event. Not the id alone decides: a `reset` may
		// carry the id of the event up to which the log was trimmed, which was live once.
		let same = |a: &Event, b: &Event| (&a.id, &a.event_type, &a.data) == (&b.id, &b.event_type, &b.data);
		let signal = events.first().filter(|e| !with_id.iter().any(|live| same(e, live)) && announces(e, types));
		if let Some(event) = signal {
			return self.run.pass(
				PAST,
				format!(
					"Last-Event-ID: {cursor} is answered with an event {} {}",
					event.event_type,
					quote(event.data.as_bytes())
				),
			);
		}
		let begins = events.iter().find(|e| e.id.is_some()).and_then(number);
		// A name that stands only at the beginning: a greeting, or a signal by a name of its own.
		let greets = events.first().is_some_and(|event| {
			self.first.with(|log| {
				let mut names = log.events.iter().map(|e| &e.event_type);
				names.next() == Some(&event.event_type) && names.all(|n| *n != event.event_type)
			})
		});
		match begins {
            Some((known, n)) if known == prefix && n <= first => {
                self.run.pass(PAST, format!("Last-Event-ID: {cursor} is answered from {prefix}{n} on"));
            }
            Some(_) if greets => self.run.unknown(PAST, format!("Last-Event-ID: {cursor} is answered with an event {}, as every connection is: whether that announces missing events, the probe does not know", events[0].event_type)),
            // A snapshot for every connection makes a replay needless.
            Some(_) if greeting.iter().any(|event| announces(event, types)) => self.run.unknown(PAST, format!("Last-Event-ID: {cursor} is answered with an event {}, as every connection is", greeting[0].event_type)),
            Some((known, n)) => self.run.fail(PAST, format!("Last-Event-ID: {cursor} is answered from {known}{n} on, without the event {prefix}{first} that was sent before, and nothing says so")),
            None if self.run.left().is_zero() => {}
            None => {
                let what = match all.first() {
                    Some(event) => format!("the greeting {} and then silence", event.event_type),
                    None => "silence".to_owned(),
                };
                self.run.fail(PAST, format!("Last-Event-ID: {cursor} is answered with {what}, although {} events followed it (a feed of states: --skip 'sse-resume*,sse-cursor*')", with_id.len()));
            }
        }
	}

	/// Reconnects from beyond the end, as after a log that was wiped.
	async fn future(&self, with_id: &[Event]) {
		if !self.run.needs(&[FUTURE]) {
			return;
		}
		if self.first.ended().is_some() {
			return self.run.unknown(FUTURE, "the stream ends by itself, so no other reader shows what is due");
		}
		let Some((prefix, last)) = with_id.last().and_then(number) else {
			return self.run.unknown(FUTURE, "ids have no number at their end, so the probe cannot name a newer one");
		};
		let cursor = format!("{prefix}{}", last.saturating_add(1_000_000));
		let reader = match self.open(|request| request.header("Last-Event-ID", cursor.as_str())).await {
			Ok(reader) => reader,
			Err(why) => return self.run.unknown(FUTURE, why),
		};
		let greeting = self.greeting().await;
		let answers = |event: &&Event| {
			let greets = |known: &Event| event.id.is_none() && known.event_type == event.event_type;
			!greeting.iter().any(greets)
		};
		let answered = |log: &crate::wire_log::Log| log.events.iter().any(|event| answers(&event));
		let before = self.first.with(|log| log.events.len());
		for _ in 0..2 {
			if self.publisher.is_some() {
				drop(self.publisher.once().await);
			}
		}
		let patience = self.run.at_most(PATIENCE);
		tokio::select! {
			_ = self.first.until(patience, |log| log.events.len() >= before + 2) => {}
			_ = reader.until(patience, answered) => {}
		}
		// The same events are on their way to both.
		reader.until(self.run.at_most(Duration::from_secs(2)), answered).await;
		let first = reader.with(|log| log.events.iter().find(answers).cloned());
		let others = self.first.with(|log| log.events.len()) - before;
		match first {
			Some(event) => self.run.pass(
				FUTURE,
				format!(
					"Last-Event-ID: {cursor} is answered with {} {}",
					event.event_type,
					quote(event.data.as_bytes())
				),
			),
			None if reader.ended().is_some() => self.run.unknown(FUTURE, "the stream ended without an event"),
			None if self.run.left().is_zero() => {}
			None if others >= 2 => self.run.fail(
				FUTURE,
				format!(
					"Last-Event-ID: {cursor} receives {} while another reader received {others} events",
					if greeting.is_empty() { "nothing" } else { "the greeting of every connection and nothing more" }
				),
			),
			None => self.run.unknown(FUTURE, "no event came meanwhile (--publish)"),
		}
	}
}

/// The number at the end of an id, and what stands before it.
fn number(event: &Event) -> Option<(String, u64)> {
	let id = event.id.as_deref()?;
	let digits = id.bytes().rev().take_while(u8::is_ascii_digit).count();
	let (prefix, tail) = id.split_at(id.len() - digits);
	// A leading zero, or more digits than a sequence has, is a hash or a UUID.
	let plain = !tail.starts_with('0') || tail == "0";
	let sequence = prefix.is_empty() || prefix.ends_with(['-', ':', '.', '_', '/']);
	(plain && sequence && tail.len() <= 16).then_some(())?;
	Some((prefix.to_owned(), tail.parse().ok()?))
}

/// Whether an event is of a kind of its own: what says `reset` or `gap`.
pub(super) fn announces(event: &Event, types: &HashSet<String>) -> bool {
	let named = |text: &str| {
		let text = text.to_ascii_lowercase();
		["reset", "gap", "resync", "snapshot", "expired", "trimmed", "truncated"].iter().any(|word| text.contains(word))
	};
	!types.contains(&event.event_type) || named(&event.event_type) || (event.id.is_none() && named(&event.data))
}

/// What a resumed stream came to.
#[derive(Debug, PartialEq)]
enum Resumed {
	Whole(usize),
	Announced(String),
	Gap(String),
	Duplicate(String),
}

/// Compares a resumed stream with what the first reader received after the cursor; the first `must`
/// of `after` were there before the reconnect.
fn judge(before: &HashSet<String>, after: &[String], must: usize, seen: &[Event], types: &HashSet<String>) -> Resumed {
	let first = seen.first();
	if let Some(event) = first.filter(|e| announces(e, types)) {
		return Resumed::Announced(event.event_type.clone());
	}
	let ids: Vec<&String> = seen.iter().filter_map(|e| e.id.as_ref()).collect();
	if let Some(id) = ids.iter().find(|id| before.contains(**id)) {
		return Resumed::Duplicate(format!("the event {} came again", quote(id.as_bytes())));
	}
	let mut known = HashSet::new();
	if let Some(id) = ids.iter().find(|id| !known.insert(**id)) {
		return Resumed::Duplicate(format!("the event {} came twice", quote(id.as_bytes())));
	}
	for (expected, came) in after.iter().zip(&ids) {
		if expected != *came {
			return Resumed::Gap(format!(
				"came {} where {} was due",
				quote(came.as_bytes()),
				quote(expected.as_bytes())
			));
		}
	}
	if ids.len() < must {
		return Resumed::Gap(format!("came {} of the {must} events that had followed it", ids.len()));
	}
	Resumed::Whole(ids.len())
}

#[cfg(test)]
mod tests {
	use super::*;

	fn event(id: Option<&str>, event_type: &str) -> Event {
		Event::new(std::time::Instant::now(), event_type, "{}", id.map(str::to_owned))
	}

	#[test]
	fn a_resumed_stream_is_compared_with_the_first() {
		let before: HashSet<String> = ["1", "2"].map(str::to_owned).into();
		let after = ["3", "4", "5"].map(str::to_owned);
		let types: HashSet<String> = ["message".to_owned()].into();
		let judged = |ids: &[&str], must| {
			let seen: Vec<Event> = ids.iter().map(|id| event(Some(id), "message")).collect();
			judge(&before, &after, must, &seen, &types)
		};
		assert_eq!(judged(&["3", "4", "5", "6"], 2), Resumed::Whole(4));
		assert!(matches!(judged(&["4", "5"], 2), Resumed::Gap(_)));
		assert!(matches!(judged(&["3"], 2), Resumed::Gap(_)));
		assert!(matches!(judged(&["2", "3", "4"], 2), Resumed::Duplicate(_)));
		assert!(matches!(judged(&["3", "4", "4", "5"], 2), Resumed::Duplicate(_)));
		let reset = [event(None, "reset"), event(Some("9"), "message")];
		assert_eq!(judge(&before, &after, 2, &reset, &types), Resumed::Announced("reset".to_owned()));
	}

	#[test]
	fn only_sequences_have_neighbours() {
		let of = |id: &str| number(&event(Some(id), "message"));
		assert_eq!(of("17"), Some((String::new(), 17)));
		assert_eq!(of("epoch-17"), Some(("epoch-".to_owned(), 17)));
		assert_eq!(of("4f1c9a"), None);
		assert_eq!(
			of("550e8400-e29b-41d4-a716-446655440000"),
			Some(("550e8400-e29b-41d4-a716-".to_owned(), 446_655_440_000))
		);
	}
}
