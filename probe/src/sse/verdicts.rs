//! What the bytes of the first reader show, judged at the end of the run.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Probe;
use crate::http1::End;
use crate::report::quote;
use crate::wire_log::{Event, Log};

/// Names by which services announce that a stream is over.
const TERMINAL: &[&str] = &[
    "done",
    "end",
    "ended",
    "eof",
    "complete",
    "completed",
    "finish",
    "finished",
    "close",
    "closed",
    "stop",
    "stopped",
    "success",
    "failed",
    "bye",
    "goodbye",
    "shutdown",
    "reconnect",
    "message_stop",
    "stream_end",
    "stream-end",
    "stream_error",
    "stream-error",
    "error",
];

/// Whether an event says, by the names in use, that nothing follows.
pub(crate) fn is_terminal(event: &Event) -> bool {
    let known = |name: &str| {
        let name = name.to_ascii_lowercase();
        let last = name.rsplit('.').next().unwrap_or_default();
        TERMINAL.contains(&name.as_str()) || TERMINAL.contains(&last)
    };
    if known(&event.event_type) || event.data.trim() == "[DONE]" {
        return true;
    }
    let Ok(Value::Object(data)) = serde_json::from_str::<Value>(&event.data) else {
        return known(event.data.trim());
    };
    let text = |key: &str| data.get(key).and_then(Value::as_str).is_some_and(known);
    let flag = |key: &str| data.get(key) == Some(&Value::Bool(true));
    ["type", "event", "status", "state"].into_iter().any(text)
        || ["done", "finished", "complete", "final"]
            .into_iter()
            .any(flag)
}

/// A heartbeat, if one was seen after the first second: what it is, and whether JavaScript sees it.
pub(crate) fn heartbeat(log: &Log, opened: Instant) -> Option<(String, bool)> {
    let late = |at: &Instant| *at > opened + Duration::from_secs(1);
    let seconds = |at: Instant| (at - opened).as_secs_f64();
    if let Some(event) = log.heartbeats.iter().find(|e| late(&e.at)) {
        let text = format!(
            "a {:?} event after {:.1} s",
            event.event_type,
            seconds(event.at)
        );
        return Some((text, true));
    }
    if let Some(at) = log.comments.iter().find(|at| late(at)) {
        return Some((
            format!(
                "a comment (or an event without data) after {:.1} s",
                seconds(*at)
            ),
            false,
        ));
    }
    None
}

/// Whether events came at different times: the first and the last moment.
pub(crate) fn spread(events: &[Event]) -> Duration {
    match (events.first(), events.last()) {
        (Some(first), Some(last)) => last.at - first.at,
        _ => Duration::ZERO,
    }
}

impl Probe<'_> {
    /// Everything that the log of the first reader decides.
    pub(super) fn wire(&self) {
        let run = self.run;
        self.first.with(|log| {
            let seen = format!("{} bytes, {} events", log.bytes, log.events.len());
            if log.bytes == 0 {
                let ids = [
                    "sse-utf8",
                    "sse-no-bom",
                    "sse-line-endings",
                    "sse-known-fields",
                    "sse-data-in-every-event",
                    "sse-reserved-names",
                    "sse-complete-last-event",
                ];
                for id in ids {
                    run.unknown(id, "the stream sent nothing within the budget");
                }
            }
            let verdict = |id: &str, wrong: Option<String>| match wrong {
                Some(wrong) => run.fail(id, wrong),
                None => run.pass(id, seen.as_str()),
            };
            verdict("sse-utf8", log.bad_utf8.clone());
            verdict(
                "sse-no-bom",
                log.bom
                    .then(|| "the stream begins with EF BB BF".to_owned()),
            );
            let crs = log.lone_crs();
            verdict(
                "sse-line-endings",
                (crs > 0).then(|| format!("{crs} lines end with a lone CR")),
            );
            let unknown = log.unknown_lines.first();
            let too_long = log.too_long.clone();
            verdict(
                "sse-known-fields",
                unknown
                    .map(|line| {
                        format!(
                            "{} lines that no client reads, the first: {line}",
                            log.unknown_lines.len()
                        )
                    })
                    .or(too_long),
            );
            verdict(
                "sse-data-in-every-event",
                log.dataless.first().map(|name| {
                    format!("event: {} without data never fires", quote(name.as_bytes()))
                }),
            );
            let reserved = log
                .events
                .iter()
                .find(|e| e.event_type == "error" || e.event_type == "open");
            match (reserved, self.options.client) {
                (Some(event), crate::Client::Fetch) => run.pass(
                    "sse-reserved-names",
                    format!(
                        "event: {}, which only an EventSource mistakes",
                        event.event_type
                    ),
                ),
                (reserved, _) => verdict(
                    "sse-reserved-names",
                    reserved.map(|e| {
                        format!(
                            "event: {} also fires the native listeners of an EventSource",
                            e.event_type
                        )
                    }),
                ),
            }
            match log.end {
                None => run.pass(
                    "sse-complete-last-event",
                    format!("{seen}; the stream is open"),
                ),
                Some(_) => verdict(
                    "sse-complete-last-event",
                    log.unfinished()
                        .map(|rest| format!("ends inside an event: {rest}")),
                ),
            }
            self.leaks(log);
            self.cut(log);
            self.retry(log);
            self.ids(log);
            self.head_timing(log);
            self.arrival(log);
        });
    }

    /// What the stream itself tells of a failure, in whatever shape.
    fn leaks(&self, log: &Log) {
        let names_failure = |event: &&Event| {
            let name = event.event_type.to_ascii_lowercase();
            name.contains("err") || name.contains("fail")
        };
        let failures = log.events.iter().filter(names_failure);
        let texts = failures.map(|event| event.data.as_str());
        for text in texts.chain(log.unknown_lines.iter().map(String::as_str)) {
            if let Some(sign) = crate::leak::find(text) {
                let shown = quote(sign.as_bytes());
                return self
                    .run
                    .fail("sse-errors-clean", format!("the stream says: {shown}"));
            }
        }
        if let Some(answers) = self.error_answers.get() {
            self.run.pass("sse-errors-clean", answers.as_str());
        }
    }

    pub(super) fn cut(&self, log: &Log) {
        const ID: &str = "sse-ends-cleanly";
        match log.end {
            Some((at, end)) if end.is_cut() => {
                let after = (at - self.first.head_at).as_millis();
                self.run
                    .fail(ID, format!("cut after {after} ms: {}", end.text()));
            }
            Some((_, End::Close)) if self.first.head.http11 => {
                self.run.unknown(
                    ID,
                    "the body has no length and no chunks: a cut looks like an end",
                );
            }
            Some((_, end)) => self.run.pass(ID, format!("ended with {}", end.text())),
            None => self.run.pass(ID, "open for the whole run"),
        }
    }

    fn retry(&self, log: &Log) {
        const ID: &str = "sse-retry-sane";
        let wrong = log.retries.iter().find_map(|value| {
            if value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()) {
                return Some(format!("retry: {value} is not all digits, and ignored"));
            }
            match value.parse::<u64>() {
                Ok(ms) if ms < 100 => Some(format!(
                    "retry: {ms} lets one client reconnect more than 10 times a second"
                )),
                Ok(ms) if ms <= 3_600_000 => None,
                _ => Some(format!("retry: {value} is more than an hour")),
            }
        });
        match (wrong, log.retries.first()) {
            (Some(wrong), _) => self.run.fail(ID, wrong),
            (None, Some(value)) => self.run.pass(ID, format!("retry: {value}")),
            (None, None) => self
                .run
                .pass(ID, "no retry field: clients use their own default"),
        }
    }

    fn ids(&self, log: &Log) {
        let with_id: Vec<(&str, &Event)> = log
            .events
            .iter()
            .filter_map(|e| Some((e.id.as_deref()?, e)))
            .collect();
        if log.events.is_empty() {
            for id in ["sse-ids-present", "sse-ids-unique", "sse-ids-ascii"] {
                self.run.unknown(id, "no event came within the budget");
            }
            return;
        }
        if with_id.is_empty() {
            if self.options.resumable {
                self.run.fail(
                    "sse-ids-present",
                    format!(
                        "none of {} events has an id, so no client can resume",
                        log.events.len()
                    ),
                );
            }
            let why = "no event has an id: right where each event stands alone, wrong where a client must not miss one (--resumable makes this a failure)";
            for id in ["sse-ids-present", "sse-ids-unique", "sse-ids-ascii"] {
                self.run.unknown(id, why);
            }
            return;
        }
        self.run.pass(
            "sse-ids-present",
            format!(
                "{} of {} events have an id, such as {}",
                with_id.len(),
                log.events.len(),
                quote(with_id[0].0.as_bytes())
            ),
        );
        let wrong = with_id.iter().find(|(id, _)| {
            !id.bytes().all(|b| (0x20..0x7f).contains(&b)) || id.trim() != *id || id.len() > 1024
        });
        match wrong {
            Some((id, _)) => self
                .run
                .fail("sse-ids-ascii", format!("id {}", quote(id.as_bytes()))),
            None => self.run.pass(
                "sse-ids-ascii",
                format!("such as {}", quote(with_id[0].0.as_bytes())),
            ),
        }
        let mut known: HashMap<&str, &Event> = HashMap::new();
        for (id, event) in &with_id {
            // A heartbeat or the last event may repeat the id that is valid already.
            if id.is_empty() || is_terminal(event) {
                continue;
            }
            let Some(earlier) = known.insert(id, event) else {
                continue;
            };
            if (&earlier.event_type, &earlier.data) != (&event.event_type, &event.data) {
                self.run.fail(
                    "sse-ids-unique",
                    format!(
                        "id {} stands on two events, {} and {}",
                        quote(id.as_bytes()),
                        quote(earlier.data.as_bytes()),
                        quote(event.data.as_bytes())
                    ),
                );
                return;
            }
        }
        self.run
            .pass("sse-ids-unique", format!("{} ids", with_id.len()));
    }

    /// Whether the head waited for the first event.
    fn head_timing(&self, log: &Log) {
        const ID: &str = "sse-headers-before-first-event";
        let after = self.first.head.after;
        let ms = after.as_millis();
        let Some(first) = log.first_byte_at else {
            self.run
                .pass(ID, format!("the head came after {ms} ms, no event yet"));
            return;
        };
        let between = first.saturating_duration_since(self.first.head_at);
        let with_head = between < Duration::from_millis(20);
        // A comment or `retry` in front is what lets a server flush its head early.
        let event_first = log.events.first().is_some_and(|e| e.at == first)
            && log.comments.first().is_none_or(|at| *at > first)
            && log.retries.is_empty();
        if !with_head || !event_first {
            self.run.pass(
                ID,
                format!("the head came after {ms} ms, the first event later"),
            );
        } else if after > Duration::from_secs(1) {
            self.run.fail(
                ID,
                format!("the head came after {ms} ms, together with the first event"),
            );
        } else {
            self.run.unknown(
                ID,
                format!("the first event came with the head, after {ms} ms"),
            );
        }
    }

    /// Whether the events of the first reader came one by one, where nothing else has decided it.
    fn arrival(&self, log: &Log) {
        const ID: &str = "sse-events-incremental";
        let spread = spread(&log.events);
        let head_at = self.first.head_at;
        let waited = log
            .events
            .first()
            .map(|e| e.at - (head_at - self.first.head.after));
        match (log.events.len(), waited, log.end) {
            (0 | 1, _, _) => self.run.unknown(ID, "fewer than two events came within the budget (--publish)"),
            (n, Some(waited), Some(_)) if n >= 3 && waited > Duration::from_secs(1) && spread < Duration::from_millis(50) => {
                self.run.fail(ID, format!("all {n} events came at once, {} ms after the request, and then the stream ended", waited.as_millis()));
            }
            (n, _, _) if spread >= Duration::from_millis(20) => {
                self.run.pass(ID, format!("{n} events over {} ms", spread.as_millis()));
            }
            (n, _, _) => self.run.unknown(ID, format!("{n} events came in one moment: whether they were sent so, the wire does not show")),
        }
    }
}
