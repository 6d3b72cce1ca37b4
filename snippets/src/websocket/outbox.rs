//! The outbound queue of one WebSocket connection: answers from any task to the one task that writes.
//!
//! Bounded in messages and in bytes; nothing here waits for the peer except [`Outbox::send_when_room`]. A peer that does not
//! read its answers is disconnected with [`TOO_SLOW`]. What many peers receive is not queued here: it is a log that each
//! connection reads at its own position (`Handler::poll_frames`). Used by `serve.rs`.

// ANCHOR: outbox
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes};
use bytes::{BufMut, Bytes};
use tokio::time::Instant;

/// The Close for a peer that reads too slowly; it may reconnect and resume.
pub const TOO_SLOW: (u16, &str) = (1013, "too slow: reconnect and resume");

/// Handle to the queue; clones are the same queue.
#[derive(Clone)]
pub struct Outbox(Arc<Shared>);

struct Shared {
    /// There is something to take: the connection's task looks here before it takes the lock.
    dirty: AtomicBool,
    /// The Close of [`Outbox::close_at`] is another one than the connection's task knows.
    moved: AtomicBool,
    queue: Mutex<Queue>,
    max_items: usize,
    max_bytes: usize,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Message>,
    bytes: usize,
    close: Option<CloseFrame>,
    close_at: Option<(Instant, u16, &'static str)>,
    /// Nothing is accepted any more.
    closed: bool,
    /// The connection's task.
    writer: Option<Waker>,
    /// Those who wait for room.
    waiting: Vec<Waker>,
}

impl Outbox {
    /// At most `max_items` messages and `max_bytes` of payload.
    pub fn new(max_items: usize, max_bytes: usize) -> Self {
        Self(Arc::new(Shared {
            dirty: AtomicBool::new(false),
            moved: AtomicBool::new(false),
            queue: Mutex::default(),
            max_items,
            max_bytes,
        }))
    }

    /// Queues an answer; false if the connection is closing. If the queue is full, the peer does not read: it is disconnected
    /// with [`TOO_SLOW`].
    pub fn send(&self, message: Message) -> bool {
        let mut queue = self.lock();
        if queue.closed {
            return false;
        }
        if self.is_full(&queue, &message) {
            queue.items = VecDeque::new(); // it would be stale before this peer has read it
            queue.bytes = 0;
            drop(queue);
            self.close(TOO_SLOW.0, TOO_SLOW.1);
            return false;
        }
        queue.bytes += message_len(&message);
        queue.items.push_back(message);
        self.wake(queue);
        true
    }

    /// Queues `message` as soon as there is room for it: backpressure for a producer that works for this connection alone.
    /// Returns false if the connection is closing. Cancel safe: a dropped future has queued nothing.
    pub async fn send_when_room(&self, message: Message) -> bool {
        let mut message = Some(message);
        poll_fn(|cx| {
            let Some(waits) = &message else {
                return Poll::Ready(false);
            };
            let mut queue = self.lock();
            // One that is larger than the whole queue would wait until the end: `send` refuses it.
            if !queue.closed && self.is_full(&queue, waits) && !queue.items.is_empty() {
                if !queue
                    .waiting
                    .iter()
                    .any(|other| other.will_wake(cx.waker()))
                {
                    queue.waiting.push(cx.waker().clone());
                }
                return Poll::Pending;
            }
            drop(queue);
            Poll::Ready(message.take().is_some_and(|message| self.send(message)))
        })
        .await
    }

    /// Sends Close after what is queued, and accepts nothing more. The first call decides the code.
    pub fn close(&self, code: u16, reason: &'static str) {
        let mut queue = self.lock();
        if !std::mem::replace(&mut queue.closed, true) {
            queue.close = Some(CloseFrame {
                code,
                reason: Utf8Bytes::from_static(reason),
            });
        }
        self.wake(queue);
    }

    /// As [`Outbox::close`], at `at`: the end of a session, or the deadline for a first message. A later call replaces an
    /// earlier one, so a refreshed session calls it again. Costs an idle connection no timer and no task.
    pub fn close_at(&self, at: Instant, code: u16, reason: &'static str) {
        let mut queue = self.lock();
        queue.close_at = Some((at, code, reason));
        self.0.moved.store(true, Ordering::Release);
        self.wake(queue);
    }

    /// Whether `other` is the same queue.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether the connection is closing or closed.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Messages and payload bytes that wait here now.
    pub fn depth(&self) -> (usize, usize) {
        let queue = self.lock();
        (queue.items.len(), queue.bytes)
    }

    /// The next message, Close at last: for tests of a handler, which have no socket.
    pub fn pop(&self) -> Option<Message> {
        if let Some(at) = self.closes_at()
            && at <= Instant::now()
        {
            self.close_now();
        }
        let mut queue = self.lock();
        let Some(message) = queue.items.pop_front() else {
            return queue.close.take().map(|close| Message::Close(Some(close)));
        };
        queue.bytes -= message_len(&message);
        Some(message)
    }

    /// Whether it is time to write: many answers to messages that came together must not look like a peer that does not read.
    pub(super) fn is_half_full(&self) -> bool {
        if !self.0.dirty.load(Ordering::Relaxed) {
            return false;
        }
        let queue = self.lock();
        queue.items.len() >= self.0.max_items / 2 || queue.bytes >= self.0.max_bytes / 2
    }

    /// When [`Outbox::close_at`] is due.
    pub(super) fn closes_at(&self) -> Option<Instant> {
        self.lock().close_at.map(|(at, ..)| at)
    }

    /// Whether that has changed since the last call.
    pub(super) fn has_moved(&self) -> bool {
        self.0.moved.load(Ordering::Relaxed) && self.0.moved.swap(false, Ordering::AcqRel)
    }

    /// [`Outbox::close_at`] is due.
    pub(super) fn close_now(&self) {
        let due = self.lock().close_at.take();
        if let Some((_, code, reason)) = due {
            self.close(code, reason);
        }
    }

    /// The task to wake if something is queued.
    pub(super) fn set_writer(&self, writer: &Waker) {
        self.lock().writer = Some(writer.clone());
    }

    /// Puts about `most` bytes of frames into `out`; returns the Close that follows, if nothing is left before it.
    pub(super) fn take(&self, out: &mut Vec<u8>, most: usize) -> Option<CloseFrame> {
        if !self.0.dirty.swap(false, Ordering::AcqRel) {
            return None;
        }
        let mut queue = self.lock();
        while out.len() < most
            && let Some(message) = queue.items.pop_front()
        {
            queue.bytes -= message_len(&message);
            match message {
                Message::Text(text) => put_frame(out, 1, text.as_bytes()),
                Message::Binary(data) => put_frame(out, 2, &data),
                // Pings, pongs and Close are the connection's own.
                _ => {}
            }
        }
        let close = if queue.items.is_empty() {
            queue.items = VecDeque::new(); // a burst must not cost an idle connection memory from then on
            queue.close.take()
        } else {
            self.0.dirty.store(true, Ordering::Release);
            None
        };
        let waiting = std::mem::take(&mut queue.waiting);
        drop(queue);
        waiting.into_iter().for_each(Waker::wake);
        close
    }

    fn wake(&self, mut queue: MutexGuard<'_, Queue>) {
        self.0.dirty.store(true, Ordering::Release);
        let writer = queue.writer.clone();
        let waiting = match queue.closed {
            true => std::mem::take(&mut queue.waiting),
            false => Vec::new(),
        };
        drop(queue);
        writer.into_iter().chain(waiting).for_each(Waker::wake);
    }

    fn is_full(&self, queue: &Queue, message: &Message) -> bool {
        queue.items.len() >= self.0.max_items
            || queue.bytes + message_len(message) > self.0.max_bytes
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of payload of a data message.
pub fn message_len(message: &Message) -> usize {
    match message {
        Message::Text(text) => text.len(),
        Message::Binary(data) => data.len(),
        _ => 0,
    }
}

/// A text message as it goes over the wire, encoded once: the frames of a server are not masked (RFC 6455, 5.1), so all peers
/// get the same bytes.
pub fn text_frame(text: &str) -> Bytes {
    let mut out = Vec::with_capacity(text.len() + 10);
    put_frame(&mut out, 1, text.as_bytes());
    out.into()
}

/// One whole unmasked frame (RFC 6455, 5.2).
fn put_frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    out.put_u8(0x80 | opcode);
    match payload.len() {
        len @ ..126 => out.put_u8(len as u8),
        len @ ..0x1_0000 => {
            out.put_u8(126);
            out.put_u16(len as u16);
        }
        len => {
            out.put_u8(127);
            out.put_u64(len as u64);
        }
    }
    out.put_slice(payload);
}
// ANCHOR_END: outbox
