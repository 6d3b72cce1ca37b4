//! Drives the servers of `server.rs` over loopback, and reads what they cost from `/proc`.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::report::{self, Row};
use crate::server;

const SUBSCRIBERS: usize = 500;
const IDLE: usize = 2_000;
const EVENTS: u64 = 200;
const ROUNDS: usize = 7;

struct Server {
    child: Child,
    addr: SocketAddr,
    path: &'static str,
}

impl Server {
    /// On CPU 0 if the machine has `taskset`; the load generator is on the others.
    fn start(variant: &str) -> Self {
        let this = std::env::current_exe().unwrap();
        let pinned = Path::new("/usr/bin/taskset").exists();
        let mut command = match pinned {
            true => Command::new("/usr/bin/taskset"),
            false => Command::new(&this),
        };
        if pinned {
            command.args(["-c", "0"]).arg(&this);
        }
        let mut child = command
            .env(server::VARIANT, variant)
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
            path: server::path(variant),
        }
    }

    fn publish(&mut self, events: u64) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(format!("{events}\n").as_bytes()).unwrap();
    }

    /// CPU time of all threads.
    fn cpu(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let nanos = tasks.map(|task| {
            let stat = fs::read_to_string(task.unwrap().path().join("schedstat"));
            let stat = stat.unwrap_or_default();
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
        let line = rollup.lines().find(|line| line.starts_with("Pss:"));
        line.unwrap()
            .split_whitespace()
            .nth(1)
            .unwrap()
            .parse()
            .unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The events that all clients have seen.
#[derive(Default)]
struct Seen {
    events: AtomicU64,
    news: Notify,
}

/// Sends the request of a browser on `socket`, and counts the events that come.
async fn read(mut socket: TcpStream, path: &str, seen: Arc<Seen>, clients: &mut JoinSet<()>) {
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\ncache-control: no-cache\r\n\
         user-agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)\r\n\
         accept-language: en\r\naccept-encoding: gzip, deflate, br\r\ncookie: session={}\r\n\r\n",
        "c".repeat(600)
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut buffer = vec![0; 2048];
    // The response headers have come: the subscriber is counted in.
    let read = socket.read(&mut buffer).await.unwrap();
    assert!(buffer[..read].starts_with(b"HTTP/1.1 200"));
    clients.spawn(async move {
        while let Ok(read @ 1..) = socket.read(&mut buffer).await {
            let events = memchr::memchr_iter(b'~', &buffer[..read]).count();
            seen.events.fetch_add(events as u64, Ordering::Relaxed);
            seen.news.notify_one();
        }
    });
}

async fn connect(server: &Server, count: usize, seen: &Arc<Seen>) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    for _ in 0..count {
        let socket = TcpStream::connect(server.addr).await.unwrap();
        read(socket, server.path, seen.clone(), &mut clients).await;
    }
    clients
}

/// Microseconds of the server for each delivered event, with `window` events in flight.
async fn cpu(variant: &str, window: u64) -> f64 {
    let mut server = Server::start(variant);
    let seen = Arc::new(Seen::default());
    let _clients = connect(&server, SUBSCRIBERS, &seen).await;
    let subscribers = SUBSCRIBERS as u64;
    let mut spent = Duration::ZERO;
    // The first round warms up.
    for events in [EVENTS / 4, EVENTS] {
        let before = server.cpu();
        seen.events.store(0, Ordering::Relaxed);
        let (mut sent, deadline) = (window, Instant::now() + Duration::from_secs(60));
        server.publish(window);
        loop {
            let delivered = seen.events.load(Ordering::Relaxed) / subscribers;
            if delivered >= events {
                break;
            }
            let room = (delivered + window).min(events).saturating_sub(sent);
            if room > 0 {
                server.publish(room);
                sent += room;
            }
            assert!(
                Instant::now() < deadline,
                "{variant}: {delivered} of {events}"
            );
            let _ = tokio::time::timeout(Duration::from_secs(1), seen.news.notified()).await;
        }
        spent = server.cpu() - before;
    }
    spent.as_secs_f64() * 1e6 / (EVENTS * subscribers) as f64
}

/// KiB for each idle connection. `storm`: all connect first, then all send their requests, as after a restart of another
/// instance.
async fn memory(variant: &str, storm: bool) -> f64 {
    let server = Server::start(variant);
    let seen = Arc::new(Seen::default());
    let _first = connect(&server, 1, &seen).await;
    let before = server.memory();
    let mut clients = JoinSet::new();
    if storm {
        let mut sockets = Vec::new();
        for _ in 0..IDLE {
            sockets.push(TcpStream::connect(server.addr).await.unwrap());
        }
        for socket in sockets {
            read(socket, server.path, seen.clone(), &mut clients).await;
        }
    } else {
        for _ in 0..IDLE {
            let socket = TcpStream::connect(server.addr).await.unwrap();
            read(socket, server.path, seen.clone(), &mut clients).await;
        }
    }
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
        ("floor: one bare write", "floor"),
        ("`sse/resume` under `listen`", "resume"),
        ("`sse/jobs` under `listen`", "state"),
        ("`sse/fanout` under `listen`, no join window", "fanout"),
        (
            "`sse/fanout` under `listen`, joined for 2 ms",
            "fanout-joined",
        ),
        ("`sse/resume` under `axum::serve`", "resume-axum"),
        ("axum `Sse` over a bounded `mpsc`", "sse-axum"),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut measured = vec![[const { Vec::new() }; 4]; variants.len()];
    // Interleaved, and CPU time compared within a round: other work of the machine affects all alike.
    for round in 0..ROUNDS {
        let mut floor = [f64::NAN; 2];
        for (at, (_, variant)) in variants.into_iter().enumerate() {
            for (kind, window) in [1, 4].into_iter().enumerate() {
                // A log of states skips those that a newer one has replaced: with more in flight, fewer are delivered.
                let spent = match (variant, window) {
                    ("state", 4) => f64::NAN,
                    _ => runtime.block_on(cpu(variant, window)),
                };
                if variant == "floor" {
                    floor[kind] = spent;
                }
                measured[at][kind].push(spent / floor[kind]);
            }
            for (kind, storm) in [(2, false), (3, true)] {
                let idle = match variant {
                    "floor" => 0.0,
                    _ => runtime.block_on(memory(variant, storm)),
                };
                measured[at][kind].push(idle);
            }
            eprintln!("round {round}: {variant}");
        }
    }
    let rows: Vec<Row> = variants
        .into_iter()
        .zip(measured)
        .map(|((name, _), columns)| Row {
            name: name.to_owned(),
            values: columns.map(median).into(),
        })
        .collect();
    report::streams(SUBSCRIBERS, IDLE, &rows);
}
