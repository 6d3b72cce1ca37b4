//! Counts the bytes that are alive: what queues and buffers hold, whoever owns them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use bytes::Bytes;

/// Counts of the chunks that one [`Gauge`] made.
#[derive(Clone, Default)]
pub struct Gauge {
    made: Arc<AtomicUsize>,
    alive: Arc<AtomicUsize>,
    peak: Arc<AtomicUsize>,
}

struct Counted {
    bytes: Vec<u8>,
    alive: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.alive.fetch_sub(self.bytes.len(), SeqCst);
    }
}

impl Gauge {
    /// A chunk of `len` bytes that is counted until its last owner drops it.
    pub fn chunk(&self, len: usize) -> Bytes {
        self.made.fetch_add(len, SeqCst);
        let alive = self.alive.fetch_add(len, SeqCst) + len;
        self.peak.fetch_max(alive, SeqCst);
        let alive = self.alive.clone();
        Bytes::from_owner(Counted {
            bytes: vec![b'x'; len],
            alive,
        })
    }

    /// Bytes made so far.
    pub fn made(&self) -> usize {
        self.made.load(SeqCst)
    }

    /// Bytes in memory now.
    pub fn alive(&self) -> usize {
        self.alive.load(SeqCst)
    }

    /// The most that were in memory at one time.
    pub fn peak(&self) -> usize {
        self.peak.load(SeqCst)
    }
}
