//! A [`Store`] in the memory of one process: for development and tests of what later runs on a broker.
//!
//! Same promises as a broker, but a restart begins a new epoch: every cursor gets a `reset`.

// ANCHOR: memory
use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::sync::watch;

use super::store::{Page, Store, id};
use crate::sse::message::Message;

/// One log.
#[derive(Debug)]
pub struct MemoryLog {
    epoch: u64,
    max_events: usize,
    events: Mutex<VecDeque<Message>>,
    /// Sequence number of the newest event.
    tail: watch::Sender<u64>,
}

impl MemoryLog {
    /// Keeps the newest `max_events` events.
    pub fn new(max_events: usize) -> Self {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            epoch: since.as_millis() as u64,
            max_events: max_events.max(1),
            events: Mutex::default(),
            tail: watch::channel(0).0,
        }
    }

    fn events(&self) -> MutexGuard<'_, VecDeque<Message>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryLog {
    type Error = Infallible;

    async fn append(&self, message: &Message) -> Result<(), Infallible> {
        let mut events = self.events();
        events.push_back(message.clone());
        while events.len() > self.max_events {
            events.pop_front();
        }
        self.tail.send_modify(|tail| *tail += 1);
        Ok(())
    }

    async fn read(&self, seen: u64, max: usize) -> Result<Page, Infallible> {
        let kept = self.events();
        let tail = *self.tail.borrow();
        let head = tail + 1 - kept.len() as u64;
        let first = seen.saturating_add(1).max(head);
        let events = (first..=tail)
            .zip(kept.iter().skip((first - head) as usize))
            .take(max)
            // An id made of two numbers is always valid.
            .filter_map(|(n, message)| Some((n, message.clone().with_id(id(self.epoch, n)).ok()?)))
            .collect();
        Ok(Page {
            epoch: self.epoch,
            head,
            tail,
            events,
        })
    }

    async fn wait(&self, _epoch: u64, seen: u64) -> Result<(), Infallible> {
        // Fails only when the sender is dropped, which `self` owns.
        let _ = self.tail.subscribe().wait_for(|tail| *tail != seen).await;
        Ok(())
    }
}
// ANCHOR_END: memory
