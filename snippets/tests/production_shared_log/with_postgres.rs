//! The contract on a real Postgres, and what is its own.

use std::time::Duration;

use snippets::production::postgres_log::{self, PostgresLog, SCHEMA, Timing};
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

    pub(crate) fn connections(&self, patience: Duration) -> Arc<postgres_log::Postgres> {
        let config = self.0.url().parse().unwrap();
        let timing = Timing {
            patience,
            ..Timing::default()
        };
        postgres_log::Postgres::start(config, timing)
    }

    pub(crate) fn log(&self) -> PostgresLog {
        self.connections(PATIENCE).log("feed", KEPT as u32)
    }
}

impl Backend for Postgres {
    type Store = PostgresLog;
    async fn fresh() -> Self {
        let broker = Self::start().await;
        broker.client().await.batch_execute(SCHEMA).await.unwrap();
        broker
    }
    async fn connect(&self, patience: Duration) -> PostgresLog {
        self.connections(patience).log("feed", KEPT as u32)
    }
    async fn tidy(&self) {
        self.connections(PATIENCE).trim().await.unwrap();
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
    assert!(events.is_waiting(), "not before the commit");
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

/// All connections are ended by the server: they are made again, and nothing is missed.
#[tokio::test]
#[ignore = "needs Postgres: run ./check"]
async fn a_process_that_lost_its_connections_reads_what_it_missed() {
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

/// A transaction that has published and is still open holds up other publishers of its log, and nobody else.
#[tokio::test]
#[ignore = "needs Postgres: run ./check"]
async fn an_open_transaction_of_a_publisher_does_not_stop_the_readers() {
    let broker = Postgres::fresh().await;
    let connections = broker.connections(SHORT);
    let (log, other) = (connections.log("feed", 100), connections.log("other", 100));
    log.append(&event(1)).await.unwrap();
    let mut client = broker.client().await;
    let transaction = client.transaction().await.unwrap();
    log.append_in(&transaction, &event(2)).await.unwrap();
    let waiting = event(3);
    let publishers = async {
        // More than there are connections.
        let appends = (0..10).map(|_| log.append(&waiting));
        futures::future::join_all(appends).await
    };
    let others = async {
        // While they wait.
        for n in 0..50 {
            assert_eq!(log.read(0, 10).await.unwrap().tail, 1);
            other.append(&event(n)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let (appended, ()) = tokio::join!(publishers, others);
    assert!(
        appended.iter().all(Result::is_err),
        "given up, the transaction is still open"
    );
    // The server gives up by its own clock, a moment after the client: until then an append could still succeed.
    let observer = broker.client().await;
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    while observer
        .query_one(waiting, &[])
        .await
        .unwrap()
        .get::<_, i64>(0)
        > 0
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    transaction.rollback().await.unwrap();
    assert_eq!(log.append(&event(4)).await.unwrap().seq, 2);
}

/// However many logs a process has.
#[tokio::test]
#[ignore = "needs Postgres: run ./check"]
async fn the_logs_of_a_process_share_five_connections() {
    let broker = Postgres::fresh().await;
    let connections = broker.connections(PATIENCE);
    let logs = futures::future::join_all((0..40).map(async |n| {
        let log = connections.log(&format!("log {n}"), 100);
        let log = SharedLog::start(log, config()).await.unwrap();
        publish(&log, [n]).await;
        let mut events = open(&log, &LastEventId::None).await.unwrap();
        read(&mut events, [n]).await;
        (log, events)
    }));
    let logs = logs.await;
    let count = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
    let count: i64 = broker
        .client()
        .await
        .query_one(count, &[])
        .await
        .unwrap()
        .get(0);
    assert!(count <= 5, "{count} connections for {} logs", logs.len());
}

/// A server with another history, as after a promotion or a point-in-time recovery.
#[tokio::test]
#[ignore = "needs Postgres: run ./check"]
async fn another_history_of_the_server_is_a_new_epoch() {
    let broker = Postgres::fresh().await;
    let log = broker.instance().await;
    publish(&log, 1..=3).await;
    let mut events = open(&log, &LastEventId::None).await.unwrap();
    read(&mut events, 1..=3).await;
    let client = broker.client().await;
    let elsewhere = "UPDATE stream_log SET home = 'another'";
    client.execute(elsewhere, &[]).await.unwrap();
    publish(&log, 4..=4).await;
    reset(&mut events, "epoch").await;
    read(&mut events, 1..=4).await;
}

/// What `NOTIFY` in the publishing transaction costs: every commit that has one waits for the last one's flush, whatever
/// log it is for. Prints the rates; a flush of several milliseconds is that of network disks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures; needs Postgres"]
async fn notify_serializes_the_commits_of_a_server() {
    let broker = Postgres::fresh().await;
    for (name, notify, logs) in [
        ("one log, NOTIFY", true, 1),
        ("16 logs, NOTIFY", true, 16),
        ("16 logs", false, 16),
    ] {
        let rate = commits(&broker, notify, logs).await;
        println!("16 publishers, {name}: {rate} events/s");
    }
}

async fn commits(broker: &Postgres, notify: bool, logs: usize) -> u64 {
    const SECONDS: u64 = 1;
    let publishers = (0..16).map(|n| async move {
        let mut client = broker.client().await;
        let log = broker
            .connections(PATIENCE)
            .log(&format!("{notify} {}", n % logs), 100);
        let (until, mut done) = (std::time::Instant::now() + Duration::from_secs(SECONDS), 0);
        while std::time::Instant::now() < until {
            let transaction = client.transaction().await.unwrap();
            log.append_in(&transaction, &event(1)).await.unwrap();
            if notify {
                transaction
                    .batch_execute("NOTIFY stream_log")
                    .await
                    .unwrap();
            }
            transaction.commit().await.unwrap();
            done += 1;
        }
        done
    });
    futures::future::join_all(publishers)
        .await
        .iter()
        .sum::<u64>()
        / SECONDS
}
