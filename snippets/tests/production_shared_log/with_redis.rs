//! The contract on a real Redis, and what is Redis' own.

use std::time::Duration;

use redis::AsyncTypedCommands;
use snippets::production::redis_log::{Durability, Redis, RedisLog};

use super::*;
use crate::support::broker::{Broker, Kind, redis_connection};

/// With `appendfsync always`: a restart loses nothing.
struct Kept(Broker);
/// As it is installed: a restart loses what came after the last snapshot.
struct Lossy(Broker);

impl AsMut<Broker> for Kept {
    fn as_mut(&mut self) -> &mut Broker {
        &mut self.0
    }
}

impl AsMut<Broker> for Lossy {
    fn as_mut(&mut self) -> &mut Broker {
        &mut self.0
    }
}

async fn connect(broker: &Broker, durability: Durability) -> Arc<Redis> {
    let url = broker.url();
    let redis = Redis::connect(&url, durability, Duration::from_secs(1));
    redis.await.unwrap()
}

impl Backend for Kept {
    type Store = RedisLog;
    async fn fresh() -> Self {
        Self(Broker::start(Kind::Redis).await)
    }
    async fn connect(&self) -> RedisLog {
        connect(&self.0, Durability::Kept).await.log("feed", KEPT)
    }
    async fn wipe(&self) {
        redis_connection(&self.0).await.del("feed").await.unwrap();
    }
}

impl Backend for Lossy {
    type Store = RedisLog;
    async fn fresh() -> Self {
        Self(Broker::start(Kind::RedisByDefault).await)
    }
    async fn connect(&self) -> RedisLog {
        connect(&self.0, Durability::Lossy).await.log("feed", KEPT)
    }
    async fn wipe(&self) {
        redis_connection(&self.0).await.del("feed").await.unwrap();
    }
}

contract!(
    on_redis,
    Kept,
    ignore = "needs Redis: run ./check",
    a_wiped_log_is_a_reset_for_open_streams_and_old_cursors,
    a_restart_of_the_broker_loses_nothing,
    a_long_outage_ends_the_streams,
    a_frozen_broker_fails_in_bounded_time,
    a_slow_broker_is_waited_for_within_bounds
);

contract!(
    on_redis_by_default,
    Lossy,
    ignore = "needs Redis: run ./check",
    a_wiped_log_is_a_reset_for_open_streams_and_old_cursors,
    a_long_outage_ends_the_streams,
    a_frozen_broker_fails_in_bounded_time,
    a_slow_broker_is_waited_for_within_bounds
);

async fn save(broker: &Broker) {
    let mut plain = redis_connection(broker).await;
    let _: () = redis::cmd("SAVE").query_async(&mut plain).await.unwrap();
}

/// The default persistence, `kill -9`: events 6 to 10 were acknowledged and are gone, and their numbers are given out
/// again. Whoever was connected is reset, and so is whoever comes back with a cursor of then.
#[tokio::test]
#[ignore = "needs Redis: run ./check"]
async fn a_redis_that_loses_events_is_a_reset_for_everyone() {
    let mut broker = Lossy::fresh().await;
    let log = broker.instance().await;
    let mut events = open(&log, &LastEventId::None).await.unwrap();
    publish(&log, 1..=5).await;
    save(&broker.0).await;
    let old = read(&mut events, 1..=5).await;
    publish(&log, 6..=10).await;
    read(&mut events, 6..=10).await;
    broker.0.kill();
    broker.0.resume().await;
    // Before any reader has looked.
    publish_when_it_is_back(&log, 106).await;
    publish(&log, 107..=112).await;
    reset(&mut events, "epoch").await;
    while next(&mut events).await.data != "112" {}
    let mut back = open(&log, &old).await.unwrap();
    reset(&mut back, "epoch").await;
    // What survived is still in the log, in front of what is new.
    let mut all = open(&log, &LastEventId::None).await.unwrap();
    let ids = read(&mut all, (1..=5).chain(106..=112)).await;
    let LastEventId::Id(id) = ids else { panic!() };
    assert!(id.ends_with("-12"), "{id}");
}

/// A replica that lags is made the master: another history, another epoch.
#[tokio::test]
#[ignore = "needs Redis: run ./check"]
async fn a_failover_is_a_new_epoch() {
    let (master, replica) = (Lossy::fresh().await, Lossy::fresh().await);
    let log = master.instance().await;
    publish(&log, 1..=3).await;
    let mut events = open(&log, &LastEventId::None).await.unwrap();
    let cursor = read(&mut events, 1..=3).await;
    let port = master.0.addr.port().to_string();
    let mut plain = redis_connection(&replica.0).await;
    let follow = redis::cmd("REPLICAOF")
        .arg("127.0.0.1")
        .arg(port)
        .to_owned();
    let _: () = follow.query_async(&mut plain).await.unwrap();
    within("the replica to have the log", async {
        while !plain.exists("feed").await.unwrap() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let promote = redis::cmd("REPLICAOF").arg("NO").arg("ONE").to_owned();
    let _: () = promote.query_async(&mut plain).await.unwrap();
    let promoted = replica.instance().await;
    let mut events = open(&promoted, &cursor).await.unwrap();
    reset(&mut events, "epoch").await;
    read(&mut events, 1..=3).await;
}

/// Calls of the two scripts since the server started.
async fn calls(broker: &Broker) -> u64 {
    let mut plain = redis_connection(broker).await;
    let stats: String = redis::cmd("INFO")
        .arg("commandstats")
        .query_async(&mut plain)
        .await
        .unwrap();
    let line = stats
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

#[tokio::test]
#[ignore = "needs Redis: run ./check"]
async fn fifty_subscribers_cost_one_read() {
    let broker = Kept::fresh().await;
    let log = broker.instance().await;
    let mut subscribers = Vec::new();
    for _ in 0..50 {
        subscribers.push(open(&log, &LastEventId::None).await.unwrap());
    }
    publish(&log, 1..=1).await;
    for events in &mut subscribers {
        read(events, 1..=1).await;
    }
    let before = calls(&broker.0).await;
    publish(&log, 2..=2).await;
    for events in &mut subscribers {
        read(events, 2..=2).await;
    }
    let cost = calls(&broker.0).await - before;
    // The append, and the read that its wake-up causes; another one if the first came too early.
    assert!(cost <= 3, "{cost} calls");
}

/// However many logs a process has, it needs two connections.
#[tokio::test]
#[ignore = "needs Redis: run ./check"]
async fn the_logs_of_a_process_share_two_connections() {
    let broker = Kept::fresh().await;
    let redis = connect(&broker.0, Durability::Kept).await;
    let mut logs = Vec::new();
    for n in 0..40 {
        let log = redis.log(&format!("log {n}"), KEPT);
        let log = SharedLog::start(log, config()).await.unwrap();
        publish(&log, [n]).await;
        let mut events = open(&log, &LastEventId::None).await.unwrap();
        read(&mut events, [n]).await;
        logs.push((log, events));
    }
    let mut plain = redis_connection(&broker.0).await;
    let clients: String = redis::cmd("CLIENT")
        .arg("LIST")
        .query_async(&mut plain)
        .await
        .unwrap();
    // The third is this one.
    assert_eq!(clients.lines().count(), 3, "{clients}");
}
