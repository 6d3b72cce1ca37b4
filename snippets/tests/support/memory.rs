//! A broker's log in memory, which a test can set back as a restored backup does.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use snippets::production::store::{Page, Store};
use snippets::sse::event::Cursor;
use snippets::sse::event::Event;
use tokio::sync::watch;

/// Clones are connections to the same log.
#[derive(Clone)]
pub struct Memory(Arc<Inner>);

struct Inner {
    kept: usize,
    epoch: u64,
    events: Mutex<Vec<Event>>,
    changed: watch::Sender<u64>,
    reads: AtomicUsize,
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Memory {
    pub fn new(kept: usize) -> Self {
        Self(Arc::new(Inner {
            kept,
            epoch: 7,
            events: Mutex::default(),
            changed: watch::channel(0).0,
            reads: AtomicUsize::new(0),
            now: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        }))
    }

    /// As a broker that comes back from a backup: it has the first `tail` events, in the same epoch.
    pub fn set_back(&self, tail: usize) {
        self.0.events.lock().unwrap().truncate(tail);
        self.0.changed.send_modify(|version| *version += 1);
    }

    /// Several changes that no reader sees one by one.
    pub fn replace_after(&self, tail: usize, events: impl IntoIterator<Item = Event>) {
        let mut all = self.0.events.lock().unwrap();
        all.truncate(tail);
        all.extend(events);
        drop(all);
        self.0.changed.send_modify(|version| *version += 1);
    }

    /// Most reads that were under way at once.
    pub fn most_reads(&self) -> usize {
        self.0.most.load(Ordering::SeqCst)
    }

    pub fn reads(&self) -> usize {
        self.0.reads.load(Ordering::SeqCst)
    }
}

impl Store for Memory {
    type Error = Infallible;

    async fn append(&self, event: &Event) -> Result<Cursor, Infallible> {
        let mut events = self.0.events.lock().unwrap();
        events.push(event.clone());
        let seq = events.len() as u64;
        drop(events);
        self.0.changed.send_modify(|version| *version += 1);
        Ok(Cursor {
            epoch: self.0.epoch,
            seq,
        })
    }

    async fn read(&self, seen: u64, max: usize) -> Result<Page, Infallible> {
        self.0.reads.fetch_add(1, Ordering::SeqCst);
        let now = self.0.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.most.fetch_max(now, Ordering::SeqCst);
        // A round trip.
        tokio::time::sleep(Duration::from_micros(200)).await;
        self.0.now.fetch_sub(1, Ordering::SeqCst);
        let events = self.0.events.lock().unwrap();
        let tail = events.len() as u64;
        let head = tail.saturating_sub(self.0.kept as u64) + 1;
        let from = seen.saturating_add(1).max(head);
        let page = (from..=tail).take(max);
        let events = page.map(|n| (n, events[n as usize - 1].clone())).collect();
        Ok(Page {
            epoch: self.0.epoch,
            head,
            tail,
            events,
        })
    }

    async fn wait(&self, _: u64, seen: u64) -> Result<(), Infallible> {
        let mut changed = self.0.changed.subscribe();
        let differs = || self.0.events.lock().unwrap().len() as u64 != seen;
        if !differs() {
            let _ = changed.changed().await;
        }
        Ok(())
    }
}
