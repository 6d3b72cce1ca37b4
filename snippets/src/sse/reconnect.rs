//! When a client of an event stream comes back, and when it stops: the rules without the transport, for
//! `super::consume` and for any client of your own. RFC 9110, sections 10.2.3 and 15; HTML, section 9.2.

use std::time::{Duration, SystemTime};

use http::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use http::{Response, StatusCode};
use tokio::time::Instant;

/// How a client treats silence and failure.
#[derive(Debug, Clone)]
pub struct Policy {
    /// What the request is: [`Request::Once`] for a POST.
    pub request: Request,
    /// From the request to the head of the response.
    pub open: Duration,
    /// Between two reads. Above the server's heartbeat, twice at least; never a limit on the whole body.
    pub idle: Duration,
    /// Bounds of the wait before the first retry; within them the stream's own `retry` counts.
    pub retry: (Duration, Duration),
    /// Longest wait before any retry, and the most that a `Retry-After` is honoured.
    pub longest: Duration,
    /// A stream that lasted this long was well: only then the wait begins anew. Reset at each event, a
    /// server that fails right after one would be hammered.
    pub stable: Duration,
    /// Failures in a row before the client gives up.
    pub attempts: u32,
}

/// Whether the request may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// A GET that continues after `Last-Event-ID`: the end of a response is a pause.
    Resume,
    /// A request that does work: sent again only where the server said that it did nothing (429, 503).
    /// The end of the response is the end.
    Once,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            request: Request::Resume,
            open: Duration::from_secs(20),
            idle: Duration::from_secs(45),
            retry: (Duration::from_millis(500), Duration::from_secs(30)),
            longest: Duration::from_secs(120),
            stable: Duration::from_secs(30),
            attempts: 20,
        }
    }
}

/// What the head of a response means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// An event stream: read it.
    Read,
    /// 204: the server wants no more of this client.
    Finished,
    /// Come back, not before the time that the server gave.
    Retry(Option<Duration>),
    /// It will not be better next time.
    Refused,
}

/// The rules of [`Policy`] for one stream.
#[derive(Debug)]
pub struct Reconnect {
    policy: Policy,
    failures: u32,
    opened: Option<Instant>,
}

impl Reconnect {
    /// The state of a client that has not connected yet.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            failures: 0,
            opened: None,
        }
    }

    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Judges the head of a response.
    pub fn judge<B>(&mut self, response: &Response<B>) -> Verdict {
        let status = response.status();
        let resume = self.policy.request == Request::Resume;
        match status {
            StatusCode::OK if is_event_stream(response.headers()) => {
                self.opened = Some(Instant::now());
                Verdict::Read
            }
            StatusCode::NO_CONTENT => Verdict::Finished,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                Verdict::Retry(retry_after(response.headers()))
            }
            // A deploy or a proxy in between: another attempt may find a server that is well.
            StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_EARLY
            | StatusCode::INTERNAL_SERVER_ERROR
            | StatusCode::BAD_GATEWAY
            | StatusCode::GATEWAY_TIMEOUT
                if resume =>
            {
                Verdict::Retry(retry_after(response.headers()))
            }
            _ => Verdict::Refused,
        }
    }

    /// The attempt or the stream has ended: how long to wait, `None` to give up. `asked` is the server's
    /// `Retry-After`, `stream` the `retry` of the event stream.
    pub fn wait(&mut self, asked: Option<Duration>, stream: Option<Duration>) -> Option<Duration> {
        let lasted = self.opened.take().map(|opened| opened.elapsed());
        if lasted.is_some_and(|lasted| lasted >= self.policy.stable) {
            self.failures = 0;
        }
        if self.failures >= self.policy.attempts {
            return None;
        }
        let (least, most) = self.policy.retry;
        let first = stream.unwrap_or(least).clamp(least, most);
        let doubled = first.saturating_mul(1 << self.failures.min(16));
        self.failures += 1;
        // Full jitter: after a restart all clients come back at the same time but for this.
        let ceiling = doubled.min(self.policy.longest);
        let jitter = ceiling.mul_f64(rand::random_range(0.0..1.0));
        let asked = asked.unwrap_or_default().min(self.policy.longest);
        Some(asked.saturating_add(jitter))
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    let value = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let essence = value.and_then(|value| value.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("text/event-stream"))
}

/// RFC 9110, section 10.2.3: seconds or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}
