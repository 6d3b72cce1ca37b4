//! Wrong: a test that sleeps for 50 ms and then asserts.
//! Harm: on a slow machine it fails although the code is right, and "nothing came" passes although the wrong thing comes after 60 ms.
//! Instead: production/testing
//! Probe: cannot see: a test

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;

/// A service that delivers after `delay`: the machine decides how long that is.
fn deliver(message: &'static str, delay: Duration) -> mpsc::Receiver<&'static str> {
    let (sender, receiver) = mpsc::channel(8);
    tokio::spawn(async move {
        sleep(delay).await;
        let _ = sender.send(message).await;
        // What the test can wait for: it comes after whatever was underway.
        let _ = sender.send("end").await;
    });
    receiver
}

const FAST: Duration = Duration::from_millis(10);
const SLOW: Duration = Duration::from_millis(60);

async fn arrived_after_a_sleep(mut inbox: mpsc::Receiver<&'static str>) -> bool {
    sleep(Duration::from_millis(50)).await;
    inbox.try_recv().is_ok_and(|message| message != "end")
}

#[tokio::test(start_paused = true)]
async fn the_verdict_depends_on_the_machine() {
    // The same right code.
    assert!(arrived_after_a_sleep(deliver("event", FAST)).await);
    assert!(!arrived_after_a_sleep(deliver("event", SLOW)).await);
    // The same wrong code: an event after the stream was cancelled. The test says that all is well.
    assert!(!arrived_after_a_sleep(deliver("after cancel", SLOW)).await);
}

#[tokio::test(start_paused = true)]
async fn waiting_for_the_event_or_for_what_follows_it_does_not() {
    for delay in [FAST, SLOW, Duration::from_secs(3600)] {
        assert_eq!(deliver("event", delay).recv().await, Some("event"));
        // That nothing came is known when what comes after it is there.
        let mut inbox = deliver("after cancel", delay);
        let mut seen = Vec::new();
        while let Some(message) = inbox.recv().await.filter(|message| *message != "end") {
            seen.push(message);
        }
        assert_eq!(seen, ["after cancel"], "found however late it is");
    }
}
