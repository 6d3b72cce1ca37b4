//! The checks of `stream-probe sse`.

mod flow;
mod limit;
mod load;
mod requests;
mod resume;
mod verdicts;

use std::time::Duration;

pub(crate) use load::noticed;
pub(crate) use requests::judge_error;
pub(crate) use verdicts::{is_terminal, spread};

use crate::http1::{Head, Opened, Request, Response, is_event_stream};
use crate::process;
use crate::reader::Reader;
use crate::target::{Target, Unreachable};
use crate::{Options, Run};

/// How long the probe waits for what must come, before it calls it missing.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// What all checks of one run share.
struct Probe<'a> {
    options: &'a Options,
    run: &'a Run,
    target: Target,
    /// The request of a client, without Accept-Encoding.
    request: Request,
    /// The first reader, open for the whole run.
    first: Reader,
    /// How requests that are wrong were answered, once they were asked.
    error_answers: std::sync::OnceLock<String>,
}

pub(crate) async fn probe(options: &Options, run: &Run) -> Result<(), Unreachable> {
    let request = options.request("text/event-stream");
    let Some((target, response)) = reach(options, run, &request).await? else {
        return Ok(());
    };
    judge_head(run, &response.head);
    if response.head.status != 200 || !response.is_event_stream() {
        let head = &response.head;
        let kind = head.get("content-type").unwrap_or_default();
        let why = format!("no event stream: status {}, type {kind:?}", head.status);
        let mut response = response;
        let body = response.text(run.at_most(Duration::from_secs(2))).await;
        requests::judge_error(run, "sse-errors-clean", head_status(&response), &body);
        for check in crate::checks::CHECKS {
            if check.kind == crate::Kind::Sse {
                run.unknown(check.id, why.as_str());
            }
        }
        return Ok(());
    }
    let probe = Probe {
        options,
        run,
        target,
        request,
        first: Reader::start(response),
        error_answers: std::sync::OnceLock::new(),
    };
    let rest = async {
        tokio::join!(probe.small_requests(), probe.flow());
        let early = probe.first.ended().is_some();
        if early {
            probe.ended().await;
        }
        probe.resume().await;
        probe.stalled_reader().await;
        probe.churn().await;
        probe.limit().await;
        if !early {
            probe.ended().await;
        }
    };
    // The budget ends everything; what was not decided could not be told.
    tokio::join!(probe.heartbeat(), async {
        drop(tokio::time::timeout(run.left(), rest).await)
    });
    probe.shutdown().await;
    probe.wire();
    Ok(())
}

fn head_status(response: &Response) -> u16 {
    response.head.status
}

/// Sends the first request, follows redirects and waits for the head; `None`: there was none.
async fn reach(
    options: &Options,
    run: &Run,
    request: &Request,
) -> Result<Option<(Target, Response)>, Unreachable> {
    const ID: &str = "sse-headers-before-first-event";
    let mut target = options.target.clone();
    for _ in 0..6 {
        let mut exchange = request.send(&target).await?;
        let patience = if options.publish.is_some() { 3 } else { 10 };
        let patience = run.at_most(Duration::from_secs(patience));
        let mut waited = tokio::time::timeout(patience, exchange.head()).await;
        if waited.is_err() && options.publish.is_some() {
            let published = options.publish.once().await;
            waited = tokio::time::timeout(run.at_most(PATIENCE), exchange.head()).await;
            if let (Ok(Ok(Some(head))), Ok(())) = (&waited, published) {
                let after = head.after.as_millis();
                run.fail(
                    ID,
                    format!(
                        "the response head came after {after} ms, with the first published event"
                    ),
                );
            }
        }
        match waited {
            Err(_) => {
                run.fail(
                    ID,
                    format!("no response head within {} s", patience.as_secs()),
                );
                finish(run, "no response head came");
                return Ok(None);
            }
            Ok(Ok(Some(head))) => {
                let location = head.get("location");
                match location {
                    Some(location) if matches!(head.status, 301 | 302 | 303 | 307 | 308) => {
                        target = target.join(&location)?;
                    }
                    _ => return Ok(Some((target, exchange.into_response(head)))),
                }
            }
            Ok(Ok(None)) | Ok(Err(_)) => {
                run.fail(
                    "sse-status-200",
                    "the connection ended without an HTTP response (an error item before the first flush does that)",
                );
                finish(run, "no response came");
                return Ok(None);
            }
        }
    }
    run.fail("sse-status-200", "more than five redirects");
    finish(run, "no response came");
    Ok(None)
}

fn finish(run: &Run, why: &str) {
    for check in crate::checks::CHECKS {
        if check.kind == crate::Kind::Sse {
            run.unknown(check.id, why);
        }
    }
}

/// What the response head alone shows.
fn judge_head(run: &Run, head: &Head) {
    if head.status == 200 {
        run.pass(
            "sse-status-200",
            format!("200 after {} ms", head.after.as_millis()),
        );
    } else {
        run.fail("sse-status-200", format!("status {}", head.status));
        return;
    }
    let kind = head.get("content-type").unwrap_or_default();
    if is_event_stream(head) {
        run.pass("sse-content-type", format!("content-type: {kind}"));
    } else {
        run.fail("sse-content-type", format!("content-type: {kind:?}"));
        return;
    }
    let charset = kind.to_ascii_lowercase();
    match charset.split("charset=").nth(1) {
        Some(name) if !name.trim_matches(['"', ' ']).starts_with("utf-8") => {
            run.fail("sse-charset-utf8", format!("content-type: {kind}"));
        }
        _ => run.pass("sse-charset-utf8", format!("content-type: {kind}")),
    }
    let cache = head.get("cache-control");
    let shown = cache.as_deref().unwrap_or("no Cache-Control").to_owned();
    if head.has("cache-control", "no-cache") || head.has("cache-control", "no-store") {
        run.pass("sse-not-cached", format!("cache-control: {shown}"));
    } else {
        run.fail("sse-not-cached", shown.clone());
    }
    buffering_headers(run, head, "sse-no-buffering-headers");
    if head.has("cache-control", "no-transform") {
        run.pass("sse-no-transform", format!("cache-control: {shown}"));
    } else {
        run.fail("sse-no-transform", format!("{shown}: behind a Next.js rewrite or another compressing proxy, gzip clients may get all events at the end"));
    }
    match head.get("content-length") {
        Some(length) => run.fail("sse-no-content-length", format!("content-length: {length}")),
        None => run.pass("sse-no-content-length", "no content-length"),
    }
}

/// `X-Accel-Buffering`, which nginx takes away on its way.
fn buffering_headers(run: &Run, head: &Head, id: &str) {
    let nginx = head
        .get("server")
        .is_some_and(|s| s.to_ascii_lowercase().contains("nginx"));
    if head.has("x-accel-buffering", "no") {
        run.pass(id, "x-accel-buffering: no");
    } else if nginx || head.get("via").is_some() {
        run.unknown(id, "a proxy answered, which takes X-Accel-Buffering away: the timing checks show whether it buffers");
    } else {
        run.fail(
            id,
            "no x-accel-buffering: no; an nginx put in front would hold events back",
        );
    }
}

impl Probe<'_> {
    /// Opens another stream with `change` made to the request; `None` when it is no event stream.
    async fn open(&self, change: impl FnOnce(Request) -> Request) -> Result<Reader, String> {
        let request = change(self.request.clone());
        match request.open(&self.target, self.run.at_most(PATIENCE)).await {
            Ok(Opened::Response(response))
                if response.head.status == 200 && response.is_event_stream() =>
            {
                Ok(Reader::start(*response))
            }
            Ok(Opened::Response(response)) => Err(format!(
                "one more stream was answered with {}",
                response.head.status
            )),
            Ok(Opened::Closed) => Err("one more stream was closed without an answer".to_owned()),
            Ok(Opened::Silent) => Err("one more stream was not answered".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Watches the first reader for signs of life during silence.
    async fn heartbeat(&self) {
        const ID: &str = "sse-heartbeat";
        if !self.run.needs(&[ID, "sse-heartbeat-visible"]) {
            return;
        }
        // A tenth more: timers are late.
        let most = self.options.silence().mul_f64(1.1);
        let opened = self.first.head_at;
        loop {
            let (sign, silent, longest, ended) = self.first.with(|log| {
                let last = log.last_byte_at.unwrap_or(opened);
                (
                    verdicts::heartbeat(log, opened),
                    last.elapsed(),
                    log.longest_silence,
                    log.end.is_some(),
                )
            });
            if let Some((what, visible)) = sign {
                self.run.pass(ID, what.clone());
                self.visible(&what, visible);
                return;
            }
            if ended {
                self.run.unknown(
                    ID,
                    "the stream ended before there was a heartbeat to expect",
                );
                return;
            }
            if silent.max(longest) > most {
                self.run.fail(
                    ID,
                    format!("no byte for {:.1} s", silent.max(longest).as_secs_f64()),
                );
                return;
            }
            let left = self.run.left();
            if left.is_zero() {
                let longest = longest.max(silent).as_secs_f64();
                self.run.unknown(ID, format!("the longest silence in this budget was {longest:.1} s, within --heartbeat {}", self.options.silence().as_secs()));
                return;
            }
            let seen = self.first.with(|log| log.bytes);
            let pause = left.min(most.saturating_sub(silent) + Duration::from_millis(20));
            self.first.until(pause, |log| log.bytes > seen).await;
        }
    }

    fn visible(&self, what: &str, visible: bool) {
        const ID: &str = "sse-heartbeat-visible";
        match (visible, self.options.client) {
            (true, _) => self.run.pass(ID, what),
            (false, crate::Client::Fetch) => self.run.pass(ID, format!("{what}; a reader over fetch sees the bytes")),
            (false, crate::Client::EventSource) => self.run.fail(ID, format!("{what}, which JavaScript cannot see: a watchdog in the page has nothing to go by")),
            (false, crate::Client::Unknown) => self.run.unknown(ID, format!("{what}; enough for proxies and fetch readers, invisible to an EventSource (--client eventsource or fetch)")),
        }
    }

    /// SIGTERM to the service, where that is allowed.
    async fn shutdown(&self) {
        const ID: &str = "sse-shutdown-ends-streams";
        if !self.run.wants(ID) {
            return;
        }
        let (Some(pid), true) = (self.options.pid, self.options.shutdown) else {
            self.run
                .unknown(ID, "needs --pid and --shutdown, which stops the service");
            return;
        };
        if self.first.ended().is_some() {
            self.run.unknown(ID, "the stream had ended before");
            return;
        }
        // What happens from here on is no cut of the service's own making.
        self.first.with(|log| self.cut(log));
        let began = std::time::Instant::now();
        if !process::terminate(pid).await {
            self.run
                .unknown(ID, format!("SIGTERM to {pid} was not possible"));
            return;
        }
        let ended = self
            .first
            .until(Duration::from_secs(10), |log| log.end.is_some())
            .await;
        let after = began.elapsed().as_millis();
        match self.first.ended() {
            Some(end) if ended && !end.is_cut() => self.run.pass(
                ID,
                format!("ended with {} {after} ms after SIGTERM", end.text()),
            ),
            Some(end) => self
                .run
                .fail(ID, format!("cut {after} ms after SIGTERM: {}", end.text())),
            None => self.run.fail(ID, "still open 10 s after SIGTERM"),
        }
    }
}
