//! `sse/fanout`: what is shared, what a slow client costs others, and when topics and clients are freed.

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use snippets::connections::crowd::{self, Crowd};
use snippets::connections::listen::{self, SocketLimits};
use snippets::sse::event::{Event, Ids, LastEventId, Names};
use snippets::sse::log::{self, PublishError, Slow};
use snippets::sse::streams::{self, Streams};
use snippets::sse::topics::{Bounds, TooManyTopics, Topics};
use snippets::sse::{fanout, log_reader::Reader};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::support::raw::End;
use crate::support::reader::ready;
use crate::support::transcript::sse_filters;
use crate::support::{RawClient, Server, Transcript, eventually, stalled_get, within};

const TOPIC: &str = "prices";
const PATH: &str = "/topics/prices/events";
const HOUR: Duration = Duration::from_secs(3600);

/// Each event on its own, so that frames do not depend on the machine's speed.
fn feed() -> log::Config {
    log::Config {
        join: Duration::ZERO,
        ..fanout::feed()
    }
}

fn small(slow: Slow) -> log::Config {
    log::Config {
        queue: 3,
        events: 5,
        slow,
        ..feed()
    }
}

struct Service {
    topics: Topics,
    streams: Streams,
    stop: CancellationToken,
}

fn service(config: log::Config, bounds: Bounds) -> Service {
    let stop = CancellationToken::new();
    Service {
        topics: Topics::start(config, bounds),
        streams: Streams::start(streams::Config::default(), stop.clone()),
        stop,
    }
}

impl Service {
    fn app(&self) -> axum::Router {
        fanout::app(self.topics.clone(), self.streams.clone())
    }

    async fn listen(&self, sockets: SocketLimits) -> Server {
        let config = listen::Config {
            sockets,
            ..listen::Config::default()
        };
        Server::with(self.app(), config).await
    }

    fn publish(&self, numbers: impl IntoIterator<Item = u32>) {
        for number in numbers {
            self.send(&number.to_string());
        }
    }

    fn send(&self, text: &str) {
        let event = Event::text("tick", text).unwrap();
        self.topics.publish(TOPIC, &event).unwrap();
    }

    /// Readers of the topic.
    fn readers(&self) -> usize {
        self.topics.log(TOPIC).unwrap().readers()
    }

    /// The response to a client that sends `cursor`, after its first bytes.
    async fn joined(&self, cursor: LastEventId) -> (String, Body) {
        let reader = self.topics.read(TOPIC, &cursor).unwrap().unwrap();
        let slot = self.streams.admit().unwrap();
        let mut body = slot.respond(reader).into_body();
        let first = text(&mut body).await.unwrap();
        (first, body)
    }
}

/// The next frame, `None` at the end of the response.
async fn text(body: &mut Body) -> Option<String> {
    let frame = within("a frame", body.frame()).await?;
    let bytes = frame.unwrap().into_data().unwrap();
    Some(String::from_utf8(bytes.to_vec()).unwrap())
}

/// The data of the events in a frame, with `reset` for one.
fn data(frame: &str) -> Vec<String> {
    frame
        .split("\n\n")
        .filter_map(|block| {
            let data = block.lines().find_map(|line| line.strip_prefix("data: "))?;
            let reset = block.contains("event: reset");
            Some(if reset { "reset" } else { data }.to_owned())
        })
        .collect()
}

fn last_id(text: &str) -> String {
    let id = text.lines().rev().find_map(|l| l.strip_prefix("id: "));
    id.unwrap().to_owned()
}

#[tokio::test]
async fn an_event_is_encoded_once_for_all() {
    let service = service(feed(), Bounds::default());
    let (_, mut one) = service.joined(LastEventId::None).await;
    let (_, mut two) = service.joined(LastEventId::None).await;
    service.publish([1]);
    let bytes = async |body: &mut Body| body.frame().await.unwrap().unwrap().into_data().unwrap();
    let (first, second) = (bytes(&mut one).await, bytes(&mut two).await);
    assert!(first.ends_with(b"event: tick\ndata: 1\n\n"));
    assert_eq!(
        first.as_ptr(),
        second.as_ptr(),
        "the same bytes, not equal ones"
    );
}

#[tokio::test]
async fn slow_consumers_are_disconnected_and_miss_nothing_when_they_come_back() {
    let service = service(small(Slow::End), Bounds::default());
    let (_, mut slow) = service.joined(LastEventId::None).await;
    service.publish([1]);
    let id = last_id(&text(&mut slow).await.unwrap());
    service.publish(2..=5);
    assert_eq!(text(&mut slow).await, None, "four waiting, three allowed");

    let (first, mut back) = service.joined(LastEventId::Id(id.clone())).await;
    assert!(first.starts_with(&format!("id: {id}\n")), "{first}");
    // What it replays does not count as its queue.
    assert_eq!(data(&text(&mut back).await.unwrap()), ["2", "3", "4", "5"]);
}

#[tokio::test]
async fn slow_consumers_lose_the_oldest_and_are_told() {
    let service = service(small(Slow::Reset), Bounds::default());
    let (_, mut slow) = service.joined(LastEventId::None).await;
    service.publish(1..=3);
    assert_eq!(data(&text(&mut slow).await.unwrap()), ["1", "2", "3"]);
    service.publish(4..=20);
    let reset = text(&mut slow).await.unwrap();
    assert!(reset.contains(r#"{"reason":"trimmed"}"#), "{reset}");
    assert_eq!(data(&text(&mut slow).await.unwrap()), ["20"]);
}

#[tokio::test]
async fn slow_consumers_get_the_latest_only() {
    let service = service(small(Slow::Newest), Bounds::default());
    let (_, mut slow) = service.joined(LastEventId::None).await;
    service.publish(1..=20);
    assert_eq!(data(&text(&mut slow).await.unwrap()), ["20"]);
    service.publish([21]);
    assert_eq!(data(&text(&mut slow).await.unwrap()), ["21"]);
    // Each event is the whole state: a client that connects now gets it.
    let (_, mut late) = service.joined(LastEventId::None).await;
    assert_eq!(data(&text(&mut late).await.unwrap()), ["21"]);
}

#[tokio::test]
async fn a_cursor_that_cannot_be_continued_is_a_reset() {
    let service = service(small(Slow::End), Bounds::default());
    let (_, mut one) = service.joined(LastEventId::None).await;
    service.publish(1..=3);
    let third = last_id(&text(&mut one).await.unwrap());
    service.publish(4..=9);
    let epoch = third.split_once('-').unwrap().0.to_owned();
    // Trimmed, from another lifetime of the topic, not yet given out, not ours.
    let other = format!("{:x}-9", !u64::from_str_radix(&epoch, 16).unwrap());
    let ids = [
        third,
        other,
        format!("{epoch}-10"),
        format!("{epoch}-x"),
        "9".to_owned(),
    ];
    let cursors = ids.map(LastEventId::Id).into_iter();
    for cursor in cursors.chain([LastEventId::Unusable]) {
        let (first, mut back) = service.joined(cursor.clone()).await;
        assert!(
            !first.contains("id: "),
            "no cursor before the reset: {first}"
        );
        assert_eq!(
            data(&text(&mut back).await.unwrap()),
            ["reset"],
            "{cursor:?}"
        );
    }
    // The newest, and the one before the oldest that is kept (5..=9).
    let (_, mut back) = service.joined(LastEventId::Id(format!("{epoch}-4"))).await;
    let all = data(&text(&mut back).await.unwrap());
    assert_eq!(all, ["5", "6", "7", "8", "9"]);
    let (_, mut back) = service.joined(LastEventId::Id(format!("{epoch}-9"))).await;
    service.publish([10]);
    assert_eq!(data(&text(&mut back).await.unwrap()), ["10"]);
}

#[tokio::test(start_paused = true)]
async fn a_quiet_topic_is_kept_alive_and_an_old_response_ends() {
    let topics = Topics::start(feed(), Bounds::default());
    let config = streams::Config {
        max_age: Duration::from_secs(40),
        ..streams::Config::default()
    };
    let streams = Streams::start(config, CancellationToken::new());
    let reader = topics.read(TOPIC, &LastEventId::None).unwrap().unwrap();
    let mut body = streams.admit().unwrap().respond(reader).into_body();
    text(&mut body).await.unwrap();
    let ping = "event: ping\ndata: {}\n\n";
    assert_eq!(text(&mut body).await.unwrap(), ping);
    let event = Event::text("tick", "1").unwrap();
    topics.publish(TOPIC, &event).unwrap();
    assert_eq!(data(&text(&mut body).await.unwrap()), ["1"]);
    while let Some(frame) = text(&mut body).await {
        assert_eq!(frame, ping);
    }
}

#[tokio::test(start_paused = true)]
async fn a_topic_is_freed_when_nobody_has_it() {
    let bounds = Bounds {
        linger: Duration::from_secs(60),
        ..Bounds::default()
    };
    let service = service(feed(), bounds);
    service.publish([1]);
    assert_eq!(service.topics.count(), 0, "publishing makes no topic");
    drop(service.joined(LastEventId::None).await);
    assert_eq!(service.topics.count(), 1);
    sleep(Duration::from_secs(45)).await;
    let (_, open) = service.joined(LastEventId::None).await;
    sleep(2 * HOUR).await;
    assert_eq!(service.topics.count(), 1, "it has a reader");
    drop(open);
    sleep(Duration::from_secs(45)).await;
    assert_eq!(
        service.topics.count(),
        1,
        "it is kept for a client that reconnects"
    );
    sleep(Duration::from_secs(50)).await;
    assert_eq!(service.topics.count(), 0, "freed");
}

/// Numbers that began again would give a client that reconnects the wrong events, or none.
#[tokio::test(start_paused = true)]
async fn plain_numbers_do_not_begin_again_in_a_quiet_topic() {
    let config = log::Config {
        ids: Ids::Sequence,
        ..feed()
    };
    let service = service(config, Bounds::default());
    let (_, open) = service.joined(LastEventId::None).await;
    service.publish(1..=3);
    drop(open);
    sleep(2 * HOUR).await;
    let log = service.topics.log(TOPIC).unwrap();
    let cursor = service
        .topics
        .publish(TOPIC, &Event::text("tick", "4").unwrap());
    assert_eq!(cursor.unwrap().unwrap().seq, 4);
    drop(log);
    let (first, mut body) = service.joined(LastEventId::Id("3".into())).await;
    assert!(first.starts_with("id: 3\n"), "{first}");
    assert_eq!(data(&text(&mut body).await.unwrap()), ["4"]);
}

/// Published a moment before the shutdown, perhaps in this process alone.
#[tokio::test(start_paused = true)]
async fn what_was_published_goes_before_the_last_event() {
    let stop = CancellationToken::new();
    let config = streams::Config {
        drain_spread: Duration::ZERO,
        ..streams::Config::default()
    };
    let service = Service {
        topics: Topics::start(feed(), Bounds::default()),
        streams: Streams::start(config, stop.clone()),
        stop,
    };
    let (_, mut old) = service.joined(LastEventId::None).await;
    // The shutdown reaches this one before its first bytes were asked for.
    let reader = service
        .topics
        .read(TOPIC, &LastEventId::None)
        .unwrap()
        .unwrap();
    let mut new = service.streams.admit().unwrap().respond(reader).into_body();
    service.publish([1]);
    service.stop.cancel();
    sleep(Duration::from_secs(1)).await;
    let last = text(&mut old).await.unwrap();
    assert_eq!(data(&last), ["1", "{}"]);
    assert!(last.ends_with("event: restart\ndata: {}\n\n"), "{last}");
    assert_eq!(text(&mut old).await, None);
    assert!(text(&mut new).await.unwrap().contains("retry: "));
    assert!(
        text(&mut new)
            .await
            .unwrap()
            .ends_with("event: restart\ndata: {}\n\n")
    );
    assert_eq!(text(&mut new).await, None);
}

#[tokio::test]
async fn no_publisher_has_the_names_of_the_stream() {
    let config = log::Config {
        names: Names {
            reset: "resync",
            ..Names::DEFAULT
        },
        ..feed()
    };
    let log = log::Log::new(config);
    for name in ["resync", "restart", "ping"] {
        let event = Event::unreserved(name, &()).unwrap();
        assert!(
            matches!(log.publish(&event), Err(PublishError::Invalid(_))),
            "{name}"
        );
    }
    log.publish(&Event::unreserved("reset", &()).unwrap())
        .unwrap();
}

/// Wakes nobody, and does not return, until the test says so.
struct Stuck {
    entered: std::sync::mpsc::Sender<()>,
    leave: std::sync::Mutex<std::sync::mpsc::Receiver<()>>,
}

impl std::task::Wake for Stuck {
    fn wake(self: std::sync::Arc<Self>) {
        let _ = self.entered.send(());
        let _ = self.leave.lock().unwrap().recv();
    }
}

/// However many clients a heartbeat has to wake.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishing_does_not_wait_for_a_heartbeat() {
    let rules = crowd::Rules {
        max: 10,
        heartbeat: Duration::from_millis(20),
        drain_spread: Duration::ZERO,
    };
    let crowd = Crowd::start(rules, CancellationToken::new());
    let (enter, entered) = std::sync::mpsc::channel();
    let (leave, left) = std::sync::mpsc::channel();
    let stuck = std::task::Waker::from(std::sync::Arc::new(Stuck {
        entered: enter,
        leave: left.into(),
    }));
    let mut other = crowd.enter().unwrap();
    other.poll(&std::task::Context::from_waker(&stuck));
    entered.recv().unwrap();
    // The heartbeat is in the middle of its clients now, and stays there.
    let topics = Topics::start(feed(), Bounds::default());
    let log = topics.log("small").unwrap();
    let mut reader = log.read(&LastEventId::None).unwrap();
    log.publish(&Event::text("tick", "1").unwrap()).unwrap();
    assert_eq!(ready(&mut reader).len(), 1);
    assert!(crowd.enter().is_some(), "nor does a new client wait");
    drop(leave);
}

#[tokio::test(start_paused = true)]
async fn names_that_nobody_publishes_to_are_freed_before_the_others() {
    let bounds = Bounds {
        linger: 24 * HOUR,
        linger_empty: Duration::from_secs(60),
        ..Bounds::default()
    };
    let topics = Topics::start(feed(), bounds);
    let event = Event::text("tick", "1").unwrap();
    topics.log("kept").unwrap().publish(&event).unwrap();
    drop(topics.log("asked for"));
    assert_eq!(topics.count(), 2);
    sleep(HOUR).await;
    assert_eq!(topics.count(), 1);
    assert!(topics.log("kept").unwrap().has_begun());
    sleep(30 * HOUR).await;
    assert_eq!(topics.count(), 0);
}

#[tokio::test]
async fn topics_are_bounded_in_number_and_bytes() {
    let bounds = Bounds {
        max_topics: 3,
        ..Bounds::default()
    };
    let service = service(feed(), bounds);
    let ask = async |method: &str, topic: usize| {
        let request = Request::builder().method(method);
        let request = request.uri(format!("/topics/{topic}/events"));
        let response = service.app().oneshot(request.body(Body::empty()).unwrap());
        response.await.unwrap()
    };
    for topic in 0..10 {
        assert_eq!(ask("HEAD", topic).await.status(), 200);
    }
    assert_eq!(service.topics.count(), 0, "HEAD makes no topic");
    let mut open = Vec::new();
    for topic in 0..3 {
        open.push(ask("GET", topic).await);
    }
    let refused = ask("GET", 3).await;
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(ask("GET", 0).await.status(), 200, "that topic exists");
    assert!(matches!(service.topics.log("3"), Err(TooManyTopics)));
    let log = service.topics.log("0").unwrap();
    let event = Event::text("tick", &"x".repeat(20_000)).unwrap();
    for _ in 0..100 {
        log.publish(&event).unwrap();
    }
    let (_, bytes) = log.kept();
    assert!(bytes <= feed().bytes, "{bytes}");
}

#[tokio::test]
async fn after_the_shutdown_nothing_is_opened() {
    let service = service(feed(), Bounds::default());
    service.stop.cancel();
    let request = Request::get("/topics/new/events")
        .body(Body::empty())
        .unwrap();
    assert_eq!(service.app().oneshot(request).await.unwrap().status(), 503);
    assert_eq!(service.topics.count(), 0);
}

async fn reader(addr: std::net::SocketAddr) -> RawClient {
    let mut reader = RawClient::get(addr, PATH, &[]).await;
    reader.read_until("retry: ").await;
    reader
}

/// Publishes until `done`; a client that reads gets everything, whatever the stalled one does.
async fn publish_until(service: &Service, reader: &mut RawClient, done: impl Fn() -> bool) {
    let filler = "x".repeat(16 * 1024);
    let mut number = 0;
    within("the stalled client is freed", async {
        while !done() {
            number += 1;
            service.send(&format!("{number} {filler}"));
            reader.received.clear();
            while !String::from_utf8_lossy(&reader.received).contains(&format!("data: {number} ")) {
                assert!(reader.read_some().await, "the reader was cut too");
            }
        }
    })
    .await;
}

/// The stalled client is held by its socket alone: its queue is as long as the log.
fn patient() -> log::Config {
    log::Config {
        queue: usize::MAX,
        slow: Slow::Reset,
        ..feed()
    }
}

#[tokio::test]
async fn a_stalled_reader_is_ended_by_the_send_deadline_and_delays_nobody() {
    let service = service(patient(), Bounds::default());
    let limits = SocketLimits {
        // So long that the reader is not cut when the machine is busy.
        send: Duration::from_secs(3),
        unacknowledged: HOUR,
        ..SocketLimits::default()
    };
    let server = service.listen(limits).await;
    let _stalled = stalled_get(server.addr, PATH).await;
    eventually("one subscriber", || service.readers() == 1).await;
    let mut reader = reader(server.addr).await;
    assert_eq!(service.readers(), 2);
    publish_until(&service, &mut reader, || service.readers() == 1).await;
    eventually("its permit too", || service.streams.open() == 1).await;
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn tcp_user_timeout_ends_a_reader_whose_window_stays_closed() {
    let service = service(patient(), Bounds::default());
    let limits = SocketLimits {
        send: HOUR,
        unacknowledged: Duration::from_secs(3),
        ..SocketLimits::default()
    };
    let server = service.listen(limits).await;
    let _stalled = stalled_get(server.addr, PATH).await;
    eventually("one subscriber", || service.readers() == 1).await;
    let mut reader = reader(server.addr).await;
    publish_until(&service, &mut reader, || service.readers() == 1).await;
}

#[tokio::test]
async fn fin_and_rst_free_a_subscriber_of_a_quiet_topic() {
    for plain in [false, true] {
        let service = service(feed(), Bounds::default());
        let server = match plain {
            true => Server::plain(service.app()).await,
            false => Server::start(service.app()).await,
        };
        let fin = reader(server.addr).await;
        let rst = reader(server.addr).await;
        assert_eq!(service.readers(), 2);
        drop(fin);
        eventually("freed by FIN", || service.readers() == 1).await;
        rst.socket.set_zero_linger().unwrap();
        drop(rst);
        eventually("freed by RST", || service.readers() == 0).await;
        eventually("and the permits", || service.streams.open() == 0).await;
    }
}

/// Every pattern works under plain `axum::serve`; the other tests run under `connections::listen`.
#[tokio::test]
async fn a_topic_under_plain_axum() {
    let service = service(feed(), Bounds::default());
    let server = Server::plain(service.app()).await;
    let mut client = reader(server.addr).await;
    service.publish([1]);
    client.read_until("data: 1\n\n").await;
    service.stop.cancel();
    assert_eq!(client.read_to_end().await, End::Complete);
    assert!(client.body().ends_with("event: restart\ndata: {}\n\n"));
}

/// A reader on a thread of its own for each of eight, and a publisher: nothing is missed, nothing is repeated.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_event_reaches_each_reader_once() {
    let config = log::Config {
        queue: usize::MAX,
        ..log::Config::complete(5_000, 1 << 20)
    };
    let topics = Topics::start(config, Bounds::default());
    let read = |mut reader: Reader| async move {
        let mut seen = 0;
        while let Some(chunk) = std::future::poll_fn(|cx| {
            use snippets::sse::streams::Source;
            reader.poll(cx)
        })
        .await
        {
            let text = std::str::from_utf8(&chunk.bytes).unwrap();
            for line in text.lines().filter_map(|l| l.strip_prefix("data: ")) {
                assert_eq!(line.parse::<u32>().unwrap(), seen);
                seen += 1;
            }
        }
        seen
    };
    let readers: Vec<_> = (0..8)
        .map(|_| topics.read(TOPIC, &LastEventId::None).unwrap().unwrap())
        .map(|reader| tokio::spawn(read(reader)))
        .collect();
    for n in 0..3_000_u32 {
        let event = Event::text("tick", &n.to_string()).unwrap();
        let event = if n == 2_999 { event.last() } else { event };
        topics.publish(TOPIC, &event).unwrap();
        if n % 7 == 0 {
            tokio::task::yield_now().await;
        }
    }
    for reader in readers {
        assert_eq!(within("a reader", reader).await.unwrap(), 3_000);
    }
}

#[tokio::test]
async fn transcript() {
    let service = service(small(Slow::End), Bounds::default());
    let server = Server::start(service.app()).await;
    let mut transcript = Transcript::new();
    let request = |cursor: &str| format!("GET {PATH} HTTP/1.1\nhost: localhost\n{cursor}");

    let mut client = RawClient::get(server.addr, PATH, &[]).await;
    client.read_until("retry: ").await;
    service.publish([101]);
    client.read_until("data: 101\n\n").await;
    let id = last_id(&client.body());
    transcript.request(&request("")).response(&client);
    drop(client);

    transcript.note("the client has disconnected; two events are published; it reconnects");
    service.publish([102, 103]);
    let header = format!("last-event-id: {id}");
    let mut client = RawClient::get(server.addr, PATH, &[&header]).await;
    client.read_until("data: 103\n\n").await;
    transcript.request(&request(&header)).response(&client);
    drop(client);

    transcript.note(
        "the client has disconnected again; more events are published than the topic keeps (5)",
    );
    service.publish(104..=110);
    let mut client = RawClient::get(server.addr, PATH, &[&header]).await;
    client.read_until("event: reset").await;
    client.read_until("\"}\n\n").await;
    transcript.request(&request(&header)).response(&client);

    insta::with_settings!({filters => sse_filters()}, {
        insta::assert_snapshot!("sse_fanout", transcript.finish());
    });
}
