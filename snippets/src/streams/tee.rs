//! One source, two readers: the answer to the user, and a copy to a log or a database.
//!
//! Use it when the copy must follow the answer and end with it; when the work must outlive the reader, use `llm/resume`. Promise:
//! the copy never holds more than its channel's capacity, and a copy that was given up can be distinguished from a complete one.
//!
//! Sibling: `backpressure`.

use futures::{Stream, StreamExt, stream};
use tokio::sync::mpsc;

// ANCHOR: kinds
/// What to do when the copy's channel is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// The slower reader sets the pace: nothing is lost, but a stuck reader of the copy stops the answer.
    Wait,
    /// The answer continues and the copy is dropped: it ends without [`Copied::End`].
    GiveUp,
}

/// What the copy's receiver gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Copied<T> {
    /// An item of the source.
    Item(T),
    /// The source has ended. A receiver that sees its channel close without this has an incomplete copy.
    End,
}
// ANCHOR_END: kinds

/// Passes `source` on and copies each item into `copy`, a bounded channel.
pub fn tee<S>(
    source: S,
    copy: mpsc::Sender<Copied<S::Item>>,
    full: WhenFull,
) -> impl Stream<Item = S::Item>
where
    S: Stream + Unpin,
    S::Item: Clone,
{
    stream::unfold(
        (source, Some(copy)),
        move |(mut source, mut copy)| async move {
            // ANCHOR: tee
            let item = match (&copy, full) {
                (Some(sender), WhenFull::Wait) => {
                    // Reserve room first, so that an item that was taken from the source never waits for the copy. If
                    // the copy's receiver has disconnected (`Err`), the answer continues.
                    let room = sender.reserve().await.ok();
                    let item = source.next().await;
                    if let Some(room) = room {
                        room.send(item.clone().map_or(Copied::End, Copied::Item));
                    }
                    item
                }
                (Some(sender), WhenFull::GiveUp) => {
                    let item = source.next().await;
                    if sender
                        .try_send(item.clone().map_or(Copied::End, Copied::Item))
                        .is_err()
                    {
                        copy = None;
                    }
                    item
                }
                (None, _) => source.next().await,
            };
            // ANCHOR_END: tee
            item.map(|item| (item, (source, copy)))
        },
    )
    .fuse()
}
