//! Wrong: `NOTIFY` in the transaction that publishes, to wake the readers of its log.
//! Harm: the commits of the whole server run one after another, each with its own flush: a slow commit delays those of other logs.
//! Instead: production/postgres_log
//! Probe: cannot see: within the broker

#![cfg(feature = "postgres")]

use std::time::Duration;

use tokio_postgres::Client;

use crate::production_shared_log::with_postgres::Postgres;
use crate::support::within;

/// Publishes for `log`: with a wake-up, or without.
async fn publish(client: &Client, log: &str, notify: bool) -> Result<(), tokio_postgres::Error> {
    let notify = if notify {
        format!("NOTIFY {log};")
    } else {
        String::new()
    };
    let transaction = format!("BEGIN; INSERT INTO event VALUES ('{log}'); {notify} COMMIT");
    client.batch_execute(&transaction).await
}

/// One commit takes long, because it waits for a standby; the others need none.
#[tokio::test]
#[ignore = "needs Postgres: run ./check"]
async fn postgres_commits_with_notify_wait_for_each_other() {
    let broker = Postgres::start().await;
    let (slow, other, plain) = (
        broker.client().await,
        broker.client().await,
        broker.client().await,
    );
    slow.batch_execute("CREATE TABLE event (log text)")
        .await
        .unwrap();
    for client in [&other, &plain] {
        client
            .batch_execute("SET synchronous_commit = local")
            .await
            .unwrap();
    }
    plain
        .batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        .await
        .unwrap();
    plain
        .batch_execute("SELECT pg_reload_conf()")
        .await
        .unwrap();
    let slow = tokio::spawn(async move {
        // Until the server has read its new configuration, they do not wait.
        loop {
            publish(&slow, "a", true).await.unwrap();
        }
    });
    let waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    within("the slow commit", async {
        while plain.query(waiting, &[]).await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let other = tokio::spawn(async move { publish(&other, "b", true).await });
    let waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'object'";
    within("the commit of another log to wait for it", async {
        while plain.query(waiting, &[]).await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    // As the pattern does it: no wake-up, no wait.
    within("a commit without NOTIFY", publish(&plain, "c", false))
        .await
        .unwrap();
    assert!(!other.is_finished() && !slow.is_finished());
    slow.abort();
    other.abort();
}
