//! The same stream over HTTP/2.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use h2::Reason;

use super::{PATIENCE, Probe};
use crate::checks::{self, Check};
use crate::http1::is_event_stream;
use crate::http2::{Http2, MALFORMED, NoAnswer, Stream};
use crate::wire_log::{Log, Reader};

const ID: &Check = checks::SSE_HTTP2_WORKS;

/// RFC 9113, section 6.5.2, recommends no smaller value.
const FEWEST_STREAMS: usize = 100;

impl Probe<'_> {
	/// Opens the stream over HTTP/2, next to one over HTTP/1.1 as its control, and cancels it.
	pub(super) async fn http2(&self) {
		const LIMIT: &Check = checks::SSE_HTTP2_STREAM_LIMIT;
		if !self.run.needs(&[ID, LIMIT]) {
			return;
		}
		let Some(mut http2) = Http2::connect(&self.target, self.run.at_most(Duration::from_secs(3))).await else {
			let why = match self.target.secure {
				true => "ALPN does not select h2: the service speaks HTTP/1.1 here",
				false => "HTTP/2 with prior knowledge is not accepted: the service speaks HTTP/1.1 here",
			};
			self.run.unknown(ID, why);
			return self.run.unknown(LIMIT, why);
		};
		match http2.most_streams() {
			Some(most) if most < FEWEST_STREAMS => self.run.fail(
				LIMIT,
				format!(
					"SETTINGS_MAX_CONCURRENT_STREAMS is {most}: all tabs of a browser share one connection, and request {} waits for an open stream to end",
					most + 1
				),
			),
			_ => self.run.pass(LIMIT, http2.describe()),
		}
		if self.run.needs(&[ID]) {
			self.streams_over(&mut http2).await;
		}
	}

	async fn streams_over(&self, http2: &mut Http2) {
		if self.holds_head.load(std::sync::atomic::Ordering::Relaxed) {
			return self.run.unknown(ID, "the response headers wait for an event: see sse-headers-before-first-event");
		}
		let control = match self.open(|request| request).await {
			Ok(control) => control,
			Err(why) => return self.run.unknown(ID, why),
		};
		let opened = Instant::now();
		let stream = match http2.open(&self.request, &self.target, self.run.at_most(PATIENCE)).await {
			Ok(stream) => stream,
			Err(why) => return self.unanswered(why).await,
		};
		let Some(reader) = self.accepted(stream) else {
			return;
		};
		let headers = reader.head.after.as_millis();
		let Some(events) = self.received(&control, &reader, opened).await else {
			return;
		};
		// The stream is reset with CANCEL, as by a page that closes its EventSource.
		reader.close().await;
		drop(control);
		http2.flushed(self.run.at_most(PATIENCE)).await;
		match http2.open(&self.request, &self.target, self.run.at_most(PATIENCE)).await {
			Ok(_) => self.run.pass(
				ID,
				format!(
					"{}: headers after {headers} ms, {events}; after RST_STREAM the connection accepts another stream",
					http2.describe()
				),
			),
			Err(why) => {
				// Not the end of the service, nor its limit.
				if let Err(why) = self.open(|request| request).await {
					return self.run.unknown(ID, why);
				}
				if !self.run.left().is_zero() {
					self.run.fail(
						ID,
						format!(
							"after RST_STREAM of one stream, the same connection answers no other request ({}): all tabs of the origin share it",
							described(&why)
						),
					);
				}
			}
		}
	}

	/// No response over HTTP/2, though the same request over HTTP/1.1 was answered.
	async fn unanswered(&self, why: NoAnswer) {
		match why {
			NoAnswer::Silent if self.run.left().is_zero() => {}
			NoAnswer::Unwritable | NoAnswer::Reset(Reason::HTTP_1_1_REQUIRED | Reason::REFUSED_STREAM) => {
				self.run.unknown(ID, described(&why));
			}
			why => match self.open(|request| request).await {
				Ok(_) => {
					self.run.fail(ID, format!("over HTTP/1.1 the stream opens, over HTTP/2 not: {}", described(&why)))
				}
				Err(why) => self.run.unknown(ID, why),
			},
		}
	}

	/// The reader of a response that is the same as over HTTP/1.1.
	fn accepted(&self, stream: Stream) -> Option<Reader> {
		let head = &stream.head;
		if matches!(head.status, 429 | 503) {
			self.run.unknown(ID, format!("over HTTP/2 one more stream was answered with {}: too many", head.status));
			return None;
		}
		if head.status != 200 || !is_event_stream(head) {
			let kind = head.get("content-type").unwrap_or_else(|| "no Content-Type".to_owned());
			self.run.fail(
				ID,
				format!("over HTTP/1.1 the response is an event stream, over HTTP/2 it is {} with {kind}", head.status),
			);
			return None;
		}
		Some(Reader::over_http2(stream))
	}

	/// Waits for an event that both readers receive; `None`: only the one over HTTP/1.1 did.
	async fn received(&self, control: &Reader, reader: &Reader, opened: Instant) -> Option<String> {
		let (since, patience) = if self.publisher.is_some() {
			let now = Instant::now();
			if let Err(why) = self.publisher.once().await {
				self.run.unknown(ID, why);
				return None;
			}
			(now, PATIENCE)
		} else {
			(opened, Duration::from_secs(3))
		};
		let types = |log: &Log| -> HashSet<String> {
			let later = log.events.iter().filter(|event| event.at >= since);
			later.map(|event| event.event_type.clone()).collect()
		};
		if !control.until(self.run.at_most(patience), |log| !types(log).is_empty()).await {
			return Some("no event was sent meanwhile".to_owned());
		}
		let expected = control.with(types);
		let arrived = reader.until(self.run.at_most(PATIENCE), |log| !types(log).is_disjoint(&expected)).await;
		if arrived {
			return Some("an event as soon as it was sent".to_owned());
		}
		if !self.run.left().is_zero() {
			let bytes = reader.with(|log| log.bytes);
			self.run.fail(
				ID,
				format!(
					"an event that a reader over HTTP/1.1 received did not arrive over HTTP/2 within {} s ({bytes} bytes did)",
					PATIENCE.as_secs()
				),
			);
		}
		None
	}
}

fn described(why: &NoAnswer) -> String {
	match why {
		NoAnswer::Unwritable => "the request cannot be written as HTTP/2".to_owned(),
		NoAnswer::Malformed => MALFORMED.to_owned(),
		NoAnswer::Reset(reason) => format!("the stream was reset with {reason:?}"),
		NoAnswer::Ended(why) => format!("the connection ended: {why}"),
		NoAnswer::Silent => format!("no response headers within {} s", PATIENCE.as_secs()),
	}
}
