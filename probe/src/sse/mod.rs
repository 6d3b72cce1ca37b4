//! The checks of `stream-probe sse`.

mod flow;
mod http2;
mod load;
mod requests;
mod resume;
mod verdicts;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, OnceCell};

pub(crate) use load::noticed;
pub(crate) use requests::judge_error;
pub(crate) use verdicts::{is_terminal, spread};

use crate::checks::{self, Check};
use crate::http1::{Head, Opened, Request, Response, is_event_stream};
use crate::patience::within;
use crate::process;
use crate::process::Publisher;
use crate::report::quote;
use crate::target::{Link, Target, Unreachable};
use crate::wire_log::Event;
use crate::wire_log::Reader;
use crate::{Options, Run};

/// How long the probe waits for what must come, before it calls it missing.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// What all checks of one run share.
struct Probe<'a> {
	options: &'a Options,
	run: &'a Run,
	publisher: &'a Publisher,
	target: Target,
	/// The request of a client, without Accept-Encoding.
	request: Request,
	/// The first reader, open for the whole run.
	first: Reader,
	/// The response headers wait for an event: requests are published at.
	holds_head: AtomicBool,
	/// The work of the moment, for the sentence about a service that ends.
	doing: std::sync::Mutex<&'static str>,
	/// The events with which every reader without a cursor is greeted.
	greeting: OnceCell<Vec<Event>>,
	/// How wrong requests were answered, once they were sent; `Err`: the service's own limit answered them all.
	error_answers: std::sync::OnceLock<Result<String, String>>,
}

pub(crate) async fn probe(options: &Options, run: &Run) -> Result<(), Unreachable> {
	let publisher = Publisher::new(&options.publish);
	let request = options.request("text/event-stream");
	let Some((target, mut response, held)) = reach(options, run, &publisher, &request).await? else {
		return Ok(());
	};
	let head = &response.head;
	run.endpoint(&head.describe());
	if head.status != 200 || !response.is_event_stream() {
		let status = response.head.status;
		let body = response.text(run.at_most(Duration::from_secs(2))).await;
		judge_head(run, &request, &response.head, &body);
		judge_error(run, checks::SSE_ERRORS_CLEAN, status, &body, &[&target.path]);
		run.unknown_all(&format!("no event stream: status {status}"));
		return Ok(());
	}
	judge_head(run, &request, head, "");
	let probe = Probe {
		options,
		run,
		publisher: &publisher,
		target,
		request,
		first: Reader::start(response),
		holds_head: AtomicBool::new(held),
		doing: std::sync::Mutex::new("made its first requests"),
		greeting: OnceCell::new(),
		error_answers: std::sync::OnceLock::new(),
	};
	let over = Notify::new();
	let rest = async {
		tokio::join!(probe.small_requests(), probe.flow());
		let early = probe.first.ended().is_some();
		if early {
			probe.ended().await;
		}
		probe.doing("opened the stream over HTTP/2");
		probe.http2().await;
		probe.doing("reconnected with cursors");
		probe.resume().await;
		probe.doing("left one reader stalled");
		probe.stalled_reader().await;
		probe.doing("connected and disconnected readers");
		probe.churn().await;
		probe.doing("opened as many streams as --limit allows");
		probe.limit().await;
		if !options.long.is_zero() {
			probe.first.until(run.at_most(options.long), |_| false).await;
		}
		if !early {
			probe.ended().await;
		}
	};
	// The budget ends everything; what was not decided could not be judged.
	tokio::join!(probe.heartbeat(&over), async {
		drop(tokio::time::timeout(run.left(), rest).await);
		over.notify_one();
	});
	if options.pid.is_some_and(process::has_ended) {
		run.abort("the process of --pid ended during the run: the verdicts after its end would judge nothing");
		return Ok(());
	}
	probe.shutdown().await;
	probe.wire();
	Ok(())
}

/// Sends the first request, follows redirects and waits for the head, of which the last value says whether it waited
/// for an event; `None`: there was none.
async fn reach(
	options: &Options,
	run: &Run,
	publisher: &Publisher,
	request: &Request,
) -> Result<Option<(Target, Response, bool)>, Unreachable> {
	const ID: &Check = checks::SSE_HEADERS_BEFORE_FIRST_EVENT;
	let mut target = options.target.clone();
	for _ in 0..6 {
		let mut exchange = request.send(&target).await?;
		let patience = if publisher.is_some() { 3 } else { 10 };
		let patience = run.at_most(Duration::from_secs(patience));
		let mut held = false;
		let mut waited = within(patience, exchange.head()).await;
		if waited.is_err() && publisher.is_some() {
			let published = publisher.once().await;
			waited = within(run.at_most(PATIENCE), exchange.head()).await;
			if let (Ok(Ok(Some(head))), Ok(())) = (&waited, published) {
				held = true;
				let after = head.after.as_millis();
				run.fail(ID, format!("the response headers came after {after} ms, with the first published event"));
			}
		}
		match waited {
			Err(_) => {
				run.fail(ID, format!("no response headers within {} s", patience.as_secs()));
				run.unknown_all("no response headers came");
				return Ok(None);
			}
			Ok(Ok(Some(head))) => {
				let location = head.get("location");
				match location {
					Some(location) if matches!(head.status, 301 | 302 | 303 | 307 | 308) => {
						target = target.join(&location)?;
					}
					_ => return Ok(Some((target, exchange.into_response(head), held))),
				}
			}
			Ok(Ok(None)) | Ok(Err(_)) => {
				run.fail(
					checks::SSE_STATUS_200,
					"the connection ended without an HTTP response (an error item before the first flush does that)",
				);
				run.unknown_all("no response came");
				return Ok(None);
			}
		}
	}
	run.fail(checks::SSE_STATUS_200, "more than five redirects");
	run.unknown_all("no response came");
	Ok(None)
}

/// What the response headers alone show; `body` is that of a response that is no event stream.
fn judge_head(run: &Run, request: &Request, head: &Head, body: &str) {
	let said = match body {
		"" => String::new(),
		body => format!(": {}", quote(body.as_bytes())),
	};
	if head.status == 200 {
		run.pass(checks::SSE_STATUS_200, format!("200 after {} ms", head.after.as_millis()));
	} else {
		run.fail(checks::SSE_STATUS_200, format!("status {}{said}", head.status));
		return;
	}
	let kind = head.get("content-type").unwrap_or_default();
	if is_event_stream(head) {
		run.pass(checks::SSE_CONTENT_TYPE, format!("content-type: {kind}"));
	} else {
		run.fail(checks::SSE_CONTENT_TYPE, format!("content-type: {kind:?}{said}"));
		return;
	}
	let charset = kind.to_ascii_lowercase();
	match charset.split("charset=").nth(1) {
		Some(name) if !name.trim_matches(['"', ' ']).starts_with("utf-8") => {
			run.fail(checks::SSE_CHARSET_UTF8, format!("content-type: {kind}"));
		}
		_ => run.pass(checks::SSE_CHARSET_UTF8, format!("content-type: {kind}")),
	}
	let cache = head.get("cache-control");
	let shown = cache.as_deref().unwrap_or("no Cache-Control").to_owned();
	if head.has("cache-control", "no-cache") || head.has("cache-control", "no-store") {
		run.pass(checks::SSE_NOT_CACHED, format!("cache-control: {shown}"));
	} else {
		run.fail(checks::SSE_NOT_CACHED, shown.clone());
	}
	buffering_headers(run, head, checks::SSE_NO_BUFFERING_HEADERS);
	if head.has("cache-control", "no-transform") {
		run.pass(checks::SSE_NO_TRANSFORM, format!("cache-control: {shown}"));
	} else {
		run.fail(
			checks::SSE_NO_TRANSFORM,
			format!(
				"{shown}: behind a Next.js rewrite or another compressing proxy, gzip clients may get all events at the end"
			),
		);
	}
	let id = checks::SSE_NO_CONTENT_LENGTH;
	match head.get("content-length") {
		Some(length) if request.method == "GET" => run.fail(id, format!("content-length: {length}")),
		// An answer of one message is complete when it begins.
		Some(length) => run.unknown(
			id,
			format!(
				"content-length: {length} on the answer to a {}: right if the whole answer is one message",
				request.method
			),
		),
		None => run.pass(id, "no content-length"),
	}
}

/// `X-Accel-Buffering`, which nginx takes away on its way.
fn buffering_headers(run: &Run, head: &Head, id: &'static Check) {
	let nginx = head.get("server").is_some_and(|s| s.to_ascii_lowercase().contains("nginx"));
	if head.has("x-accel-buffering", "no") {
		run.pass(id, "x-accel-buffering: no");
	} else if nginx || head.get("via").is_some() {
		run.unknown(
			id,
			"a proxy answered, which takes X-Accel-Buffering away: the timing checks show whether it buffers",
		);
	} else {
		run.fail(id, "no x-accel-buffering: no; an nginx put in front would hold events back");
	}
}

impl Probe<'_> {
	fn doing(&self, what: &'static str) {
		*self.doing.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = what;
	}

	/// Sends a request. If the response headers wait for an event, events are published meanwhile; a service that
	/// accepts no connection any more ends the run.
	async fn ask(&self, request: &Request, patience: Duration) -> Result<Opened, Unreachable> {
		let opening = request.open(&self.target, patience);
		let opened = if self.holds_head.load(Ordering::Relaxed) && self.publisher.is_some() {
			let mut opening = std::pin::pin!(opening);
			loop {
				tokio::select! {
					biased;
					opened = &mut opening => break opened,
					() = tokio::time::sleep(Duration::from_millis(200)) => {}
				}
				if self.publisher.once().await.is_err() {
					break opening.await;
				}
			}
		} else {
			opening.await
		};
		if let Err(error) = &opened {
			self.died(error).await;
		}
		opened
	}

	/// Ends the run if the service has ended.
	async fn died(&self, error: &Unreachable) {
		if !error.is_refused() {
			return;
		}
		// Once more: it may have been in the middle of a restart.
		tokio::time::sleep(Duration::from_millis(300)).await;
		if self.target.connect(Link::Http1).await.is_err() {
			let doing = *self.doing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
			self.run.abort(format!("the service has ended: {error}, while the probe {doing}; unless you stopped it, that ended it, and nothing after it was probed"));
		}
	}

	/// Opens another stream with `change` made to the request; `Err` says why there is none.
	async fn open(&self, change: impl FnOnce(Request) -> Request) -> Result<Reader, String> {
		let request = change(self.request.clone());
		match self.ask(&request, self.run.at_most(PATIENCE)).await {
			Ok(Opened::Response(response)) if response.head.status == 200 && response.is_event_stream() => {
				Ok(Reader::start(*response))
			}
			Ok(Opened::Response(response)) => {
				Err(format!("one more stream was answered with {}", response.head.status))
			}
			Ok(Opened::Closed) => Err("one more stream was closed without an answer".to_owned()),
			Ok(Opened::Silent) => {
				Err("one more stream was not answered: its response headers may wait for an event".to_owned())
			}
			Err(error) => Err(error.to_string()),
		}
	}

	/// The events without an id that one more reader without a cursor receives at once, though none is published: the
	/// control of every check that reads what a reconnect is answered with.
	async fn greeting(&self) -> &[Event] {
		self.greeting
			.get_or_init(|| async {
				let Ok(reader) = self.open(|request| request).await else {
					return Vec::new();
				};
				let mut seen = 0;
				for _ in 0..4 {
					let quiet = self.run.at_most(Duration::from_millis(400));
					if !reader.until(quiet, |log| log.events.len() > seen).await {
						break;
					}
					seen = reader.with(|log| log.events.len());
				}
				let soon = self.first.head_at + Duration::from_millis(400);
				let live: std::collections::HashSet<String> = self.first.with(|log| {
					let later = log.events.iter().filter(|event| event.at > soon);
					later.map(|event| event.event_type.clone()).collect()
				});
				reader.with(|log| {
					log.events
						.iter()
						.take_while(|event| event.id.is_none())
						.filter(|event| !live.contains(&event.event_type))
						.cloned()
						.collect()
				})
			})
			.await
	}

	/// Looks for signs of life of the first reader during silence; `over`: nothing else is left to do.
	async fn heartbeat(&self, over: &Notify) {
		const ID: &Check = checks::SSE_HEARTBEAT;
		const VISIBLE: &Check = checks::SSE_HEARTBEAT_VISIBLE;
		if !self.run.needs(&[ID, VISIBLE]) {
			return;
		}
		// A quarter more: timers are late, and so is this process.
		let most = self.options.silence().mul_f64(1.25);
		let opened = self.first.head_at;
		// How many events there were when nothing else was left to do.
		let mut over_at = None;
		loop {
			let (sign, silent, longest, ended, events) = self.first.with(|log| {
				let last = log.last_byte_at.unwrap_or(opened);
				(
					verdicts::heartbeat(log, opened, most),
					last.elapsed(),
					log.longest_silence,
					log.end.is_some(),
					log.events.len(),
				)
			});
			let unknown = |why: &str| {
				self.run.unknown(ID, why);
				self.run.unknown(VISIBLE, why);
			};
			if let Some((what, visible)) = sign {
				self.run.pass(ID, what.clone());
				self.visible(&what, visible);
				return;
			}
			if ended {
				return unknown("the stream ended before a heartbeat was due");
			}
			let longest = longest.max(silent);
			if longest > most {
				self.run.fail(ID, format!("no byte for {:.1} s", longest.as_secs_f64()));
				return self.run.unknown(VISIBLE, "there is no heartbeat");
			}
			let left = self.run.left();
			let needed = most.saturating_sub(silent);
			let busy = over_at.is_some_and(|before| events >= before + 2);
			if left.is_zero() || busy || (over_at.is_some() && needed > left) {
				let why = match busy {
					true => format!(
						"the stream sends events all the time: its longest silence was {:.1} s",
						longest.as_secs_f64()
					),
					false => format!(
						"the longest silence was {:.1} s, shorter than --heartbeat {} (give --budget {})",
						longest.as_secs_f64(),
						self.options.silence().as_secs(),
						self.run.budget_for(needed)
					),
				};
				return unknown(&why);
			}
			let seen = self.first.with(|log| log.bytes);
			let pause = left.min(needed + Duration::from_millis(20));
			tokio::select! {
				_ = self.first.until(pause, |log| log.bytes > seen) => {}
				() = over.notified(), if over_at.is_none() => over_at = Some(events),
			}
		}
	}

	fn visible(&self, what: &str, visible: bool) {
		const ID: &Check = checks::SSE_HEARTBEAT_VISIBLE;
		match (visible, self.options.client) {
			(true, _) => self.run.pass(ID, what),
			(false, crate::Client::Fetch) => self.run.pass(ID, format!("{what}; a reader over fetch sees the bytes")),
			(false, crate::Client::EventSource) => self
				.run
				.fail(ID, format!("{what}, which JavaScript cannot see: a watchdog in the page has nothing to go by")),
			(false, crate::Client::Unknown) => self.run.unknown(
				ID,
				format!(
					"{what}; enough for proxies and fetch readers, invisible to an EventSource (--client eventsource or fetch)"
				),
			),
		}
	}

	/// SIGTERM to the service, where that is allowed.
	async fn shutdown(&self) {
		const ID: &Check = checks::SSE_SHUTDOWN_ENDS_STREAMS;
		if !self.run.wants(ID) {
			return;
		}
		let (Some(pid), true) = (self.options.pid, self.options.shutdown) else {
			self.run.unknown(ID, "needs --pid and --shutdown, which stops the service");
			return;
		};
		if self.first.ended().is_some() {
			self.run.unknown(ID, "the stream had ended before");
			return;
		}
		// What happens from here on is no cut of the service's own making.
		self.first.with(|log| self.cut(log));
		let began = std::time::Instant::now();
		if !process::terminate(pid).await {
			self.run.unknown(ID, format!("SIGTERM to {pid} was not possible"));
			return;
		}
		let ended = self.first.until(Duration::from_secs(10), |log| log.end.is_some()).await;
		let after = began.elapsed().as_millis();
		match self.first.ended() {
			Some(end) if ended && !end.is_cut() => {
				self.run.pass(ID, format!("ended with {} {after} ms after SIGTERM", end.text()))
			}
			Some(end) => self.run.fail(ID, format!("cut {after} ms after SIGTERM: {}", end.text())),
			None => self.run.fail(ID, "still open 10 s after SIGTERM"),
		}
	}
}
