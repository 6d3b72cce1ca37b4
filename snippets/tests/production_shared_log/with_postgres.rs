//! The contract on a real Postgres, and what is its own.

use std::time::Duration;

use snippets::production::postgres_log::{PostgresLog, SCHEMA};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, IsolationLevel, NoTls};

use super::*;
use crate::support::broker::{Broker, Kind};

pub(crate) struct Postgres(Broker);

impl AsMut<Broker> for Postgres {
    fn as_mut(&mut self) -> &mut Broker {
        &mut self.0
    }
}

impl Postgres {
    /// Without any table.
    pub(crate) async fn start() -> Self {
        Self(Broker::start(Kind::Postgres).await)
    }

    /// A connection of the application's own.
    pub(crate) async fn client(&self) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.0.url(), NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    pub(crate) fn log(&self) -> PostgresLog {
        let config = self.0.url().parse().unwrap();
        PostgresLog::new(config, "feed", KEPT as u32, Duration::from_secs(1))
    }
}

impl Backend for Postgres {
    type Store = PostgresLog;
    async fn fresh() -> Self {
        let broker = Self::start().await;
        broker.client().await.batch_execute(SCHEMA).await.unwrap();
        broker
    }
    async fn connect(&self) -> PostgresLog {
        self.log()
    }
    async fn wipe(&self) {
        let client = self.client().await;
        client
            .execute("DELETE FROM stream_log WHERE log = 'feed'", &[])
            .await
            .unwrap();
    }
}

contract!(
    on_postgres,
    Postgres,
    ignore = "needs Postgres: run ./check",
    a_wiped_log_is_a_reset_for_open_streams_and_old_cursors,
    a_restart_of_the_broker_loses_nothing,
    a_long_outage_ends_the_streams,
    a_frozen_broker_fails_in_bounded_time,
    a_slow_broker_is_waited_for_within_bounds
);

/// Events of the application's own transactions: none of one that is rolled back, and no hole where it was.
#[tokio::test]
#[ignore = "needs Postgres: run ./check"]
async fn an_event_is_published_with_its_transaction_or_not_at_all() {
    let broker = Postgres::fresh().await;
    let log = broker.instance().await;
    let store = broker.log();
    let mut events = open(&log, &LastEventId::None).await.unwrap();
    let mut client = broker.client().await;
    let transaction = client.transaction().await.unwrap();
    store.append_in(&transaction, &event(0)).await.unwrap();
    transaction.rollback().await.unwrap();
    let transaction = client.transaction().await.unwrap();
    store.append_in(&transaction, &event(1)).await.unwrap();
    let waits = futures::FutureExt::now_or_never(events.next());
    assert!(waits.is_none(), "not before the commit");
    transaction.commit().await.unwrap();
    let LastEventId::Id(id) = read(&mut events, 1..=1).await else {
        panic!()
    };
    assert!(id.ends_with("-1"), "{id}");
}

/// Above READ COMMITTED the counter is as it was when the transaction began.
#[tokio::test]
#[ignore = "needs Postgres: run ./check"]
async fn a_stricter_transaction_fails_and_is_run_again() {
    let broker = Postgres::fresh().await;
    let store = broker.log();
    store.append(&event(1)).await.unwrap();
    let mut client = broker.client().await;
    let strict = client
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead);
    let transaction = strict.start().await.unwrap();
    transaction.query("SELECT 1", &[]).await.unwrap();
    store.append(&event(2)).await.unwrap();
    let failed = store.append_in(&transaction, &event(3)).await.unwrap_err();
    assert_eq!(failed.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE));
    transaction.rollback().await.unwrap();
    assert_eq!(store.read(0, 9).await.unwrap().tail, 2);
}

/// The connection that listens is ended by the server: the reader connects again and reads the table.
#[tokio::test]
#[ignore = "needs Postgres: run ./check"]
async fn a_listener_that_lost_its_connection_reads_what_it_missed() {
    let broker = Postgres::fresh().await;
    let log = broker.instance().await;
    let mut events = open(&log, &LastEventId::None).await.unwrap();
    publish(&log, 1..=1).await;
    read(&mut events, 1..=1).await;
    let client = broker.client().await;
    let end_all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%stream_log%' AND pid <> pg_backend_pid()";
    let ended = client.query(end_all, &[]).await.unwrap();
    assert!(!ended.is_empty());
    publish_when_it_is_back(&log, 2).await;
    read(&mut events, 2..=2).await;
}
