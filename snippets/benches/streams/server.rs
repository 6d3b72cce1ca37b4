//! The server under test, in a process of its own. It prints its address, then publishes as many events as each line on
//! its standard input says.

use std::convert::Infallible;
use std::io::{BufRead, Read, Write};
use std::net::TcpListener as StdListener;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::response::Sse;
use axum::response::sse::{Event as AxumEvent, KeepAlive};
use axum::routing::get;
use futures::{Stream, StreamExt};
use snippets::connections::listen;
use snippets::sse::event::Event;
use snippets::sse::log::{Config, Log};
use snippets::sse::streams::{self, Streams};
use snippets::sse::topics::{Bounds, Topics};
use snippets::sse::{fanout, resume};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

pub const VARIANT: &str = "STREAMS_BENCH_SERVER";

pub fn path(variant: &str) -> &'static str {
    match variant.starts_with("fanout") {
        true => "/topics/ticks/events",
        false => "/events",
    }
}

/// 100 bytes of data; one `~`, by which a client counts events.
pub fn data() -> String {
    format!("\"~{}\"", "x".repeat(97))
}

type Publish = Box<dyn FnMut() + Send>;

pub fn run(variant: &str) {
    if variant == "floor" {
        return floor();
    }
    if variant == crate::scale::VARIANT {
        return crate::scale::serve();
    }
    serve(variant.ends_with("axum"), || {
        let (app, mut publish) = app(variant);
        let order = move |events: String| {
            let events: usize = events.parse().unwrap();
            (0..events).for_each(|_| publish());
        };
        (app, order)
    });
}

/// Serves what `make` returns on a runtime with one worker, and prints the address. Each line of the standard input is an order, carried
/// out on the worker, as the publisher of a service works.
pub fn serve<O: FnMut(String) + Send + 'static>(plain: bool, make: impl FnOnce() -> (Router, O)) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (app, mut order) = make();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        println!("{}", listener.local_addr().unwrap());
        if plain {
            tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        } else {
            let stop = CancellationToken::new();
            tokio::spawn(listen::serve(
                listener,
                app,
                listen::Config::default(),
                stop,
            ));
        }
        let (orders, mut ordered) = mpsc::channel::<String>(16);
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                let _ = orders.blocking_send(line);
            }
        });
        let publisher = tokio::spawn(async move {
            while let Some(line) = ordered.recv().await {
                order(line);
            }
        });
        publisher.await.unwrap();
    });
}

fn app(variant: &str) -> (Router, Publish) {
    let streams = Streams::start(streams::Config::default(), CancellationToken::new());
    let event = Event::text("tick", &data()).unwrap();
    let log = |config| {
        let (log, event) = (Log::new(config), event.clone());
        let publisher = log.clone();
        let publish = move || drop(publisher.publish(&event).unwrap().seq.to_string());
        (
            resume::app(log, streams.clone()),
            Box::new(publish) as Publish,
        )
    };
    match variant {
        "sse-axum" => axum_sse(),
        "resume" | "resume-axum" => log(Config::complete(1024, 1 << 20)),
        // As `sse/jobs` has it, one log for all.
        "state" => log(Config::state(4096)),
        "fanout" | "fanout-joined" => {
            let join = match variant {
                "fanout" => std::time::Duration::ZERO,
                _ => fanout::feed().join,
            };
            let config = Config {
                join,
                ..fanout::feed()
            };
            let topics = Topics::start(config, Bounds::default());
            let app = fanout::app(topics.clone(), streams);
            let event = event.clone();
            let publish = move || {
                topics.publish("ticks", &event).unwrap();
            };
            (app, Box::new(publish))
        }
        _ => panic!("{variant}"),
    }
}

type Senders = Arc<Mutex<Vec<mpsc::Sender<Arc<str>>>>>;

/// Plain axum `Sse` over one bounded channel per subscriber.
fn axum_sse() -> (Router, Publish) {
    let senders = Senders::default();
    async fn handler(
        State(senders): State<Senders>,
    ) -> Sse<impl Stream<Item = Result<AxumEvent, Infallible>>> {
        let (sender, receiver) = mpsc::channel(256);
        senders.lock().unwrap().push(sender);
        let events = ReceiverStream::new(receiver).map(|json: Arc<str>| {
            Ok(AxumEvent::default()
                .event("tick")
                .id("1000000000")
                .data(json))
        });
        Sse::new(events).keep_alive(KeepAlive::default())
    }
    let app = Router::new()
        .route("/events", get(handler))
        .with_state(senders.clone());
    let data: Arc<str> = data().into();
    let publish = move || {
        let mut senders = senders.lock().unwrap();
        senders.retain(|sender| {
            !matches!(
                sender.try_send(data.clone()),
                Err(mpsc::error::TrySendError::Closed(_))
            )
        });
    };
    (app, Box::new(publish))
}

/// What the kernel costs: one write per subscriber and event, in one thread, and nothing else.
fn floor() {
    let listener = StdListener::bind(("127.0.0.1", 0)).unwrap();
    println!("{}", listener.local_addr().unwrap());
    let sockets = Arc::new(Mutex::new(Vec::new()));
    let accepted = sockets.clone();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            socket.set_nodelay(true).unwrap();
            let _ = socket.read(&mut [0; 4096]).unwrap();
            socket
                .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                .unwrap();
            accepted.lock().unwrap().push(socket);
        }
    });
    let block = format!(
        "id: 0123456789abcdef-1000\nevent: tick\ndata: {}\n\n",
        data()
    );
    let chunk = format!("{:x}\r\n{block}\r\n", block.len());
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        for _ in 0..line.parse::<usize>().unwrap() {
            for socket in sockets.lock().unwrap().iter_mut() {
                socket.write_all(chunk.as_bytes()).unwrap();
            }
        }
    }
}
