//! Measures what a restart does to 2,000 clients: `cargo run -p snippets --example storm [CLIENTS]`.
//!
//! An instance with open event streams shuts down; each client waits the `retry` that it was told, as EventSource does,
//! and connects to the other instance. Real sockets on loopback, both instances and all clients in this process.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use snippets::connections::listen::{self, serve};
use snippets::sse::jobs::{self, Jobs};
use snippets::sse::streams::{Config, Streams};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

const MINUTE: Duration = Duration::from_secs(60);

struct Instance {
    addr: SocketAddr,
    stop: CancellationToken,
    /// Dropped with the instance: the end of the job would end the streams.
    _job: jobs::Worker,
}

async fn instance(config: Config, backlog: u32) -> io::Result<Instance> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(([127, 0, 0, 1], 0).into())?;
    let listener = socket.listen(backlog)?;
    let addr = listener.local_addr()?;
    let stop = CancellationToken::new();
    let known = Jobs::default();
    let job = known.insert(1).map_err(io::Error::other)?;
    let app = jobs::app(known, Streams::start(config, stop.clone()));
    let drain = listen::Config {
        drain: MINUTE,
        ..listen::Config::default()
    };
    tokio::spawn(serve(listener, app, drain, stop.clone()));
    Ok(Instance {
        addr,
        stop,
        _job: job,
    })
}

async fn open(addr: SocketAddr) -> io::Result<(TcpStream, String)> {
    let mut stream = TcpStream::connect(addr).await?;
    let request = b"GET /jobs/1/events HTTP/1.1\r\nhost: localhost\r\n\r\n";
    stream.write_all(request).await?;
    let mut text = String::new();
    while !text.contains("\"percent\":0}") {
        read(&mut stream, &mut text).await?;
    }
    Ok((stream, text))
}

async fn read(stream: &mut TcpStream, text: &mut String) -> io::Result<()> {
    let mut buffer = [0; 1024];
    match stream.read(&mut buffer).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        n => {
            text.push_str(&String::from_utf8_lossy(&buffer[..n]));
            Ok(())
        }
    }
}

/// What one client has seen.
struct Seen {
    reconnected: Instant,
    first_byte: Duration,
    outage: Duration,
}

async fn client(mut stream: TcpStream, mut text: String, next: SocketAddr) -> io::Result<Seen> {
    while !text.ends_with("0\r\n\r\n") {
        read(&mut stream, &mut text).await?;
    }
    let ended = Instant::now();
    drop(stream);
    let mut retry = text.lines().filter_map(|line| line.strip_prefix("retry: "));
    let retry = retry
        .next_back()
        .and_then(|ms| ms.parse().ok())
        .unwrap_or(0);
    sleep(Duration::from_millis(retry)).await;
    let reconnected = Instant::now();
    let (stream, _) = open(next).await?;
    let seen = Seen {
        reconnected,
        first_byte: reconnected.elapsed(),
        outage: ended.elapsed(),
    };
    // Open until all are back.
    tokio::spawn(async move {
        sleep(MINUTE).await;
        drop(stream);
    });
    Ok(seen)
}

async fn storm(clients: usize, config: Config, backlog: u32) -> io::Result<String> {
    let (old, new) = (
        instance(config, backlog).await?,
        instance(Config::default(), backlog).await?,
    );
    let mut running = JoinSet::new();
    for _ in 0..clients {
        let (stream, text) = open(old.addr).await?;
        running.spawn(client(stream, text, new.addr));
    }
    let began = Instant::now();
    old.stop.cancel();
    let seen: io::Result<Vec<Seen>> = running.join_all().await.into_iter().collect();
    let mut seen = seen?;
    let mut steps: BTreeMap<u128, usize> = BTreeMap::new();
    for client in &seen {
        let step = client.reconnected.duration_since(began).as_millis() / 100;
        *steps.entry(step).or_default() += 1;
    }
    let back = seen.iter().map(|c| c.reconnected + c.first_byte).max();
    let back = back.map_or(0.0, |back| back.duration_since(began).as_secs_f64());
    seen.sort_by_key(|client| client.first_byte);
    let slow = seen[seen.len() * 99 / 100].first_byte.as_secs_f64() * 1000.0;
    seen.sort_by_key(|client| client.outage);
    let outage = |at: usize| seen[at].outage.as_secs_f64();
    Ok(format!(
        "{:>5} | {slow:>5.0} ms | {:>4.1} s | {:>4.1} s | {back:>4.1} s",
        steps.values().max().copied().unwrap_or(0),
        outage(seen.len() / 2),
        outage(seen.len() - 1),
    ))
}

#[tokio::main]
async fn main() -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, all)?;
    let clients = std::env::args().nth(1).and_then(|n| n.parse().ok());
    let clients = clients.unwrap_or(2_000);
    println!(
        "{clients} clients: connects in the busiest 100 ms | 99 % first event within | median, longest outage | all back"
    );
    let secs = Duration::from_secs;
    for (name, retry, drain_spread, backlog) in [
        ("retry 0.5 to 1.5 s, ended at once", secs(1), secs(0), 128),
        ("the same, with a backlog of 4,096", secs(1), secs(0), 4096),
        ("retry 1.5 to 4.5 s, ended at once", secs(3), secs(0), 128),
        (
            "retry 0.5 to 1.5 s, ended over 10 s",
            secs(1),
            secs(10),
            128,
        ),
        ("retry 1.5 to 4.5 s, ended over 5 s", secs(3), secs(5), 128),
    ] {
        let config = Config {
            retry,
            drain_spread,
            ..Config::default()
        };
        println!("{name:<36} | {}", storm(clients, config, backlog).await?);
    }
    Ok(())
}
