//! How events flow: one by one, under gzip, to two readers; and what the end of a stream means.

use std::time::{Duration, Instant};

use super::verdicts::{is_terminal, spread};
use super::{PATIENCE, Probe};
use crate::reader::Reader;
use crate::report::quote;
use crate::wire_log::Event;

/// The checks for which events must flow.
const NEED_EVENTS: &[&str] = &[
    "sse-headers-before-first-event",
    "sse-events-incremental",
    "sse-gzip-incremental",
    "sse-utf8",
    "sse-no-bom",
    "sse-line-endings",
    "sse-known-fields",
    "sse-data-in-every-event",
    "sse-complete-last-event",
    "sse-reserved-names",
    "sse-retry-sane",
    "sse-retry-jitter",
    "sse-ends-cleanly",
    "sse-terminal-event",
    "sse-ids-present",
    "sse-ids-unique",
    "sse-ids-ascii",
    "sse-resume-no-gap",
    "sse-resume-no-duplicate",
    "sse-cursor-past",
    "sse-cursor-future",
    "sse-fan-out-order",
    "sse-stalled-reader-isolated",
    "sse-stalled-reader-memory",
    "sse-lag-is-told",
    "sse-errors-clean",
];

impl Probe<'_> {
    /// Lets events flow to the first reader, to a plain second one and to one that accepts gzip.
    pub(super) async fn flow(&self) {
        if !self.run.needs(NEED_EVENTS) {
            return;
        }
        let second = self.open(|request| request).await;
        let gzip = self
            .open(|request| request.header("Accept-Encoding", "gzip"))
            .await;
        let before = self.first.with(|log| log.events.len());
        if self.options.publish.is_some() {
            self.publish_some(second.as_ref().ok()).await;
        } else {
            let wait = self.run.at_most(Duration::from_secs(6));
            self.first
                .until(wait, |log| log.events.len() >= before + 3)
                .await;
        }
        self.fan_out(second.as_ref()).await;
        self.gzip(before, &second, &gzip).await;
    }

    /// Publishes four times and waits for each event to arrive.
    async fn publish_some(&self, second: Option<&Reader>) {
        const ID: &str = "sse-events-incremental";
        let mut slowest = Duration::ZERO;
        for n in 1..=4 {
            let count = |reader: &Reader| reader.with(|log| log.events.len());
            let before = (count(&self.first), second.map(count));
            let sent = Instant::now();
            if let Err(why) = self.options.publish.once().await {
                self.run.unknown(ID, why);
                return;
            }
            let patience = self.run.at_most(PATIENCE);
            let arrived = self
                .first
                .until(patience, |log| log.events.len() > before.0)
                .await;
            if let (Some(second), Some(before)) = (second, before.1) {
                second
                    .until(self.run.at_most(PATIENCE), |log| log.events.len() > before)
                    .await;
            }
            if !arrived {
                if self.first.ended().is_none() && patience == PATIENCE {
                    self.run.fail(
                        ID,
                        format!(
                            "published event {n} did not arrive within {} s",
                            PATIENCE.as_secs()
                        ),
                    );
                }
                return;
            }
            slowest = slowest.max(sent.elapsed());
        }
        self.run.pass(ID, format!("4 published events arrived one by one, the slowest after {} ms (the command included)", slowest.as_millis()));
    }

    /// Two readers, the same events in the same order.
    async fn fan_out(&self, second: Result<&Reader, &String>) {
        const ID: &str = "sse-fan-out-order";
        if !self.options.publish.is_some() {
            self.run.unknown(ID, "without --publish the probe does not know that both readers are to receive the same");
            return;
        }
        let second = match second {
            Ok(second) => second,
            Err(why) => return self.run.unknown(ID, why.as_str()),
        };
        let key = |e: &Event| (e.event_type.clone(), e.data.clone(), e.id.clone());
        let since = second.head_at;
        let theirs = |reader: &Reader| -> Vec<_> {
            reader.with(|log| {
                log.events
                    .iter()
                    .filter(|e| e.at > since)
                    .map(key)
                    .collect()
            })
        };
        let first = theirs(&self.first);
        if first.is_empty() {
            return self.run.unknown(ID, "no published event arrived");
        }
        second
            .until(self.run.at_most(PATIENCE), |log| {
                log.events.len() >= first.len()
            })
            .await;
        let other = second.with(|log| log.events.iter().map(key).collect::<Vec<_>>());
        // One of them may have begun with a snapshot or a greeting: what was sent since counts.
        let wanted: Vec<_> = first.iter().filter(|event| other.contains(event)).collect();
        let missing: Vec<_> = first
            .iter()
            .filter(|event| !other.contains(event))
            .collect();
        let order: Vec<_> = other.iter().filter(|event| first.contains(event)).collect();
        if !missing.is_empty() {
            let (name, data, _) = missing[0];
            self.run.fail(
                ID,
                format!(
                    "{} of {} events did not reach the second reader, the first: {name} {}",
                    missing.len(),
                    first.len(),
                    quote(data.as_bytes())
                ),
            );
        } else if wanted != order {
            self.run
                .fail(ID, "two readers received the same events in another order");
        } else {
            self.run.pass(
                ID,
                format!("{} events reached both readers in one order", first.len()),
            );
        }
    }

    /// The stream as a browser asks for it.
    async fn gzip(
        &self,
        before: usize,
        second: &Result<Reader, String>,
        gzip: &Result<Reader, String>,
    ) {
        const ID: &str = "sse-gzip-incremental";
        let gzip = match gzip {
            Ok(gzip) => gzip,
            Err(why) => return self.run.unknown(ID, why.as_str()),
        };
        let coding = gzip
            .head
            .get("content-encoding")
            .unwrap_or_else(|| "none".to_owned());
        if !matches!(coding.as_str(), "none" | "gzip" | "identity") {
            return self.run.fail(
                ID,
                format!("content-encoding: {coding} for a client that accepts only gzip"),
            );
        }
        let arrived = self
            .first
            .with(|log| log.events.len())
            .saturating_sub(before);
        let other = second
            .as_ref()
            .map_or(0, |reader| reader.with(|log| log.events.len()));
        // A stream that is over soon: both readers see all of it.
        if self.first.ended().is_some() {
            for reader in [Some(gzip), second.as_ref().ok()].into_iter().flatten() {
                reader
                    .until(self.run.at_most(PATIENCE), |log| log.end.is_some())
                    .await;
            }
        }
        let whole = |reader: &Reader| reader.with(|log| log.end.is_some() && log.events.len() >= 2);
        let both = whole(gzip) && second.as_ref().is_ok_and(whole);
        if !both && (arrived < 2 || other == 0) {
            let has = gzip.with(|log| log.events.len());
            return self.run.unknown(
                ID,
                format!("too few events to compare: {arrived} plain, {has} with gzip"),
            );
        }
        gzip.until(self.run.at_most(Duration::from_secs(3)), |log| {
            !log.events.is_empty()
        })
        .await;
        let (count, burst, ended) =
            gzip.with(|log| (log.events.len(), spread(&log.events), log.end.is_some()));
        let plain = match second {
            Ok(second) if both => second.with(|log| spread(&log.events)),
            _ => self.first.with(|log| spread(&log.events)),
        };
        if count == 0 && !ended {
            self.run.fail(
                ID,
                format!(
                    "content-encoding {coding}: no event, while a plain reader received {other}"
                ),
            );
        } else if ended
            && count >= 2
            && burst < Duration::from_millis(50)
            && plain > Duration::from_millis(500)
        {
            self.run.fail(ID, format!("content-encoding {coding}: all {count} events at the end, plain ones over {} ms", plain.as_millis()));
        } else if count == 0 {
            self.run
                .unknown(ID, "the stream asked with gzip ended without an event");
        } else {
            self.run.pass(
                ID,
                format!("content-encoding {coding}: {count} events as they were sent"),
            );
        }
    }

    /// A stream that ended by itself: what an EventSource does then is to ask again.
    pub(super) async fn ended(&self) {
        const ID: &str = "sse-terminal-event";
        if !self.run.wants(ID) {
            return;
        }
        let Some(end) = self.first.ended() else {
            return self
                .run
                .unknown(ID, "the stream did not end within the budget");
        };
        if end.is_cut() {
            return self.run.unknown(ID, "the stream was cut");
        }
        if self.first.with(|log| log.unfinished().is_some()) {
            return self.run.unknown(ID, "the last event is not complete");
        }
        let events = self.first.with(|log| log.events.clone());
        let Some(last) = events.last() else {
            return self.run.unknown(ID, "the stream ended without an event");
        };
        let same_type = events
            .iter()
            .rev()
            .skip(1)
            .any(|e| e.event_type == last.event_type);
        if is_terminal(last) || (events.len() > 2 && !same_type) {
            return self.run.pass(
                ID,
                format!(
                    "the last event is {} {}",
                    last.event_type,
                    quote(last.data.as_bytes())
                ),
            );
        }
        let cursor = events.iter().rev().find_map(|e| e.id.clone());
        let request = match cursor.as_deref() {
            Some(id) if !id.is_empty() => self.request.clone().header("Last-Event-ID", id),
            _ => self.request.clone(),
        };
        let Some(response) = request
            .response(&self.target, self.run.at_most(PATIENCE))
            .await
        else {
            return self.run.unknown(ID, "reconnecting was not answered");
        };
        let status = response.head.status;
        if status != 200 {
            return self.run.pass(
                ID,
                format!("reconnecting is answered with {status}, which stops an EventSource"),
            );
        }
        let again = Reader::start(response);
        let most = events.len().min(3);
        again
            .until(self.run.at_most(PATIENCE), |log| log.events.len() >= most)
            .await;
        let key = |e: &Event| (e.event_type.clone(), e.data.clone());
        let repeated: Vec<_> = again.with(|log| log.events.iter().take(most).map(key).collect());
        let began: Vec<_> = events.iter().take(most).map(key).collect();
        if repeated == began {
            self.run.fail(ID, format!("the stream ended after {} events without a terminal one, and reconnecting sends them all again", events.len()));
        } else {
            self.run.unknown(
                ID,
                "no terminal event is recognised, and reconnecting does not repeat the stream",
            );
        }
    }
}
