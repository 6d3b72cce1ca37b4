//! One contract for every store of the shared log: Redis Streams, NATS JetStream, Postgres, and one in memory. Two
//! instances of the service share one store, as two processes would.

use std::sync::Arc;
use std::time::Duration;

use snippets::production::feed;
use snippets::production::shared_log::{Config, SharedLog, app};
use snippets::production::store::Store;
use snippets::sse::event::{Event, LastEventId};
use snippets::sse::streams::{self, Streams};
use snippets::websocket::serve::{Limits, Sockets};
use tokio_util::sync::CancellationToken;

#[cfg(any(feature = "redis", feature = "nats", feature = "postgres"))]
use crate::support::broker::Broker;
use crate::support::memory::Memory;
use crate::support::source::{Events, Seen};
use crate::support::{FrameClient, PATIENCE, RawClient, Server, Transcript, within};

/// How many events the stores of the tests keep, and how many an instance keeps in memory.
const KEPT: usize = 600;
const IN_MEMORY: usize = 20;
const OUTAGE: Duration = Duration::from_secs(30);
/// How long a store waits for a broker that a test stops; every other one waits for as long as a busy machine may need.
#[cfg(any(feature = "nats", feature = "postgres", feature = "redis"))]
const SHORT: Duration = Duration::from_secs(3);
/// The end of a stream whose broker is down: the store in memory is never down.
#[cfg(any(feature = "nats", feature = "postgres", feature = "redis"))]
const UNAVAILABLE: (&str, &str) = ("stream_error", r#"{"code":"unavailable"}"#);

fn config() -> Config {
    Config {
        events: IN_MEMORY,
        max_outage: OUTAGE,
        ..Config::default()
    }
}

/// A fresh broker, and what the contract needs of it.
#[cfg_attr(
    not(any(feature = "redis", feature = "nats", feature = "postgres")),
    expect(dead_code)
)]
trait Backend: Sized {
    type Store: Store;
    async fn fresh() -> Self;
    /// A new connection to the same log, as another process has one. It waits this long for an answer.
    async fn connect(&self, patience: Duration) -> Self::Store;
    /// Deletes the log.
    async fn wipe(&self);

    async fn instance(&self) -> SharedLog<Self::Store> {
        self.instance_with(PATIENCE).await
    }

    async fn instance_with(&self, patience: Duration) -> SharedLog<Self::Store> {
        SharedLog::start(self.connect(patience).await, config())
            .await
            .unwrap()
    }

    /// What the store does from time to time.
    async fn tidy(&self) {}
}

fn event(n: u64) -> Event {
    Event::new("tick", &n).unwrap()
}

async fn publish<S: Store>(log: &SharedLog<S>, numbers: impl IntoIterator<Item = u64>) {
    for n in numbers {
        within("an acknowledgement", log.publish(&event(n)))
            .await
            .unwrap();
    }
}

/// The first attempts after an outage may still meet the old connection.
#[cfg(any(feature = "redis", feature = "nats", feature = "postgres"))]
async fn publish_when_it_is_back<S: Store>(log: &SharedLog<S>, n: u64) {
    within("the broker to acknowledge again", async {
        while log.publish(&event(n)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

async fn open<S: Store>(log: &SharedLog<S>, cursor: &LastEventId) -> Option<Events> {
    let source = within("a subscription", log.read(cursor)).await.unwrap();
    source.map(Events::new)
}

async fn next(events: &mut Events) -> Seen {
    within("the next event", events.next()).await.unwrap()
}

/// Reads the ticks `numbers`, in order, and returns the id of the last.
async fn read(events: &mut Events, numbers: impl IntoIterator<Item = u64>) -> LastEventId {
    let mut last = LastEventId::None;
    for n in numbers {
        let seen = next(events).await;
        assert_eq!(
            (seen.name.as_str(), seen.data.as_str()),
            ("tick", n.to_string().as_str())
        );
        last = LastEventId::Id(seen.id);
    }
    last
}

async fn reset(events: &mut Events, reason: &str) {
    let seen = next(events).await;
    assert_eq!(seen.name, "reset");
    assert_eq!(seen.data, format!(r#"{{"reason":"{reason}"}}"#));
}

async fn published_on_one_instance_is_read_on_another<B: Backend>() {
    let broker = B::fresh().await;
    let (a, b) = (broker.instance().await, broker.instance().await);
    let mut on_b = open(&b, &LastEventId::None).await.unwrap();
    publish(&a, 1..=3).await;
    read(&mut on_b, 1..=3).await;
    publish(&b, 4..=5).await;
    read(&mut on_b, 4..=5).await;
}

async fn a_client_resumes_on_another_instance_without_gap_or_duplicate<B: Backend>() {
    let broker = B::fresh().await;
    let a = broker.instance().await;
    let mut on_a = open(&a, &LastEventId::None).await.unwrap();
    publish(&a, 1..=10).await;
    let cursor = read(&mut on_a, 1..=7).await;
    let publisher = broker.instance().await;
    drop((on_a, a));
    publish(&publisher, 11..=12).await;
    let b = broker.instance().await;
    let mut on_b = open(&b, &cursor).await.unwrap();
    read(&mut on_b, 8..=12).await;
    publish(&publisher, 13..=14).await;
    read(&mut on_b, 13..=14).await;
}

/// More than memory and more than one page: pages of the broker, then memory, then live.
async fn a_long_replay_joins_the_live_events<B: Backend>() {
    let broker = B::fresh().await;
    let log = broker.instance().await;
    publish(&log, 1..=400).await;
    let mut events = open(&log, &LastEventId::None).await.unwrap();
    read(&mut events, 1..=300).await;
    publish(&log, 401..=430).await;
    read(&mut events, 301..=430).await;
    publish(&log, 431..=431).await;
    read(&mut events, 431..=431).await;
}

async fn an_old_a_future_and_a_garbage_cursor_are_resets<B: Backend>() {
    let broker = B::fresh().await;
    let log = broker.instance().await;
    publish(&log, 1..=1).await;
    let mut events = open(&log, &LastEventId::None).await.unwrap();
    let first = read(&mut events, 1..=1).await;
    drop(events);
    let last = KEPT as u64 + 50;
    publish(&log, 2..=last).await;
    broker.tidy().await;
    // Trimmed: events 2 to 50 are gone.
    let mut events = open(&log, &first).await.unwrap();
    reset(&mut events, "trimmed").await;
    read(&mut events, 51..=60).await;
    let LastEventId::Id(id) = &first else {
        panic!()
    };
    let epoch = id.split('-').next().unwrap();
    for (cursor, reason) in [
        (LastEventId::Id(format!("{epoch}-{}", last + 1)), "ahead"),
        (LastEventId::Id("1-1".to_owned()), "epoch"),
        (LastEventId::Id("$".to_owned()), "invalid"),
        (LastEventId::Id("0".to_owned()), "invalid"),
        (LastEventId::Id(format!("{epoch}-")), "invalid"),
        (
            LastEventId::Id(format!("{epoch}-99999999999999999999999")),
            "invalid",
        ),
        (LastEventId::Unusable, "invalid"),
    ] {
        let mut events = open(&log, &cursor).await.unwrap();
        reset(&mut events, reason).await;
        read(&mut events, 51..=52).await;
    }
}

#[cfg(any(feature = "redis", feature = "nats", feature = "postgres"))]
async fn a_wiped_log_is_a_reset_for_open_streams_and_old_cursors<B: Backend>() {
    let broker = B::fresh().await;
    let log = broker.instance().await;
    let mut open_stream = open(&log, &LastEventId::None).await.unwrap();
    publish(&log, 1..=5).await;
    let cursor = read(&mut open_stream, 1..=5).await;
    broker.wipe().await;
    publish(&log, 100..=102).await;
    reset(&mut open_stream, "epoch").await;
    read(&mut open_stream, 100..=102).await;
    let mut old = open(&log, &cursor).await.unwrap();
    reset(&mut old, "epoch").await;
    read(&mut old, 100..=102).await;
}

async fn the_terminal_event_ends_the_stream_and_the_reconnects<B: Backend>() {
    let broker = B::fresh().await;
    let (a, b) = (broker.instance().await, broker.instance().await);
    publish(&a, 1..=1).await;
    a.publish(&Event::new("done", &()).unwrap().last())
        .await
        .unwrap();
    let mut events = open(&b, &LastEventId::None).await.unwrap();
    read(&mut events, 1..=1).await;
    let done = next(&mut events).await;
    assert_eq!(done.name, "done");
    assert!(within("the end", events.next()).await.is_none());
    let cursor = LastEventId::Id(done.id);
    // Also on an instance that has just started.
    assert!(open(&broker.instance().await, &cursor).await.is_none());
    assert!(open(&b, &cursor).await.is_none());
}

/// The broker dies and comes back with its data: publishing fails meanwhile, open streams wait, and
/// everything acknowledged arrives once.
#[cfg(any(feature = "redis", feature = "nats", feature = "postgres"))]
async fn a_restart_of_the_broker_loses_nothing<B: Backend + AsMut<Broker>>() {
    let mut broker = B::fresh().await;
    let log = broker.instance_with(SHORT).await;
    let mut events = open(&log, &LastEventId::None).await.unwrap();
    publish(&log, 1..=3).await;
    read(&mut events, 1..=3).await;
    broker.as_mut().kill();
    within(
        "an error instead of an acknowledgement",
        log.publish(&event(0)),
    )
    .await
    .unwrap_err();
    assert!(events.is_waiting(), "the stream waits");
    broker.as_mut().resume().await;
    // The first attempts may still meet the old connection.
    publish_when_it_is_back(&log, 4).await;
    publish(&log, 5..=6).await;
    let mut seen = Vec::new();
    while seen.last() != Some(&6) {
        let next = next(&mut events).await;
        assert_eq!(next.name, "tick");
        seen.push(next.data.parse::<u64>().unwrap());
    }
    // An attempt that was not acknowledged may have arrived all the same.
    seen.retain(|n| *n != 0);
    seen.dedup();
    assert_eq!(seen, [4, 5, 6]);
}

/// The broker stays away: open streams end in band.
#[cfg(any(feature = "redis", feature = "nats", feature = "postgres"))]
async fn a_long_outage_ends_the_streams<B: Backend + AsMut<Broker>>() {
    let mut broker = B::fresh().await;
    let store = broker.connect(SHORT).await;
    let max_outage = Duration::from_millis(300);
    let log = SharedLog::start(
        store,
        Config {
            max_outage,
            ..config()
        },
    )
    .await
    .unwrap();
    let mut events = open(&log, &LastEventId::None).await.unwrap();
    publish(&log, 1..=1).await;
    let cursor = read(&mut events, 1..=1).await;
    broker.as_mut().kill();
    let end = next(&mut events).await;
    assert_eq!((end.name.as_str(), end.data.as_str()), UNAVAILABLE);
    assert!(events.next().await.is_none());
    // What is in memory needs no broker: the client may come back, and waits again.
    assert!(open(&log, &cursor).await.is_some());
}

/// A broker that accepts connections and answers nothing (SIGSTOP): publishing fails in bounded time,
/// and goes on when it wakes up.
#[cfg(any(feature = "redis", feature = "nats", feature = "postgres"))]
async fn a_frozen_broker_fails_in_bounded_time<B: Backend + AsMut<Broker>>() {
    let mut broker = B::fresh().await;
    let log = broker.instance_with(SHORT).await;
    let mut events = open(&log, &LastEventId::None).await.unwrap();
    publish(&log, 1..=1).await;
    read(&mut events, 1..=1).await;
    broker.as_mut().signal("STOP");
    let frozen = within("an error", log.publish(&event(0))).await;
    broker.as_mut().signal("CONT");
    frozen.unwrap_err();
    publish_when_it_is_back(&log, 2).await;
    within("the event after the freeze", async {
        while next(&mut events).await.data != "2" {}
    })
    .await;
}

/// A broker that answers late, then too late: a late acknowledgement is one, everything else ends within bounds, the open
/// stream lives on, and nothing that was acknowledged is lost.
#[cfg(any(feature = "redis", feature = "nats", feature = "postgres"))]
async fn a_slow_broker_is_waited_for_within_bounds<B: Backend + AsMut<Broker>>() {
    // Well above what the store gives an answer, with one more attempt.
    const BOUND: Duration = Duration::from_secs(60);
    let mut broker = B::fresh().await;
    let log = broker.instance_with(SHORT).await;
    let mut events = open(&log, &LastEventId::None).await.unwrap();
    let last = 2 * IN_MEMORY as u64;
    publish(&log, 1..=last).await;
    read(&mut events, 1..=last).await;
    let broker = broker.as_mut();

    broker.signal("STOP");
    let goes_on = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        broker.signal("CONT");
    };
    let late = event(last + 1);
    let (published, ()) = tokio::join!(log.publish(&late), goes_on);
    published.unwrap();
    read(&mut events, [last + 1]).await;

    broker.signal("STOP");
    let lost = event(0);
    let replay = async {
        // Older than what is in memory: this needs the broker.
        let mut replay = open(&log, &LastEventId::None).await.unwrap();
        replay.next().await.map(|end| (end.name, end.data))
    };
    let (published, replayed) = tokio::join!(
        tokio::time::timeout(BOUND, log.publish(&lost)),
        tokio::time::timeout(BOUND, replay),
    );
    broker.signal("CONT");
    published.expect("a bound").expect_err("not acknowledged");
    let replayed = replayed.expect("a bound");
    let (name, data) = replayed.unwrap();
    assert_eq!((name.as_str(), data.as_str()), UNAVAILABLE);

    publish_when_it_is_back(&log, last + 2).await;
    let mut seen = Vec::new();
    while seen.last() != Some(&(last + 2)) {
        seen.push(next(&mut events).await.data.parse::<u64>().unwrap());
    }
    // Attempts that were not acknowledged may have arrived all the same.
    seen.retain(|n| *n != 0);
    seen.dedup();
    assert_eq!(seen, [last + 2]);
    let mut all = open(&log, &LastEventId::None).await.unwrap();
    read(&mut all, 1..=last + 1).await;
}

/// Two publishers, six subscribers that leave and come back on the other instance at every third
/// event: all see the same order, complete, each event once.
async fn everybody_sees_one_order<B: Backend>() {
    let broker = B::fresh().await;
    let instances = [broker.instance().await, broker.instance().await];
    let publishing = async {
        for n in 0..60 {
            publish(&instances[n % 2], [n as u64]).await;
        }
    };
    let reading = futures::future::join_all((0..6).map(|reader| {
        let instances = &instances;
        async move {
            let (mut seen, mut cursor) = (Vec::new(), LastEventId::None);
            'reconnect: for turn in reader.. {
                let mut events = open(&instances[turn % 2], &cursor).await.unwrap();
                for _ in 0..3 {
                    let next = next(&mut events).await;
                    cursor = LastEventId::Id(next.id);
                    seen.push(next.data);
                    if seen.len() == 60 {
                        break 'reconnect;
                    }
                }
            }
            seen
        }
    }));
    let (orders, ()) = tokio::join!(reading, publishing);
    let expected: Vec<String> = (0..60).map(|n| n.to_string()).collect();
    for order in orders {
        assert_eq!(order, expected);
    }
}

/// A restored backup: the broker has fewer events than it has acknowledged, and gives out their numbers again.
#[tokio::test]
async fn a_log_that_went_back_is_a_reset_for_who_is_connected() {
    let broker = Memory::new(KEPT);
    let log = broker.instance().await;
    let mut events = open(&log, &LastEventId::None).await.unwrap();
    publish(&log, 1..=10).await;
    let cursor = read(&mut events, 1..=10).await;
    broker.set_back(5);
    reset(&mut events, "ahead").await;
    read(&mut events, 1..=5).await;
    publish(&log, 106..=111).await;
    read(&mut events, 106..=111).await;
    drop(cursor);
}

/// The same while nobody looked: the lost numbers have been given out again when the reader comes.
#[tokio::test]
async fn a_log_that_went_back_and_on_is_a_reset_as_well() {
    let broker = Memory::new(KEPT);
    let log = broker.instance().await;
    let mut events = open(&log, &LastEventId::None).await.unwrap();
    publish(&log, 1..=10).await;
    read(&mut events, 1..=10).await;
    broker.replace_after(5, (106..=120).map(event));
    reset(&mut events, "ahead").await;
    while next(&mut events).await.data != "120" {}
}

/// A cursor that the broker no longer has is a reset, and not a question that is repeated without a pause.
#[tokio::test]
async fn a_log_that_went_back_is_not_asked_at_full_speed() {
    let broker = Memory::new(KEPT);
    let log = broker.instance().await;
    publish(&log, 1..=500).await;
    let mut events = open(&log, &LastEventId::None).await.unwrap();
    read(&mut events, 1..=500).await;
    broker.set_back(100);
    let cursor = LastEventId::Id("7-300".to_owned());
    let mut back = open(&log, &cursor).await.unwrap();
    let before = broker.reads();
    reset(&mut events, "ahead").await;
    reset(&mut back, "ahead").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let reads = broker.reads() - before;
    assert!(reads < 20, "{reads} reads");
}

/// A client that reads half as fast as is published: it is reset once in a while, and in between it gets events.
#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_reset_once_and_then_served() {
    let broker = Memory::new(100);
    let log = broker.instance().await;
    let mut events = open(&log, &LastEventId::None).await.unwrap();
    let (mut ticks, mut resets) = (0, 0);
    for n in 0..5_000 {
        publish(&log, [n]).await;
        if n % 2 == 0 {
            match next(&mut events).await.name.as_str() {
                "tick" => ticks += 1,
                _ => resets += 1,
            }
        }
    }
    assert!(resets > 0, "it must be too slow");
    assert!(ticks > 20 * resets, "{ticks} events, {resets} resets");
}

/// Many subscribers behind memory: their reads of the broker are few at a time.
#[tokio::test]
async fn reads_of_the_broker_are_bounded() {
    let broker = Memory::new(KEPT);
    let reads = Arc::new(tokio::sync::Semaphore::new(2));
    let config = Config {
        reads: reads.clone(),
        ..config()
    };
    let log = SharedLog::start(broker.clone(), config).await.unwrap();
    publish(&log, 1..=100).await;
    let held = reads.acquire_many(2).await.unwrap();
    let mut behind = Vec::new();
    for _ in 0..50 {
        behind.push(open(&log, &LastEventId::None).await.unwrap());
    }
    let before = broker.reads();
    assert!(behind.iter_mut().all(Events::is_waiting));
    assert_eq!(broker.reads(), before);
    drop(held);
    for events in &mut behind {
        read(events, 1..=100).await;
    }
}

/// Over HTTP: the instance that serves a client goes away, and the other one continues its stream.
#[tokio::test]
async fn a_client_of_a_stopped_instance_continues_on_the_other() {
    let broker = Memory::fresh().await;
    let instance = async || {
        let log = Arc::new(broker.instance().await);
        let streams = Streams::start(streams::Config::default(), CancellationToken::new());
        (log.clone(), Server::start(app(log, streams)).await)
    };
    let ((log_a, a), (log_b, b)) = (instance().await, instance().await);
    publish(&log_a, 1..=2).await;
    let mut on_a = RawClient::get(a.addr, "/events", &[]).await;
    let body = on_a.read_until("data: 2").await;
    let id = body
        .lines()
        .filter_map(|line| line.strip_prefix("id: "))
        .next_back()
        .unwrap();
    drop((a, on_a));
    publish(&log_b, 3..=4).await;
    let cursor = format!("last-event-id: {id}");
    let mut on_b = RawClient::get(b.addr, "/events", &[&cursor]).await;
    let body = on_b.read_until("data: 4").await;
    let data: Vec<&str> = body
        .lines()
        .filter(|line| line.starts_with("data: "))
        .collect();
    assert_eq!(data, ["data: 3", "data: 4"]);
    let mut transcript = Transcript::new();
    transcript.request(&format!("GET /events HTTP/1.1\nlast-event-id: {id}"));
    transcript.response(&on_b);
    let epoch = id.split('-').next().unwrap();
    let text = transcript
        .finish()
        .replace(&format!("{epoch}-"), "[epoch]-");
    insta::with_settings!({filters => vec![(r"retry: \d+", "retry: [1500-4500]")]}, {
        insta::assert_snapshot!("resume_on_another_instance", text);
    });
}

macro_rules! contract {
    ($module:ident, $backend:ty, $($needs:meta)?, $($name:ident),*) => {
        mod $module {
            use super::*;
            contract!(@tests $backend, $($needs)?,
                published_on_one_instance_is_read_on_another,
                a_client_resumes_on_another_instance_without_gap_or_duplicate,
                a_long_replay_joins_the_live_events,
                an_old_a_future_and_a_garbage_cursor_are_resets,
                the_terminal_event_ends_the_stream_and_the_reconnects,
                everybody_sees_one_order
                $(, $name)*);
        }
    };
    (@tests $backend:ty, , $($name:ident),*) => {
        $(#[tokio::test] async fn $name() { super::$name::<$backend>().await; })*
    };
    (@tests $backend:ty, $needs:meta, $($name:ident),*) => {
        $(#[tokio::test] #[$needs] async fn $name() { super::$name::<$backend>().await; })*
    };
}

impl Backend for Memory {
    type Store = Self;
    async fn fresh() -> Self {
        Self::new(KEPT)
    }
    async fn connect(&self, _: Duration) -> Self {
        self.clone()
    }
    async fn wipe(&self) {
        unreachable!("a log in memory is wiped by the end of its process");
    }
}

contract!(in_memory, Memory, ,);

#[cfg(feature = "nats")]
mod with_nats;
#[cfg(feature = "postgres")]
pub(crate) mod with_postgres;
#[cfg(feature = "redis")]
mod with_redis;

/// A deploy: memory has the newest 256 events, and 1,000 clients come at once, each 500 events behind.
#[tokio::test]
async fn after_a_deploy_the_clients_behind_memory_read_the_broker_a_few_at_a_time() {
    const CLIENTS: usize = 1_000;
    let memory = Memory::new(10_000);
    for n in 1..=2_000_u64 {
        memory
            .append(&Event::new("tick", &n).unwrap())
            .await
            .unwrap();
    }
    let log = SharedLog::start(memory.clone(), Config::default())
        .await
        .unwrap();
    let newest = memory.read(u64::MAX, 1).await.unwrap();
    let cursor = LastEventId::Id(format!("{}-1500", newest.epoch));
    let before = memory.reads();
    let begun = std::time::Instant::now();
    let clients = (0..CLIENTS).map(async |_| {
        let source = log.read(&cursor).await.unwrap().unwrap();
        let mut events = Events::new(source);
        for n in 1_501..=2_000 {
            let seen = within("an event", events.next()).await.unwrap();
            assert_eq!(seen.data, n.to_string());
        }
    });
    futures::future::join_all(clients).await;
    let reads = memory.reads() - before;
    println!("{CLIENTS} clients: {reads} reads in {:?}", begun.elapsed());
    // The reader of the process may read too.
    let most = memory.most_reads();
    let limit = Config::default().reads.available_permits();
    assert!(most <= limit + 1, "{most} reads at once");
    // One page of 256 each, and memory for the rest; a client without a cursor behind memory needs none.
    assert!(reads <= CLIENTS + 10, "{reads} reads");
}

/// The heartbeat of a page asks for nothing: the log is sent once, and a second request of it is malformed.
#[tokio::test]
async fn a_ping_does_not_start_the_feed_from_its_beginning() {
    let log = SharedLog::start(Memory::new(100), Config::default())
        .await
        .unwrap();
    let log = Arc::new(log);
    for n in 1..=3_u64 {
        log.publish(&Event::new("tick", &n).unwrap()).await.unwrap();
    }
    let stop = CancellationToken::new();
    let streams = Streams::start(streams::Config::default(), stop.clone());
    let sockets = Sockets::new(Limits::default(), stop);
    let server = Server::start(feed::app(log.clone(), streams, sockets)).await;
    let mut client = FrameClient::connect(server.addr, "/socket").await;
    let data =
        |text: String| serde_json::from_str::<serde_json::Value>(&text).unwrap()["data"].clone();
    client.send_text("{}").await;
    for n in 1..=3 {
        assert_eq!(data(client.next_text().await), n);
    }
    client.send_text(r#"{"type":"ping"}"#).await;
    assert_eq!(client.next_text().await, r#"{"type":"pong"}"#);
    log.publish(&Event::new("tick", &4).unwrap()).await.unwrap();
    assert_eq!(data(client.next_text().await), 4);
    client.send_text("{}").await;
    assert_eq!(client.next_close().await, Some(1008));
}
