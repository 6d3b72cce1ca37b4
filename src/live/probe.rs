//! `/probe`: `stream-probe` in the browser, for the person at this machine.
//!
//! A run is a log (`sse/resume`): its findings arrive as events, and a page that reconnects misses none. The service that is
//! probed is the one that this person typed, and the page receives verdicts, not responses. So that no other page can
//! start a run: only loopback peers and Host names are served, a request of another site is refused, and a run needs the
//! token of the page. Arguments that run a command, stop a process or read a file are for the command line.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use axum::extract::{ConnectInfo, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use snippets::sse::event::{Event, LastEventId};
use snippets::sse::log::{self, Log, Writer};
use snippets::sse::streams::{self, Config, Streams};
use stream_probe::{Kind, News, Report, command};
use tokio_util::sync::CancellationToken;

use crate::random_id;

/// Runs that are remembered; the oldest is ended and forgotten.
const RUNS: usize = 8;
/// The longest run, in seconds.
const BUDGET: f64 = 600.0;

/// The arguments that a page may give: none that runs a command, stops a process, or reads or writes a file.
const OFFERED: &[&str] = &[
    "header",
    "cookie",
    "origin",
    "method",
    "data",
    "budget",
    "only",
    "skip",
    "heartbeat",
    "connects",
    "limit",
    "client",
    "resumable",
    "subprotocol",
    "message",
    "message-hex",
    "hello",
    "hello-hex",
    "idle",
    "upstream",
    "terminal",
    "insecure",
];

/// The page, its runs and their events, to be nested under `/probe`.
pub fn router(shutdown: CancellationToken) -> Router {
    let config = Config {
        max_streams: 32,
        heartbeat: Duration::from_secs(5),
        drain_spread: Duration::ZERO,
        ..Config::default()
    };
    let page = Page {
        token: random_id(),
        runs: Mutex::default(),
        streams: Streams::start(config, shutdown.clone()),
        shutdown,
    };
    Router::new()
        .route("/", get(show))
        .route("/runs", post(start))
        .route("/runs/{id}/events", get(events).head(streams::head))
        .route("/runs/{id}/stop", post(stop))
        .route("/runs/{id}/report.json", get(as_json))
        .route("/runs/{id}/report.sarif", get(as_sarif))
        .layer(from_fn(own_page_only))
        .with_state(Arc::new(page))
}

struct Page {
    token: String,
    runs: Mutex<VecDeque<(String, Run)>>,
    streams: Streams,
    shutdown: CancellationToken,
}

#[derive(Clone)]
struct Run {
    log: Arc<Log>,
    stop: CancellationToken,
    report: Arc<OnceLock<Report>>,
}

impl Page {
    fn run(&self, id: &str) -> Result<Run, StatusCode> {
        let runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        let found = runs.iter().find(|(known, _)| known == id);
        found
            .map(|(_, run)| run.clone())
            .ok_or(StatusCode::NOT_FOUND)
    }

    fn report(&self, id: &str) -> Result<Report, StatusCode> {
        let report = self.run(id)?.report.get().cloned();
        report.ok_or(StatusCode::CONFLICT)
    }

    fn knows(&self, headers: &HeaderMap) -> bool {
        headers
            .get("x-probe-token")
            .is_some_and(|token| token == self.token.as_str())
    }
}

async fn own_page_only(request: Request, next: Next) -> Response {
    match refusal(&request) {
        Some(why) => (StatusCode::FORBIDDEN, why).into_response(),
        None => next.run(request).await,
    }
}

/// Refuses other machines, names that lead here by DNS rebinding, and pages of other sites.
fn refusal(request: &Request) -> Option<&'static str> {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    if !peer.is_some_and(|ConnectInfo(addr)| addr.ip().to_canonical().is_loopback()) {
        return Some("the probe serves only the machine on which it runs");
    }
    let text = |name: &str| {
        let value = request.headers().get(name)?;
        Some(value.to_str().unwrap_or("unreadable"))
    };
    let host = text("host").unwrap_or_default();
    if !is_loopback(host) {
        return Some("open this page as http://127.0.0.1 or http://localhost");
    }
    let foreign = text("origin").is_some_and(|origin| origin != format!("http://{host}"));
    let own = |site: &str| site == "same-origin" || site == "none";
    if foreign || text("sec-fetch-site").is_some_and(|site| !own(site)) {
        return Some("the probe takes no requests of other sites");
    }
    None
}

/// Whether a `Host` is a name of this machine: an address, or `localhost`.
pub fn is_loopback(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = |ip: IpAddr| ip.to_canonical().is_loopback();
    host == "localhost" || address.parse().is_ok_and(is_loopback)
}

async fn show(State(page): State<Arc<Page>>) -> impl IntoResponse {
    let arguments = command::arguments();
    let offered: Vec<Value> = arguments
        .iter()
        .filter(|argument| OFFERED.contains(&argument.name.as_str()))
        .map(|argument| {
            json!({
                "name": argument.name,
                "value": argument.value,
                "default": argument.default,
                "choices": argument.choices,
                "help": argument.help,
            })
        })
        .collect();
    // In a script element only `<` could end it.
    let data = json!({ "token": page.token, "arguments": offered });
    let data = data.to_string().replace('<', "\\u003c");
    let html = include_str!("probe.html").replace("<!-- data -->", &data);
    let policy = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src data:; frame-ancestors 'none'; form-action 'none'; base-uri 'none'";
    (
        [
            (header::CONTENT_SECURITY_POLICY, policy),
            (header::CACHE_CONTROL, "no-store"),
        ],
        Html(html),
    )
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Start {
    kind: String,
    url: String,
    /// Names without dashes, and their values.
    arguments: Vec<(String, Option<String>)>,
}

/// The run that the page describes, or what is wrong with it.
fn read(start: &Start) -> Result<(Kind, stream_probe::Options), String> {
    let kind = match start.kind.as_str() {
        "sse" => Kind::Sse,
        "ws" => Kind::Ws,
        "llm" => Kind::Llm,
        other => {
            return Err(format!(
                "no command is named {other:?}: choose sse, ws or llm"
            ));
        }
    };
    for (name, value) in &start.arguments {
        if !OFFERED.contains(&name.as_str()) {
            return Err(format!("--{name} is for the command line only"));
        }
        if name == "data" && value.as_deref().is_some_and(|text| text.starts_with('@')) {
            return Err("--data @FILE is for the command line only: paste the body".to_owned());
        }
    }
    let probe = command::parse(&start.url, &start.arguments)?;
    if probe.budget > BUDGET {
        return Err(format!("--budget may be {BUDGET} at most here"));
    }
    if probe.upstream.is_some_and(|addr| !addr.ip().is_loopback()) {
        return Err(
            "--upstream must be a loopback address here, such as 127.0.0.1:9099".to_owned(),
        );
    }
    let options = command::options(kind, &probe).map_err(|error| error.to_string())?;
    Ok((kind, options))
}

async fn start(
    State(page): State<Arc<Page>>,
    headers: HeaderMap,
    Json(start): Json<Start>,
) -> Result<Json<Value>, (StatusCode, String)> {
    if !page.knows(&headers) {
        let why = "the token is not that of this program: reload the page";
        return Err((StatusCode::FORBIDDEN, why.to_owned()));
    }
    let (kind, options) = read(&start).map_err(|why| (StatusCode::BAD_REQUEST, why))?;
    let failed = || json!({ "message": "the probe ended without a report" });
    let last_words = Event::new("run_failed", &failed())
        .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    // Far more than a run has findings: nothing is trimmed.
    let log = Log::new(log::Config::complete(1_000, 4 << 20));
    let run = Run {
        log: log.clone(),
        stop: page.shutdown.child_token(),
        report: Arc::default(),
    };
    let id = random_id();
    {
        let mut runs = page.runs.lock().unwrap_or_else(PoisonError::into_inner);
        runs.push_back((id.clone(), run.clone()));
        if runs.len() > RUNS
            && let Some((_, oldest)) = runs.pop_front()
        {
            oldest.stop.cancel();
        }
    }
    tokio::spawn(work(kind, options, run, Writer::new(log, last_words)));
    Ok(Json(json!({ "id": id })))
}

async fn work(kind: Kind, options: stream_probe::Options, run: Run, writer: Writer) {
    let say = |log: &Arc<Log>, name: &str, data: &Value| {
        let event = Event::new(name, data).map_err(|error| error.to_string());
        if let Err(why) = event.and_then(|event| log.publish(&event).map_err(|e| e.to_string())) {
            tracing::warn!("an event {name} of a probe was not published: {why}");
        }
    };
    let log = writer.log.clone();
    let progress = move |news: News<'_>| match news {
        News::Endpoint(text) => say(&log, "endpoint", &json!({ "text": text })),
        News::Verdict(finding) => say(&log, "finding", &finding.json()),
    };
    let missing = command::missing(kind, &options);
    let stop = run.stop.cancelled();
    let report = stream_probe::run_until(kind, &options, Some(Box::new(progress)), stop).await;
    let (name, data) = match report {
        Ok(report) => {
            // What had no verdict at the end came to one without progress.
            let data = json!({
                "summary": report.summary(),
                "broken_off": report.broken_off(),
                "missing": missing,
                "findings": report.findings.len(),
            });
            drop(run.report.set(report));
            ("done", data)
        }
        Err(error) => ("run_failed", json!({ "message": error.to_string() })),
    };
    match Event::new(name, &data) {
        Ok(event) => drop(writer.log.publish(&event.last())),
        Err(error) => tracing::warn!("the end of a probe was not published: {error}"),
    }
}

async fn events(
    State(page): State<Arc<Page>>,
    Path(id): Path<String>,
    cursor: LastEventId,
) -> Result<Response, StatusCode> {
    let Some(reader) = page.run(&id)?.log.read(&cursor) else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    Ok(match page.streams.admit() {
        Ok(slot) => slot.respond(reader),
        Err(refused) => refused.into_response(),
    })
}

async fn stop(
    State(page): State<Arc<Page>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<StatusCode, StatusCode> {
    if !page.knows(&headers) {
        return Err(StatusCode::FORBIDDEN);
    }
    page.run(&id)?.stop.cancel();
    Ok(StatusCode::NO_CONTENT)
}

async fn as_json(
    State(page): State<Arc<Page>>,
    Path(id): Path<String>,
) -> Result<Response, StatusCode> {
    Ok(download(&page.report(&id)?.json(false), "json"))
}

async fn as_sarif(
    State(page): State<Arc<Page>>,
    Path(id): Path<String>,
) -> Result<Response, StatusCode> {
    Ok(download(&page.report(&id)?.sarif(), "sarif"))
}

fn download(report: &Value, ending: &str) -> Response {
    let name = format!("attachment; filename=\"stream-probe.{ending}\"");
    let headers = [
        (header::CONTENT_TYPE, "application/json".to_owned()),
        (header::CONTENT_DISPOSITION, name),
    ];
    (headers, format!("{report:#}\n")).into_response()
}
