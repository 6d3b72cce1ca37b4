//! Drives the servers of `server.rs` over loopback and reads what they cost from `/proc`.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::report::{self, Row};
use crate::server;

const SUBSCRIBERS: usize = 500;
const IDLE: usize = 2_000;
const EVENTS: u64 = 400;
const PAUSE: Duration = Duration::from_millis(5);
const ROUNDS: usize = 5;
/// Set, the server runs under jemalloc (`allocator.rs`).
const JEMALLOC: &str = "SSE_BENCH_JEMALLOC";

struct Server {
    child: Child,
    addr: SocketAddr,
}

impl Server {
    fn start(variant: &str, jemalloc: bool) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(server::VARIANT, variant);
        if jemalloc {
            command.env(JEMALLOC, "1");
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        Self {
            child,
            addr: line.trim().parse().unwrap(),
        }
    }

    fn publish(&mut self, events: u64, pause: Duration) {
        let order = format!("{events} {}\n", pause.as_micros());
        self.child
            .stdin
            .as_mut()
            .unwrap()
            .write_all(order.as_bytes())
            .unwrap();
    }

    /// CPU time of all threads.
    fn cpu(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let nanos = tasks.map(|task| {
            let stat =
                fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap_or_default();
            stat.split(' ')
                .next()
                .and_then(|run| run.parse().ok())
                .unwrap_or(0)
        });
        Duration::from_nanos(nanos.sum())
    }

    /// Proportional set size in KiB.
    fn memory(&self) -> f64 {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id())).unwrap();
        let line = rollup
            .lines()
            .find(|line| line.starts_with("Pss:"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Connects `count` clients that read for ever and count the events they see.
async fn connect(addr: SocketAddr, count: usize, seen: &Arc<AtomicU64>) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    for _ in 0..count {
        let mut socket = TcpStream::connect(addr).await.unwrap();
        // As many request headers as a browser sends, more or less.
        let request = format!(
            "GET {} HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\ncache-control: no-cache\r\n\
             user-agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)\r\n\
             accept-language: en\r\naccept-encoding: gzip, deflate, br\r\n\r\n",
            server::PATH
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut buffer = vec![0; 8192];
        // The head has come: the subscriber is counted in.
        let read = socket.read(&mut buffer).await.unwrap();
        assert!(buffer[..read].starts_with(b"HTTP/1.1 200"));
        let seen = seen.clone();
        clients.spawn(async move {
            while let Ok(read @ 1..) = socket.read(&mut buffer).await {
                let events = buffer[..read]
                    .windows(6)
                    .filter(|bytes| *bytes == b"event:")
                    .count();
                seen.fetch_add(events as u64, Ordering::Relaxed);
            }
        });
    }
    clients
}

/// Server microseconds for each delivered event.
async fn cpu(variant: &str, jemalloc: bool) -> f64 {
    let mut server = Server::start(variant, jemalloc);
    let seen = Arc::new(AtomicU64::new(0));
    let _clients = connect(server.addr, SUBSCRIBERS, &seen).await;
    let round = |server: &mut Server, events: u64| {
        seen.store(0, Ordering::Relaxed);
        let before = server.cpu();
        server.publish(events, PAUSE);
        (before, events * SUBSCRIBERS as u64)
    };
    let mut best = f64::MAX;
    for (at, events) in [EVENTS / 4, EVENTS].into_iter().enumerate() {
        let (before, expected) = round(&mut server, events);
        let deadline = Instant::now() + Duration::from_secs(60);
        while seen.load(Ordering::Relaxed) < expected {
            assert!(
                Instant::now() < deadline,
                "{variant}: {} of {expected}",
                seen.load(Ordering::Relaxed)
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // The first round warms up.
        if at > 0 {
            best = (server.cpu() - before).as_secs_f64() * 1e6 / expected as f64;
        }
    }
    best
}

/// KiB for each idle connection.
async fn memory(variant: &str, jemalloc: bool) -> f64 {
    let server = Server::start(variant, jemalloc);
    let seen = Arc::new(AtomicU64::new(0));
    let _first = connect(server.addr, 1, &seen).await;
    let before = server.memory();
    let _clients = connect(server.addr, IDLE, &seen).await;
    (server.memory() - before) / IDLE as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub fn run() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let most = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: most,
        maximum: most,
    };
    setrlimit(Resource::Nofile, limit).unwrap();
    let variants = [
        (
            "`broadcast`, `filter_map(ok)`, an `Event` per subscriber",
            "broadcast",
            false,
        ),
        (
            "axum `Sse` over a bounded `mpsc` per subscriber",
            "mpsc",
            false,
        ),
        ("`fanout` under `axum::serve`", "hub", false),
        ("`fanout` under `listen::serve`", "fanout", false),
        ("the same, jemalloc", "fanout", true),
        ("the same, events joined for 20 ms", "fanout-joined", true),
    ];
    if !cfg!(feature = "jemalloc") {
        eprintln!("the fan-out table has rows under jemalloc: run with --features jemalloc");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut cpus = vec![Vec::new(); variants.len()];
    let mut memories = vec![Vec::new(); variants.len()];
    // Interleaved, so that what else the machine does falls on all alike.
    for _ in 0..ROUNDS {
        for (at, (_, variant, jemalloc)) in variants.into_iter().enumerate() {
            cpus[at].push(runtime.block_on(cpu(variant, jemalloc)));
            memories[at].push(runtime.block_on(memory(variant, jemalloc)));
        }
    }
    let rows: Vec<Row> = (variants.into_iter().zip(cpus).zip(memories))
        .map(|(((name, ..), cpu), memory)| Row {
            name: name.to_owned(),
            values: vec![median(cpu), median(memory)],
        })
        .collect();
    let title = format!(
        "{SUBSCRIBERS} subscribers and events of 100 bytes; {IDLE} idle connections; one worker thread, loopback"
    );
    report::write(
        "fanout",
        &title,
        &["CPU µs per delivered event", "KiB per idle connection"],
        &rows,
        report::Better::Less,
    );
}
