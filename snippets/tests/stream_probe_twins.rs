//! The counterexamples under `stream-probe`: what the wire shows of each fails the checks that its header names, and no other.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::routing::post;
use futures::{StreamExt, stream};
use snippets::llm::upstream::Dialect;
use stream_probe::{Kind, Options, Publish, Report, Target};
use testkit::process::Process;

use crate::anti_patterns::PROBED;
use crate::support::Server;
use crate::support::proxy::free_port;
use crate::support::wrong::{Probed, Start};

/// A counterexample, and what its header says that the probe finds, in the order of the report.
#[derive(Clone)]
struct Shown {
    name: &'static str,
    probed: Probed,
    kind: Kind,
    failed: Vec<String>,
}

fn shown() -> Vec<Shown> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/anti_patterns");
    let read = |&(name, probed): &(&'static str, Probed)| {
        let text = std::fs::read_to_string(format!("{folder}/{name}.rs")).unwrap();
        let failed = text
            .lines()
            .find_map(|line| line.strip_prefix("//! Probe: fails "));
        let failed: Vec<String> = failed.unwrap().split(", ").map(str::to_owned).collect();
        let check = stream_probe::checks::find(&failed[0]).unwrap();
        Shown {
            name,
            probed,
            kind: check.kind,
            failed,
        }
    };
    PROBED.iter().map(read).collect()
}

/// Several at the same time: they wait more than they work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_twin_fails_its_check_and_no_other() {
    let wrong: Vec<String> = stream::iter(shown())
        .map(|twin| async move {
            let report = tokio::spawn(report(twin.clone())).await.unwrap();
            let failed: Vec<&str> = twin.failed.iter().map(String::as_str).collect();
            let difference = report.difference(&failed)?;
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

async fn report(twin: Shown) -> Report {
    let upstream = free_port();
    let base = format!("http://{upstream}");
    let wrong = match twin.probed.start {
        Start::Process(_) => {
            let process = Process::start("stream_probe_twins::service", twin.name);
            let mut options = options(&twin, process.addr);
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
    let mut options = options(&twin, server.addr);
    if let Some(publish) = wrong.publish {
        options.publish = Publish::Call(publish);
    }
    if matches!(twin.probed.start, Start::Relay(_) | Start::RelayTo(_)) {
        options.upstream = Some(upstream);
    }
    probe(twin.kind, &options).await
}

async fn probe(kind: Kind, options: &Options) -> Report {
    stream_probe::run(kind, options, None).await.unwrap()
}

fn options(twin: &Shown, addr: SocketAddr) -> Options {
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
    (twin.probed.set)(&mut options);
    options
}

/// The counterexample that this process was started for.
#[test]
fn service() {
    let Some(name) = Process::service() else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let start = PROBED
            .iter()
            .find_map(|(known, probed)| match probed.start {
                Start::Process(start) if *known == name => Some(start),
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
