//! Wrong: `XREAD BLOCK` on the multiplexed connection that publishes, with redis 1.8 and its default settings.
//! Harm: it fails after 500 ms, its default response timeout, and everything else on the connection waits behind it until then or fails as well.
//! Instead: production/shared_log
//! Probe: cannot see: within the service

#![cfg(feature = "redis")]

use std::time::{Duration, Instant};

use redis::AsyncTypedCommands;

use crate::support::broker::{Broker, Kind};

#[tokio::test]
#[ignore = "needs Redis: run ./check"]
async fn a_blocking_read_times_out_and_holds_up_the_publisher() {
    let broker = Broker::start(Kind::Redis).await;
    let client = redis::Client::open(broker.url()).unwrap();
    let shared = client.get_multiplexed_async_connection().await.unwrap();
    let (mut reader, mut publisher) = (shared.clone(), shared);
    let started = Instant::now();
    let read = async {
        let mut command = redis::cmd("XREAD");
        command.arg(&["BLOCK", "3000", "STREAMS", "feed", "0-0"]);
        command.query_async::<redis::Value>(&mut reader).await
    };
    let publish = async {
        tokio::task::yield_now().await;
        let answer = publisher.xadd("feed", "*", &[("n", 1)]).await;
        (answer, started.elapsed())
    };
    let (read, (published, after)) = tokio::join!(read, publish);
    assert!(read.unwrap_err().is_timeout());
    // The event that the reader waits for is held up by the reader.
    assert!(
        published.is_err() || after >= Duration::from_millis(400),
        "{published:?} {after:?}"
    );
}
