//! Wrong: `BroadcastStream::new(rx).filter_map(|item| async { item.ok() })`.
//! Harm: `item.ok()` throws away the error `Lagged`: a slow client misses events and neither side knows.
//! Instead: sse/resume
//! Probe: fails sse-lag-is-told

use axum::Router;
use axum::response::Response;
use futures::{StreamExt, stream};
use snippets::sse::event::{Event, LastEventId};
use snippets::sse::log::{Config, Log};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

use crate::support::reader::ready;
use crate::support::wrong::{Feed, Probed, Start, Wrong, route, send, stalls};

pub(crate) const PROBED: Probed = Probed::new(Start::Service(wrong_service)).with(stalls);

/// Resumes as it should, and follows the live events with the wrong line.
pub(crate) fn wrong_service() -> Wrong {
    let feed = Feed::new("", 256 * 1024);
    let followed = feed.clone();
    let events = async move |cursor: LastEventId| -> Response {
        let subscriber = followed.live.subscribe();
        let (reset, from) = followed.begin(&cursor);
        let until = *followed.length.borrow();
        let live = BroadcastStream::new(subscriber).filter_map(|item| async { item.ok() });
        let live = live.filter(move |number| std::future::ready(*number > until));
        let feed = followed.clone();
        let numbers = stream::iter(from + 1..=until).chain(live);
        let events = numbers.map(move |number| feed.event(number));
        send(stream::iter(reset).chain(events))
    };
    let app = Router::new().route("/events", route(events));
    Wrong::publishing(app, move |n| feed.publish(n))
}

#[tokio::test]
async fn six_events_vanish() {
    let (publisher, subscriber) = broadcast::channel(4);
    (0..10).for_each(|n| drop(publisher.send(n)));
    drop(publisher);
    let stream = BroadcastStream::new(subscriber).filter_map(|item| async { item.ok() });
    assert_eq!(stream.collect::<Vec<u32>>().await, [6, 7, 8, 9]);
}

#[tokio::test]
async fn the_log_says_so() {
    let log = Log::new(Config::complete(4, 1024));
    let mut slow = log.read(&LastEventId::None).unwrap();
    for n in 0..10 {
        log.publish(&Event::new("n", &n).unwrap()).unwrap();
    }
    let seen: Vec<_> = ready(&mut slow).into_iter().map(|b| b.data).collect();
    assert_eq!(seen, ["{\"reason\":\"trimmed\"}", "8", "9"]);
}
