//! Wake-ups by name: one connection of the process receives them for all of its logs.
//!
//! A wake-up carries nothing and is never lost: one that arrives before [`Wake::wait`] ends that wait immediately. Goes
//! with `redis_log.rs` and `postgres_log.rs`.

// ANCHOR: wakes
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

/// The names that this process waits for.
#[derive(Debug, Default)]
pub struct Wakes {
    names: Mutex<HashMap<String, Name>>,
    /// Notified when there is a new name.
    pub added: Notify,
}

#[derive(Debug)]
struct Name {
    wake: watch::Sender<()>,
    /// Whether the broker knows that this process waits for the name.
    known: bool,
}

/// Waits for one name.
#[derive(Debug)]
pub struct Wake(watch::Receiver<()>);

impl Wake {
    /// Returns after a wake-up since the last call, or after `most`.
    pub async fn wait(&mut self, most: Duration) {
        // The sender is dropped with its connection only: then this waits for `most`.
        if let Ok(Err(_)) = timeout(most, self.0.changed()).await {
            tokio::time::sleep(most).await;
        }
    }
}

impl Wakes {
    /// Waits for `name` from now on, until the [`Wake`] is dropped.
    pub fn register(&self, name: &str) -> Wake {
        let mut names = self.names();
        let known = names.entry(name.to_owned()).or_insert_with(|| Name {
            wake: watch::channel(()).0,
            known: false,
        });
        let wake = Wake(known.wake.subscribe());
        self.added.notify_one();
        wake
    }

    /// Wakes those that wait for `name`.
    pub fn wake(&self, name: &str) {
        if let Some(name) = self.names().get(name) {
            name.wake.send_replace(());
        }
    }

    /// Wakes all, such as after the connection was lost: wake-ups may be missing.
    pub fn wake_all(&self) {
        for name in self.names().values() {
            name.wake.send_replace(());
        }
    }

    /// The names that have come and that have gone since the last call.
    pub fn changes(&self) -> (Vec<String>, Vec<String>) {
        let mut names = self.names();
        let gone = names.extract_if(|_, name| name.wake.receiver_count() == 0);
        let gone = gone.map(|(name, _)| name).collect();
        let come = names.iter_mut().filter(|(_, name)| !name.known);
        let come = come.map(|(text, name)| {
            name.known = true;
            text.clone()
        });
        (come.collect(), gone)
    }

    /// All names come again: the connection is a new one.
    pub fn forget(&self) {
        self.names()
            .values_mut()
            .for_each(|name| name.known = false);
    }

    fn names(&self) -> MutexGuard<'_, HashMap<String, Name>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
// ANCHOR_END: wakes
