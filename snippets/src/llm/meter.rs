//! What users feel: the time to the first token and the gaps between tokens.
//!
//! Promise: one report for each answer, also for one that was cancelled; the first token is content, never a head or a heartbeat.

use std::time::Duration;

use tokio::time::Instant;

use super::{chat::ChatEvent, public_error::PublicError};

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The model finished.
    Done,
    /// With the error that the client was told.
    Failed(PublicError),
    /// The reader left, or pressed Stop.
    Cancelled,
}

/// One answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// From the request to the first text, reasoning or refusal; `None` when there was none.
    pub first_token: Option<Duration>,
    /// Longest time between two pieces of content, as the model sent them.
    pub longest_gap: Duration,
    /// Sum of these gaps; divided by `pieces - 1` it is the mean.
    pub gaps: Duration,
    /// Pieces of content.
    pub pieces: u64,
    /// From the request to the end.
    pub lasted: Duration,
    /// How it ended.
    pub outcome: Outcome,
}

/// Takes the time of one answer; reports when it is dropped.
pub struct Meter {
    since: Instant,
    last: Option<Instant>,
    so_far: Measured,
    report: fn(&Measured),
}

impl Meter {
    /// Begins now. `report` must not block: metrics, a log line.
    pub fn start(report: fn(&Measured)) -> Self {
        let so_far = Measured {
            first_token: None,
            longest_gap: Duration::ZERO,
            gaps: Duration::ZERO,
            pieces: 0,
            lasted: Duration::ZERO,
            outcome: Outcome::Cancelled, // until an end is seen
        };
        Self {
            since: Instant::now(),
            last: None,
            so_far,
            report,
        }
    }

    /// Call it with each event, before events are merged.
    pub fn event(&mut self, event: &ChatEvent) {
        match event {
            ChatEvent::Delta(..) => {
                let now = Instant::now();
                match self.last.replace(now) {
                    None => self.so_far.first_token = Some(now - self.since),
                    Some(last) => {
                        self.so_far.gaps += now - last;
                        self.so_far.longest_gap = self.so_far.longest_gap.max(now - last);
                    }
                }
                self.so_far.pieces += 1;
            }
            ChatEvent::Done(_) => self.so_far.outcome = Outcome::Done,
            ChatEvent::Failed(error) => self.so_far.outcome = Outcome::Failed(*error),
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.so_far.lasted = self.since.elapsed();
        (self.report)(&self.so_far);
    }
}
