//! Wrong: A table with `bigserial` as the log, and `WHERE id > cursor` to read on.
//! Harm: Ids are assigned at insert and become visible at commit: a reader sees 2, then 1 commits, and no reader ever sees 1.
//! Instead: production/postgres_log
//! Probe: cannot see: needs Postgres and two transactions; what readers miss is a gap between instances

#![cfg(feature = "postgres")]

use snippets::production::postgres_log::SCHEMA;
use snippets::production::store::Store;
use snippets::sse::event::Event;

use crate::production_shared_log::with_postgres::Postgres;
use crate::support::within;

#[tokio::test]
#[ignore = "needs Postgres: run ./check"]
async fn postgres_commits_in_another_order_than_it_counts() {
    let broker = Postgres::start().await;
    let (mut a, mut b, reader) = (
        broker.client().await,
        broker.client().await,
        broker.client().await,
    );
    let table = "CREATE TABLE naive (id bigserial PRIMARY KEY, data text)";
    reader.batch_execute(table).await.unwrap();
    let insert = "INSERT INTO naive (data) VALUES ($1)";
    let first = a.transaction().await.unwrap();
    first.execute(insert, &[&"first"]).await.unwrap();
    b.execute(insert, &[&"second"]).await.unwrap();
    let read_after = async |cursor: i64| {
        let rows = reader
            .query("SELECT id FROM naive WHERE id > $1 ORDER BY id", &[&cursor])
            .await
            .unwrap();
        rows.iter()
            .map(|row| row.get::<_, i64>(0))
            .collect::<Vec<_>>()
    };
    assert_eq!(read_after(0).await, [2]);
    first.commit().await.unwrap();
    assert!(
        read_after(2).await.is_empty(),
        "1 is lost for whoever has seen 2"
    );

    // With the counter row the second publisher waits for the first one's commit.
    reader.batch_execute(SCHEMA).await.unwrap();
    let store = broker.log();
    // As each instance does when it starts: it makes the counter.
    store.read(0, 1).await.unwrap();
    let event = |n: u64| Event::new("tick", &n).unwrap();
    let first = a.transaction().await.unwrap();
    store.append_in(&first, &event(1)).await.unwrap();
    let second = async {
        let second = b.transaction().await.unwrap();
        store.append_in(&second, &event(2)).await.unwrap();
        second.commit().await.unwrap();
    };
    let commit = async {
        within("the second to wait", async {
            let waiting = "SELECT 1 FROM pg_locks WHERE NOT granted";
            while reader.query(waiting, &[]).await.unwrap().is_empty() {}
        })
        .await;
        assert!(store.read(0, 10).await.unwrap().events.is_empty());
        first.commit().await.unwrap();
    };
    within("both", async { tokio::join!(second, commit) }).await;
    let page = store.read(0, 10).await.unwrap();
    let data: Vec<_> = page
        .events
        .iter()
        .map(|(_, message)| message.data())
        .collect();
    assert_eq!(page.tail, 2);
    assert_eq!(data, ["1", "2"]);
}

/// The other mend, reading only below the oldest transaction that is still open, stands still for any transaction.
#[tokio::test]
#[ignore = "needs Postgres: run ./check"]
async fn postgres_horizon_waits_for_transactions_that_publish_nothing() {
    let broker = Postgres::start().await;
    let (mut other, reader) = (broker.client().await, broker.client().await);
    let table =
        "CREATE TABLE naive (id bigserial PRIMARY KEY, tx xid8 DEFAULT pg_current_xact_id())";
    reader.batch_execute(table).await.unwrap();
    let unrelated = other.transaction().await.unwrap();
    unrelated
        .query("SELECT pg_current_xact_id()", &[])
        .await
        .unwrap();
    reader
        .batch_execute("INSERT INTO naive DEFAULT VALUES")
        .await
        .unwrap();
    let below = "SELECT id FROM naive WHERE tx < pg_snapshot_xmin(pg_current_snapshot())";
    assert!(reader.query(below, &[]).await.unwrap().is_empty());
    unrelated.commit().await.unwrap();
    assert_eq!(reader.query(below, &[]).await.unwrap().len(), 1);
}

/// Why the event itself is never the payload.
#[tokio::test]
#[ignore = "needs Postgres: run ./check"]
async fn postgres_notify_takes_less_than_8000_bytes_and_forgets() {
    let broker = Postgres::start().await;
    let client = broker.client().await;
    let notify = "SELECT pg_notify('naive', repeat('x', $1))";
    client.query(notify, &[&7_999]).await.unwrap();
    let refused = client.query(notify, &[&8_000]).await.unwrap_err();
    assert_eq!(
        refused.as_db_error().unwrap().message(),
        "payload string too long"
    );
}
