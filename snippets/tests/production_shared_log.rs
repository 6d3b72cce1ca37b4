//! One contract for every store of the shared log: in memory, Redis Streams, NATS JetStream. Two
//! instances of the service share one store, as two processes would.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use snippets::production::memory_log::MemoryLog;
use snippets::production::shared_log::{SharedLog, Unavailable, app};
use snippets::production::store::Store;
use snippets::sse::message::{LastEventId, Message};
use snippets::sse::serve::{Config, Streams};
use tokio_util::sync::CancellationToken;

#[cfg(any(feature = "redis", feature = "nats", feature = "postgres"))]
use crate::support::broker::Broker;
use crate::support::{RawClient, Server, Transcript, within};

/// How many events the stores of the tests keep, and how many an instance keeps in memory.
const KEPT: usize = 600;
const IN_MEMORY: usize = 20;
const OUTAGE: Duration = Duration::from_secs(30);

type Events = BoxStream<'static, Result<Message, Unavailable>>;

/// A fresh broker, and what the contract needs of it.
#[cfg_attr(
    not(any(feature = "redis", feature = "nats", feature = "postgres")),
    expect(dead_code)
)]
trait Backend: Sized {
    type Store: Store;
    async fn fresh() -> Self;
    /// A new connection to the same log, as another process has one.
    async fn connect(&self) -> Self::Store;
    /// Deletes the log.
    async fn wipe(&self);

    async fn instance(&self) -> SharedLog<Self::Store> {
        SharedLog::start(self.connect().await, IN_MEMORY, OUTAGE)
            .await
            .unwrap()
    }
}

fn event(n: u64) -> Message {
    Message::new("tick", &n).unwrap()
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
    within("a subscription", log.subscribe(cursor))
        .await
        .unwrap()
        .map(StreamExt::boxed)
}

async fn next(events: &mut Events) -> Message {
    within("the next event", events.next())
        .await
        .unwrap()
        .unwrap()
}

/// Reads the ticks `numbers`, in order, and returns the id of the last.
async fn read(events: &mut Events, numbers: impl IntoIterator<Item = u64>) -> LastEventId {
    let mut last = LastEventId::None;
    for n in numbers {
        let message = next(events).await;
        assert_eq!(
            (message.name(), message.data()),
            ("tick", n.to_string().as_str())
        );
        last = LastEventId::Id(message.id().unwrap().to_owned());
    }
    last
}

async fn reset(events: &mut Events, reason: &str) {
    let message = next(events).await;
    assert_eq!(message.name(), "reset");
    assert_eq!(message.data(), format!(r#"{{"reason":"{reason}"}}"#));
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
    a.publish(&Message::new("done", &()).unwrap().last())
        .await
        .unwrap();
    let mut events = open(&b, &LastEventId::None).await.unwrap();
    read(&mut events, 1..=1).await;
    let done = next(&mut events).await;
    assert!(done.is_last());
    assert!(within("the end", events.next()).await.is_none());
    let cursor = LastEventId::Id(done.id().unwrap().to_owned());
    // Also on an instance that has just started.
    assert!(open(&broker.instance().await, &cursor).await.is_none());
    assert!(open(&b, &cursor).await.is_none());
}

/// The broker dies and comes back with its data: publishing fails meanwhile, open streams wait, and
/// everything acknowledged arrives once.
#[cfg(any(feature = "redis", feature = "nats", feature = "postgres"))]
async fn a_restart_of_the_broker_loses_nothing<B: Backend + AsMut<Broker>>() {
    let mut broker = B::fresh().await;
    let log = broker.instance().await;
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
    let waits = futures::FutureExt::now_or_never(events.next());
    assert!(waits.is_none(), "the stream waits");
    broker.as_mut().resume().await;
    // The first attempts may still meet the old connection.
    publish_when_it_is_back(&log, 4).await;
    publish(&log, 5..=6).await;
    let mut seen = Vec::new();
    while seen.last() != Some(&6) {
        let message = next(&mut events).await;
        assert_eq!(message.name(), "tick");
        seen.push(message.data().parse::<u64>().unwrap());
    }
    // An attempt that was not acknowledged may have arrived all the same.
    seen.retain(|n| *n != 0);
    seen.dedup();
    assert_eq!(seen, [4, 5, 6]);
}

/// The broker stays away: open streams end with an error, which `sse/serve` turns into an event.
#[cfg(any(feature = "redis", feature = "nats", feature = "postgres"))]
async fn a_long_outage_ends_the_streams<B: Backend + AsMut<Broker>>() {
    let mut broker = B::fresh().await;
    let store = broker.connect().await;
    let log = SharedLog::start(store, IN_MEMORY, Duration::from_millis(300))
        .await
        .unwrap();
    let mut events = open(&log, &LastEventId::None).await.unwrap();
    publish(&log, 1..=1).await;
    let cursor = read(&mut events, 1..=1).await;
    broker.as_mut().kill();
    let end = within("the end of the stream", events.next())
        .await
        .unwrap();
    assert!(matches!(end, Err(Unavailable::Broker)));
    assert!(events.next().await.is_none());
    // What is in memory needs no broker: the client may come back, and waits again.
    assert!(open(&log, &cursor).await.is_some());
}

/// A broker that accepts connections and answers nothing (SIGSTOP): publishing fails in bounded time,
/// and goes on when it wakes up.
#[cfg(any(feature = "redis", feature = "nats", feature = "postgres"))]
async fn a_frozen_broker_fails_in_bounded_time<B: Backend + AsMut<Broker>>() {
    let mut broker = B::fresh().await;
    let log = broker.instance().await;
    let mut events = open(&log, &LastEventId::None).await.unwrap();
    publish(&log, 1..=1).await;
    read(&mut events, 1..=1).await;
    broker.as_mut().signal("STOP");
    let frozen = within("an error", log.publish(&event(0))).await;
    broker.as_mut().signal("CONT");
    frozen.unwrap_err();
    publish_when_it_is_back(&log, 2).await;
    within("the event after the freeze", async {
        while next(&mut events).await.data() != "2" {}
    })
    .await;
}

/// A broker that answers late, then too late: a late acknowledgement is one, everything else ends within bounds, the open
/// stream lives on, and nothing that was acknowledged is lost.
#[cfg(any(feature = "redis", feature = "nats", feature = "postgres"))]
async fn a_slow_broker_is_waited_for_within_bounds<B: Backend + AsMut<Broker>>() {
    // Well above the second that the stores of the tests give an answer, with one more attempt.
    const BOUND: Duration = Duration::from_secs(10);
    let mut broker = B::fresh().await;
    let log = broker.instance().await;
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
        replay.next().await
    };
    let (published, replayed) = tokio::join!(
        tokio::time::timeout(BOUND, log.publish(&lost)),
        tokio::time::timeout(BOUND, replay),
    );
    broker.signal("CONT");
    published.expect("a bound").expect_err("not acknowledged");
    let replayed = replayed.expect("a bound");
    assert!(
        matches!(replayed, Some(Err(Unavailable::Broker))),
        "{replayed:?}"
    );

    publish_when_it_is_back(&log, last + 2).await;
    let mut seen = Vec::new();
    while seen.last() != Some(&(last + 2)) {
        seen.push(next(&mut events).await.data().parse::<u64>().unwrap());
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
                    let message = next(&mut events).await;
                    cursor = LastEventId::Id(message.id().unwrap().to_owned());
                    seen.push(message.data().to_owned());
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

/// Over HTTP: the instance that serves a client goes away, and the other one continues its stream.
#[tokio::test]
async fn a_client_of_a_stopped_instance_continues_on_the_other() {
    let broker = Memory::fresh().await;
    let instance = async || {
        let log = Arc::new(broker.instance().await);
        let streams = Streams::new(Config::default(), CancellationToken::new());
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
    let text = transcript.finish().replace(epoch, "[epoch]");
    insta::with_settings!({filters => vec![(r"retry: \d+", "retry: [1000-5000]")]}, {
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

/// Two instances in one process share the memory.
struct Memory(Arc<MemoryLog>);

impl Backend for Memory {
    type Store = Arc<MemoryLog>;
    async fn fresh() -> Self {
        Self(Arc::new(MemoryLog::new(KEPT)))
    }
    async fn connect(&self) -> Self::Store {
        self.0.clone()
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
