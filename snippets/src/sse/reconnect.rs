//! The rules by which a client of an event stream reconnects or stops, without a transport: for `super::consume` and
//! for your own client. RFC 9110, sections 10.2.3 and 15; HTML, section 9.2.

use std::time::{Duration, SystemTime};

use http::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use http::{Response, StatusCode};
use tokio::time::Instant;

// ANCHOR: policy
/// How a client treats silence and failure.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Whether the request may be repeated: [`Request::Once`] for a POST.
    pub request: Request,
    /// Maximum time from the request to the response headers.
    pub open: Duration,
    /// Maximum silence between two reads, not a limit on the whole body. Set it to at least twice the server's
    /// heartbeat interval.
    pub idle: Duration,
    /// The stream's `retry` is the minimum wait, within these bounds. A random part is added: at first up to as much
    /// again; its bound doubles with each failure.
    pub retry: (Duration, Duration),
    /// Upper bound of that random part, and of a `Retry-After` that is honored.
    pub longest: Duration,
    /// A stream that lasted this long was healthy, and only such a stream resets the waits. If each event reset them,
    /// clients would hammer a server that fails after one event.
    pub stable: Duration,
    /// Failures in a row before the client stops.
    pub attempts: u32,
}

/// Whether the request may be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// A GET that continues after `Last-Event-ID`: the end of a response is not the end of the stream.
    Resume,
    /// A request that does work. It is repeated only after a 429, which a rate limit returns before the work starts. When
    /// the response ends, the stream ends.
    Once,
}
// ANCHOR_END: policy

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
    /// Try again, not before the time that the server gave.
    Retry(Option<Duration>),
    /// A retry would get the same.
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
            // Refused by a rate limit, in front of the work.
            StatusCode::TOO_MANY_REQUESTS => Verdict::Retry(retry_after(response.headers())),
            // A deploy or a proxy on the path: another attempt may find a healthy server. None of these says that the
            // request had no effect: one that does work is not repeated (RFC 9110, section 9.2.2).
            StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_EARLY
            | StatusCode::INTERNAL_SERVER_ERROR
            | StatusCode::BAD_GATEWAY
            | StatusCode::GATEWAY_TIMEOUT
                if resume =>
            {
                Verdict::Retry(retry_after(response.headers()))
            }
            // Cloudflare, whose origin is down or restarts.
            _ if resume && (520..=530).contains(&status.as_u16()) => {
                Verdict::Retry(retry_after(response.headers()))
            }
            _ => Verdict::Refused,
        }
    }

    /// The attempt or the stream has ended: how long to wait, or `None` to stop. `asked` is the server's
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
        // Never earlier than the server asks (HTML, section 9.2.3), and not in the same moment as all others.
        let first = stream.unwrap_or(least).clamp(least, most);
        let doubled = first.saturating_mul(1 << self.failures.min(16));
        self.failures += 1;
        let jitter = doubled.min(self.policy.longest).mul_f64(rand::random());
        let asked = asked.unwrap_or_default().min(self.policy.longest);
        Some(first.max(asked).saturating_add(jitter))
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
