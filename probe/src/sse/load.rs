//! A reader that does not read, and readers that come and go.

use std::time::{Duration, Instant};

use super::resume::announces;
use super::{PATIENCE, Probe};
use crate::http1::{Exchange, Opened, Part, is_event_stream};
use crate::process;
use crate::reader::Reader;
use crate::report::quote;
use crate::target::Link;

/// More than the kernel and the libraries between hold back for one connection.
const ENOUGH: usize = 16 << 20;
const LAG: &str = "sse-lag-is-told";

impl Probe<'_> {
    pub(super) async fn stalled_reader(&self) {
        const ISOLATED: &str = "sse-stalled-reader-isolated";
        const MEMORY: &str = "sse-stalled-reader-memory";
        if !self.run.needs(&[ISOLATED, MEMORY, LAG]) {
            return;
        }
        let unknown = |why: &str| {
            self.run.unknown(ISOLATED, why);
            self.run.unknown(MEMORY, why);
            self.run.unknown(LAG, why);
        };
        if self.first.ended().is_some() {
            return unknown("the stream ended");
        }
        if self.first.with(|log| log.events.is_empty()) {
            return unknown("no event came within the budget");
        }
        let mut request = self.request.clone();
        request.link = Link::Stalled;
        let Ok(stalled) = request.send(&self.target).await else {
            return unknown("one more connection was not possible");
        };
        let memory_before = self.options.pid.and_then(process::resident_kib);
        let (start, events) = self.first.with(|log| (log.bytes, log.events.len()));
        let began = Instant::now();
        let passed = || self.first.with(|log| log.bytes) - start;
        // Four seconds, and more where that is about to be enough.
        let mut silent_since = None;
        let time = || match self.options.publish.is_some() && passed() > ENOUGH / 4 {
            true => Duration::from_secs(20),
            false => Duration::from_secs(4),
        };
        while passed() < ENOUGH && began.elapsed() < self.run.at_most(time()) {
            // Events, not bytes: heartbeats go on while nothing else does.
            let before = self.first.with(|log| log.events.len());
            if self.options.publish.is_some() {
                drop(self.options.publish.once().await);
            }
            let patience = self.run.at_most(Duration::from_secs(3));
            let arrived = |log: &crate::wire_log::Log| log.events.len() > before;
            if !self.first.until(patience, arrived).await {
                silent_since = Some(before);
                break;
            }
        }
        if silent_since.is_some() && self.run.left() > Duration::from_secs(1) {
            // Did the stalled reader hold it up? Without it the others must go on.
            let before = self.first.with(|log| log.events.len());
            drop(stalled);
            if self.options.publish.is_some() {
                drop(self.options.publish.once().await);
            }
            let went_on = self
                .first
                .until(self.run.at_most(PATIENCE), |log| log.events.len() > before)
                .await;
            if went_on && passed() > 64 * 1024 {
                self.run.fail(ISOLATED, format!("after {} KiB the other reader received nothing for 3 s, and went on when the stalled one left", passed() / 1024));
            }
            return unknown("the stream fell silent");
        }
        let after = self.options.pid.and_then(process::resident_kib);
        let kib = passed() / 1024;
        if passed() < ENOUGH {
            return unknown(&format!(
                "only {kib} KiB were sent beside the stalled reader, which its buffers may hold (let --publish send more)"
            ));
        }
        self.run.pass(
            ISOLATED,
            format!(
                "the other reader received {kib} KiB in {} ms",
                began.elapsed().as_millis()
            ),
        );
        match (memory_before, after) {
            (Some(before), Some(after)) => {
                let grown = after.saturating_sub(before);
                // Half of what was sent is far more than any fixed buffer in this volume.
                if grown as usize > kib / 2 && grown > 3 * 1024 {
                    self.run.fail(
                        MEMORY,
                        format!("resident memory grew by {grown} KiB while {kib} KiB were sent"),
                    );
                } else {
                    self.run.pass(
                        MEMORY,
                        format!("resident memory grew by {grown} KiB while {kib} KiB were sent"),
                    );
                }
            }
            _ => self.run.unknown(MEMORY, "needs --pid"),
        }
        self.lag(stalled, events).await;
    }

    /// The stalled reader reads again: what is missing must have been announced. The first reader's events
    /// from index `since` on were sent beside it.
    async fn lag(&self, mut stalled: Exchange, since: usize) {
        if !self.run.needs(&[LAG]) {
            return;
        }
        let patience = self.run.at_most(PATIENCE);
        let head = match tokio::time::timeout(patience, stalled.head()).await {
            Ok(Ok(Some(head))) if head.status == 200 && is_event_stream(&head) => head,
            Ok(Ok(Some(head))) => {
                let why = format!("the reader was answered with {}", head.status);
                return self.run.unknown(LAG, why);
            }
            _ => {
                return self
                    .run
                    .pass(LAG, "the reader was cut off: it comes back with its cursor");
            }
        };
        let reader = Reader::start(stalled.into_response(head));
        let sent: Vec<String> = self.first.with(|log| {
            let ids = log.events[since..].iter().filter_map(|e| e.id.clone());
            ids.filter(|id| !id.is_empty()).collect()
        });
        let Some(last) = sent.last() else {
            return self
                .run
                .unknown(LAG, "events have no ids, so what is missing cannot be told");
        };
        let reached =
            |log: &crate::wire_log::Log| log.events.iter().any(|e| e.id.as_deref() == Some(last));
        let caught_up = reader.until(self.run.at_most(PATIENCE * 2), reached).await;
        let types = self
            .first
            .with(|log| log.events.iter().map(|e| e.event_type.clone()).collect());
        let seen = reader.with(|log| log.events.clone());
        if let Some(event) = seen.iter().find(|event| announces(event, &types)) {
            let text = format!("the reader was told with an event {}", event.event_type);
            return self.run.pass(LAG, text);
        }
        let seen: Vec<&str> = seen.iter().filter_map(|e| e.id.as_deref()).collect();
        let due = sent
            .iter()
            .skip_while(|id| seen.first() != Some(&id.as_str()));
        let missing: Vec<&String> = due.filter(|id| !seen.contains(&id.as_str())).collect();
        match missing.first() {
            // Behind is not the same as left out.
            _ if reader.ended().is_some() => self.run.pass(
                LAG,
                format!("the reader was cut off after {} events", seen.len()),
            ),
            _ if !caught_up => self.run.unknown(LAG, "the reader is still behind"),
            Some(first) => self.run.fail(
                LAG,
                format!(
                    "a reader that had fallen behind misses {} of {} events, the first {}, and nothing says so",
                    missing.len(),
                    sent.len(),
                    quote(first.as_bytes())
                ),
            ),
            None => self.run.pass(
                LAG,
                format!("a reader that had fallen behind was sent all {} events", seen.len()),
            ),
        }
    }

    /// Connects and disconnects, ten at a time.
    pub(super) async fn churn(&self) {
        const SURVIVED: &str = "sse-reconnects-survived";
        const NOTICED: &str = "sse-disconnect-noticed";
        const JITTER: &str = "sse-retry-jitter";
        if !self.run.needs(&[SURVIVED, NOTICED, JITTER]) {
            return;
        }
        if self.options.connects == 0 || self.request.method != "GET" {
            for id in [SURVIVED, NOTICED, JITTER] {
                self.run
                    .unknown(id, "no churn: --connects 0, or a method other than GET");
            }
            return;
        }
        let sends_retry = self.first.with(|log| !log.retries.is_empty());
        let before = self.options.pid.and_then(process::open_files);
        let mut statuses: Vec<u16> = Vec::new();
        let mut retries = Vec::new();
        let mut silent = 0;
        let mut left = self.options.connects;
        while left > 0 && !self.run.left().is_zero() {
            let batch = left.min(10);
            left -= batch;
            let mut connections = tokio::task::JoinSet::new();
            for _ in 0..batch {
                let (request, target) = (self.request.clone(), self.target.clone());
                let patience = self.run.at_most(PATIENCE);
                connections.spawn(async move {
                    let response = request.response(&target, patience).await;
                    let mut response = response?;
                    let retry = if sends_retry {
                        first_retry(&mut response).await
                    } else {
                        None
                    };
                    Some((response.head.status, retry))
                });
            }
            while let Some(joined) = connections.join_next().await {
                match joined {
                    Ok(Some((status, retry))) => {
                        statuses.push(status);
                        retries.extend(retry);
                    }
                    _ => silent += 1,
                }
            }
        }
        if left > 0 {
            return;
        }
        self.jitter(sends_retry, &retries);
        let again = self
            .request
            .open(&self.target, self.run.at_most(PATIENCE))
            .await;
        let refused = statuses.iter().filter(|status| **status != 200).count();
        let text = format!(
            "{} connects and disconnects ({refused} refused, {silent} without an answer)",
            statuses.len() + silent
        );
        match again {
            Ok(Opened::Response(response))
                if response.head.status < 500 || response.head.status == 503 =>
            {
                self.run
                    .pass(SURVIVED, format!("{text}, then {}", response.head.status));
            }
            Ok(Opened::Response(response)) => self
                .run
                .fail(SURVIVED, format!("{text}, then {}", response.head.status)),
            Ok(Opened::Silent) if self.run.left().is_zero() => {}
            _ => self.run.fail(SURVIVED, format!("{text}, then no answer")),
        }
        let (Some(pid), Some(before)) = (self.options.pid, before) else {
            return self.run.unknown(NOTICED, "needs --pid");
        };
        let heartbeat = self.options.silence() + PATIENCE;
        noticed(self.run, NOTICED, pid, before, heartbeat).await;
    }

    fn jitter(&self, sends_retry: bool, retries: &[String]) {
        const ID: &str = "sse-retry-jitter";
        let mut different = retries.to_vec();
        different.sort();
        different.dedup();
        match (sends_retry, retries.len(), different.len()) {
            (false, _, _) => self.run.unknown(
                ID,
                "no retry field at the beginning: every client reconnects after its own default",
            ),
            (true, n, _) if n < 5 => self
                .run
                .unknown(ID, format!("only {n} connections sent retry")),
            (true, n, 1) => self.run.fail(
                ID,
                format!(
                    "{n} connections were all sent retry: {}",
                    quote(different[0].as_bytes())
                ),
            ),
            (true, n, m) => self
                .run
                .pass(ID, format!("{m} different values on {n} connections")),
        }
    }
}

/// The `retry` value in the first bytes of a stream.
async fn first_retry(response: &mut crate::http1::Response) -> Option<String> {
    let mut log = crate::wire_log::Log::new(crate::wire_log::Form::Events);
    let read = async {
        while let Part::Data(data) = response.next().await {
            log.push(&data, Instant::now());
            if let Some(retry) = log.retries.first() {
                return Some(retry.clone());
            }
        }
        None
    };
    tokio::time::timeout(Duration::from_secs(1), read)
        .await
        .ok()
        .flatten()
}

/// Waits until the process has closed the descriptors of connections that are gone.
pub(crate) async fn noticed(
    run: &crate::Run,
    id: &str,
    pid: u32,
    before: usize,
    patience: Duration,
) {
    let began = Instant::now();
    // A few of the service's own may come and go.
    let allowed = before + 5;
    loop {
        let Some(now) = process::open_files(pid) else {
            return run.unknown(id, format!("the descriptors of {pid} cannot be read"));
        };
        if now <= allowed {
            return run.pass(
                id,
                format!(
                    "{before} descriptors before, {now} {} ms after the last disconnect",
                    began.elapsed().as_millis()
                ),
            );
        }
        if began.elapsed() >= patience {
            return run.fail(id, format!("{before} descriptors before, {now} still open {:.1} s after the last disconnect", began.elapsed().as_secs_f64()));
        }
        if run.left().is_zero() {
            return run.unknown(
                id,
                format!("{before} descriptors before, {now} at the end of the budget"),
            );
        }
        tokio::time::sleep(
            run.at_most(Duration::from_millis(50))
                .max(Duration::from_millis(5)),
        )
        .await;
    }
}
