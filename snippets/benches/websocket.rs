//! `cargo bench -p snippets --bench websocket`: the server's CPU time for each delivery in a room of 500, and its memory for
//! each of 2,000 idle connections, for the pattern and for what people write instead, in one run.
//!
//! Rewrites the table between the `<!-- bench -->` marks of `book/src/websocket/rooms.md`. Each
//! server is a process of its own with one worker thread; the clients are raw sockets in this one. Needs Linux (`/proc`)
//! and about 4,100 file descriptors. With one argument (`-- pattern`) it runs that variant only and writes nothing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub
)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::routing::any;
use axum::{Extension, Router};
use futures::{SinkExt, StreamExt};
use snippets::connections::listen;
use snippets::websocket::outbox::Outbox;
use snippets::websocket::rates::{Quotas, Rates};
use snippets::websocket::rooms::{Hub, Membership, Rules};
use snippets::websocket::rooms_endpoint;
use snippets::websocket::serve::Limits;
use snippets::websocket::serve::Sockets;
use snippets::websocket::users::User;
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;

const VARIANT: &str = "WEBSOCKET_BENCH_VARIANT";
const MEMBERS: usize = 500;
const IDLE: usize = 2_000;
const EVENTS: u64 = 200;
/// Each variant is measured so often, in turn; the median counts.
const ROUNDS: usize = 5;
/// The whole text message of one event.
const LEN: usize = 100;

/// Name, and what it is.
const VARIANTS: [(&str, &str); 6] = [
    (
        "write",
        "floor: no server, one bare `write` per member and event",
    ),
    ("pattern", "the pattern under `connections/listen`"),
    ("axum", "the pattern under `axum::serve`"),
    (
        "bare",
        "a bare loop in one task: no queue, no limits; read buffer 1 KiB",
    ),
    (
        "select",
        "axum's defaults, one task that selects over both directions",
    ),
    (
        "naive",
        "axum's defaults, naive rooms: a `String` and an unbounded channel for each member",
    ),
];

fn main() {
    if let Ok(variant) = std::env::var(VARIANT) {
        return serve(&variant);
    }
    let only = std::env::args().find(|arg| VARIANTS.iter().any(|(name, _)| name == arg));
    let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    let variants: Vec<_> = VARIANTS
        .into_iter()
        .filter(|(name, _)| wanted(name))
        .collect();
    let mut measured = vec![[const { Vec::new() }; 2]; variants.len()];
    // CPU time is compared within a round: other work of the machine affects all alike.
    for round in 0..ROUNDS {
        let mut floor = 1.0;
        for ((name, _), [cpu, memory]) in variants.iter().zip(&mut measured) {
            let micros = delivery(name);
            if *name == "write" {
                floor = micros;
            }
            cpu.push(micros / floor);
            memory.push(if *name == "write" { 0.0 } else { idle(name) });
            eprintln!("round {round}, {name}: {micros:.2} µs");
        }
    }
    let rows: Vec<_> = variants
        .into_iter()
        .zip(measured)
        .map(|((_, what), columns)| {
            let [cpu, memory] = columns.map(median);
            (what, cpu, memory)
        })
        .collect();
    for (what, cpu, kib) in &rows {
        eprintln!("{what}: {cpu:.2}, {kib:.1} KiB");
    }
    if only.is_none() {
        report(&rows);
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

// ---- the measurement -------------------------------------------------------------------------------------------------

struct Server {
    process: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
    addr: SocketAddr,
}

impl Server {
    fn start(variant: &str) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .env(VARIANT, variant)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let ask = process.stdin.take().unwrap();
        let mut answers = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        Self {
            process,
            ask,
            answers,
            addr: line.trim().parse().unwrap(),
        }
    }

    fn ask(&mut self, question: &str) -> u64 {
        writeln!(self.ask, "{question}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim().parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A connection in `room`, past its handshake.
fn connect(addr: SocketAddr, room: &str) -> TcpStream {
    let mut socket = TcpStream::connect(addr).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(120)))
        .unwrap();
    let head = "GET /rooms HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.write_all(head.as_bytes()).unwrap();
    let mut byte = [0];
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        socket.read_exact(&mut byte).unwrap();
        seen.push(byte[0]);
    }
    let join = format!(r#"{{"type":"join","room":"{room}"}}"#);
    let mut frame = vec![0x81, 0x80 | join.len() as u8, 0, 0, 0, 0]; // a mask of zeros
    frame.extend(join.as_bytes());
    socket.write_all(&frame).unwrap();
    // The answer to the join, or the first bytes of it.
    socket.read_exact(&mut byte).unwrap();
    socket
}

/// CPU time of the server for one delivery, in µs: each event is published when the one before has reached every member.
fn delivery(variant: &str) -> f64 {
    let mut server = Server::start(variant);
    let sockets: Vec<_> = (0..MEMBERS)
        .map(|_| connect(server.addr, "bench"))
        .collect();
    let received = Arc::new(AtomicU64::new(0));
    // One thread with epoll: a sleeping thread for each socket would make its wake-up a cost of the server's write.
    let counter = received.clone();
    std::thread::spawn(move || count(sockets, &counter));
    let mut publish = |n: u64| {
        let target = received.load(Ordering::Relaxed) + MEMBERS as u64;
        server.ask(&format!("publish {n}"));
        while received.load(Ordering::Relaxed) < target {
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    for n in 0..20 {
        publish(n);
    }
    let before = server.ask("cpu");
    let mut publish = |n: u64| {
        let target = received.load(Ordering::Relaxed) + MEMBERS as u64;
        server.ask(&format!("publish {n}"));
        while received.load(Ordering::Relaxed) < target {
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    for n in 20..20 + EVENTS {
        publish(n);
    }
    let nanos = server.ask("cpu") - before;
    nanos as f64 / 1000.0 / (EVENTS * MEMBERS as u64) as f64
}

/// Reads all sockets, and counts events by their last byte.
fn count(sockets: Vec<TcpStream>, received: &AtomicU64) {
    use tokio::io::AsyncReadExt;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(futures::future::join_all(sockets.into_iter().map(
        |socket| async move {
            socket.set_nonblocking(true).unwrap();
            let mut socket = tokio::net::TcpStream::from_std(socket).unwrap();
            let mut buffer = [0; 1024];
            while let Ok(n) = socket.read(&mut buffer).await
                && n > 0
            {
                let ends = buffer[..n].iter().filter(|byte| **byte == b'~').count();
                received.fetch_add(ends as u64, Ordering::Relaxed);
            }
        },
    )));
}

/// Proportional set size of the server for one idle connection, in KiB; the connections are in rooms of 20.
fn idle(variant: &str) -> f64 {
    let mut server = Server::start(variant);
    let warm: Vec<_> = (0..20).map(|_| connect(server.addr, "warm")).collect();
    let before = server.ask("pss");
    let sockets: Vec<_> = (0..IDLE)
        .map(|n| connect(server.addr, &format!("room {}", n / 20)))
        .collect();
    let kib = server.ask("pss") - before;
    drop((warm, sockets));
    kib as f64 / IDLE as f64
}

// ---- the servers -----------------------------------------------------------------------------------------------------

/// Publishes one event; every variant has one.
type Publish = Box<dyn Fn(u64) + Send>;

fn serve(variant: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (addr, publish) = runtime.block_on(async {
        if variant == "write" {
            return write().await;
        }
        let (app, publish): (Router, Publish) = match variant {
            "select" => select(128 * 1024),
            "bare" => select(1024),
            "naive" => naive(),
            _ => pattern(),
        };
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
            .await
            .unwrap();
        let addr = listener.local_addr().unwrap();
        if variant == "pattern" {
            let never = CancellationToken::new();
            tokio::spawn(listen::serve(
                listener,
                app,
                listen::Config::default(),
                never,
            ));
        } else {
            tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        }
        (addr, publish)
    });
    println!("{addr}");
    let _guard = runtime.enter();
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let answer = match line.split_once(' ') {
            Some(("publish", n)) => {
                let n = n.parse().unwrap();
                publish(n);
                n
            }
            _ if line == "cpu" => cpu(),
            _ => pss(),
        };
        println!("{answer}");
    }
}

/// Nanoseconds on a CPU, of all threads.
fn cpu() -> u64 {
    std::fs::read_dir("/proc/self/task")
        .unwrap()
        .map(|task| std::fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap())
        .map(|stat| stat.split(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

/// KiB.
fn pss() -> u64 {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = rollup
        .lines()
        .find_map(|line| line.strip_prefix("Pss:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn pattern() -> (Router, Publish) {
    let hub = Hub::new(Rules::default());
    // The clients of this benchmark answer no pings.
    let hour = Duration::from_secs(3600);
    let limits = Limits {
        ping_every: hour,
        ..Limits::default()
    };
    let sockets = Sockets::new(limits, CancellationToken::new());
    // All connections are one user's.
    let quotas = Quotas {
        user: governor::Quota::per_second(std::num::NonZeroU32::MAX),
        bytes: governor::Quota::per_second(std::num::NonZeroU32::MAX),
        sockets: usize::MAX,
        ..Quotas::default()
    };
    let user = User {
        name: "ada".into(),
        admin: false,
        expires: tokio::time::Instant::now() + Duration::from_secs(3600),
    };
    let app =
        rooms_endpoint::router(sockets, hub.clone(), Rates::new(quotas)).layer(Extension(user));
    let place: Mutex<Option<(Membership, Outbox)>> = Mutex::new(None);
    let publish = move |n: u64| {
        let mut place = place.lock().unwrap();
        let (membership, own) = place.get_or_insert_with(|| {
            let own = Outbox::new(64, 1 << 20);
            (hub.join("bench", &"ada".into(), &own, None).unwrap(), own)
        });
        // {"type":"message","room":"bench","seq":n,"user":"ada","data":"…~"} is LEN long with numbers of two or three digits.
        let text = format!("{}~", "x".repeat(LEN - 62));
        membership.publish(n.to_string(), &text.into()).unwrap();
        while own.pop().is_some() {}
    };
    (app, Box::new(publish))
}

fn event(n: u64) -> String {
    let text = format!(r#"{{"type":"message","room":"bench","seq":{n},"data":""#);
    let fill = "x".repeat(LEN - text.len() - 3);
    format!("{text}{fill}~\"}}")
}

/// The loop of axum's own examples.
fn select(read_buffer: usize) -> (Router, Publish) {
    async fn run(mut socket: WebSocket, mut events: broadcast::Receiver<String>) {
        loop {
            tokio::select! {
                event = events.recv() => {
                    let Ok(event) = event else { return };
                    if socket.send(event.into()).await.is_err() {
                        return;
                    }
                }
                message = socket.recv() => {
                    let Some(Ok(message)) = message else { return };
                    let _ = socket.send(message).await;
                }
            }
        }
    }
    let events = broadcast::Sender::new(64);
    let sender = events.clone();
    let upgrade = move |ws: WebSocketUpgrade| async move {
        let events = sender.subscribe();
        ws.read_buffer_size(read_buffer)
            .on_upgrade(move |socket| run(socket, events))
    };
    let app = Router::new().route("/rooms", any(upgrade));
    (app, Box::new(move |n| drop(events.send(event(n)))))
}

/// What no server can do without.
async fn write() -> (SocketAddr, Publish) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await
        .unwrap();
    let addr = listener.local_addr().unwrap();
    let sockets = Arc::new(Mutex::new(Vec::new()));
    let accepted = sockets.clone();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut seen = Vec::new();
            while !seen.ends_with(b"\r\n\r\n") {
                seen.push(socket.read_u8().await.unwrap());
            }
            socket.write_all(b"HTTP/1.1 101 x\r\n\r\n").await.unwrap();
            socket.read_u8().await.unwrap();
            let mut socket = socket.into_std().unwrap();
            let mut accepted = accepted.lock().unwrap();
            socket.write_all(b"x").unwrap(); // the answer to the join
            accepted.push(socket);
        }
    });
    let publish = move |n: u64| {
        let mut frame = vec![0x81, LEN as u8];
        frame.extend(event(n).into_bytes());
        for socket in sockets.lock().unwrap().iter_mut() {
            socket.write_all(&frame).unwrap();
        }
    };
    (addr, Box::new(publish))
}

/// The chat of many tutorials.
fn naive() -> (Router, Publish) {
    type Members = Arc<Mutex<HashMap<u64, mpsc::UnboundedSender<String>>>>;
    async fn run(socket: WebSocket, members: Members) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let (mut sink, mut stream) = socket.split();
        let (queue, mut rx) = mpsc::unbounded_channel::<String>();
        members.lock().unwrap().insert(id, queue.clone());
        tokio::spawn(async move {
            while let Some(text) = rx.recv().await {
                if sink.send(text.into()).await.is_err() {
                    return;
                }
            }
        });
        while let Some(Ok(message)) = stream.next().await {
            if let Ok(text) = message.into_text() {
                let _ = queue.send(text.to_string());
            }
        }
        members.lock().unwrap().remove(&id);
    }
    async fn upgrade(
        State(members): State<Members>,
        ws: WebSocketUpgrade,
    ) -> axum::response::Response {
        ws.on_upgrade(move |socket| run(socket, members))
    }
    let members = Members::default();
    let app = Router::new()
        .route("/rooms", any(upgrade))
        .with_state(members.clone());
    let publish = move |n: u64| {
        let event = serde_json::from_str::<serde_json::Value>(&event(n)).unwrap();
        for queue in members.lock().unwrap().values() {
            let _ = queue.send(serde_json::to_string(&event).unwrap()); // encoded for each member
        }
    };
    (app, Box::new(publish))
}

// ---- the report ------------------------------------------------------------------------------------------------------

fn report(rows: &[(&str, f64, f64)]) {
    let book = Path::new(env!("CARGO_MANIFEST_DIR")).join("../book/src/websocket");
    let mut table = String::from(
        "500 members of one room, events of 100 bytes, 2,000 idle connections, one worker thread, loopback; CPU as a multiple of the floor; median of five rounds:\n\n| | CPU per delivery | KiB per idle connection |\n|---|---:|---:|\n",
    );
    for (what, cpu, kib) in rows {
        let kib = match kib {
            0.0 => "–".to_owned(),
            _ => format!("{kib:.1}"),
        };
        table.push_str(&format!("| {what} | {cpu:.2} | {kib} |\n"));
    }
    let chapter = book.join("rooms.md");
    let text = std::fs::read_to_string(&chapter).unwrap();
    let (before, rest) = text
        .split_once("<!-- bench -->")
        .expect("the mark in the chapter");
    let (_, after) = rest
        .split_once("<!-- /bench -->")
        .expect("the end of the mark");
    std::fs::write(
        &chapter,
        format!("{before}<!-- bench -->\n\n{table}\n<!-- /bench -->{after}"),
    )
    .unwrap();
}
