//! Deadlines on a source: how long it may be silent, how long it may last. A stream has no useful total timeout.
//!
//! Use [`client`] for every upstream that streams, [`until_silent`] around every source that can hang without closing, and
//! [`until_stuck`] around one that sends heartbeats while it hangs. Guarantee: silence ends the stream with exactly one [`Silent`] error; a healthy stream is never cut, however long it lasts.
//!
//! Sibling: `slow_consumer` has the deadline for the other side, a reader that does not read.

use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use reqwest::{Client, ClientBuilder};
use tokio::time::{Instant, timeout};

// ANCHOR: client
/// Returns a client for upstreams that stream. `connect` bounds the TCP (and TLS) handshake. `silence` bounds the wait for the
/// response headers and each wait between two reads of the body, in which reqwest counts the reader's own pauses too. `more` adds
/// further settings. `ClientBuilder::timeout` is left out on purpose: it spans the complete body and cuts a healthy stream.
///
/// # Errors
/// The TLS backend cannot be initialised.
pub fn client(
    connect: Duration,
    silence: Duration,
    more: impl FnOnce(ClientBuilder) -> ClientBuilder,
) -> reqwest::Result<Client> {
    let builder = Client::builder()
        .connect_timeout(connect)
        .read_timeout(silence);
    more(builder).build()
}
// ANCHOR_END: client

/// The source was silent for the given time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no item for {0:?}")]
pub struct Silent(pub Duration);

/// Passes items on, and ends with one `Err(Silent)` when the next item takes longer than `limit`. The source is dropped then, which
/// closes the connection behind it.
///
/// `tokio_stream::StreamExt::timeout` yields `Err(Elapsed)` and continues: a loop that logs the error and continues never ends.
pub fn until_silent<S: Stream + Unpin>(
    source: S,
    limit: Duration,
) -> impl Stream<Item = Result<S::Item, Silent>> {
    until_stuck(source, limit, |_| true)
}

// ANCHOR: stuck
/// As [`until_silent`], but only items for which `progress` returns true end the silence: the heartbeats of a source that hangs
/// do not. Put it around [`until_silent`], with a longer limit.
pub fn until_stuck<S: Stream + Unpin>(
    source: S,
    limit: Duration,
    progress: impl Fn(&S::Item) -> bool,
) -> impl Stream<Item = Result<S::Item, Silent>> {
    let start = Some((source, Duration::ZERO, progress));
    stream::unfold(start, move |state| async move {
        let (mut source, waited, progress) = state?;
        // The clock runs only while an item is awaited: a slow reader is not the source's silence.
        let since = Instant::now();
        match timeout(limit.saturating_sub(waited), source.next()).await {
            Ok(Some(item)) => {
                let waited = if progress(&item) {
                    Duration::ZERO
                } else {
                    waited + since.elapsed()
                };
                Some((Ok(item), Some((source, waited, progress))))
            }
            Ok(None) => None,
            Err(_) => Some((Err(Silent(limit)), None)),
        }
    })
    .fuse()
}
// ANCHOR_END: stuck
