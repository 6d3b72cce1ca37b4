//! `production/testing`: what the chapter shows, and the facts that it states.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use snippets::production::chaos::ChaosProxy;
use snippets::production::chaos_flow::{Cut, Fault, Plan};
use snippets::production::load::{Report, Schedule};
use snippets::sse::event::Event;
use snippets::sse::fanout::{self, feed};
use snippets::sse::streams::{Config, Streams};
use snippets::sse::topics::{Bounds, Topics};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::support::raw::End;
use crate::support::{RawClient, Server, chaos, eventually, stalled_get, within};

mod in_memory {
    // ANCHOR: in_memory
    use axum::{body::Body, http::Request};
    use futures::StreamExt;
    use snippets::sse::{
        log::{self, Log},
        resume::app,
        streams::{Config, Streams},
    };
    use tokio::time::Instant;
    use tokio_util::sync::CancellationToken;
    use tower::ServiceExt;

    #[tokio::test(start_paused = true)]
    async fn a_quiet_stream_has_a_heartbeat_every_15_seconds() {
        let streams = Streams::start(Config::default(), CancellationToken::new());
        let app = app(Log::new(log::Config::complete(10, 1_000)), streams);
        let request = Request::get("/events").body(Body::empty()).unwrap();
        let response = app.oneshot(request).await.unwrap();
        let mut body = response.into_body().into_data_stream();
        body.next().await.expect("the prelude").unwrap();
        for _ in 0..3 {
            let begin = Instant::now();
            let beat = body.next().await.expect("a heartbeat").unwrap();
            assert!(beat.starts_with(b"event: ping\n"), "{beat:?}");
            assert!(begin.elapsed().as_secs() <= 15);
        }
    }
    // ANCHOR_END: in_memory
}

mod orders {
    use std::task::{Context, Poll, Waker};

    use proptest::prelude::*;
    use snippets::sse::{
        event::{Event, LastEventId},
        log::{Config, Log},
        log_reader::{Next, Reader},
    };

    #[derive(Debug, Clone)]
    enum Step {
        Publish,
        /// The client reads once, or the connection breaks while that is underway.
        Read {
            lost: bool,
        },
        Reconnect,
    }

    fn next(reader: &mut Reader) -> Poll<Next> {
        reader.next(&mut Context::from_waker(Waker::noop()))
    }

    proptest! {
        #[test]
        // ANCHOR: orders
        fn no_order_of_publish_read_and_cut_loses_an_event(steps in prop::collection::vec(
            prop_oneof![
                2 => Just(Step::Publish),
                2 => any::<bool>().prop_map(|lost| Step::Read { lost }),
                1 => Just(Step::Reconnect),
            ],
            1..60,
        )) {
            let log = Log::new(Config::complete(100, 10_000));
            let (mut published, mut received) = (0_u64, 0_u64);
            let mut reader = log.read(&LastEventId::None).unwrap();
            let mut cursor = reader.at();
            for step in steps {
                match step {
                    Step::Publish => {
                        published += 1;
                        log.publish(&Event::new("e", &published).unwrap()).unwrap();
                    }
                    Step::Read { lost } => match next(&mut reader) {
                        Poll::Ready(Next::Blocks(_)) if lost => {
                            reader = log.read(&LastEventId::Id(cursor.to_string())).unwrap();
                        }
                        // Events that are there come without waiting and in order; nothing else comes.
                        Poll::Ready(Next::Blocks(events)) => {
                            for line in String::from_utf8(events.to_vec()).unwrap().lines() {
                                if let Some(data) = line.strip_prefix("data: ") {
                                    received += 1;
                                    prop_assert_eq!(data, received.to_string());
                                }
                            }
                            cursor = reader.at();
                            prop_assert_eq!(received, published);
                        }
                        Poll::Pending => prop_assert_eq!(received, published),
                        Poll::Ready(_) => prop_assert!(false, "a reset, or an end"),
                    },
                    Step::Reconnect => {
                        reader = log.read(&LastEventId::Id(cursor.to_string())).unwrap();
                    }
                }
            }
        }
        // ANCHOR_END: orders
    }
}

mod leak {
    // ANCHOR: leak
    use std::time::Duration;

    use tokio::{runtime::Handle, time::sleep};

    /// Runs `round` again and again, and waits each time until the runtime has no more tasks than before the first and
    /// `kept`, those that the service keeps for the next (pools, timers). What is never freed makes it hang: run it with a timeout.
    pub async fn leaves_no_task_behind<F: Future>(
        rounds: usize,
        kept: usize,
        round: impl Fn() -> F,
    ) {
        let most = Handle::current().metrics().num_alive_tasks() + kept;
        for _ in 0..rounds {
            round().await;
            while Handle::current().metrics().num_alive_tasks() > most {
                sleep(Duration::from_millis(5)).await;
            }
        }
    }
    // ANCHOR_END: leak
}

/// Connections that end in the middle, with FIN and RST, at any byte.
async fn hostile_round(proxy: &ChaosProxy, connections: usize) {
    let mut open = Vec::new();
    for _ in 0..connections {
        open.push(RawClient::get(proxy.addr(), "/topics/prices/events", &[]).await);
    }
    for mut client in open {
        assert_ne!(client.read_to_end().await, End::Complete);
    }
}

/// A proxy that cuts each connection within the first 250 bytes, in front of `app`.
async fn cutting_proxy(app: axum::Router) -> (Server, ChaosProxy) {
    let server = Server::start(app).await;
    let proxy = chaos(server.addr, 9, |number| {
        let cut = [Cut::Reset, Cut::Fin][(number % 2) as usize];
        let mut plan = Plan::default();
        plan.to_client.fault = Some((1..=250, Fault::Cut(cut)));
        plan
    });
    let proxy = proxy.await;
    (server, proxy)
}

fn beating() -> axum::Router {
    let config = Config {
        heartbeat: Duration::from_millis(16),
        ..Config::default()
    };
    let streams = Streams::start(config, CancellationToken::new());
    fanout::app(Topics::start(feed(), Bounds::default()), streams)
}

#[tokio::test]
async fn no_task_is_left_after_hundreds_of_cut_connections() {
    let (_server, proxy) = cutting_proxy(beating()).await;
    let soak = leak::leaves_no_task_behind(5, 0, || hostile_round(&proxy, 60));
    within("the last task to end", soak).await;
}

/// The check finds a producer that waits where nobody tells it that its client has left.
#[tokio::test]
async fn a_detached_task_per_connection_is_found() {
    let app = axum::Router::new().route(
        "/topics/prices/events",
        axum::routing::get(async || {
            tokio::spawn(std::future::pending::<()>());
            "x".repeat(1_000)
        }),
    );
    let (_server, proxy) = cutting_proxy(app).await;
    let soak = leak::leaves_no_task_behind(1, 1, || hostile_round(&proxy, 5));
    // It waits for ever for tasks that never end.
    assert!(timeout(Duration::from_millis(300), soak).await.is_err());
    let tasks = tokio::runtime::Handle::current().metrics();
    assert!(tasks.num_alive_tasks() >= 5);
}

/// Bytes of this process that are in memory.
#[cfg(target_os = "linux")]
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() * 1024
}

/// Growth over 1,000 connections, after a warm-up with more than the proxy keeps records of.
#[cfg(target_os = "linux")]
async fn growth(app: axum::Router) -> u64 {
    let (_server, proxy) = cutting_proxy(app).await;
    for _ in 0..12 {
        hostile_round(&proxy, 100).await;
    }
    let before = resident();
    for _ in 0..10 {
        hostile_round(&proxy, 100).await;
    }
    resident().saturating_sub(before)
}

/// In a process of its own, since the other tests share this one's memory.
#[cfg(target_os = "linux")]
#[test]
fn memory_stays_flat_over_a_thousand_connections_and_a_leak_of_4_kib_is_found() {
    const NAME: &str = "production_testing::memory_stays_flat_over_a_thousand_connections_and_a_leak_of_4_kib_is_found";
    if std::env::var_os("SOAK_ALONE").is_none() {
        let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
        alone
            .args([NAME, "--exact", "--nocapture"])
            .env("SOAK_ALONE", "1");
        let output = alone.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let flat = growth(beating()).await;
        let kept = Arc::new(std::sync::Mutex::new(Vec::new()));
        let leaky = beating().layer(axum::middleware::from_fn(
            move |request: axum::extract::Request, next: axum::middleware::Next| {
                kept.lock().unwrap().push(vec![1_u8; 4096]);
                next.run(request)
            },
        ));
        let leaky = growth(leaky).await;
        println!("grew by {flat} and {leaky} bytes");
        assert!(flat < 2 << 20, "grew by {flat} bytes");
        assert!(leaky > 3 << 20, "grew by {leaky} bytes only");
    });
}

/// Under paused time a socket is never waited for: the clock jumps to the next timer as soon as no task is ready.
#[tokio::test(start_paused = true)]
async fn an_hour_passes_before_a_byte_on_a_socket() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let (write, asked) = std::sync::mpsc::channel::<()>();
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        asked.recv().unwrap();
        socket.write_all(b"!").unwrap();
    });
    let mut client = tokio::net::TcpStream::connect(addr).await.unwrap();
    let begin = std::time::Instant::now();
    let hour = Duration::from_secs(3600);
    let mut byte = [0];
    assert!(timeout(hour, client.read_exact(&mut byte)).await.is_err());
    assert!(begin.elapsed() < hour, "of nobody's real time");
    // The server had been about to answer.
    write.send(()).unwrap();
    tokio::time::resume();
    within("the byte", client.read_exact(&mut byte))
        .await
        .unwrap();
    server.join().unwrap();
}

/// A blocking call holds the clock; the clocks of the standard library do not take part.
#[tokio::test(start_paused = true)]
async fn the_clock_stands_while_a_blocking_task_runs_and_std_knows_nothing_of_it() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let blocking = tokio::task::spawn_blocking(move || wait.recv());
    let begin = (Instant::now(), std::time::Instant::now());
    let mut hour = std::pin::pin!(sleep(Duration::from_secs(3600)));
    for _ in 0..1_000 {
        assert!(futures::poll!(&mut hour).is_pending());
        tokio::task::yield_now().await;
    }
    assert_eq!(begin.0.elapsed(), Duration::ZERO);
    go.send(()).unwrap();
    blocking.await.unwrap().unwrap();
    hour.await;
    assert!(begin.0.elapsed() >= Duration::from_secs(3600));
    assert!(begin.1.elapsed() < Duration::from_secs(3600));
}

/// 40 idle, 8 that read, 3 that have stalled: each event reaches each reader, and its delay is known from when it was due.
#[tokio::test]
async fn a_crowd_of_idle_active_and_stalled_readers() {
    const EVENTS: u32 = 100;
    let streams = Streams::start(Config::default(), CancellationToken::new());
    let roomy = snippets::sse::log::Config {
        bytes: 4 << 20,
        ..feed()
    };
    let topics = Topics::start(roomy, Bounds::default());
    let server = Server::start(fanout::app(topics.clone(), streams.clone())).await;
    let mut idle = Vec::new();
    for _ in 0..40 {
        idle.push(RawClient::get(server.addr, "/topics/quiet/events", &[]).await);
    }
    let path = "/topics/prices/events";
    let mut stalled = Vec::new();
    for _ in 0..3 {
        stalled.push(stalled_get(server.addr, path).await);
    }
    let mut active = Vec::new();
    for _ in 0..8 {
        active.push(RawClient::get(server.addr, path, &[]).await);
    }
    eventually("all to be there", || streams.open() == 51).await;
    let schedule = Schedule::every(Duration::from_millis(5));
    let readers = active.into_iter().map(|reader| {
        tokio::spawn(async move {
            let mut lines = BufReader::new(reader.socket).lines();
            let mut delays = Vec::new();
            for n in 0..EVENTS {
                let data = format!("data: {n} ");
                while !within("an event", lines.next_line())
                    .await
                    .unwrap()
                    .unwrap()
                    .starts_with(&data)
                {}
                delays.push(schedule.late(n));
            }
            delays
        })
    });
    let readers: Vec<_> = readers.collect();
    let padding = "x".repeat(8_000);
    for n in 0..EVENTS {
        tokio::time::sleep_until(schedule.due(n)).await;
        let event = Event::text("tick", &format!("{n} {padding}")).unwrap();
        topics.publish("prices", &event).unwrap();
    }
    let mut report = Report::default();
    for reader in readers {
        report.latencies.extend(reader.await.unwrap());
    }
    report.latencies.sort_unstable();
    assert_eq!(report.latencies.len(), 8 * EVENTS as usize);
    println!("{:?} {:?}", report.quantile(0.5), report.quantile(0.99));
    for client in &mut idle {
        client.read_head().await;
        assert_eq!(client.end, End::Open);
    }
}
