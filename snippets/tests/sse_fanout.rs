//! `sse/fanout`: what is shared, what a slow reader costs whom, and who is freed when.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use snippets::sse::fanout::{Config, Hub, SlowConsumer};
use snippets::sse::listen::{Listener, SocketLimits, serve};
use snippets::sse::message::LastEventId;
use snippets::sse::subscription::{self, Subscription};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::advance;
use tokio_util::sync::CancellationToken;

use crate::support::raw::End;
use crate::support::{RawClient, Server, Transcript, eventually, within};

const TOPIC: &str = "prices";
const PATH: &str = "/topics/prices/events";
const HOUR: Duration = Duration::from_secs(3600);

fn small(slow: SlowConsumer) -> Config {
    Config {
        queue: 3,
        history: 5,
        slow,
        ..Config::default()
    }
}

/// The next frame, `None` at the end of the response.
async fn frame(subscription: &mut Subscription) -> Option<Bytes> {
    // A day of paused time is no time.
    let day = Duration::from_secs(24 * 3600);
    let frame = tokio::time::timeout(day, subscription.frame())
        .await
        .expect("a frame")?;
    Some(frame.unwrap().into_data().unwrap())
}

async fn text(subscription: &mut Subscription) -> Option<String> {
    let bytes = frame(subscription).await?;
    Some(String::from_utf8(bytes.to_vec()).unwrap())
}

/// The data of the events in a frame, with `reset` for one.
fn data(frame: &str) -> Vec<String> {
    frame
        .split("\n\n")
        .filter_map(|block| {
            let data = block.lines().find_map(|line| line.strip_prefix("data: "))?;
            let reset = block.contains("event: reset");
            Some(if reset { "reset" } else { data }.to_owned())
        })
        .collect()
}

/// A subscriber that has read its prelude.
async fn joined(hub: &Hub) -> Subscription {
    let mut subscription = hub.subscribe(TOPIC, &LastEventId::None);
    text(&mut subscription).await.unwrap();
    subscription
}

fn publish(hub: &Hub, numbers: impl IntoIterator<Item = u32>) {
    for number in numbers {
        hub.publish(TOPIC, "tick", &number.to_string()).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_is_encoded_once_for_all() {
    let hub = Hub::start(Config::default());
    let (mut one, mut two) = (joined(&hub).await, joined(&hub).await);
    assert_eq!(hub.publish(TOPIC, "tick", "1").unwrap(), 2);
    let (first, second) = (
        frame(&mut one).await.unwrap(),
        frame(&mut two).await.unwrap(),
    );
    assert!(first.ends_with(b"event: tick\ndata: 1\n\n"));
    assert_eq!(
        first.as_ptr(),
        second.as_ptr(),
        "the same bytes, not equal ones"
    );
}

#[tokio::test(start_paused = true)]
async fn an_event_type_that_breaks_the_format_is_refused() {
    let hub = Hub::start(Config::default());
    let mut one = joined(&hub).await;
    assert!(hub.publish(TOPIC, "a\ndata: b", "1").is_err());
    publish(&hub, [2]);
    assert_eq!(data(&text(&mut one).await.unwrap()), ["2"]);
}

#[tokio::test(start_paused = true)]
async fn slow_consumers_are_disconnected_and_miss_nothing_when_they_come_back() {
    let hub = Hub::start(small(SlowConsumer::Disconnect));
    let mut slow = joined(&hub).await;
    publish(&hub, [1]);
    let first = text(&mut slow).await.unwrap();
    let id = first
        .lines()
        .find_map(|line| line.strip_prefix("id: "))
        .unwrap();
    publish(&hub, 2..=5);
    assert_eq!(text(&mut slow).await, None, "four waiting, three allowed");

    let mut back = hub.subscribe(TOPIC, &LastEventId::Id(id.to_owned()));
    assert_eq!(data(&text(&mut back).await.unwrap()), [""; 0]);
    // What it replays does not count as its queue.
    assert_eq!(data(&text(&mut back).await.unwrap()), ["2", "3", "4", "5"]);
}

#[tokio::test(start_paused = true)]
async fn slow_consumers_lose_the_oldest_and_are_told() {
    let hub = Hub::start(small(SlowConsumer::DropOldest));
    let mut slow = joined(&hub).await;
    publish(&hub, 1..=3);
    assert_eq!(data(&text(&mut slow).await.unwrap()), ["1", "2", "3"]);
    publish(&hub, 4..=20);
    assert_eq!(
        data(&text(&mut slow).await.unwrap()),
        ["reset", "18", "19", "20"]
    );
}

#[tokio::test(start_paused = true)]
async fn slow_consumers_get_the_latest_only() {
    let hub = Hub::start(small(SlowConsumer::Conflate));
    let mut slow = joined(&hub).await;
    publish(&hub, 1..=20);
    assert_eq!(data(&text(&mut slow).await.unwrap()), ["20"]);
    publish(&hub, [21]);
    assert_eq!(data(&text(&mut slow).await.unwrap()), ["21"]);
}

#[tokio::test(start_paused = true)]
async fn a_cursor_that_cannot_be_continued_is_a_reset() {
    let hub = Hub::start(small(SlowConsumer::Disconnect));
    let mut one = joined(&hub).await;
    publish(&hub, 1..=3);
    let seen = text(&mut one).await.unwrap();
    let third = seen.lines().rfind(|line| line.starts_with("id: ")).unwrap()[4..].to_owned();
    publish(&hub, 4..=9);
    let epoch = third.split_once('-').unwrap().0;
    // Trimmed, from another life of the topic, not yet given out, not ours.
    let other = format!("{:08x}-9", !u32::from_str_radix(epoch, 16).unwrap());
    for id in [
        third.clone(),
        other,
        format!("{epoch}-10"),
        format!("{epoch}-x"),
        "9".to_owned(),
    ] {
        let mut back = hub.subscribe(TOPIC, &LastEventId::Id(id.clone()));
        assert_eq!(data(&text(&mut back).await.unwrap()), ["reset"], "{id}");
    }
    let mut back = hub.subscribe(TOPIC, &LastEventId::Unusable);
    assert_eq!(data(&text(&mut back).await.unwrap()), ["reset"]);
    // The newest, and the one before the oldest that is kept (5..=9).
    let mut back = hub.subscribe(TOPIC, &LastEventId::Id(format!("{epoch}-4")));
    text(&mut back).await.unwrap();
    assert_eq!(
        data(&text(&mut back).await.unwrap()),
        ["5", "6", "7", "8", "9"]
    );
    let mut back = hub.subscribe(TOPIC, &LastEventId::Id(format!("{epoch}-9")));
    assert_eq!(data(&text(&mut back).await.unwrap()), [""; 0]);
    publish(&hub, [10]);
    assert_eq!(data(&text(&mut back).await.unwrap()), ["10"]);
}

#[tokio::test(start_paused = true)]
async fn a_quiet_topic_is_kept_alive_and_an_old_response_ends() {
    let hub = Hub::start(Config {
        max_age: Duration::from_secs(40),
        ..Config::default()
    });
    let mut one = joined(&hub).await;
    assert_eq!(text(&mut one).await.unwrap(), ":\n\n");
    publish(&hub, [1]);
    assert_eq!(data(&text(&mut one).await.unwrap()), ["1"]);
    assert_eq!(text(&mut one).await.unwrap(), ":\n\n");
    assert_eq!(text(&mut one).await, None);
}

#[tokio::test(start_paused = true)]
async fn events_in_quick_succession_are_joined_and_the_first_is_not_held_back() {
    let hub = Hub::start(Config {
        join: Duration::from_millis(20),
        ..Config::default()
    });
    let mut one = joined(&hub).await;
    let reader = tokio::spawn(async move {
        let mut frames = Vec::new();
        for _ in 0..2 {
            frames.push(data(&text(&mut one).await.unwrap()));
        }
        (frames, one)
    });
    // The reader waits before anything is published.
    tokio::task::yield_now().await;
    publish(&hub, [1]);
    tokio::task::yield_now().await;
    publish(&hub, [2]);
    advance(Duration::from_millis(10)).await;
    publish(&hub, [3]);
    let (frames, _one) = within("the reader", reader).await.unwrap();
    assert_eq!(frames, [vec!["1"], vec!["2", "3"]]);
}

#[tokio::test(start_paused = true)]
async fn a_topic_is_freed_when_nobody_has_it() {
    let at_once = Hub::start(Config {
        linger: Duration::ZERO,
        ..Config::default()
    });
    let (one, two) = (joined(&at_once).await, joined(&at_once).await);
    assert_eq!(at_once.counts(), (1, 2));
    drop(one);
    assert_eq!(at_once.counts(), (1, 1));
    drop(two);
    assert_eq!(at_once.counts(), (0, 0));
    assert_eq!(at_once.publish(TOPIC, "tick", "1").unwrap(), 0);
    assert_eq!(at_once.counts(), (0, 0), "publishing makes no topic");

    let lingering = Hub::start(Config::default());
    drop(joined(&lingering).await);
    assert_eq!(lingering.counts(), (1, 0));
    advance(Duration::from_secs(59)).await;
    drop(joined(&lingering).await);
    advance(Duration::from_secs(59)).await;
    assert_eq!(
        lingering.counts(),
        (1, 0),
        "it begins anew with each subscriber"
    );
    advance(Duration::from_secs(20)).await;
    eventually("the topic is freed", || lingering.counts() == (0, 0)).await;
}

#[tokio::test(start_paused = true)]
async fn close_ends_the_responses_after_what_is_waiting() {
    let hub = Hub::start(Config::default());
    let mut one = joined(&hub).await;
    publish(&hub, [1]);
    hub.close();
    assert_eq!(data(&text(&mut one).await.unwrap()), ["1"]);
    assert_eq!(text(&mut one).await, None);
}

/// `listen::serve` on a loopback port.
async fn listen(
    hub: &Hub,
    limits: SocketLimits,
    max_age: Duration,
) -> (Server2, CancellationToken) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let app = subscription::router(hub.clone());
    let listener = Listener::new(listener, limits);
    let task = tokio::spawn(serve(listener, app, max_age, stop.clone(), HOUR));
    (Server2 { addr, task }, stop)
}

struct Server2 {
    addr: std::net::SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server2 {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A client that sends its request and reads nothing, with a small receive buffer.
async fn stalled(addr: std::net::SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut client = RawClient {
        socket: socket.connect(addr).await.unwrap(),
        received: Vec::new(),
        end: End::Open,
    };
    client.send_request("GET", PATH, &[]).await;
    client.socket
}

/// Publishes until `done`; a reader that reads gets everything, whatever the stalled ones do.
async fn publish_until(hub: &Hub, reader: &mut RawClient, done: impl Fn() -> bool) {
    let filler = "x".repeat(16 * 1024);
    let mut number = 0;
    within("the stalled reader is freed", async {
        while !done() {
            number += 1;
            hub.publish(TOPIC, "tick", &format!("{number} {filler}"))
                .unwrap();
            reader.received.clear();
            while !String::from_utf8_lossy(&reader.received).contains(&format!("data: {number} ")) {
                assert!(reader.read_some().await, "the reader was cut too");
            }
        }
    })
    .await;
}

async fn reader(hub: &Hub, addr: std::net::SocketAddr) -> RawClient {
    let mut reader = RawClient::get(addr, PATH, &[]).await;
    reader.read_until("retry: ").await;
    let _ = hub;
    reader
}

#[tokio::test]
async fn a_stalled_reader_is_ended_by_the_send_deadline_and_delays_nobody() {
    let hub = Hub::start(Config::default());
    let limits = SocketLimits {
        send: Duration::from_millis(300),
        unacknowledged: HOUR,
        ..SocketLimits::default()
    };
    let (server, _stop) = listen(&hub, limits, HOUR).await;
    let _stalled = stalled(server.addr).await;
    eventually("one subscriber", || hub.counts() == (1, 1)).await;
    let mut reader = reader(&hub, server.addr).await;
    assert_eq!(hub.counts(), (1, 2));
    publish_until(&hub, &mut reader, || hub.counts() == (1, 1)).await;
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn tcp_user_timeout_ends_a_reader_whose_window_stays_closed() {
    let hub = Hub::start(Config::default());
    let limits = SocketLimits {
        send: HOUR,
        unacknowledged: Duration::from_millis(500),
        ..SocketLimits::default()
    };
    let (server, _stop) = listen(&hub, limits, HOUR).await;
    let _stalled = stalled(server.addr).await;
    eventually("one subscriber", || hub.counts() == (1, 1)).await;
    let mut reader = reader(&hub, server.addr).await;
    publish_until(&hub, &mut reader, || hub.counts() == (1, 1)).await;
}

#[tokio::test]
async fn the_listener_limits_a_plain_axum_server_too() {
    let hub = Hub::start(Config::default());
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let limits = SocketLimits {
        send: Duration::from_millis(300),
        ..SocketLimits::default()
    };
    let app = subscription::router(hub.clone());
    let task = tokio::spawn(async move { axum::serve(Listener::new(listener, limits), app).await });
    let server = Server2 {
        addr,
        task: tokio::spawn(async move { task.await.unwrap().unwrap() }),
    };
    let _stalled = stalled(server.addr).await;
    eventually("one subscriber", || hub.counts() == (1, 1)).await;
    let mut reader = reader(&hub, server.addr).await;
    publish_until(&hub, &mut reader, || hub.counts() == (1, 1)).await;
}

#[tokio::test]
async fn a_connection_ends_at_its_maximum_age_even_if_it_reads_a_little() {
    let hub = Hub::start(Config::default());
    let (server, _stop) = listen(&hub, SocketLimits::default(), Duration::from_millis(200)).await;
    let mut client = RawClient::get(server.addr, PATH, &[]).await;
    assert_ne!(client.read_to_end().await, End::Complete);
    eventually("freed", || hub.counts().1 == 0).await;
}

#[tokio::test]
async fn fin_and_rst_free_a_subscriber_of_a_quiet_topic() {
    let hub = Hub::start(Config {
        linger: Duration::ZERO,
        ..Config::default()
    });
    let (server, _stop) = listen(&hub, SocketLimits::default(), HOUR).await;
    let fin = reader(&hub, server.addr).await;
    let rst = reader(&hub, server.addr).await;
    assert_eq!(hub.counts(), (1, 2));
    drop(fin);
    eventually("freed by FIN", || hub.counts() == (1, 1)).await;
    rst.socket.set_zero_linger().unwrap();
    drop(rst);
    eventually("freed by RST, and the topic with it", || {
        hub.counts() == (0, 0)
    })
    .await;
}

#[tokio::test]
async fn a_shutdown_ends_when_the_hub_is_closed() {
    let hub = Hub::start(Config::default());
    let (mut server, stop) = listen(&hub, SocketLimits::default(), HOUR).await;
    let mut client = reader(&hub, server.addr).await;
    stop.cancel();
    publish(&hub, [1]);
    client.read_until("data: 1").await;
    hub.close();
    assert_eq!(client.read_to_end().await, End::Complete);
    within("serve returns", &mut server.task).await.unwrap();
}

#[tokio::test]
async fn transcript() {
    let hub = Hub::start(Config {
        heartbeat: Duration::from_millis(50),
        ..small(SlowConsumer::Disconnect)
    });
    let server = Server::start(subscription::router(hub.clone())).await;
    let mut transcript = Transcript::new();
    let request = |cursor: &str| format!("GET {PATH} HTTP/1.1\nhost: localhost\n{cursor}");

    let mut client = RawClient::get(server.addr, PATH, &[]).await;
    client.read_until("retry: ").await;
    publish(&hub, [101]);
    client.read_until("data: 101\n\n").await;
    let id = client
        .body()
        .lines()
        .rfind(|line| line.starts_with("id: "))
        .unwrap()[4..]
        .to_owned();
    client.read_until(":\n\n").await;
    transcript.request(&request("")).response(&client);
    drop(client);

    transcript.note("the client has gone; two events are published; it comes back");
    publish(&hub, [102, 103]);
    let header = format!("last-event-id: {id}");
    let mut client = RawClient::get(server.addr, PATH, &[&header]).await;
    client.read_until("data: 103\n\n").await;
    transcript.request(&request(&header)).response(&client);
    drop(client);

    transcript.note("it has gone again; more events are published than the topic keeps (5)");
    publish(&hub, 104..=110);
    let mut client = RawClient::get(server.addr, PATH, &[&header]).await;
    client.read_until("event: reset").await;
    client.read_until("{}\n\n").await;
    transcript.request(&request(&header)).response(&client);

    insta::with_settings!({filters => vec![
        // The epoch of the topic and the client's own retry time are random.
        (r"(id: )[0-9a-f]{8}-", "$1[epoch]-"),
        (r"retry: \d+", "retry: [1500 to 4499]"),
        // Heartbeats that come only where the machine is slow.
        (r"(retry: [^\n]+\n\n|data: (?:103|\{\})\n\n)(:\n\n)+", "$1"),
        (r"(:\n\n)+", ":\n\n"),
    ]}, {
        insta::assert_snapshot!("sse_fanout", transcript.finish());
    });
}
