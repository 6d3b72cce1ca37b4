//! What the tests of several crates share.
//!
//! # Layout
//!
//! - This file: waits that only turn a hang into a failure.
//! - [`raw`], [`frames`], [`stalled`]: clients of HTTP/1.1 and WebSocket that see exact bytes, and one that reads nothing.
//! - [`proxy`]: free ports, and nginx, Caddy, HAProxy and Envoy with the files of the book.
//! - [`process`]: the test binary itself, started again as a service.

// A panic is the failure of a test.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

pub mod frames;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod stalled;

use std::time::Duration;

/// How long a test waits for something that must happen before it fails. Nothing waits this long
/// when all is well; it only turns a hang into a failure.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Awaits `future`, and fails with `what` after [`PATIENCE`].
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    within_for(what, PATIENCE, future).await
}

/// The same with another patience.
pub async fn within_for<F: Future>(what: &str, patience: Duration, future: F) -> F::Output {
    match tokio::time::timeout(patience, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited {patience:?} for {what}"),
    }
}

/// Polls `condition` until it holds, and fails with `what` after [`PATIENCE`].
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    within(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}
