//! Runs the streaming checklist against a live endpoint and says what the wire shows.
//!
//! [`checks::CHECKS`] is the list; [`run`] does the work; `README.md` beside this crate documents the
//! command and its JSON. The parser of event streams is the project's own pattern, `sse/wire`.

pub mod checks;
mod http1;
mod leak;
mod llm;
mod payload;
mod process;
mod publish;
mod reader;
mod report;
mod sse;
mod target;
mod terminal;
pub mod wire;
mod wire_log;
mod ws;

use std::net::SocketAddr;
use std::time::Duration;

pub use checks::Kind;
pub use payload::Payload;
pub use publish::Publish;
pub use report::{Ended, Finding, News, Progress, Report, Run, Verdict, matches};
pub use target::{Target, Trust, Unreachable};
pub use terminal::Terminal;

/// What reads the stream in production; some advice depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Client {
    /// Not said.
    #[default]
    Unknown,
    /// The browser's EventSource.
    EventSource,
    /// A client over fetch, or none in a browser.
    Fetch,
}

/// What to probe, and with what. Durations are budgets of the wall clock.
pub struct Options {
    /// The endpoint.
    pub target: Target,
    /// HTTP method of `sse` and `llm`.
    pub method: String,
    /// Headers of every request, credentials among them.
    pub headers: Vec<(String, String)>,
    /// The Cookie header.
    pub cookie: Option<String>,
    /// The Origin that the service is to accept.
    pub origin: Option<String>,
    /// The request body of `sse` and `llm`.
    pub body: Option<Vec<u8>>,
    /// How long the run may take.
    pub budget: Duration,
    /// Ids, or beginnings of ids with `*`; empty: all.
    pub only: Vec<String>,
    /// Ids, or beginnings of ids with `*`.
    pub skip: Vec<String>,
    /// What makes the service send an event.
    pub publish: Publish,
    /// The service's process.
    pub pid: Option<u32>,
    /// Whether `pid` may be stopped with SIGTERM at the end.
    pub shutdown: bool,
    /// The longest silence without a heartbeat; `None`: 15 s for event streams (HTML 9.2.7), 55 s for
    /// WebSockets, where the client may be the one that sends it.
    pub heartbeat: Option<Duration>,
    /// How many connects and disconnects the churn checks make; 0 leaves them out.
    pub connects: usize,
    /// `sse`: how many streams the service promises to keep open, for this caller or in all.
    pub limit: Option<usize>,
    /// What reads the stream.
    pub client: Client,
    /// The service promises resume.
    pub resumable: bool,
    /// `ws`: the subprotocols to offer.
    pub subprotocols: Vec<String>,
    /// `ws`: a message that the service accepts.
    pub message: Option<Payload>,
    /// `ws`: the message that the service expects first on every connection.
    pub hello: Option<Payload>,
    /// `ws`: after this time the service promises to drop a silent peer.
    pub idle: Option<Duration>,
    /// `llm`: the address on which the probe plays the provider.
    pub upstream: Option<SocketAddr>,
    /// `llm`: how the service's own terminal event is recognized.
    pub terminal: Option<Terminal>,
}

impl Options {
    /// The defaults of the command line.
    pub fn new(target: Target) -> Self {
        Self {
            target,
            method: "GET".to_owned(),
            headers: Vec::new(),
            cookie: None,
            origin: None,
            body: None,
            budget: Duration::from_secs(20),
            only: Vec::new(),
            skip: Vec::new(),
            publish: Publish::None,
            pid: None,
            shutdown: false,
            heartbeat: None,
            connects: 50,
            limit: None,
            client: Client::Unknown,
            resumable: false,
            subprotocols: Vec::new(),
            message: None,
            hello: None,
            idle: None,
            upstream: None,
            terminal: None,
        }
    }

    /// The longest silence of an event stream.
    fn silence(&self) -> Duration {
        self.heartbeat.unwrap_or(Duration::from_secs(15))
    }

    /// The request that a client of the service would send.
    fn request(&self, accept: &str) -> http1::Request {
        let mut request = http1::Request::new(&self.method)
            .header("User-Agent", "stream-probe")
            .header("Accept", accept);
        if let Some(cookie) = &self.cookie {
            request = request.header("Cookie", cookie.as_str());
        }
        if let Some(origin) = &self.origin {
            request = request.header("Origin", origin.as_str());
        }
        for (name, value) in &self.headers {
            request = request.header(name, value.as_str());
        }
        request.body.clone_from(&self.body);
        if let Some(body) = &self.body {
            let given = self
                .headers
                .iter()
                .any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
            let json = serde_json::from_slice::<serde_json::Value>(body).is_ok();
            if !given {
                let kind = if json {
                    "application/json"
                } else {
                    "application/x-www-form-urlencoded"
                };
                request = request.header("Content-Type", kind);
            }
        }
        request
    }
}

/// Runs all checks of `kind` that the options ask for.
///
/// # Errors
/// When the service cannot be connected to.
pub async fn run(
    kind: Kind,
    options: &Options,
    progress: Option<Progress>,
) -> Result<Report, Unreachable> {
    run_until(kind, options, progress, std::future::pending()).await
}

/// As [`run`], until `stop` completes: the report then has the verdicts that were found.
///
/// # Errors
/// When the service cannot be connected to.
pub async fn run_until(
    kind: Kind,
    options: &Options,
    progress: Option<Progress>,
    stop: impl Future<Output = ()>,
) -> Result<Report, Unreachable> {
    let run = Run::new(kind, options, progress);
    // Boxed: unoptimised, their futures are too large for the stack of whoever polls several.
    let work = async {
        match kind {
            Kind::Sse => Box::pin(sse::probe(options, &run)).await,
            Kind::Ws => Box::pin(ws::probe(options, &run)).await,
            Kind::Llm => Box::pin(llm::probe(options, &run)).await,
        }
    };
    let interrupted = tokio::select! {
        biased;
        () = run.aborted() => false,
        done = work => {
            done?;
            false
        }
        () = stop => true,
    };
    Ok(run.finish(&options.target.to_string(), interrupted))
}
