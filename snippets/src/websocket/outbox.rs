//! The outbound queue of one WebSocket connection: everything that is to be sent goes through it to the one writer task.
//!
//! Bounded in messages and in bytes. Nothing here waits for the peer, so a fan-out loop may call it under a lock; what
//! happens when the queue is full is the caller's choice ([`Full`]). Goes with [`super::serve`], which drains it.

// ANCHOR: outbox
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes};
use bytes::Bytes;
use tokio::sync::Notify;

/// What happens to an event for a peer that does not keep up. The kind of data decides, so a room has one policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// Close with 1013; the peer reconnects and resumes. For data that must be complete.
    Disconnect,
    /// Drop the room's oldest queued events and put one gap notice in their place. For feeds and logs.
    DropOldest,
    /// Keep only the room's newest event in the queue, full or not. For values that replace each other: prices, positions.
    Conflate,
}

/// One event of a room, encoded once; a clone shares the bytes.
#[derive(Debug, Clone)]
pub struct Event {
    /// The room's name.
    pub room: Arc<str>,
    /// Its place in the room's order, from 1.
    pub seq: u64,
    /// The whole message, as it goes over the wire.
    pub text: Utf8Bytes,
}

enum Item {
    Message(Message),
    Event(Event),
    /// The events `from..=to` of a room were dropped. It stands before all queued events of its room.
    Gap(Arc<str>, u64, u64),
}

impl Item {
    fn len(&self) -> usize {
        match self {
            Item::Message(message) => message_len(message),
            Item::Event(event) => event.text.len(),
            _ => 0,
        }
    }

    fn is_event_of(&self, of: &str) -> bool {
        matches!(self, Item::Event(event) if &*event.room == of)
    }
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
    ping: bool,
    close: Option<CloseFrame>,
    /// Nothing is accepted any more.
    closed: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    work: Notify,
    room: Notify,
    max_items: usize,
    max_bytes: usize,
}

/// Handle to the queue; clones are the same queue.
#[derive(Clone)]
pub struct Outbox(Arc<Shared>);

impl Outbox {
    /// At most `max_items` messages and `max_bytes` of payload, plus one gap notice per room.
    pub fn new(max_items: usize, max_bytes: usize) -> Self {
        Self(Arc::new(Shared {
            queue: Mutex::default(),
            work: Notify::new(),
            room: Notify::new(),
            max_items,
            max_bytes,
        }))
    }

    /// Queues an answer. When the queue is full the peer does not read: it is disconnected with 1013. Returns whether queued.
    pub fn send(&self, message: Message) -> bool {
        let queue = self.lock();
        if !queue.closed && self.is_full(&queue, &message) {
            return self.disconnect_slow(queue);
        }
        self.push(queue, Item::Message(message))
    }

    /// Queues `message` when there is room for it: backpressure for a producer that works for this connection alone.
    /// Returns false when the connection is closing. Cancel safe: a dropped future has queued nothing.
    pub async fn send_when_room(&self, message: Message) -> bool {
        loop {
            let room = self.0.room.notified();
            {
                let queue = self.lock();
                if queue.closed || !self.is_full(&queue, &message) {
                    return self.push(queue, Item::Message(message));
                }
                if queue.items.is_empty() {
                    return self.disconnect_slow(queue); // larger than `max_bytes`: it would never fit
                }
            }
            room.await;
        }
    }

    /// Queues an event of a room under the policy `full`. Never waits. Returns false when the connection is closing.
    pub fn offer(&self, event: Event, full: Full) -> bool {
        let mut queue = self.lock();
        if queue.closed {
            return false;
        }
        if full == Full::Conflate
            && let Some(at) = queue
                .items
                .iter()
                .rposition(|item| item.is_event_of(&event.room))
        {
            let queued = Item::Event(event);
            queue.bytes = queue.bytes + queued.len() - queue.items[at].len();
            queue.items[at] = queued;
            return true;
        }
        while self.is_over(&queue, event.text.len()) {
            if full != Full::DropOldest {
                return self.disconnect_slow(queue);
            }
            let Some(at) = queue
                .items
                .iter()
                .position(|item| item.is_event_of(&event.room))
            else {
                // The queue is full of other things: the new event is the one that is lost.
                let end = queue.items.len();
                queue.note_gap(&event.room, event.seq, end);
                drop(queue);
                self.0.work.notify_one();
                return true;
            };
            if let Some(Item::Event(dropped)) = queue.items.remove(at) {
                queue.bytes -= dropped.text.len();
                queue.note_gap(&dropped.room, dropped.seq, at);
            }
        }
        self.push(queue, Item::Event(event))
    }

    /// Asks for a ping; one that is not yet written is not asked for twice.
    pub fn ping(&self) {
        self.lock().ping = true;
        self.0.work.notify_one();
    }

    /// Sends Close after what is queued, and accepts nothing more. The first call decides the code.
    pub fn close(&self, code: u16, reason: &'static str) {
        let mut queue = self.lock();
        if !queue.closed {
            queue.closed = true;
            queue.close = Some(CloseFrame {
                code,
                reason: Utf8Bytes::from_static(reason),
            });
        }
        drop(queue);
        self.0.work.notify_one();
        self.0.room.notify_waiters();
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

    /// Waits until [`Outbox::pop`] has something. For the one writer task.
    pub async fn ready(&self) {
        loop {
            {
                let queue = self.lock();
                if queue.ping || queue.close.is_some() || !queue.items.is_empty() {
                    return;
                }
            }
            self.0.work.notified().await;
        }
    }

    /// The next message for the wire; Close comes last.
    pub fn pop(&self) -> Option<Message> {
        let mut queue = self.lock();
        if std::mem::take(&mut queue.ping) {
            return Some(Message::Ping(Bytes::new()));
        }
        let Some(item) = queue.items.pop_front() else {
            return queue.close.take().map(|frame| Message::Close(Some(frame)));
        };
        queue.bytes -= item.len();
        if queue.items.is_empty() {
            queue.items.shrink_to(1); // a burst must not cost an idle connection memory for ever
        }
        drop(queue);
        self.0.room.notify_waiters();
        Some(match item {
            Item::Message(message) => message,
            Item::Event(event) => Message::Text(event.text),
            Item::Gap(room, from, to) => Message::Text(gap_notice(&room, from, to).into()),
        })
    }

    fn push(&self, mut queue: MutexGuard<'_, Queue>, item: Item) -> bool {
        if queue.closed {
            return false;
        }
        queue.bytes += item.len();
        queue.items.push_back(item);
        drop(queue);
        self.0.work.notify_one();
        true
    }

    fn disconnect_slow(&self, mut queue: MutexGuard<'_, Queue>) -> bool {
        queue.items = VecDeque::new(); // it would be stale before this peer has read it
        queue.bytes = 0;
        drop(queue);
        self.close(1013, "too slow: reconnect and resume");
        false
    }

    fn is_full(&self, queue: &Queue, message: &Message) -> bool {
        self.is_over(queue, message_len(message))
    }

    fn is_over(&self, queue: &Queue, len: usize) -> bool {
        queue.items.len() >= self.0.max_items || queue.bytes + len > self.0.max_bytes
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn note_gap(&mut self, of: &Arc<str>, seq: u64, at: usize) {
        let known = self.items.iter_mut().find_map(|item| match item {
            Item::Gap(room, _, to) if room == of => Some(to),
            _ => None,
        });
        match known {
            Some(to) => *to = seq,
            None => self.items.insert(at, Item::Gap(of.clone(), seq, seq)),
        }
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

/// Tells the peer that events were dropped; it may ask for them again with its last sequence number.
fn gap_notice(room: &str, from: u64, to: u64) -> String {
    serde_json::json!({ "type": "gap", "room": room, "from": from, "to": to }).to_string()
}
// ANCHOR_END: outbox
