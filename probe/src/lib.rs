//! Runs the streaming checklist against a live endpoint and says what the wire shows.
//!
//! [`checks::CHECKS`] is the list; [`run`] does the work; `README.md` of this crate documents the
//! command and its JSON. The parser of event streams is the project's own pattern, `sse/wire`.

mod checklist;
pub mod checks;
pub mod command;
mod http1;
mod http2;
mod leak;
mod llm;
mod options;
mod process;
mod report;
mod sse;
mod target;
mod wire_log;
mod ws;

// `wire`, the parser of the pattern.
include!(concat!(env!("OUT_DIR"), "/wire.rs"));

use std::time::Duration;

pub use checks::Kind;
pub use options::{Client, Options, Payload, Terminal};
pub use process::Publish;
pub use report::{Ended, Finding, News, Progress, Report, Run, Verdict, matches};
pub use target::{Target, Trust, Unreachable};

/// What the verdicts after the last wait may take beyond the budget.
const GRACE: Duration = Duration::from_secs(5);
/// The same with SIGTERM, which is the last thing to see.
const SHUTDOWN: Duration = Duration::from_secs(20);

/// Runs all checks of `kind` that the options ask for.
///
/// # Errors
/// When the service cannot be connected to.
pub async fn run(kind: Kind, options: &Options, progress: Option<Progress>) -> Result<Report, Unreachable> {
	run_until(kind, options, progress, std::future::pending()).await
}

/// As [`run`], until `stop` completes: the report then has the verdicts that were found.
///
/// # Errors
/// When the service cannot be connected to.
pub async fn run_until(
	kind: Kind,
	options: &Options,
	progress: Option<Progress>,
	stop: impl Future<Output = ()>,
) -> Result<Report, Unreachable> {
	let run = Run::new(kind, options, progress);
	// Boxed: unoptimized, their futures are too large for the stack of a task that polls several.
	let work = async {
		match kind {
			Kind::Sse => Box::pin(sse::probe(options, &run)).await,
			Kind::Ws => Box::pin(ws::probe(options, &run)).await,
			Kind::Llm => Box::pin(llm::probe(options, &run)).await,
		}
	};
	// The checks keep to the budget; this one ends whatever does not. SIGTERM comes after the budget.
	let limit = options.budget + if options.shutdown { SHUTDOWN } else { GRACE };
	let interrupted = tokio::select! {
		biased;
		() = run.aborted() => false,
		done = work => {
			done?;
			false
		}
		() = stop => true,
		() = tokio::time::sleep(limit) => match run.answered() {
			true => false,
			false => return Err(Unreachable::late(&options.target, limit)),
		},
	};
	Ok(run.finish(&options.target.to_string(), interrupted))
}

/// Waits that count only the time in which the probe itself could run.
///
/// On a busy machine the probe wakes up late, and so does the service next to it. A silence that the
/// probe has slept through is no silence of the service.
mod patience {
	use std::time::{Duration, Instant};

	/// A wait is counted in steps of this length: one that ends late counts no more.
	pub(crate) const STEP: Duration = Duration::from_millis(50);

	/// What a wait came to that was in vain.
	#[derive(Debug)]
	pub(crate) struct Late;

	/// Waits for `work`, for `patience` at most. Work that has ended when a step ends counts, however late that is.
	pub(crate) async fn within<F: Future>(patience: Duration, work: F) -> Result<F::Output, Late> {
		let mut work = std::pin::pin!(work);
		let mut left = patience;
		loop {
			let step = left.min(STEP);
			tokio::select! {
				biased;
				done = &mut work => return Ok(done),
				() = tokio::time::sleep(step) => left -= step,
			}
			if left.is_zero() {
				return Err(Late);
			}
		}
	}

	/// The time that passed for the probe: a clock without the pauses in which it could not run.
	pub(crate) struct Clock {
		last: Instant,
		counted: Duration,
	}

	impl Clock {
		pub(crate) fn start() -> Self {
			Self { last: Instant::now(), counted: Duration::ZERO }
		}

		/// Counts what has passed since the last call, which was to wait for `wait` at most.
		pub(crate) fn count(&mut self, wait: Duration) {
			let now = Instant::now();
			self.counted += (now - self.last).min(wait);
			self.last = now;
		}

		/// The time that was counted.
		pub(crate) fn elapsed(&self) -> Duration {
			self.counted
		}
	}
}
