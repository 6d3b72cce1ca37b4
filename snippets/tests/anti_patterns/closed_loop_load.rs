//! Wrong: a load test that sends the next request when the last one is answered.
//! Harm: it stops sending while the server stalls, so its 99th percentile hides a full second without any response.
//! Instead: production/testing
//! Probe: cannot see: a load test

use std::convert::Infallible;
use std::time::Duration;

use snippets::production::load::{Report, Schedule, open_loop};
use tokio::time::{Instant, sleep, sleep_until};

const EVERY: Duration = Duration::from_millis(10);
const COUNT: u32 = 1_000;

/// Answers within 1 ms, but from second 5 to 6 nothing at all.
async fn service(start: Instant) -> Result<(), Infallible> {
    let stall = start + Duration::from_secs(5)..start + Duration::from_secs(6);
    if stall.contains(&Instant::now()) {
        sleep_until(stall.end).await;
    }
    sleep(Duration::from_millis(1)).await;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_closed_loop_hides_a_stall_of_a_second() {
    let start = Instant::now();
    let mut closed = Report::default();
    for _ in 0..COUNT {
        let sent = Instant::now();
        service(start).await.unwrap();
        closed.latencies.push(sent.elapsed());
        // Before the next one, to keep the rate.
        sleep(EVERY.saturating_sub(sent.elapsed())).await;
    }
    closed.latencies.sort_unstable();
    let millis = |report: &Report, q| report.quantile(q).unwrap().as_millis();
    assert_eq!(millis(&closed, 0.99), 1);
    assert_eq!(millis(&closed, 0.999), 1);
    let slow = closed.latencies.iter().filter(|l| l.as_millis() > 1);
    assert_eq!(
        slow.count(),
        1,
        "one of the hundred that were due is counted"
    );
}

#[tokio::test(start_paused = true)]
async fn an_open_loop_shows_it() {
    let start = Instant::now();
    let open = open_loop(Schedule::every(EVERY), COUNT, 1_000, |_| service(start)).await;
    let millis = |q| open.quantile(q).unwrap().as_millis();
    assert_eq!((open.failed, open.latencies.len()), (0, 1_000));
    assert_eq!((millis(0.5), millis(0.95), millis(0.99)), (1, 501, 901));
    // Neither does a bound on what runs at a time hide it.
    let start = Instant::now();
    let bounded = open_loop(Schedule::every(EVERY), COUNT, 10, |_| service(start)).await;
    assert!(bounded.quantile(0.99).unwrap() >= Duration::from_millis(900));
}
