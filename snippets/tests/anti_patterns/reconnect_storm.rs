//! Wrong: At shutdown every stream ends at the same moment, and every client has the same `retry`.
//! Harm: All clients reconnect within the same 100 ms, to the remaining instances.
//! Instead: production/deploy
//! Probe: cannot see: many clients; of one service sse-retry-jitter sees a constant retry

use std::time::Duration;

use snippets::sse::streams::Config;

use crate::production_drain::reconnects;

#[tokio::test(start_paused = true)]
async fn without_jitter_all_clients_come_back_at_once() {
    let together = Config {
        drain_spread: Duration::ZERO,
        ..Config::default()
    };
    let (steps, _) = reconnects(together.clone(), Some(Duration::from_secs(2))).await;
    assert_eq!(steps.into_iter().collect::<Vec<_>>(), [(20, 400)]);
    let spread = Config {
        drain_spread: Duration::from_secs(8),
        ..together
    };
    let (steps, _) = reconnects(spread, None).await;
    assert!(steps.values().all(|clients| *clients < 25), "{steps:?}");
}
