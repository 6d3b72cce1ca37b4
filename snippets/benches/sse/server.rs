//! The server under test, in a process of its own. It prints its address, then publishes what standard
//! input asks for: `<events> <microseconds between them>`.

use std::convert::Infallible;
use std::io::BufRead;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use axum::routing::get;
use futures::{Stream, StreamExt};
use serde::Serialize;
use snippets::sse::fanout::{Config, Hub};
use snippets::sse::listen::{Listener, SocketLimits, serve};
use snippets::sse::subscription;
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::{BroadcastStream, ReceiverStream};
use tokio_util::sync::CancellationToken;

pub const VARIANT: &str = "SSE_BENCH_SERVER";
pub const PATH: &str = "/topics/ticks/events";

/// An event whose JSON has 100 bytes.
#[derive(Clone, Serialize)]
struct Tick {
    sequence: u64,
    text: &'static str,
}

impl Tick {
    fn new(sequence: u64) -> Self {
        let text = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";
        Self {
            sequence: 1_000_000_000 + sequence,
            text,
        }
    }

    fn json(&self) -> String {
        serde_json::to_string(self).unwrap()
    }
}

type Publish = Box<dyn Fn(u64) + Send>;

pub fn run(variant: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (app, publish): (Router, Publish) = match variant {
            "broadcast" => broadcast_app(),
            "mpsc" => mpsc_app(),
            "fanout-joined" => hub_app(Duration::from_millis(20)),
            _ => hub_app(Duration::ZERO),
        };
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        println!("{}", listener.local_addr().unwrap());
        if variant.starts_with("fanout") {
            let listener = Listener::new(listener, SocketLimits::default());
            let age = Duration::from_secs(3600);
            tokio::spawn(serve(listener, app, age, CancellationToken::new(), age));
        } else {
            tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        }
        let (orders, mut ordered) = mpsc::channel::<String>(1);
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                let _ = orders.blocking_send(line);
            }
        });
        while let Some(order) = ordered.recv().await {
            let (events, pause) = order.split_once(' ').unwrap();
            let mut pace = tokio::time::interval(Duration::from_micros(pause.parse().unwrap()));
            let events: u64 = events.parse().unwrap();
            // On a worker, where a service's own publisher runs too.
            let publish = &publish;
            for sequence in 0..events {
                pace.tick().await;
                publish(sequence);
            }
        }
    });
}

fn hub_app(join: Duration) -> (Router, Publish) {
    let hub = Hub::start(Config {
        join,
        ..Config::default()
    });
    let publisher = hub.clone();
    let publish = move |sequence| {
        let _ = publisher.publish("ticks", "tick", &Tick::new(sequence).json());
    };
    (subscription::router(hub), Box::new(publish))
}

/// As it is written most often: the value is broadcast, each subscriber makes its own event of it, and a
/// lag is dropped without a word.
fn broadcast_app() -> (Router, Publish) {
    let (sender, _) = broadcast::channel::<Tick>(256);
    let subscribe = sender.clone();
    let handler = async |State(sender): State<broadcast::Sender<Tick>>| {
        let events = BroadcastStream::new(sender.subscribe())
            .filter_map(|tick| async { tick.ok() })
            .map(|tick| {
                Event::default()
                    .event("tick")
                    .id(tick.sequence.to_string())
                    .json_data(tick)
            });
        Sse::new(events).keep_alive(KeepAlive::default())
    };
    let app = Router::new()
        .route(PATH, get(handler))
        .with_state(subscribe);
    (
        app,
        Box::new(move |sequence| drop(sender.send(Tick::new(sequence)))),
    )
}

type Senders = Arc<Mutex<Vec<mpsc::Sender<Arc<str>>>>>;

/// Plain axum `Sse` over one bounded channel for each subscriber; the JSON is made once.
fn mpsc_app() -> (Router, Publish) {
    let senders = Senders::default();
    async fn handler(
        State(senders): State<Senders>,
    ) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
        let (sender, receiver) = mpsc::channel(256);
        senders.lock().unwrap().push(sender);
        let events = ReceiverStream::new(receiver)
            .map(|json: Arc<str>| Ok(Event::default().event("tick").id("1000000000").data(json)));
        Sse::new(events).keep_alive(KeepAlive::default())
    }
    let app = Router::new()
        .route(PATH, get(handler))
        .with_state(senders.clone());
    let publish = move |sequence| {
        let json: Arc<str> = Tick::new(sequence).json().into();
        let mut senders = senders.lock().unwrap();
        senders.retain(|sender| {
            !matches!(
                sender.try_send(json.clone()),
                Err(mpsc::error::TrySendError::Closed(_))
            )
        });
    };
    (app, Box::new(publish))
}
