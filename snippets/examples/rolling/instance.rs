//! One instance of the service: event streams and sockets over the shared log, and an orderly end.

use std::error::Error;
use std::io::Write;
use std::time::Duration;

use axum::response::Html;
use axum::routing::get;
use snippets::production::drain::{Instance, Plan, bind, signal};
use snippets::production::feed;
use snippets::production::redis_log::{Durability, Redis};
use snippets::production::shared_log::{self, SharedLog};
use snippets::sse::streams::{Config, Streams};
use snippets::websocket::limits::Limits;
use snippets::websocket::serve::Sockets;

/// Events that Redis keeps.
const KEPT: usize = 10_000;

/// `instance NAME PORT REDIS`
pub(crate) async fn run(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let [name, port, redis] = arguments else {
        return Err("instance NAME PORT REDIS".into());
    };
    raise_descriptors();
    let redis = Redis::connect(redis, Durability::Lossy, Duration::from_secs(1)).await?;
    let log = redis.log("rolling", KEPT);
    let log = SharedLog::start(log, shared_log::Config::default()).await?;
    // ANCHOR: instance
    let instance = Instance::default();
    // Short, for a demonstration. In production: `retry` and spread of seconds, and a notice above the balancer's probe.
    let spread = Duration::from_secs(1);
    let config = Config {
        retry: Duration::from_millis(500),
        drain_spread: spread,
        ..Config::default()
    };
    let limits = Limits {
        drain_spread: spread,
        ..Limits::default()
    };
    let plan = Plan {
        notice: Duration::from_millis(200),
        deadline: Duration::from_secs(5),
    };
    let streams = Streams::start(config, instance.stopping.clone());
    let sockets = Sockets::new(limits, instance.stopping.clone());
    let app = feed::app(log.into(), streams.clone(), sockets.clone())
        .route("/", get(async || Html(include_str!("page.html"))))
        .merge(instance.ready());
    let listener = bind(([127, 0, 0, 1], port.parse()?).into())?;
    let leave = async {
        signal().await;
        say(format!(
            "{name}: leaving, {} event streams open",
            streams.open()
        ));
    };
    let rest = async {
        sockets.drained(plan.deadline).await;
    };
    let in_time = instance
        .serve(listener, app, plan.clone(), leave, rest)
        .await;
    // ANCHOR_END: instance
    say(format!("{name}: ended, everything in time: {in_time}"));
    Ok(())
}

/// Most systems give a process 1,024 file descriptors and let it ask for more; Rust's runtime does not ask.
fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, all) {
        say(format!(
            "file descriptors stay at {:?}: {error}",
            limit.current
        ));
    }
}

/// To the terminal, if there still is one.
fn say(line: String) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
