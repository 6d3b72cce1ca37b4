//! An open-loop load test: its schedule does not wait for responses.
//!
//! A loop that sends the next request after the last answer (closed) stops asking while the server stalls: one slow
//! answer is counted where hundreds of users would have waited. Here operations begin on a [`Schedule`], and time counts from
//! when each was due, also when it began late. Under paused time it measures exactly.

use std::time::Duration;

use tokio::{
    task::{JoinError, JoinSet},
    time::{Instant, sleep_until},
};

// ANCHOR: schedule
/// When operation or event `n`, from 0, is due. Give each reader of a stream a copy: `late(n)` on receipt is the delay
/// of event `n`.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    start: Instant,
    every: Duration,
}
// ANCHOR_END: schedule

impl Schedule {
    /// Begins now.
    pub fn every(every: Duration) -> Self {
        let start = Instant::now();
        Self { start, every }
    }

    /// The time at which `n` is due.
    pub fn due(&self, n: u32) -> Instant {
        self.start + self.every * n
    }

    /// How long ago `n` was due.
    pub fn late(&self, n: u32) -> Duration {
        self.due(n).elapsed()
    }
}

/// What was measured.
#[derive(Debug, Default)]
pub struct Report {
    /// From due to done, of what succeeded, shortest first.
    pub latencies: Vec<Duration>,
    /// Operations that failed or panicked. Zero, or the latencies say little.
    pub failed: usize,
}

impl Report {
    /// The latency that the part `q` (0 to 1) of the operations did not exceed, `None` without any.
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let rank = (q * self.latencies.len() as f64).ceil() as usize;
        self.latencies.get(rank.saturating_sub(1)).copied()
    }

    fn add<E>(&mut self, done: Result<Result<Duration, E>, JoinError>) {
        match done {
            Ok(Ok(latency)) => self.latencies.push(latency),
            _ => self.failed += 1,
        }
    }
}

// ANCHOR: open_loop
/// Runs `count` operations, each when it is due, whether or not earlier ones have ended. At most `most` run at a time;
/// beyond that the next waits, and its latency still counts.
pub async fn open_loop<F, E>(
    schedule: Schedule,
    count: u32,
    most: usize,
    operation: impl Fn(u32) -> F,
) -> Report
where
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: Send + 'static,
{
    let mut report = Report::default();
    let mut running = JoinSet::new();
    for n in 0..count {
        sleep_until(schedule.due(n)).await;
        while let Some(done) = running.try_join_next() {
            report.add(done);
        }
        if running.len() >= most.max(1)
            && let Some(done) = running.join_next().await
        {
            report.add(done);
        }
        let operation = operation(n);
        running.spawn(async move { operation.await.map(|()| schedule.late(n)) });
    }
    while let Some(done) = running.join_next().await {
        report.add(done);
    }
    report.latencies.sort_unstable();
    report
}
// ANCHOR_END: open_loop
