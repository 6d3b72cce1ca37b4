//! The contract on a real Redis, and what is Redis' own.

use std::time::Duration;

use redis::AsyncTypedCommands;
use snippets::production::redis_log::RedisLog;

use super::*;
use crate::support::broker::{Broker, Kind, redis_connection};

struct Redis(Broker);

impl AsMut<Broker> for Redis {
    fn as_mut(&mut self) -> &mut Broker {
        &mut self.0
    }
}

impl Backend for Redis {
    type Store = RedisLog;
    async fn fresh() -> Self {
        Self(Broker::start(Kind::Redis).await)
    }
    async fn connect(&self) -> RedisLog {
        RedisLog::connect(&self.0.url(), "feed", KEPT, Duration::from_secs(1))
            .await
            .unwrap()
    }
    async fn wipe(&self) {
        self.plain().await.del("feed").await.unwrap();
    }
}

impl Redis {
    async fn plain(&self) -> redis::aio::MultiplexedConnection {
        redis_connection(&self.0).await
    }
}

contract!(
    on_redis,
    Redis,
    ignore = "needs Redis: run ./check",
    a_wiped_log_is_a_reset_for_open_streams_and_old_cursors,
    a_restart_of_the_broker_loses_nothing,
    a_long_outage_ends_the_streams,
    a_frozen_broker_fails_in_bounded_time,
    a_slow_broker_is_waited_for_within_bounds
);

#[tokio::test]
#[ignore = "needs Redis: run ./check"]
async fn fifty_subscribers_cost_one_blocking_read() {
    let broker = Redis::fresh().await;
    let log = broker.instance().await;
    let mut subscribers = Vec::new();
    for _ in 0..50 {
        subscribers.push(open(&log, &LastEventId::None).await.unwrap());
    }
    publish(&log, 1..=1).await;
    for events in &mut subscribers {
        read(events, 1..=1).await;
    }
    let mut plain = broker.plain().await;
    within("the reader to block", async {
        loop {
            let info: String = redis::cmd("INFO")
                .arg("clients")
                .query_async(&mut plain)
                .await
                .unwrap();
            if info.contains("blocked_clients:1\r\n") {
                break;
            }
            assert!(info.contains("blocked_clients:0\r\n"), "{info}");
        }
    })
    .await;
}
