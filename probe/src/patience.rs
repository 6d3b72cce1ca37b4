//! Waits that count only the time in which the probe itself could run.
//!
//! On a busy machine the probe wakes up late, and so does the service next to it. A silence that the
//! probe has slept through is no silence of the service.

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
