//! `-- scale`: 20,000 idle streams and 100,000 topics, in one server process: what they keep in memory, how long an event takes
//! to reach all of them, and how late another event is while they are sent their heartbeat.
//!
//! The clients bind addresses of 127.0.0.0/8 in turn, so that the ports of one address are not the limit. Both processes raise
//! their limit of descriptors as far as the machine lets them; the table names the number of streams that this allowed.
//! `SCALE_STREAMS` and `SCALE_TOPICS` change the sizes, and nothing is written then.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use snippets::sse::event::Event;
use snippets::sse::fanout;
use snippets::sse::streams::{self, Streams};
use snippets::sse::topics::{Bounds, Topics};
use tokio::io::AsyncReadExt;
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::events::{Seen, Server, median, read, request};
use crate::report;

const STREAMS: usize = 20_000;
const TOPICS: usize = 100_000;
/// Descriptors of a process that are not streams.
const OTHER_FILES: usize = 100;
/// Client addresses: each has some 28,000 ports.
const ADDRESSES: usize = 8;
/// How often all are woken.
const WAKES: usize = 5;
/// One heartbeat of the shipped configuration: each stream is sent one within it.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Time between two measurements of the latency.
const PAUSE: Duration = Duration::from_millis(10);

pub const VARIANT: &str = "scale";

// ---- the server ------------------------------------------------------------------------------------------------------

/// Each line on the standard input is a topic to publish to, `*` for all, or `create N` for `N` topics.
pub fn serve() {
    raise_limit();
    crate::server::serve(false, || {
        let bounds = Bounds {
            max_topics: usize::MAX,
            ..Bounds::default()
        };
        let topics = Topics::start(fanout::feed(), bounds);
        let config = streams::Config {
            max_streams: usize::MAX,
            heartbeat: HEARTBEAT,
            ..streams::Config::default()
        };
        let app = fanout::app(
            topics.clone(),
            Streams::start(config, CancellationToken::new()),
        );
        let event = Event::text("tick", &crate::server::data()).unwrap();
        let mut created = 0;
        let order = move |order: String| {
            if let Some(count) = order.strip_prefix("create ") {
                created = count.parse().unwrap();
                for n in 0..created {
                    // The sweep drops a topic without readers after a minute, which is longer than this lasts.
                    topics
                        .log(&format!("t{n}"))
                        .unwrap()
                        .publish(&event)
                        .unwrap();
                }
                println!("created");
            } else if order == "*" {
                for n in 0..created {
                    topics.publish(&format!("t{n}"), &event).unwrap();
                }
            } else {
                topics.publish(&order, &event).unwrap();
            }
        };
        (app, order)
    });
}

// ---- the measurement -------------------------------------------------------------------------------------------------

/// Connects `count` streams; the n-th reads the topic that `topic` returns for it.
async fn connect(
    server: &Server,
    count: usize,
    topic: impl Fn(usize) -> String,
    seen: &Arc<Seen>,
) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    for n in 0..count {
        let socket = TcpSocket::new_v4().unwrap();
        let address = Ipv4Addr::new(127, 0, 0, 2 + (n % ADDRESSES) as u8);
        socket.bind((address, 0).into()).unwrap();
        let socket = socket.connect(server.addr).await.unwrap();
        let path = format!("/topics/{}/events", topic(n));
        read(socket, &path, seen.clone(), &mut clients).await;
    }
    clients
}

/// Publishes by `order` and waits until `all` events have arrived.
async fn wake(server: &mut Server, order: &str, all: u64, seen: &Seen) -> Duration {
    seen.events.store(0, Ordering::Relaxed);
    let begun = Instant::now();
    server.order(order);
    while seen.events.load(Ordering::Relaxed) < all {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "{order}: not all have arrived"
        );
        let _ = tokio::time::timeout(Duration::from_secs(1), seen.news.notified()).await;
    }
    begun.elapsed()
}

/// From the order to publish to the arrival at the one reader of `probe`, over one heartbeat, in ms: the median and the 99th
/// percentile.
async fn latency(server: &mut Server) -> [f64; 2] {
    let mut socket = tokio::net::TcpStream::connect(server.addr).await.unwrap();
    request(&mut socket, "/topics/probe/events").await;
    let mut buffer = vec![0; 2048];
    let mut waits = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < HEARTBEAT {
        let sent = Instant::now();
        server.order("probe");
        loop {
            let read = socket.read(&mut buffer).await.unwrap();
            assert!(read > 0, "the probe's stream has ended");
            if buffer[..read].contains(&b'~') {
                break;
            }
        }
        waits.push(sent.elapsed().as_secs_f64() * 1000.0);
        tokio::time::sleep(PAUSE).await;
    }
    waits.sort_by(f64::total_cmp);
    [waits[waits.len() / 2], waits[waits.len() * 99 / 100]]
}

/// Milliseconds until all have been woken, of the wall and of the server's CPU: the medians.
async fn wakes(server: &mut Server, order: &str, all: usize, seen: &Seen) -> [f64; 2] {
    let (mut wall, mut cpu) = (Vec::new(), Vec::new());
    for _ in 0..WAKES {
        let before = server.cpu();
        wall.push(wake(server, order, all as u64, seen).await.as_secs_f64() * 1000.0);
        cpu.push((server.cpu() - before).as_secs_f64() * 1000.0);
    }
    [median(wall), median(cpu)]
}

async fn one_topic(count: usize) -> [f64; 5] {
    let mut server = Server::start(VARIANT);
    let seen = Arc::new(Seen::default());
    let _first = connect(&server, 1, |_| "all".to_owned(), &seen).await;
    let before = server.memory();
    let _clients = connect(&server, count - 1, |_| "all".to_owned(), &seen).await;
    let kib = (server.memory() - before) / (count - 1) as f64;
    let [wall, cpu] = wakes(&mut server, "all", count, &seen).await;
    let [middle, late] = latency(&mut server).await;
    [kib, wall, cpu, middle, late]
}

/// The topics' memory is what they keep before anyone reads them: one event each.
async fn many_topics(count: usize, topics: usize) -> [f64; 5] {
    let mut server = Server::start(VARIANT);
    let before = server.memory();
    server.order(&format!("create {topics}"));
    server.answer();
    let kib = (server.memory() - before) / topics as f64;
    let seen = Arc::new(Seen::default());
    let topic = |n: usize| format!("t{}", n * topics / count);
    let _clients = connect(&server, count, topic, &seen).await;
    let [wall, cpu] = wakes(&mut server, "*", count, &seen).await;
    let [middle, late] = latency(&mut server).await;
    [kib, wall, cpu, middle, late]
}

/// Raises the limit of descriptors, beyond the hard limit where the process may. Returns it.
fn raise_limit() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let wanted = (STREAMS + OTHER_FILES) as u64;
    let most = getrlimit(Resource::Nofile).maximum;
    let limit = |current: u64, maximum| Rlimit {
        current: Some(current),
        maximum,
    };
    if most.is_some_and(|most| most < wanted)
        && setrlimit(Resource::Nofile, limit(wanted, Some(wanted))).is_err()
    {
        let most = most.unwrap_or(wanted);
        let _ = setrlimit(Resource::Nofile, limit(most, Some(most)));
    } else if most.is_none_or(|most| most >= wanted) {
        let _ = setrlimit(Resource::Nofile, limit(wanted, most));
    }
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(wanted);
    usize::try_from(allowed).unwrap_or(usize::MAX)
}

pub fn run() {
    let size = |name, full| {
        std::env::var(name).map_or((full, true), |size| (size.parse().unwrap(), false))
    };
    let ((streams, full_streams), (topics, full_topics)) =
        (size("SCALE_STREAMS", STREAMS), size("SCALE_TOPICS", TOPICS));
    let streams = streams.min(raise_limit() - OTHER_FILES);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let single = runtime.block_on(one_topic(1));
    eprintln!("1 stream: {single:?}");
    let one = runtime.block_on(one_topic(streams));
    eprintln!("{streams} streams, one topic: {one:?}");
    let many = runtime.block_on(many_topics(streams, topics));
    eprintln!("{streams} streams, {topics} topics: {many:?}");
    let rows = [
        ("1 stream".to_owned(), single),
        (format!("{} streams of one topic", grouped(streams)), one),
        (
            format!("{} topics, {} streams", grouped(topics), grouped(streams)),
            many,
        ),
    ];
    report::scale(&rows, full_streams && full_topics);
}

/// 20,000.
fn grouped(number: usize) -> String {
    match number {
        0..1000 => number.to_string(),
        _ => format!("{},{:03}", grouped(number / 1000), number % 1000),
    }
}
