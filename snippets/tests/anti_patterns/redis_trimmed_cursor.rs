//! Wrong: resuming with `XREAD` from the client's id, with the ids that Redis makes.
//! Harm: for a trimmed id it returns the oldest remaining events without an error; for an id beyond the tail or from a wiped stream it never returns anything.
//! Instead: production/shared_log
//! Probe: cannot see: needs Redis; on the wire it is sse_ids_without_epoch

#![cfg(feature = "redis")]

use redis::AsyncTypedCommands;

use crate::support::broker::{Broker, Kind, redis_connection};

/// As people write it: whatever comes after the cursor.
async fn read_after(redis: &mut redis::aio::MultiplexedConnection, cursor: &str) -> Vec<String> {
    type Stream = Vec<(String, Vec<(String, Vec<String>)>)>;
    let answer: Option<Stream> = redis::cmd("XREAD")
        .arg(&["STREAMS", "feed", cursor])
        .query_async(redis)
        .await
        .unwrap();
    let streams = answer.unwrap_or_default();
    streams
        .into_iter()
        .flat_map(|(_, entries)| entries)
        .map(|(id, _)| id)
        .collect()
}

/// The same cursors with the pattern: `production_shared_log.rs`, each an explicit `reset`.
#[tokio::test]
#[ignore = "needs Redis: run ./check"]
async fn a_trimmed_cursor_is_a_silent_gap_and_a_future_one_silence() {
    let broker = Broker::start(Kind::Redis).await;
    let mut redis = redis_connection(&broker).await;
    for n in 1..=10 {
        redis
            .xadd("feed", format!("{n}-0"), &[("n", n)])
            .await
            .unwrap();
    }
    redis
        .xtrim("feed", redis::streams::StreamMaxlen::Equals(4))
        .await
        .unwrap();
    // The client has 3: 4, 5 and 6 are gone, and nothing says so.
    assert_eq!(
        read_after(&mut redis, "3-0").await,
        ["7-0", "8-0", "9-0", "10-0"]
    );
    assert!(read_after(&mut redis, "99-0").await.is_empty());
    // What looks like the mark of it counts XDEL alone.
    let info: std::collections::HashMap<String, redis::Value> = redis::cmd("XINFO")
        .arg(&["STREAM", "feed"])
        .query_async(&mut redis)
        .await
        .unwrap();
    let deleted: String = redis::from_redis_value(info["max-deleted-entry-id"].clone()).unwrap();
    assert_eq!(deleted, "0-0");
    redis.del("feed").await.unwrap();
    redis.xadd("feed", "1-0", &[("n", 1)]).await.unwrap();
    assert!(
        read_after(&mut redis, "3-0").await.is_empty(),
        "the new event 1 is never read"
    );
}
