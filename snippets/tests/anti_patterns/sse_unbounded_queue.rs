//! Wrong: `unbounded_channel` per subscriber, since `send` must not wait.
//! Harm: each event is kept for a reader that has stopped reading: memory grows at the publisher's rate.
//! Instead: sse/fanout
//! Probe: fails sse-stalled-reader-memory

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::response::sse::Event as AxumEvent;
use axum::response::{Response, Sse};
use axum::routing::get;
use futures::{Stream, StreamExt};
use snippets::sse::event::{Event, InvalidEvent};
use snippets::sse::fanout;
use snippets::sse::streams::{Config, Streams};
use snippets::sse::topics::{Bounds, Topics};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::support::wrong::{Probed, Start, Wrong, respond, route, stalls};
use crate::support::{RawClient, Server, eventually};

const EVENTS: usize = 20_000;
const SIZE: usize = 1024;

/// Data that knows how much of it is held.
struct Held {
    text: String,
    held: Arc<AtomicUsize>,
}

impl Held {
    fn new(held: &Arc<AtomicUsize>) -> Self {
        held.fetch_add(SIZE, Ordering::SeqCst);
        Self {
            text: "x".repeat(SIZE),
            held: held.clone(),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.held.fetch_sub(SIZE, Ordering::SeqCst);
    }
}

type Register = mpsc::Sender<mpsc::UnboundedSender<Held>>;

async fn events(
    State(register): State<Register>,
) -> Sse<impl Stream<Item = Result<AxumEvent, Infallible>>> {
    let (sender, receiver) = mpsc::unbounded_channel();
    register.send(sender).await.unwrap();
    let events = UnboundedReceiverStream::new(receiver);
    Sse::new(events.map(|held: Held| Ok(AxumEvent::default().data(&held.text))))
}

pub(crate) const PROBED: Probed = Probed::new(Start::Process(wrong_service)).with(stalls);

/// A quarter of a megabyte in each event.
pub(crate) fn wrong_service() -> Wrong {
    let subscribers = Arc::new(Mutex::new(Vec::<
        mpsc::UnboundedSender<Result<Event, InvalidEvent>>,
    >::new()));
    let all = subscribers.clone();
    let events = async move || -> Response {
        let (sender, receiver) = mpsc::unbounded_channel();
        subscribers.lock().unwrap().push(sender);
        respond(UnboundedReceiverStream::new(receiver))
    };
    let app = Router::new().route("/events", route(events));
    Wrong::publishing(app, move |n| {
        let event = || Event::new("tick", &(n, "x".repeat(256 * 1024)));
        all.lock().unwrap().retain(|one| one.send(event()).is_ok());
    })
}

#[tokio::test]
async fn a_stalled_reader_holds_every_event() {
    let (register, mut subscribers) = mpsc::channel(1);
    let app = Router::new()
        .route("/events", get(events))
        .with_state(register);
    let server = Server::start(app).await;
    // It asks and then reads no byte. The kernel's buffers take a few megabytes.
    let client = RawClient::get(server.addr, "/events", &[]).await;
    let subscriber = subscribers.recv().await.unwrap();
    let held = Arc::new(AtomicUsize::new(0));
    for number in 0..EVENTS {
        assert!(subscriber.send(Held::new(&held)).is_ok());
        if number % 100 == 0 {
            // The server may send what the kernel takes.
            tokio::task::yield_now().await;
        }
    }
    let held = held.load(Ordering::SeqCst);
    assert!(
        held > EVENTS * SIZE / 2,
        "{held} bytes for one reader, and no end to it"
    );
    drop(client);
}

#[tokio::test]
async fn with_the_hub_it_holds_nothing_of_its_own() {
    let topics = Topics::start(fanout::feed(), Bounds::default());
    let streams = Streams::start(Config::default(), CancellationToken::new());
    let server = Server::start(fanout::app(topics.clone(), streams)).await;
    let client = RawClient::get(server.addr, "/topics/t/events", &[]).await;
    let log = topics.log("t").unwrap();
    eventually("the subscriber", || log.readers() == 1).await;
    let event = Event::text("tick", &"x".repeat(SIZE)).unwrap();
    for _ in 0..EVENTS {
        topics.publish("t", &event).unwrap();
    }
    let (_, held) = log.kept();
    assert!(
        held <= fanout::feed().bytes,
        "{held} bytes for all readers together"
    );
    drop(client);
}
