//! `production/topics`: many topics, read and published on any instance.

use std::time::Duration;

use snippets::production::shared_log::Config;
use snippets::production::store::Store;
use snippets::production::topics::{Limits, TopicError, Topics};
use snippets::sse::event::{Event, LastEventId};

#[cfg(feature = "redis")]
use crate::support::eventually;
use crate::support::memory::Memory;
use crate::support::source::Events;
use crate::support::within;

fn event(n: u64) -> Event {
    Event::new("tick", &n).unwrap()
}

async fn open<S: Store>(topics: &Topics<S>, topic: &str, cursor: &LastEventId) -> Events {
    let source = within("a subscription", topics.read(topic, cursor)).await;
    let source = source.unwrap_or_else(|error| panic!("{error}"));
    Events::new(source.unwrap())
}

/// Reads the ticks `numbers`, in order; returns the id of the last.
async fn read(events: &mut Events, numbers: impl IntoIterator<Item = u64>) -> LastEventId {
    let mut last = LastEventId::None;
    for n in numbers {
        let seen = within("the next event", events.next()).await.unwrap();
        assert_eq!((seen.name.as_str(), seen.data), ("tick", n.to_string()));
        last = LastEventId::Id(seen.id);
    }
    last
}

/// Topics in memory: each has a log of its own, which all instances share.
fn in_memory(limits: Limits) -> Topics<Memory> {
    let logs = std::sync::Mutex::new(std::collections::HashMap::new());
    let open = move |topic: &str| {
        let mut logs = logs.lock().unwrap();
        let log = logs
            .entry(topic.to_owned())
            .or_insert_with(|| Memory::new(100));
        log.clone()
    };
    Topics::start(open, Config::default(), limits)
}

#[tokio::test]
async fn a_topic_has_its_own_events() {
    let topics = in_memory(Limits::default());
    topics.publish("a", &event(1)).await.unwrap();
    topics.publish("b", &event(2)).await.unwrap();
    assert_eq!(topics.open(), 0, "publishing opens nothing");
    let mut a = open(&topics, "a", &LastEventId::None).await;
    let mut b = open(&topics, "b", &LastEventId::None).await;
    read(&mut a, [1]).await;
    read(&mut b, [2]).await;
    topics.publish("a", &event(3)).await.unwrap();
    read(&mut a, [3]).await;
    assert!(b.is_waiting());
}

#[tokio::test(start_paused = true)]
async fn a_topic_without_readers_is_closed_and_resumes() {
    let limits = Limits {
        linger: Duration::from_secs(30),
        ..Limits::default()
    };
    let topics = in_memory(limits);
    topics.publish("a", &event(1)).await.unwrap();
    let mut events = open(&topics, "a", &LastEventId::None).await;
    let cursor = read(&mut events, [1]).await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(topics.open(), 1, "it has a reader");
    drop(events);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(topics.open(), 1, "the reader may come back");
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(topics.open(), 0);
    topics.publish("a", &event(2)).await.unwrap();
    let mut events = open(&topics, "a", &cursor).await;
    read(&mut events, [2]).await;
}

#[tokio::test]
async fn open_topics_are_bounded() {
    let limits = Limits {
        topics: 2,
        ..Limits::default()
    };
    let topics = in_memory(limits);
    let a = open(&topics, "a", &LastEventId::None).await;
    let b = open(&topics, "b", &LastEventId::None).await;
    let full = topics.read("c", &LastEventId::None).await;
    assert!(matches!(full, Err(TopicError::Full)));
    // Another reader of an open topic costs no topic.
    drop(open(&topics, "a", &LastEventId::None).await);
    // One that nobody reads makes room.
    drop(b);
    open(&topics, "c", &LastEventId::None).await;
    drop(a);
}

/// The start of a topic reads the broker; the clients that wait for it do not repeat that.
#[tokio::test]
async fn a_topic_is_opened_once_for_all_its_clients() {
    let log = Memory::new(100);
    let store = log.clone();
    let topics = Topics::start(move |_| store.clone(), Config::default(), Limits::default());
    let opened = (0..100).map(|_| open(&topics, "a", &LastEventId::None));
    let opened = futures::future::join_all(opened).await;
    assert!(
        log.reads() <= 3,
        "{} reads for {} clients",
        log.reads(),
        opened.len()
    );
}

#[cfg(feature = "redis")]
mod on_redis {
    use std::sync::Arc;

    use snippets::production::redis_log::{Durability, Redis, RedisLog};

    use super::*;
    use crate::support::broker::{Broker, Kind, redis_connection};

    /// One instance of the service.
    async fn instance(broker: &Broker, durability: Durability) -> Topics<RedisLog> {
        let url = broker.url();
        let redis = Redis::connect(&url, durability, crate::support::PATIENCE);
        let redis: Arc<Redis> = redis.await.unwrap();
        let open = move |topic: &str| redis.log(&format!("topic:{topic}"), 100);
        Topics::start(open, Config::default(), Limits::default())
    }

    async fn publish(topics: &Topics<RedisLog>, topic: &str, n: u64) {
        within("an acknowledgement", async {
            // While Redis restarts, there is none.
            while topics.publish(topic, &event(n)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    #[tokio::test]
    #[ignore = "needs Redis: run ./check"]
    async fn a_topic_is_published_anywhere_and_read_anywhere() {
        let broker = Broker::start(Kind::Redis).await;
        let a = instance(&broker, Durability::Kept).await;
        let b = instance(&broker, Durability::Kept).await;
        let mut on_a = open(&a, "lobby", &LastEventId::None).await;
        let mut on_b = open(&b, "lobby", &LastEventId::None).await;
        publish(&a, "lobby", 1).await;
        publish(&b, "lobby", 2).await;
        publish(&b, "other", 9).await;
        read(&mut on_b, [1, 2]).await;
        let cursor = read(&mut on_a, [1, 2]).await;
        // One instance dies; its clients continue on the other.
        drop((on_a, a));
        publish(&b, "lobby", 3).await;
        let mut moved = open(&b, "lobby", &cursor).await;
        read(&mut moved, [3]).await;
        read(&mut on_b, [3]).await;
    }

    /// With `appendfsync always` nothing is lost; as Redis is installed, every client is reset.
    #[tokio::test]
    #[ignore = "needs Redis: run ./check"]
    async fn a_restart_of_redis_reaches_every_topic() {
        for (kind, durability) in [
            (Kind::Redis, Durability::Kept),
            (Kind::RedisByDefault, Durability::Lossy),
        ] {
            let mut broker = Broker::start(kind).await;
            let topics = instance(&broker, durability).await;
            let mut open_topics = Vec::new();
            for n in 0..20 {
                let topic = format!("room-{n}");
                let mut events = open(&topics, &topic, &LastEventId::None).await;
                publish(&topics, &topic, n).await;
                read(&mut events, [n]).await;
                open_topics.push((topic, events));
            }
            broker.kill();
            broker.resume().await;
            for (topic, events) in &mut open_topics {
                publish(&topics, topic, 100).await;
                let seen = within("an event", events.next()).await.unwrap();
                match durability {
                    Durability::Kept => assert_eq!(seen.data, "100"),
                    Durability::Lossy => {
                        assert_eq!(
                            (seen.name.as_str(), seen.data.as_str()),
                            ("reset", r#"{"reason":"epoch"}"#)
                        );
                        assert_eq!(events.next().await.unwrap().data, "100");
                    }
                }
            }
        }
    }

    /// Two connections, one read per event and process, and nothing while nothing is published.
    #[tokio::test]
    #[ignore = "needs Redis: run ./check"]
    async fn two_thousand_topics_share_two_connections() {
        const TOPICS: u64 = 2_000;
        let broker = Broker::start(Kind::Redis).await;
        let topics = instance(&broker, Durability::Kept).await;
        let mut readers = Vec::new();
        for n in 0..TOPICS {
            readers.push(open(&topics, &n.to_string(), &LastEventId::None).await);
        }
        for n in 0..TOPICS {
            publish(&topics, &n.to_string(), n).await;
        }
        for (n, events) in readers.iter_mut().enumerate() {
            read(events, [n as u64]).await;
        }
        let mut plain = redis_connection(&broker).await;
        let clients: String = redis::cmd("CLIENT")
            .arg("LIST")
            .query_async(&mut plain)
            .await
            .unwrap();
        assert_eq!(clients.lines().count(), 3, "{clients}");
        let mut calls = async || {
            let info: String = redis::cmd("INFO")
                .arg("commandstats")
                .query_async(&mut plain)
                .await
                .unwrap();
            let line = info
                .lines()
                .find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="))
                .unwrap_or("0,");
            line.split(',').next().unwrap().parse::<u64>().unwrap()
        };
        // Quiet topics cost nothing: for two seconds there is no call, once the last wake-up has been handled.
        let now = within("the calls to end", async {
            let (mut last, mut now) = (0, calls().await);
            while now != last {
                tokio::time::sleep(Duration::from_secs(2)).await;
                (last, now) = (now, calls().await);
            }
            now
        })
        .await;
        // Opening: two reads and the one after the subscription; then the append and what it wakes.
        assert!(now <= TOPICS * 6, "{now} calls");
        drop(readers);
        eventually("the topics to be closed", || {
            topics.open() <= TOPICS as usize
        })
        .await;
    }
}
