//! The ledger reads the order feed and books each order once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use snippets::sse::consume::{End, EventSource};
use snippets::sse::reconnect::Policy;
use snippets::sse::transports::over_reqwest;
use snippets::sse::wire::Limits;

/// What is booked, and the cursor behind it: stored together, in one transaction of the real ledger.
#[derive(Debug, Default)]
pub struct Ledger {
    pub cursor: String,
    pub orders: HashMap<String, String>,
    /// Loads of the whole state, after a gap that the feed could not close.
    pub reloads: u32,
}

/// Follows the feed until it says 204, or until waiting is useless; [`End`] says which.
pub async fn follow(url: &str, ledger: &Mutex<Ledger>) -> Result<(), End> {
    let lock = || ledger.lock().unwrap_or_else(PoisonError::into_inner);
    // No timeout of the client's own: it would bound the whole stream.
    let connect = over_reqwest(reqwest::Client::new(), url.to_owned());
    let cursor = lock().cursor.clone();
    let mut feed =
        EventSource::new(Policy::default(), Limits::default(), connect).resume_after(&cursor);
    while let Some(event) = feed.next().await? {
        let mut ledger = lock();
        match event.event_type.as_str() {
            // Sent twice, it is booked once: the id of the event is the key.
            "order" => drop(
                ledger
                    .orders
                    .insert(event.last_event_id.clone(), event.data),
            ),
            "reset" => ledger.reloads += 1,
            _ => {} // heartbeats, and events of a newer version
        }
        ledger.cursor = event.last_event_id;
    }
    Ok(())
}
