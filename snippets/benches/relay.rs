//! What the relay (`llm/relay`) costs: latency on the first token, CPU for a token, memory for an open chat.
//!
//! `cargo bench -p snippets --bench relay [-- CHATS]` prints a Markdown table. The relay runs in a process of its own; the scripted
//! model and the clients share another one. Needs Linux (`/proc`) and 3 file descriptors a chat (`ulimit -n`).

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::{Extension, serve::ListenerExt};
use futures::StreamExt;
use futures::future::join_all;
use serde_json::json;
use snippets::connections::per_user::PerUser;
use snippets::llm::model_stream::model_events;
use snippets::llm::openai_chat::OpenAiChat;
use snippets::llm::public_error::UserId;
use snippets::llm::relay::{Config, Relay, app};
use snippets::llm::scripted_model::{Fault, Reply, Script, ScriptedModel};
use snippets::llm::upstream::{Dialect, Upstream};
use snippets::sse::streams::{self, Streams};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Requests for the latency, one after the other.
const REQUESTS: usize = 500;
/// Tokens of one answer, and the time between two of them.
const TOKENS: usize = 100;
const PACE: Duration = Duration::from_millis(50);

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match arguments.next().as_deref() {
        Some("relay") => runtime.block_on(relay(&arguments.next().unwrap())),
        chats => {
            let chats = chats.map_or(1000, |chats| chats.parse().expect("a number of chats"));
            runtime.block_on(measure(chats));
        }
    }
}

/// The child process: prints its address and serves until its input ends.
async fn relay(upstream: &str) {
    let streams = streams::Config {
        max_streams: 100_000,
        ..streams::Config::default()
    };
    let config = Config::default();
    let relay = Arc::new(Relay {
        model: Upstream::new(
            Dialect::OpenAiChat,
            upstream,
            "key",
            "scripted",
            config.silence,
            |body| model_events(body, OpenAiChat::default()).boxed(),
        )
        .unwrap()
        .model(),
        streams: Streams::start(streams, CancellationToken::new()),
        places: PerUser::new(100_000).permits(),
        config,
        shutdown: CancellationToken::new(),
    });
    let app = app(relay).layer(Extension(UserId("bench".to_owned())));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    // As `connections/listen` does. Without it the first token waits for the acknowledgement of the prelude: some 40 ms.
    let listener = listener.tap_io(|tcp| drop(tcp.set_nodelay(true)));
    tokio::spawn(axum::serve(listener, app).into_future());
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()))
        .await
        .unwrap()
        .unwrap();
}

/// The relay's process, as `/proc` sees it.
struct Process {
    child: Child,
    url: String,
}

impl Process {
    fn start(upstream: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["relay", upstream])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut address = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut address)
            .unwrap();
        Self {
            child,
            url: format!("http://{}/chat", address.trim()),
        }
    }

    /// CPU time so far; the kernel counts it in hundredths of a second.
    fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let after_name = stat.rsplit_once(") ").unwrap().1;
        let fields: Vec<&str> = after_name.split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }

    /// Memory of the process itself in KiB: proportional set size, without the sockets' buffers in the kernel.
    fn memory(&self) -> u64 {
        let rollup =
            std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id())).unwrap();
        let line = rollup
            .lines()
            .find_map(|line| line.strip_prefix("Pss:"))
            .unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.stdin.take()); // its input ends, and so does it
        let _ = self.child.wait();
    }
}

fn answer() -> Reply {
    Reply {
        text: (0..TOKENS).map(|n| format!("token{n} ")).collect(),
        ..Reply::default()
    }
}

fn ask(client: &reqwest::Client, url: &str) -> reqwest::RequestBuilder {
    client.post(url).json(&json!({
        "model": "scripted",
        "messages": [{ "role": "user", "content": "What ends a stream?" }],
    }))
}

/// Microseconds from the request to the first chunk that contains `token`.
async fn first_token(client: &reqwest::Client, url: &str, token: &str) -> f64 {
    let began = Instant::now();
    let mut body = ask(client, url).send().await.unwrap().bytes_stream();
    let mut text = Vec::new();
    while !String::from_utf8_lossy(&text).contains(token) {
        text.extend_from_slice(&body.next().await.unwrap().unwrap());
    }
    let took = began.elapsed();
    while body.next().await.is_some() {} // so that the connection is used again
    took.as_secs_f64() * 1e6
}

fn percentile(sorted: &[f64], part: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * part).round() as usize]
}

async fn measure(chats: usize) {
    let model = ScriptedModel::new(Script::reply(Reply::text("one two")));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let upstream = format!("http://{}", listener.local_addr().unwrap());
    let listener = listener.tap_io(|tcp| drop(tcp.set_nodelay(true)));
    tokio::spawn(axum::serve(listener, model.router()).into_future());
    let process = Process::start(&upstream);
    let client = reqwest::Client::new();

    let direct_url = format!("{upstream}/v1/chat/completions");
    let (mut direct, mut relayed) = (Vec::new(), Vec::new());
    for round in 0..REQUESTS + 100 {
        // In turn, so that what else the machine does falls on both.
        let a = first_token(&client, &direct_url, "one").await;
        let b = first_token(&client, &process.url, "one").await;
        if round >= 100 {
            direct.push(a);
            relayed.push(b);
        }
    }
    direct.sort_by(f64::total_cmp);
    relayed.sort_by(f64::total_cmp);

    // Chats that are open and silent, in the middle of an answer.
    model.set_default(Script::reply(answer()).with_fault(Fault::Stall { after: 1 }));
    let before = process.memory();
    let open = join_all((0..chats).map(|_| async {
        let mut body = ask(&client, &process.url)
            .send()
            .await
            .unwrap()
            .bytes_stream();
        let mut text = Vec::new();
        while !String::from_utf8_lossy(&text).contains("token0") {
            text.extend_from_slice(&body.next().await.unwrap().unwrap());
        }
        body
    }))
    .await;
    let silent = process.memory() - before;
    drop(open);

    // Chats that stream, all at once.
    model.set_default(Script {
        pace: PACE,
        ..Script::reply(answer())
    });
    let cpu = process.cpu();
    let began = Instant::now();
    let events: usize = join_all((0..chats).map(|_| async {
        let body = ask(&client, &process.url)
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        assert!(body.contains("event: done"), "{body}");
        body.matches("event: text").count()
    }))
    .await
    .into_iter()
    .sum();
    let lasted = began.elapsed().as_secs_f64();
    let cpu = process.cpu() - cpu;
    let tokens = chats * TOKENS;

    println!("| Measured | Value |\n|---|---|");
    println!(
        "| first token, direct to the model: median, 99th percentile | {:.0} µs, {:.0} µs |",
        percentile(&direct, 0.5),
        percentile(&direct, 0.99)
    );
    println!(
        "| first token, through the relay: median, 99th percentile | {:.0} µs, {:.0} µs |",
        percentile(&relayed, 0.5),
        percentile(&relayed, 0.99)
    );
    println!(
        "| memory of the relay for one open chat, at {chats} | {:.1} KiB |",
        silent as f64 / chats as f64
    );
    println!(
        "| CPU of the relay for one token, {chats} chats at {:.0} tokens/s in all | {:.1} µs |",
        tokens as f64 / lasted,
        cpu.as_secs_f64() * 1e6 / tokens as f64
    );
    println!(
        "| tokens in one event | {:.1} |",
        tokens as f64 / events as f64
    );
}
