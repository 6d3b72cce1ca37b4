//! The contract on a real NATS server.

use std::time::Duration;

use snippets::production::nats_log::NatsLog;

use super::*;
use crate::support::broker::{Broker, Kind};

struct Nats(Broker);

impl AsMut<Broker> for Nats {
    fn as_mut(&mut self) -> &mut Broker {
        &mut self.0
    }
}

impl Nats {
    async fn client(&self) -> async_nats::Client {
        let options =
            async_nats::ConnectOptions::new().request_timeout(Some(Duration::from_secs(1)));
        options.connect(self.0.url()).await.unwrap()
    }
}

impl Backend for Nats {
    type Store = NatsLog;
    async fn fresh() -> Self {
        Self(Broker::start(Kind::Nats).await)
    }
    async fn connect(&self) -> NatsLog {
        NatsLog::new(self.client().await, "feed", KEPT as i64)
    }
    async fn wipe(&self) {
        let context = async_nats::jetstream::new(self.client().await);
        context.delete_stream("feed").await.unwrap();
    }
}

contract!(
    on_nats,
    Nats,
    ignore = "needs NATS: run ./check",
    a_wiped_log_is_a_reset_for_open_streams_and_old_cursors,
    a_restart_of_the_broker_loses_nothing,
    a_long_outage_ends_the_streams,
    a_frozen_broker_fails_in_bounded_time,
    a_slow_broker_is_waited_for_within_bounds
);

/// Requests to the JetStream API since the server has started.
async fn requests(broker: &Nats) -> u64 {
    let context = async_nats::jetstream::new(broker.client().await);
    context.query_account().await.unwrap().requests.total
}

/// After a burst nothing is left that wakes the reader: a quiet log costs a request every two seconds.
#[tokio::test]
#[ignore = "needs NATS: run ./check"]
async fn a_quiet_log_is_quiet_after_a_burst() {
    const BURST: u64 = 3_000;
    let broker = Nats(Broker::start(Kind::Nats).await);
    let log = NatsLog::new(broker.client().await, "feed", 10_000);
    let log = SharedLog::start(log, config()).await.unwrap();
    let mut events = open(&log, &LastEventId::None).await.unwrap();
    let (client, payload) = (
        broker.client().await,
        r#"{"name":"tick","data":"1","last":false}"#,
    );
    for _ in 0..BURST {
        client.publish("feed.events", payload.into()).await.unwrap();
    }
    client.flush().await.unwrap();
    let before = requests(&broker).await;
    for _ in 0..BURST {
        assert_eq!(next(&mut events).await.name, "tick");
    }
    let burst = requests(&broker).await - before;
    assert!(burst < BURST / 10, "{burst} requests for {BURST} events");
    let before = requests(&broker).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let quiet = requests(&broker).await - before;
    assert!(quiet < 10, "{quiet} requests while nothing is published");
}
