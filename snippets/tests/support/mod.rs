//! What the tests of all patterns share: a server on a loopback port, a client that sees exact
//! bytes, and wire transcripts for snapshots.

// Not every test file uses every tool.
#![allow(dead_code, unused_imports)]

pub mod broker;
pub mod chaos;
pub mod chat;
pub mod frames;
pub mod gated;
pub mod gauge;
pub mod hosts;
pub mod member;
pub mod memory;
pub mod proxy;
pub mod raw;
pub mod reader;
pub mod server;
pub mod source;
pub mod sse_reference;
pub mod tls;
pub mod transcript;
pub mod wrong;

pub use frames::{Frame, FrameClient};
pub mod stalled;

pub use chaos::chaos;
pub use gauge::Gauge;
pub use raw::RawClient;
pub use server::Server;
pub use stalled::{settled, stalled_get};
pub use transcript::Transcript;

use std::time::Duration;

/// How long a test waits for something that must happen before it fails. Nothing waits this long
/// when all is well; it only turns a hang into a failure.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Awaits `future`, and fails with `what` after [`PATIENCE`].
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited {PATIENCE:?} for {what}"),
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
