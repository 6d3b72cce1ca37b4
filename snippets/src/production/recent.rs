//! The newest part of a broker's log, in the memory of one process, and the one reader that fills it.
//!
//! Goes with `shared_log.rs`.

// ANCHOR: recent
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

use super::store::{Page, Store};
use crate::sse::message::Message;

/// Events per read of the broker.
pub const PAGE: usize = 256;

/// The newest part of the log, in memory.
#[derive(Debug)]
pub struct Recent {
    max_events: usize,
    /// How long a stream waits for the broker.
    pub max_outage: Duration,
    window: Mutex<Window>,
    /// The newest event, for those who wait.
    pub state: watch::Sender<Newest>,
}

#[derive(Debug)]
struct Window {
    epoch: u64,
    /// Everything up to and with this number is not in memory.
    before: u64,
    events: VecDeque<Message>,
}

/// What waiting subscribers look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Newest {
    /// See [`Page::epoch`].
    pub epoch: u64,
    /// Its sequence number.
    pub tail: u64,
    /// Whether the broker answered the last time.
    pub available: bool,
}

/// What memory holds after a position.
pub enum Read {
    /// The next event.
    Event(Message),
    /// Nothing newer yet.
    Wait,
    /// Not in memory any more.
    Older,
    /// Of another life of the log.
    Epoch,
}

impl Recent {
    /// `page` is what the broker has after `before`.
    pub fn new(page: Page, before: u64, max_events: usize, max_outage: Duration) -> Self {
        let before = before.max(page.head - 1);
        let state = Newest {
            epoch: page.epoch,
            tail: before,
            available: true,
        };
        let window = Window {
            epoch: page.epoch,
            before,
            events: VecDeque::new(),
        };
        let recent = Self {
            max_events,
            max_outage,
            window: Mutex::new(window),
            state: watch::channel(state).0,
        };
        recent.take(page);
        recent
    }

    /// The event after `seen`, where it is in memory.
    pub fn read_after(&self, epoch: u64, seen: u64) -> Read {
        let window = self.window();
        if window.epoch != epoch {
            // An epoch that this reader has not seen yet is newer: it will come.
            return if epoch > window.epoch {
                Read::Wait
            } else {
                Read::Epoch
            };
        }
        match seen.checked_sub(window.before) {
            None => Read::Older,
            Some(index) => match window.events.get(index as usize) {
                Some(message) => Read::Event(message.clone()),
                None => Read::Wait,
            },
        }
    }

    /// Whether `seen` is the terminal event.
    pub fn finished_at(&self, epoch: u64, seen: u64) -> bool {
        let window = self.window();
        window.epoch == epoch
            && seen == window.tail()
            && window.events.back().is_some_and(Message::is_last)
    }

    /// Adds what the reader has read.
    fn take(&self, page: Page) {
        let mut window = self.window();
        // The log began anew, or this reader was so slow that it missed events: memory begins anew as well.
        if window.epoch != page.epoch || page.head > window.tail() + 1 {
            *window = Window {
                epoch: page.epoch,
                before: page.head - 1,
                events: VecDeque::new(),
            };
        }
        for (sequence, message) in page.events {
            if sequence == window.tail() + 1 {
                window.events.push_back(message);
            }
        }
        while window.events.len() > self.max_events {
            window.events.pop_front();
            window.before += 1;
        }
        let state = Newest {
            epoch: window.epoch,
            tail: window.tail(),
            available: true,
        };
        // Under the lock, so that the number never goes back.
        self.state
            .send_if_modified(|old| std::mem::replace(old, state) != state);
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Window {
    fn tail(&self) -> u64 {
        self.before + self.events.len() as u64
    }
}

/// The one reader of this process.
pub async fn read_on<S: Store>(store: Arc<S>, recent: Arc<Recent>) {
    let mut failures = 0_u32;
    loop {
        let Newest { epoch, tail, .. } = *recent.state.borrow();
        let read = async {
            store.wait(epoch, tail).await?;
            store.read(tail, PAGE).await
        };
        match read.await {
            Ok(mut page) => {
                failures = 0;
                // After a wipe the first events of the new epoch are below `tail`.
                if page.epoch != epoch {
                    match store.read(0, PAGE).await {
                        Ok(first) => page = first,
                        Err(_) => continue,
                    }
                }
                recent.take(page);
            }
            Err(error) => {
                tracing::warn!(%error, failures, "the broker does not answer");
                recent
                    .state
                    .send_if_modified(|state| std::mem::replace(&mut state.available, false));
                // Full jitter: the instances do not come back in step.
                let most = Duration::from_millis(100 << failures.min(6));
                tokio::time::sleep(rand::random_range(Duration::ZERO..=most)).await;
                failures += 1;
            }
        }
    }
}
// ANCHOR_END: recent
