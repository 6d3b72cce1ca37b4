//! The limit on open streams: one more than it is refused, and a place comes back.

use std::time::{Duration, Instant};

use super::{PATIENCE, Probe};
use crate::checks::{self, Check};
use crate::http1::Opened;
use crate::reader::Reader;

const ID: &Check = checks::SSE_LIMIT_COUNTS_STREAMS;

/// How one more stream was answered.
enum Answer {
    Stream(Reader),
    Refused(u16),
    None,
}

impl Probe<'_> {
    pub(super) async fn limit(&self) {
        if !self.run.needs(&[ID]) {
            return;
        }
        let Some(limit) = self.options.limit else {
            return self.run.unknown(ID, "needs --limit");
        };
        if self.request.method != "GET" {
            return self.run.unknown(
                ID,
                "asking again with this method would run the request again",
            );
        }
        let mut open = Vec::new();
        // The first reader counts, while it is there; the places of readers that left come back in their time.
        let first = usize::from(self.first.ended().is_none());
        while open.len() + first < limit {
            match self.place(Duration::from_secs(2)).await {
                Answer::Stream(reader) => open.push(reader),
                Answer::Refused(status) => {
                    let n = open.len() + first + 1;
                    return self.run.unknown(ID, format!("stream {n} of {limit} was answered with {status}: others hold places, or a reader that left still has one"));
                }
                Answer::None => {
                    return self.run.unknown(ID, "one more stream was not answered");
                }
            }
        }
        match self.once_more().await {
            Answer::Refused(status @ (429 | 503)) => {
                if open.pop().is_none() {
                    // The only place is the first reader's, which stays to the end of the run.
                    return self.run.pass(
                        ID,
                        format!("stream {} was answered with {status}", limit + 1),
                    );
                }
                let left = Instant::now();
                // A service may notice with its next heartbeat only.
                match self.place(self.options.silence() + PATIENCE).await {
                    Answer::Stream(_) => self.run.pass(ID, format!("stream {} was answered with {status}; {} ms after a disconnect its place was free", limit + 1, left.elapsed().as_millis())),
                    _ if self.run.left().is_zero() => self.run.unknown(ID, "refused beyond the limit; the budget ended before a place was free again"),
                    Answer::Refused(status) => self.run.fail(ID, format!("{status} still, {:.1} s after one of {limit} streams was left", left.elapsed().as_secs_f64())),
                    Answer::None => self.run.unknown(ID, "one more stream was not answered"),
                }
            }
            Answer::Refused(status) => self.run.fail(
                ID,
                format!(
                    "stream {} was answered with {status}, neither 429 nor 503, while {limit} were answered with 200",
                    limit + 1
                ),
            ),
            Answer::None => self.run.unknown(ID, "one more stream was not answered"),
            Answer::Stream(extra) => {
                // A service may close an older stream in its place.
                let others = || open.iter().chain([&extra]);
                let ended = || {
                    others().any(|reader| reader.ended().is_some())
                        || (first == 1 && self.first.ended().is_some())
                };
                let wait = self.run.at_most(Duration::from_secs(1));
                let deadline = Instant::now() + wait;
                while !ended() && Instant::now() < deadline {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                if ended() {
                    self.run.unknown(ID, "one of the streams ended meanwhile");
                } else if wait < Duration::from_secs(1) {
                    self.run.unknown(ID, "the budget ended");
                } else {
                    self.run.fail(
                        ID,
                        format!("{} streams are open at the same time", limit + 1),
                    );
                }
            }
        }
    }

    /// Asks for a stream until there is a place, for `patience` at most.
    async fn place(&self, patience: Duration) -> Answer {
        let deadline = Instant::now() + self.run.at_most(patience);
        loop {
            let answer = self.once_more().await;
            if !matches!(answer, Answer::Refused(429 | 503)) || Instant::now() >= deadline {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn once_more(&self) -> Answer {
        let patience = self.run.at_most(PATIENCE);
        match self.ask(&self.request, patience).await {
            Ok(Opened::Response(response)) if response.head.status != 200 => {
                Answer::Refused(response.head.status)
            }
            Ok(Opened::Response(response)) => Answer::Stream(Reader::start(*response)),
            _ => Answer::None,
        }
    }
}
