//! A subscriber: a position in a log, without a queue.

// ANCHOR: reader
use std::{
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, Waker, ready},
};

use bytes::{Bytes, BytesMut};

use super::{
    event::{Cursor, Event, Reason},
    log::{Log, Slow},
    streams::{Chunk, Source},
};

/// A position in a [`Log`]. Dropping it frees its slot.
pub struct Reader {
    pub(super) log: Arc<Log>,
    pub(super) slot: u32,
    pub(super) generation: u32,
    pub(super) epoch: u64,
    /// Sequence number of the next event to send.
    pub(super) next: u64,
    /// Only events from this number on count for [`Config::queue`](super::log::Config::queue): a replay does not.
    pub(super) joined: u64,
    /// Sent first.
    pub(super) reset: Option<Reason>,
    /// The waker in the slot, and the version of the log at which it was left there.
    pub(super) armed: Option<(Waker, u64)>,
}

/// Waiting events are joined up to this many bytes: one system call instead of many.
const FRAME: usize = 16 * 1024;

/// What a reader has next.
pub enum Next {
    /// Complete events. A single one is the bytes that all readers share.
    Blocks(Bytes),
    /// As `Blocks`, and the terminal event is the last of them.
    Last(Bytes),
    /// The events from this number on are missed; the reader continues after [`Reader::at`].
    Missed(Reason, u64),
    /// Ended by [`Slow::End`], or after the terminal event.
    End,
}

impl Reader {
    /// The position of the client.
    pub fn at(&self) -> Cursor {
        Cursor {
            epoch: self.epoch,
            seq: self.next - 1,
        }
    }

    /// Continues after `cursor`.
    pub fn seek(&mut self, cursor: Cursor) {
        (self.epoch, self.next, self.armed) = (cursor.epoch, cursor.seq + 1, None);
    }

    /// The event `reset` for `reason`; the client continues after [`Reader::at`].
    pub fn reset(&self, reason: Reason) -> Bytes {
        let config = &self.log.config;
        let event = Event::unreserved(config.names.reset, &(config.reset_data)(reason));
        event
            .map(|event| event.at(config.ids.id(self.at())))
            .unwrap_or_default()
    }

    /// What comes next.
    pub fn next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        if let Some(reason) = self.reset.take() {
            let ring = self.log.ring();
            if (self.epoch, self.generation) == (ring.epoch, ring.generation) {
                // Trimmed since the client connected: one `reset` is enough.
                self.next = self.next.max(ring.first);
            }
            return Poll::Ready(Next::Missed(reason, self.next));
        }
        if let Some((waker, version)) = &self.armed
            && *version == self.log.version.load(Ordering::Acquire)
            && waker.will_wake(cx.waker())
        {
            return Poll::Pending;
        }
        let config = &self.log.config;
        let mut ring = self.log.ring();
        let newest = ring.next();
        // Another epoch, or a window that restarted in the same one: a broker that was wiped, or restored from a backup.
        if self.epoch != ring.epoch || self.generation != ring.generation || self.next > newest {
            let (missed, went_back) = (self.next, self.epoch == ring.epoch);
            (self.epoch, self.generation, self.next) = (ring.epoch, ring.generation, ring.first);
            let reason = if went_back {
                Reason::Ahead
            } else {
                Reason::Epoch
            };
            return Poll::Ready(Next::Missed(reason, missed));
        }
        if self.next == newest {
            if ring.finished {
                return Poll::Ready(Next::End);
            }
            let version = self.log.version.load(Ordering::Relaxed);
            arm(
                &mut self.armed,
                &mut ring.waiting[self.slot as usize],
                cx,
                version,
            );
            return Poll::Pending;
        }
        let trimmed = self.next < ring.first;
        if config.slow == Slow::Newest {
            self.next = newest - 1;
        } else if trimmed || newest.saturating_sub(self.next.max(self.joined)) > config.queue as u64
        {
            if config.slow == Slow::End {
                return Poll::Ready(Next::End);
            }
            let missed = self.next;
            // Not the oldest event: it would be trimmed before the next read, and the client reset at each event.
            let room = config.queue.min(ring.events.len()) as u64 / 2;
            self.next = newest - room;
            let reason = if trimmed {
                Reason::Trimmed
            } else {
                Reason::Slow
            };
            return Poll::Ready(Next::Missed(reason, missed));
        }
        let from = (self.next - ring.first) as usize;
        let blocks = if newest - self.next == 1 {
            self.next += 1;
            ring.events[from].clone()
        } else {
            let mut blocks = BytesMut::new();
            for event in ring.events.range(from..) {
                blocks.extend_from_slice(event);
                self.next += 1;
                if blocks.len() >= FRAME {
                    break;
                }
            }
            blocks.freeze()
        };
        if self.next == newest {
            if ring.finished {
                return Poll::Ready(Next::Last(blocks));
            }
            // The waker is left under the same lock: the next poll needs none to find that there is nothing.
            let version = self.log.version.load(Ordering::Relaxed);
            arm(
                &mut self.armed,
                &mut ring.waiting[self.slot as usize],
                cx,
                version,
            );
        }
        Poll::Ready(Next::Blocks(blocks))
    }
}

impl Source for Reader {
    fn id(&self) -> Option<String> {
        // Before a `reset`, a cursor would hide the gap from a client whose connection breaks between the two.
        self.reset
            .is_none()
            .then(|| self.log.config.ids.id(self.at()).to_string())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Chunk>> {
        Poll::Ready(match ready!(self.next(cx)) {
            Next::Blocks(bytes) => Some(Chunk {
                bytes,
                ..Chunk::default()
            }),
            Next::Last(bytes) => Some(Chunk {
                bytes,
                last: true,
                ..Chunk::default()
            }),
            Next::Missed(reason, _) => Some(Chunk {
                bytes: self.reset(reason),
                reset: Some(reason),
                ..Chunk::default()
            }),
            Next::End => None,
        })
    }
}

/// Leaves the waker in the slot. Our copy, which tells whether it is still the right one, is made only for a new task.
fn arm(armed: &mut Option<(Waker, u64)>, slot: &mut Option<Waker>, cx: &Context<'_>, now: u64) {
    if slot
        .as_ref()
        .is_none_or(|waker| !waker.will_wake(cx.waker()))
    {
        *slot = Some(cx.waker().clone());
    }
    match armed {
        Some((waker, version)) if waker.will_wake(cx.waker()) => *version = now,
        _ => *armed = Some((cx.waker().clone(), now)),
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut ring = self.log.ring();
        ring.waiting[self.slot as usize] = None;
        ring.free.push(self.slot);
    }
}
// ANCHOR_END: reader
