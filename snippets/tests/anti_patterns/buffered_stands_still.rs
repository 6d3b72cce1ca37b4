//! Wrong: `.buffered(n)`, expecting the next call to run while the current result is handled
//! Harm: a call of 100 ms takes 450 ms, since nothing polls it while the reader is busy; its deadlines pass
//! Instead: streams/backpressure
//! Probe: cannot see: within the service

use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use snippets::streams::backpressure::ahead;
use tokio::time::{Instant, sleep};

/// Two calls, of 50 and of 100 ms; each tells how long it took.
fn calls() -> impl Stream<Item = impl Future<Output = u128>> {
    stream::iter([50, 100]).map(|ms| async move {
        let began = Instant::now();
        sleep(Duration::from_millis(ms)).await;
        began.elapsed().as_millis()
    })
}

/// Reads the results, busy for 400 ms after each one.
async fn read<T>(results: impl Stream<Item = T>) -> Vec<T> {
    results
        .then(|result| async {
            sleep(Duration::from_millis(400)).await;
            result
        })
        .collect()
        .await
}

#[tokio::test(start_paused = true)]
async fn a_call_of_100_ms_takes_450() {
    assert_eq!(read(calls().buffered(2)).await, [50, 450]);
}

#[tokio::test(start_paused = true)]
async fn as_a_task_it_takes_what_it_takes() {
    let took = read(ahead(calls(), 2)).await;
    assert_eq!(took.into_iter().flatten().collect::<Vec<_>>(), [50, 100]);
}
