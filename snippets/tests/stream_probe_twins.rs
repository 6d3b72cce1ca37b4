//! The wrong twins under `stream-probe`: what the wire shows of each fails the check that asks for it, and no other.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use axum::routing::post;
use futures::{StreamExt, stream};
use snippets::llm::upstream::{Dialect, Upstream};
use stream_probe::{Kind, Options, Publish, Report, Target};

use super as twins;
use crate::support::Server;
use crate::support::proxy::free_port;
use crate::support::wrong::Wrong;

/// How a twin is served.
#[derive(Clone, Copy)]
enum Start {
    Service(fn() -> Wrong),
    /// In a process of its own, for what only a process shows.
    Process(fn() -> Wrong),
    /// In front of the probe, which plays the provider.
    Relay(fn(Upstream) -> Wrong),
    /// The same by the provider's origin.
    RelayTo(fn(String) -> Wrong),
}

struct Twin {
    name: &'static str,
    kind: Kind,
    start: Start,
    set: fn(&mut Options),
    /// What fails, in the order of the report.
    failed: &'static [&'static str],
}

const fn twin(
    name: &'static str,
    kind: Kind,
    start: Start,
    set: fn(&mut Options),
    failed: &'static [&'static str],
) -> Twin {
    Twin {
        name,
        kind,
        start,
        set,
        failed,
    }
}

fn plain(_: &mut Options) {}

/// Its events are large enough to fill every buffer.
fn stalls(options: &mut Options) {
    options.skip.clear();
}

fn resumes(options: &mut Options) {
    options.resumable = true;
}

const SSE: &[Twin] = &[
    twin(
        "sse_cors_mirror",
        Kind::Sse,
        Start::Service(twins::sse_cors_mirror::wrong_service),
        resumes,
        &["sse-cors-credentials"],
    ),
    twin(
        "sse_cursor_dropped",
        Kind::Sse,
        Start::Service(twins::sse_cursor_dropped::wrong_service),
        resumes,
        &["sse-resume-no-duplicate"],
    ),
    twin(
        "sse_empty_terminal_event",
        Kind::Sse,
        Start::Service(twins::sse_empty_terminal_event::wrong_service),
        plain,
        &["sse-data-in-every-event", "sse-terminal-event"],
    ),
    // Nothing at all arrives.
    twin(
        "sse_error_item",
        Kind::Sse,
        Start::Service(twins::sse_error_item::wrong_service),
        plain,
        &["sse-status-200"],
    ),
    twin(
        "sse_error_text",
        Kind::Sse,
        Start::Service(twins::sse_error_text::wrong_service),
        plain,
        &["sse-known-fields", "sse-errors-clean"],
    ),
    twin(
        "sse_ids_without_epoch",
        Kind::Sse,
        Start::Service(twins::sse_ids_without_epoch::wrong_service),
        resumes,
        &["sse-cursor-future"],
    ),
    twin(
        "sse_lag_hidden",
        Kind::Sse,
        Start::Service(twins::sse_lag_hidden::wrong_service),
        stalls,
        &["sse-lag-is-told"],
    ),
    twin(
        "sse_limit_by_layer",
        Kind::Sse,
        Start::Service(twins::sse_limit_by_layer::wrong_service),
        |options| options.limit = Some(2),
        &["sse-limit-counts-streams"],
    ),
    twin(
        "sse_raw_text_data",
        Kind::Sse,
        Start::Service(twins::sse_raw_text_data::wrong_service),
        plain,
        &["sse-line-endings"],
    ),
    twin(
        "sse_send_await_in_loop",
        Kind::Sse,
        Start::Service(twins::sse_send_await_in_loop::wrong_service),
        stalls,
        &["sse-stalled-reader-isolated"],
    ),
    twin(
        "sse_shutdown_waits",
        Kind::Sse,
        Start::Process(twins::sse_shutdown_waits::wrong_service),
        |options| options.shutdown = true,
        &["sse-shutdown-ends-streams"],
    ),
    twin(
        "sse_subscribe_after_snapshot",
        Kind::Sse,
        Start::Service(twins::sse_subscribe_after_snapshot::wrong_service),
        resumes,
        &["sse-resume-no-gap"],
    ),
    twin(
        "sse_unbounded_queue",
        Kind::Sse,
        Start::Process(twins::sse_unbounded_queue::wrong_service),
        stalls,
        &["sse-stalled-reader-memory"],
    ),
    twin(
        "sse_unchecked_event_fields",
        Kind::Sse,
        Start::Service(twins::sse_unchecked_event_fields::wrong_service),
        |options| options.target.path = "/wrong/a%0Ab".to_owned(),
        &["sse-ends-cleanly"],
    ),
];

const WS: &[Twin] = &[
    twin(
        "ws_error_without_close",
        Kind::Ws,
        Start::Service(twins::ws_error_without_close::wrong_service),
        plain,
        &["ws-oversize-1009", "ws-invalid-utf8-1007"],
    ),
    twin(
        "ws_mutex_around_socket",
        Kind::Ws,
        Start::Service(twins::ws_mutex_around_socket::wrong_service),
        plain,
        &["ws-one-writer"],
    ),
    twin(
        "ws_no_origin_check",
        Kind::Ws,
        Start::Service(twins::ws_no_origin_check::wrong_service),
        |options| options.cookie = Some("sid=ada".to_owned()),
        &["ws-origin-checked"],
    ),
    twin(
        "ws_send_in_fanout",
        Kind::Ws,
        Start::Service(twins::ws_send_in_fanout::wrong_service),
        plain,
        &["ws-stalled-reader-isolated"],
    ),
    twin(
        "ws_unbounded_queue",
        Kind::Ws,
        Start::Process(twins::ws_unbounded_queue::wrong_service),
        plain,
        &["ws-queue-bounded"],
    ),
    twin(
        "ws_write_only",
        Kind::Ws,
        Start::Service(twins::ws_write_only::wrong_service),
        plain,
        &["ws-ping-answered", "ws-close-answered"],
    ),
];

const LLM: &[Twin] = &[
    twin(
        "detached_generation",
        Kind::Llm,
        Start::Relay(twins::detached_generation::wrong_service),
        plain,
        &["llm-abort-stops-work"],
    ),
    // Nothing at all arrives.
    twin(
        "err_discards",
        Kind::Llm,
        Start::Service(twins::err_discards::wrong_service),
        |options| {
            options.method = "GET".to_owned();
            options.target.path = "/".to_owned();
        },
        &["llm-status-200"],
    ),
    twin(
        "llm_error_text_to_client",
        Kind::Llm,
        Start::Relay(twins::llm_error_text_to_client::wrong_service),
        plain,
        &["llm-error-text-clean"],
    ),
    twin(
        "llm_parse_per_chunk",
        Kind::Llm,
        Start::RelayTo(twins::llm_parse_per_chunk::wrong_service),
        plain,
        &["llm-split-utf8"],
    ),
    twin(
        "llm_truncation_is_success",
        Kind::Llm,
        Start::Relay(twins::llm_truncation_is_success::wrong_service),
        plain,
        &["llm-truncation-visible"],
    ),
    twin(
        "token_queue_without_bound",
        Kind::Llm,
        Start::Relay(twins::token_queue_without_bound::wrong_service),
        plain,
        &["llm-slow-reader-bounded"],
    ),
    twin(
        "unfold_under_compression",
        Kind::Llm,
        Start::Relay(twins::unfold_under_compression::wrong_service),
        plain,
        &["llm-gzip-incremental"],
    ),
];

/// What the wire of a service does not show, and why.
const NOT_SHOWN: &[(&str, &str)] = &[
    ("postgres_notify_in_the_transaction", "within the broker"),
    (
        "redis_pubsub_keeps_nothing",
        "between the service and its broker",
    ),
    ("buffered_stands_still", "within the service"),
    ("chunk_is_a_message", "a client"),
    (
        "disconnect_hidden_by_proxy",
        "seen by the service behind the proxy",
    ),
    ("elapsed_and_on", "within the service"),
    (
        "envoy_route_timeout",
        "after 15 s, in the proxy: a longer --budget reports the cut as sse-ends-cleanly",
    ),
    ("eof_as_completion_behind_a_proxy", "a client"),
    ("hot_loop", "within the service"),
    (
        "llm_agent_detached",
        "the next step of an agent leaves no trace on the wire",
    ),
    (
        "llm_client_history",
        "what the model is sent leaves no trace on the wire",
    ),
    (
        "llm_mcp_detached_tool",
        "the work of a tool leaves no trace on the wire",
    ),
    ("llm_tool_call_before_stop", "within the service"),
    ("llm_usage_summed", "within the service"),
    (
        "nginx_default_buffering",
        "needs a proxy: production_proxies.rs shows what arrives",
    ),
    (
        "nginx_gzip_of_streams",
        "compressed, and still event by event",
    ),
    ("redis_blocking_on_shared_connection", "within the service"),
    (
        "redis_trimmed_cursor",
        "needs Redis; on the wire it is sse_ids_without_epoch",
    ),
    (
        "retry_pays_twice",
        "whether two answers were paid for, the provider knows",
    ),
    ("select_restarts", "within the service"),
    ("sse_auth_once", "the probe cannot log a user out"),
    ("sse_cursor_stored_apart", "a client"),
    (
        "sse_detached_producer",
        "the work leaves no trace on the wire; with a provider it is detached_generation",
    ),
    (
        "sse_head_starts_work",
        "axum answers HEAD well, whatever the handler has begun",
    ),
    ("sse_heartbeat_burst", "needs a process that was stopped"),
    (
        "sse_lazy_receiver",
        "a race of microseconds between the head and the first poll",
    ),
    ("sse_parse_per_chunk", "a client"),
    ("sse_retry_reposts", "a client"),
    ("sse_split_on_blank_line", "a client"),
    ("sse_ticket_in_logs", "a log"),
    ("sse_total_timeout", "a client"),
    (
        "stalled_reader_lives_on",
        "how long a stalled reader may live is not on the wire",
    ),
    (
        "stop_stops_reading",
        "a Stop of its own kind; leaving is noticed",
    ),
    ("tee_without_bound", "within the service"),
    ("total_timeout", "a client"),
    (
        "total_timeout_on_generation",
        "after the timeout, which a run does not reach",
    ),
    (
        "unbounded_queue",
        "a body of plain bytes; as an event stream it is sse_unbounded_queue",
    ),
    ("work_dies_with_client", "within the service"),
    (
        "ws_close_without_draining",
        "a race that its test decides with a gate",
    ),
    ("closed_loop_load", "a load test"),
    (
        "csrf_json_by_hand",
        "no check sends another Content-Type than the one it was given",
    ),
    ("gauge_after_the_loop", "a metric"),
    (
        "key_follows_redirect",
        "between the service and the provider",
    ),
    (
        "nginx_leaves_out_restarted_instance",
        "two instances and a proxy",
    ),
    (
        "postgres_sequence_order",
        "needs Postgres and two transactions; what readers miss is a gap between instances",
    ),
    ("proxy_retries_posts", "between the proxy and the service"),
    (
        "reconnect_storm",
        "many clients; of one service sse-retry-jitter sees a constant retry",
    ),
    ("replay_without_owner", "needs the credentials of two users"),
    ("sleep_for_luck", "a test"),
    (
        "ssrf_by_prefix",
        "the probe names no upstream in its requests",
    ),
    ("stream_counted_as_request", "a metric"),
    (
        "ws_inflate_without_bound",
        "the probe does not offer compression",
    ),
];

#[test]
fn every_twin_is_shown_or_has_a_reason() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/anti_patterns");
    let files: BTreeSet<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .filter(|name| name != "mod")
        .collect();
    let shown = [SSE, WS, LLM].into_iter().flatten().map(|twin| twin.name);
    let placed: Vec<&str> = shown
        .chain(NOT_SHOWN.iter().map(|(name, _)| *name))
        .collect();
    let once: BTreeSet<String> = placed.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(once.len(), placed.len(), "a twin stands in both tables");
    assert_eq!(once, files);
}

/// Several at the same time: they wait more than they work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_twin_fails_its_check_and_no_other() {
    let wrong: Vec<String> = stream::iter([SSE, WS, LLM].into_iter().flatten())
        .map(|twin| async move {
            let report = tokio::spawn(report(twin)).await.unwrap();
            let difference = report.difference(twin.failed)?;
            let lines: Vec<String> = report.findings.iter().map(|f| f.line()).collect();
            let took = report.took.as_secs_f64();
            let lines = lines.join("\n");
            Some(format!(
                "{}:\n{difference}\n\nin {took:.1} s:\n{lines}",
                twin.name
            ))
        })
        .buffer_unordered(4)
        .filter_map(|wrong| async { wrong })
        .collect()
        .await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

async fn report(twin: &'static Twin) -> Report {
    let upstream = free_port();
    let base = format!("http://{upstream}");
    let wrong = match twin.start {
        Start::Process(_) => {
            let process = Process::start(twin.name);
            let mut options = options(twin, process.addr);
            options.pid = Some(process.child.id());
            let addr = process.addr;
            options.publish = Publish::Call(Arc::new(move |_| {
                let mut socket = std::net::TcpStream::connect(addr).unwrap();
                socket
                    .write_all(b"POST /publish HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
                    .unwrap();
                socket.read_exact(&mut [0; 12]).unwrap();
            }));
            return probe(twin.kind, &options).await;
        }
        Start::Service(start) => start(),
        Start::Relay(start) => {
            let silence = Duration::from_secs(60);
            start(
                crate::support::chat::upstream(Dialect::OpenAiChat, &base, "key", "m", silence)
                    .unwrap(),
            )
        }
        Start::RelayTo(start) => start(base),
    };
    // As people serve it.
    let server = Server::plain(wrong.app).await;
    let mut options = options(twin, server.addr);
    if let Some(publish) = wrong.publish {
        options.publish = Publish::Call(publish);
    }
    if matches!(twin.start, Start::Relay(_) | Start::RelayTo(_)) {
        options.upstream = Some(upstream);
    }
    probe(twin.kind, &options).await
}

async fn probe(kind: Kind, options: &Options) -> Report {
    stream_probe::run(kind, options, None).await.unwrap()
}

fn options(twin: &Twin, addr: SocketAddr) -> Options {
    let (path, skip): (_, &[&str]) = match twin.kind {
        // It takes megabytes of events.
        Kind::Sse => ("events", &["sse-stalled-*", "sse-lag-is-told"]),
        // Rates and idle times are no part of these twins.
        Kind::Ws => (
            "ws",
            &["ws-flood-limited", "ws-heartbeat", "ws-silent-peer-dropped"],
        ),
        Kind::Llm => ("chat", &[]),
    };
    let mut options = Options::new(Target::parse(&format!("http://{addr}/{path}")).unwrap());
    options.skip = skip.iter().map(|id| (*id).to_owned()).collect();
    // The budget only turns a hang into a failure.
    options.budget = Duration::from_secs(300);
    if twin.kind == Kind::Llm {
        options.method = "POST".to_owned();
        options.body = Some(b"{}".to_vec());
    }
    (twin.set)(&mut options);
    options
}

const SERVICE: &str = "STREAM_PROBE_TWIN";

/// This very binary, started again to serve one twin; dropped, it is killed.
struct Process {
    child: Child,
    addr: SocketAddr,
    /// Held: the test runner of the service prints after a minute, and ends if nobody can read it.
    _printed: BufReader<ChildStdout>,
}

impl Process {
    fn start(name: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "anti_patterns::stream_probe_twins::service",
                "--nocapture",
            ])
            .env(SERVICE, name)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut printed = BufReader::new(child.stdout.take().unwrap());
        let addr = printed
            .by_ref()
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.rsplit("listening ").next()?.parse().ok())
            .unwrap();
        Self {
            child,
            addr,
            _printed: printed,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The twin that the environment names; otherwise there is nothing to do.
#[test]
fn service() {
    let Ok(name) = std::env::var(SERVICE) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut all = [SSE, WS].into_iter().flatten();
        let start = all.find_map(|twin| match twin.start {
            Start::Process(start) if twin.name == name => Some(start),
            _ => None,
        });
        let wrong = start.unwrap()();
        let mut app = wrong.app;
        if let Some(publish) = wrong.publish {
            app = app.route("/publish", post(async move || publish(0)));
        }
        let mut term =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
        // As people serve it: with a send deadline nothing would stay in a queue for long.
        let mut server = Server::plain(app).await;
        println!("listening {}", server.addr);
        term.recv().await;
        server.begin_shutdown().await.unwrap();
    });
}
