//! Reads one response in the background and keeps what it saw.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::http1::{Decoder, End, Head, Part, Response};
use crate::wire_log::{Form, Log};

/// One stream that is being read. Dropped, it disconnects.
pub(crate) struct Reader {
	pub(crate) head: Head,
	pub(crate) head_at: Instant,
	log: Arc<Mutex<Log>>,
	changed: watch::Receiver<()>,
	task: JoinHandle<()>,
}

impl Reader {
	pub(crate) fn start(mut response: Response) -> Self {
		let head = response.head.clone();
		let head_at = response.sent_at + head.after;
		let mut decoder = head.get("content-encoding").and_then(|coding| Decoder::new(coding.trim()));
		let log = Arc::new(Mutex::new(Log::new(form(&head))));
		let (notify, changed) = watch::channel(());
		let written = Arc::clone(&log);
		let task = tokio::spawn(async move {
			loop {
				let part = response.next().await;
				let now = Instant::now();
				let mut log = written.lock().unwrap_or_else(PoisonError::into_inner);
				let ended = match part {
					Part::End(end) => Some(end),
					Part::Data(data) => {
						let text = match &mut decoder {
							Some(decoder) => decoder.push(&data),
							None => Ok(data),
						};
						match text {
							Ok(text) if text.is_empty() => None,
							Ok(text) => {
								log.push(&text, now);
								None
							}
							Err(_) => Some(End::Cut),
						}
					}
				};
				if let Some(end) = ended {
					log.ended(end, now);
					notify.send_replace(());
					return;
				}
				drop(log);
				notify.send_replace(());
			}
		});
		Self { head, head_at, log, changed, task }
	}

	/// Looks at what was seen so far.
	pub(crate) fn with<T>(&self, look: impl FnOnce(&Log) -> T) -> T {
		look(&self.log.lock().unwrap_or_else(PoisonError::into_inner))
	}

	/// Waits until `condition` holds; false when it did not within `patience`, or cannot any more.
	pub(crate) async fn until(&self, patience: Duration, mut condition: impl FnMut(&Log) -> bool) -> bool {
		let mut changed = self.changed.clone();
		let wait = async {
			loop {
				changed.mark_unchanged();
				let (holds, ended) = self.with(|log| (condition(log), log.end.is_some()));
				if holds || ended {
					return holds;
				}
				if changed.changed().await.is_err() {
					return self.with(|log| condition(log));
				}
			}
		};
		match tokio::time::timeout(patience, wait).await {
			Ok(holds) => holds,
			Err(_) => self.with(|log| condition(log)),
		}
	}

	pub(crate) fn ended(&self) -> Option<End> {
		self.with(|log| log.end.map(|(_, end)| end))
	}
}

impl Drop for Reader {
	fn drop(&mut self) {
		self.task.abort();
	}
}

fn form(head: &Head) -> Form {
	let kind = head.get("content-type").unwrap_or_default();
	let essence = kind.split(';').next().unwrap_or_default().trim();
	match essence.to_ascii_lowercase().as_str() {
		"text/event-stream" => Form::Events,
		kind if kind.contains("ndjson") || kind.contains("jsonl") || kind.contains("json-seq") => Form::Lines,
		_ => Form::Unknown,
	}
}
