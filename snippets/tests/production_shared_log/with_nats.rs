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
