//! Measurement of each answer: time to the first token, gaps, tokens, and how it ended.
//!
//! Use it to watch latency and to account for tokens. Guarantees: one report per answer, even if it was cancelled or refused; the
//! first token is content, never the response headers or a heartbeat. Sibling: `model_event`.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::model_event::{FinishReason, ModelEvent, Usage, Watch};

/// How an answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The model finished.
    Done(FinishReason),
    /// With the code that the client received: also a refusal of the provider before the first byte.
    Failed(&'static str),
    /// The reader disconnected, or pressed Stop.
    Cancelled,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// Who asked.
    pub user: String,
    /// The model.
    pub model: String,
    /// From the request to the first text, reasoning or refusal; `None` when there was none.
    pub first_token: Option<Duration>,
    /// Longest time between two pieces of content, as the model sent them.
    pub longest_gap: Duration,
    /// Sum of these gaps; divided by `pieces - 1` it is the mean.
    pub gaps: Duration,
    /// Pieces of content.
    pub pieces: u64,
    /// Bytes of content and of tool arguments.
    pub bytes: u64,
    /// The provider's own counts. Most providers send them last: a cancelled answer has none, or the input only.
    pub usage: Usage,
    /// From the request to the end.
    pub lasted: Duration,
    /// How it ended.
    pub outcome: Outcome,
    /// The status with which the provider refused.
    pub provider: Option<u16>,
}

impl Measured {
    /// Output tokens, and whether they are an estimate: without the provider's count, one token per four bytes (English text).
    /// The reasoning of some models is billed and never sent, so the estimate is a lower bound.
    pub fn output_tokens(&self) -> (u64, bool) {
        match (self.usage.output, &self.outcome) {
            (Some(tokens), Outcome::Done(_)) => (tokens, false),
            (tokens, _) => (tokens.unwrap_or(0).max(self.bytes.div_ceil(4)), true),
        }
    }
}

/// Gets each answer at its end. It must not block: metrics, a log line, a channel.
pub type Report = Arc<dyn Fn(&Measured) + Send + Sync>;

/// Measures every answer of `model`: the `watch` of a relay, which calls it with the user when an answer begins, passes it the model's
/// events, or the code of the error that ended them with the provider's status, and drops it at the end.
pub fn measure(model: &str, report: Report) -> Arc<Watch> {
    let model = model.to_owned();
    Arc::new(move |user| {
        let mut meter = Meter::start(user, &model, report.clone());
        Box::new(move |event| match event {
            Ok(event) => meter.event(event),
            Err((code, status)) => meter.failed(code, status),
        })
    })
}

/// Measures one answer; reports when it is dropped.
pub struct Meter {
    since: Instant,
    last: Option<Instant>,
    so_far: Measured,
    report: Report,
}

impl Meter {
    /// Begins now.
    pub fn start(user: &str, model: &str, report: Report) -> Self {
        let so_far = Measured {
            user: user.to_owned(),
            model: model.to_owned(),
            first_token: None,
            longest_gap: Duration::ZERO,
            gaps: Duration::ZERO,
            pieces: 0,
            bytes: 0,
            usage: Usage::default(),
            lasted: Duration::ZERO,
            outcome: Outcome::Cancelled, // until an end is seen
            provider: None,
        };
        Self {
            since: Instant::now(),
            last: None,
            so_far,
            report,
        }
    }

    /// Call it with each event of the model, before events are merged.
    pub fn event(&mut self, event: &ModelEvent) {
        match event {
            ModelEvent::Text(text) | ModelEvent::Reasoning(text) | ModelEvent::Refusal(text) => {
                self.content(text.len());
            }
            ModelEvent::ToolCallDelta { fragment, .. } => {
                self.so_far.bytes += fragment.len() as u64;
            }
            ModelEvent::Usage(usage) => self.so_far.usage = *usage,
            ModelEvent::Finish { reason, .. } => {
                self.so_far.outcome = Outcome::Done(reason.clone());
            }
            ModelEvent::Heartbeat | ModelEvent::ToolCallStart { .. } | ModelEvent::Other { .. } => {
            }
        }
    }

    /// The answer has failed with this code, whatever came before; with the provider's status, if it refused.
    pub fn failed(&mut self, code: &'static str, provider: Option<u16>) {
        self.so_far.outcome = Outcome::Failed(code);
        self.so_far.provider = provider;
    }

    fn content(&mut self, bytes: usize) {
        let now = Instant::now();
        match self.last.replace(now) {
            None => self.so_far.first_token = Some(now - self.since),
            Some(last) => {
                self.so_far.gaps += now - last;
                self.so_far.longest_gap = self.so_far.longest_gap.max(now - last);
            }
        }
        self.so_far.pieces += 1;
        self.so_far.bytes += bytes as u64;
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.so_far.lasted = self.since.elapsed();
        (self.report)(&self.so_far);
    }
}
