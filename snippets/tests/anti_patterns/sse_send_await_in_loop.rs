//! Wrong: the publisher awaits `send` for one subscriber after the other.
//! Harm: one reader that has stopped reading stops the events of all others, and the publisher.
//! Instead: sse/fanout
//! Probe: fails sse-stalled-reader-isolated

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::response::Response;
use futures::StreamExt;
use snippets::sse::event::{Event, InvalidEvent, LastEventId};
use snippets::sse::fanout::feed;
use snippets::sse::topics::{Bounds, Topics};
use tokio::sync::mpsc;
use tokio::time::{Duration, timeout};

use tokio_stream::wrappers::ReceiverStream;

use crate::support::reader::ready;
use crate::support::wrong::{Probed, Start, Wrong, respond, route, stalls};

pub(crate) const PROBED: Probed = Probed::new(Start::Service(wrong_service)).with(stalls);

/// A quarter of a megabyte in each event.
pub(crate) fn wrong_service() -> Wrong {
    let subscribers = Arc::new(Mutex::new(Vec::<mpsc::Sender<Event>>::new()));
    let (publish, mut published) = mpsc::unbounded_channel();
    let all = subscribers.clone();
    let publisher = async move {
        while let Some(n) = published.recv().await {
            let event = Event::new("tick", &(n, "x".repeat(256 * 1024))).unwrap();
            let current = all.lock().unwrap().clone();
            for subscriber in current {
                let _ = subscriber.send(event.clone()).await;
            }
            all.lock().unwrap().retain(|one| !one.is_closed());
        }
    };
    tokio::spawn(publisher);
    let events = async move || -> Response {
        let (sender, receiver) = mpsc::channel(4);
        subscribers.lock().unwrap().push(sender);
        respond(ReceiverStream::new(receiver).map(Ok::<_, InvalidEvent>))
    };
    let app = Router::new().route("/events", route(events));
    Wrong::publishing(app, move |n: usize| publish.send(n).unwrap())
}

#[tokio::test(start_paused = true)]
async fn one_stalled_reader_stops_all() {
    let (stalled, _never_read) = mpsc::channel(4);
    let (healthy, mut events) = mpsc::channel(4);
    let publisher = async {
        for number in 0..100 {
            for subscriber in [&stalled, &healthy] {
                subscriber.send(number).await.unwrap();
            }
        }
    };
    let mut received = 0;
    let reader = async {
        while events.recv().await.is_some() {
            received += 1;
        }
    };
    let day = Duration::from_secs(24 * 3600);
    let ended = timeout(day, async { tokio::join!(publisher, reader) }).await;
    assert!(ended.is_err(), "the publisher still waits after a day");
    assert_eq!(
        received, 4,
        "the healthy reader got what the stalled one had room for"
    );
}

#[tokio::test(start_paused = true)]
async fn with_the_hub_the_others_get_everything() {
    let topics = Topics::start(feed(), Bounds::default());
    let _stalled = topics.read("topic", &LastEventId::None).unwrap();
    let mut healthy = topics.read("topic", &LastEventId::None).unwrap().unwrap();
    for number in 0..100 {
        let event = Event::new("tick", &number).unwrap();
        topics.publish("topic", &event).unwrap();
        assert_eq!(ready(&mut healthy)[0].data, number.to_string());
    }
}
