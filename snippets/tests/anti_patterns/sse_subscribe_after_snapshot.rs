//! Wrong: code that reads what is stored, then subscribes to what is new.
//! Harm: an event published between the two is in neither, and nobody notices.
//! Instead: sse/resume
//! Probe: fails sse-resume-no-gap

use std::sync::Mutex;

use axum::Router;
use axum::response::Response;
use futures::{StreamExt, stream};
use snippets::sse::event::{Event, LastEventId};
use snippets::sse::log::{Config, Log};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

use crate::support::reader::ready;
use crate::support::wrong::{Feed as Numbers, Probed, Start, Wrong, resumes, route, send};

struct Feed {
    stored: Mutex<Vec<u32>>,
    live: broadcast::Sender<u32>,
}

impl Feed {
    fn publish(&self, n: u32) {
        self.stored.lock().unwrap().push(n);
        let _ = self.live.send(n);
    }

    // ANCHOR: wrong
    fn wrong(&self, between: impl FnOnce()) -> Vec<u32> {
        let mut seen = self.stored.lock().unwrap().clone();
        between();
        let mut live = self.live.subscribe();
        self.publish(3);
        while let Ok(n) = live.try_recv() {
            seen.push(n);
        }
        seen
    }
    // ANCHOR_END: wrong
}

pub(crate) const PROBED: Probed = Probed::new(Start::Service(wrong_service)).with(resumes);

/// To a client that returns, the store answers when something has been published since.
pub(crate) fn wrong_service() -> Wrong {
    let feed = Numbers::new("", 0);
    let followed = feed.clone();
    let events = async move |cursor: LastEventId| -> Response {
        let (reset, from) = followed.begin(&cursor);
        let mut length = followed.length.subscribe();
        let stored = from + 1..=*length.borrow_and_update();
        let feed = followed.clone();
        let first_visit = (cursor == LastEventId::None).then(|| feed.live.subscribe());
        let live = stream::once(async move {
            let live = match first_visit {
                Some(live) => live,
                None => {
                    let _ = length.changed().await;
                    feed.live.subscribe()
                }
            };
            BroadcastStream::new(live)
        });
        let live = live.flatten();
        let numbers = stream::iter(stored.map(Ok)).chain(live);
        let feed = followed.clone();
        let events = numbers.map(move |number| feed.event(number.unwrap()));
        send(stream::iter(reset).chain(events))
    };
    let app = Router::new().route("/events", route(events));
    Wrong::publishing(app, move |n| feed.publish(n))
}

// ANCHOR: harm
#[test]
fn the_event_in_between_is_lost() {
    let feed = Feed {
        stored: Mutex::new(vec![1]),
        live: broadcast::channel(8).0,
    };
    assert_eq!(feed.wrong(|| feed.publish(2)), [1, 3]);
}
// ANCHOR_END: harm

#[test]
fn a_position_in_the_log_has_no_in_between() {
    let log = Log::new(Config::complete(8, 1024));
    let publish = |n: u32| log.publish(&Event::new("n", &n).unwrap()).unwrap();
    publish(1);
    let mut reader = log.read(&LastEventId::None).unwrap();
    publish(2);
    let mut seen = Vec::new();
    for n in [3, 4] {
        publish(n);
        seen.extend(ready(&mut reader).into_iter().map(|block| block.data));
    }
    assert_eq!(seen, ["1", "2", "3", "4"]);
}
