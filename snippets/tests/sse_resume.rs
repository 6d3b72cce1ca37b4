use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use futures::{FutureExt, Stream, StreamExt};
use proptest::prelude::*;
use serde_json::json;
use snippets::sse::message::{InvalidMessage, LastEventId, Message};
use snippets::sse::resume::{self, Log, PublishError};
use snippets::sse::serve::{Config, Streams};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::support::raw::End;
use crate::support::{RawClient, Server, Transcript, within};

fn streams() -> Streams {
    let config = Config {
        retry_min: Duration::from_millis(2000),
        retry_spread: Duration::ZERO,
        ..Config::default()
    };
    Streams::new(config, CancellationToken::new())
}

fn event(n: u64) -> Message {
    Message::new("tick", &json!({ "n": n })).unwrap()
}

fn log(max_events: usize) -> Arc<Log> {
    Arc::new(Log::new(1, max_events, 1 << 20))
}

fn cursor(id: &str) -> LastEventId {
    LastEventId::Id(id.into())
}

type Subscription = Pin<Box<dyn Stream<Item = Result<Message, InvalidMessage>> + Send>>;

fn subscribe(log: &Arc<Log>, cursor: &LastEventId) -> Option<Subscription> {
    Some(Box::pin(log.clone().subscribe(cursor)?))
}

/// What is there without waiting, as `name id data`.
fn ready(subscription: &mut Subscription) -> Vec<String> {
    let mut seen = Vec::new();
    while let Some(Some(message)) = subscription.next().now_or_never() {
        let message = message.unwrap();
        let id = message.id().unwrap().trim_start_matches('0');
        seen.push(format!("{} {id} {}", message.name(), message.data()));
    }
    seen
}

#[tokio::test]
async fn transcript() {
    let log = log(3);
    let server = Server::start(resume::app(log.clone(), streams())).await;
    let mut transcript = Transcript::new();
    let get = |header: &'static str| {
        let headers: Vec<&str> = Some(header).filter(|h| !h.is_empty()).into_iter().collect();
        async move { RawClient::get(server.addr, "/events", &headers).await }
    };
    let request = |header: &str| format!("GET /events HTTP/1.1\nhost: localhost\n{header}");

    log.publish(event(1)).unwrap();
    let mut client = get("").await;
    client.read_until("\"n\":1}\n\n").await;
    log.publish(event(2)).unwrap();
    client.read_until("\"n\":2}\n\n").await;
    transcript.request(&request("")).response(&client);
    drop(client);

    transcript.note("cut; two events are published; the client comes back");
    log.publish(event(3)).unwrap();
    log.publish(event(4)).unwrap();
    let mut client = get("last-event-id: 0000000000000001-2").await;
    client.read_until("\"n\":4}\n\n").await;
    transcript.request(&request("last-event-id: 0000000000000001-2"));
    transcript.response(&client);
    drop(client);

    transcript.note("cut; more are published than the log keeps (3); the client comes back");
    for n in 5..=9 {
        log.publish(event(n)).unwrap();
    }
    let mut client = get("last-event-id: 0000000000000001-4").await;
    client.read_until("\"n\":9}\n\n").await;
    transcript.request(&request("last-event-id: 0000000000000001-4"));
    transcript.response(&client);

    transcript.note("the last event, and a client that has it and asks again");
    let last = Message::new("done", &json!({})).unwrap().last();
    log.publish(last).unwrap();
    assert_eq!(client.read_to_end().await, End::Complete);
    let mut client = get("last-event-id: 0000000000000001-10").await;
    client.read_head().await;
    assert_eq!(client.status(), 204);
    transcript.request(&request("last-event-id: 0000000000000001-10"));
    transcript.response(&client);
    let text = transcript.finish();
    insta::assert_snapshot!(
        "sse_resume",
        text.trim_end_matches("[the response stays open]")
            .trim_end()
    );
}

#[test]
fn each_cursor_that_cannot_be_continued_is_an_explicit_reset() {
    let log = log(3);
    for n in 1..=5 {
        log.publish(event(n)).unwrap();
    }
    let kept = [
        "tick 1-3 {\"n\":3}",
        "tick 1-4 {\"n\":4}",
        "tick 1-5 {\"n\":5}",
    ];
    let id = |sequence: &str| cursor(&format!("0000000000000001-{sequence}"));
    for (cursor, reason) in [
        // Older than the log, also for a client that has seen nothing.
        (id("1"), "trimmed"),
        (id("0"), "trimmed"),
        (LastEventId::None, "trimmed"),
        (cursor("0000000000000002-4"), "epoch"),
        (cursor("1-4"), "epoch"),
        (id("6"), "ahead"),
        (id("18446744073709551615"), "ahead"),
        (id("18446744073709551616"), "invalid"),
        (id("-1"), "invalid"),
        (id(""), "invalid"),
        (id("4x"), "invalid"),
        (cursor("+4"), "invalid"),
        (cursor("garbage"), "invalid"),
        (LastEventId::Unusable, "invalid"),
    ] {
        let seen = ready(&mut subscribe(&log, &cursor).unwrap());
        assert_eq!(
            seen[0],
            format!("reset 1-2 {{\"reason\":\"{reason}\"}}"),
            "{cursor:?}"
        );
        assert_eq!(seen[1..], kept, "{cursor:?}");
    }
    // These can be continued. "2" is the oldest: the next event, 3, is still there.
    assert_eq!(ready(&mut subscribe(&log, &id("2")).unwrap()), kept);
    assert_eq!(ready(&mut subscribe(&log, &id("4")).unwrap()), kept[2..]);
    assert!(ready(&mut subscribe(&log, &id("5")).unwrap()).is_empty());
}

#[test]
fn a_client_that_is_cut_right_after_a_reset_is_not_reset_again() {
    let log = log(2);
    (1..=5).for_each(|n| log.publish(event(n)).unwrap());
    let mut first = subscribe(&log, &cursor("garbage")).unwrap();
    let reset = first.next().now_or_never().unwrap().unwrap().unwrap();
    drop(first);
    let again = cursor(reset.id().unwrap());
    let seen = ready(&mut subscribe(&log, &again).unwrap());
    assert_eq!(seen, ["tick 1-4 {\"n\":4}", "tick 1-5 {\"n\":5}"]);
}

#[test]
fn a_slow_subscriber_is_told_what_it_missed_while_connected() {
    let log = log(2);
    let mut slow = subscribe(&log, &LastEventId::None).unwrap();
    log.publish(event(1)).unwrap();
    assert_eq!(ready(&mut slow), ["tick 1-1 {\"n\":1}"]);
    (2..=9).for_each(|n| log.publish(event(n)).unwrap());
    let expected = [
        "reset 1-7 {\"reason\":\"trimmed\"}",
        "tick 1-8 {\"n\":8}",
        "tick 1-9 {\"n\":9}",
    ];
    assert_eq!(ready(&mut slow), expected);
}

/// The race of "read the snapshot, then subscribe": an event published at any point around the
/// subscription arrives, once.
#[tokio::test]
async fn an_event_published_around_the_subscription_arrives_once() {
    let log = log(8);
    log.publish(event(1)).unwrap();
    let mut before_first_poll = subscribe(&log, &LastEventId::None).unwrap();
    log.publish(event(2)).unwrap();
    let both = ["tick 1-1 {\"n\":1}", "tick 1-2 {\"n\":2}"];
    assert_eq!(ready(&mut before_first_poll), both);
    // While it waits: the task is parked in `next`, and is woken.
    let waiting = tokio::spawn(async move { before_first_poll.next().await });
    tokio::task::yield_now().await;
    log.publish(event(3)).unwrap();
    let message = within("the third event", waiting)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(message.data(), "{\"n\":3}");
}

#[test]
fn the_log_is_bounded_by_count_and_by_bytes() {
    let text = |len: usize| Message::new("t", &"x".repeat(len)).unwrap();
    // Name 1, quotes 2: each of these is 100 bytes.
    let log = Arc::new(Log::new(1, 1000, 350));
    (0..5).for_each(|_| log.publish(text(97)).unwrap());
    let seen = ready(&mut subscribe(&log, &LastEventId::None).unwrap());
    assert_eq!(seen.len(), 1 + 3, "reset and the three that fit: {seen:?}");
    // One that fills the log alone pushes the others out; a larger one is refused and changes nothing.
    log.publish(text(347)).unwrap();
    let refused = log.publish(text(348)).unwrap_err();
    assert!(matches!(
        refused,
        PublishError::TooLarge {
            size: 351,
            max: 350
        }
    ));
    let seen = ready(&mut subscribe(&log, &LastEventId::None).unwrap());
    assert!(
        seen[0].starts_with("reset 1-5 ") && seen.len() == 2,
        "{seen:?}"
    );
    // Ids stay in order after a refusal.
    log.publish(text(1)).unwrap();
    let seen = ready(&mut subscribe(&log, &cursor("0000000000000001-6")).unwrap());
    assert_eq!(seen, ["t 1-7 \"x\""]);
}

#[test]
fn a_finished_log_ends_its_subscribers_and_takes_nothing_more() {
    let log = log(8);
    log.publish(event(1)).unwrap();
    let mut open = subscribe(&log, &LastEventId::None).unwrap();
    log.publish(event(2).last()).unwrap();
    assert!(matches!(log.publish(event(3)), Err(PublishError::Finished)));
    let names: Vec<_> = open
        .by_ref()
        .map(|m| m.unwrap().data().to_owned())
        .collect()
        .now_or_never()
        .unwrap();
    assert_eq!(names, ["{\"n\":1}", "{\"n\":2}"]);
    assert!(subscribe(&log, &cursor("0000000000000001-2")).is_none());
    // A cursor that only looks finished is not answered with 204.
    let seen = ready(&mut subscribe(&log, &cursor("0000000000000001-3")).unwrap());
    assert_eq!(seen[0], "reset 1-0 {\"reason\":\"ahead\"}");
}

#[tokio::test]
async fn the_cursor_of_the_header_wins_over_the_url() {
    let log = log(8);
    (1..=2).for_each(|n| log.publish(event(n)).unwrap());
    log.publish(event(3).last()).unwrap();
    let uri = "/events?lastEventId=0000000000000001-1";
    let app = resume::app(log, streams());
    let ask = |request: axum::http::request::Builder| {
        app.clone().oneshot(request.body(Body::empty()).unwrap())
    };
    let body = ask(Request::get(uri)).await.unwrap().into_body();
    let body = axum::body::to_bytes(body, 10_000).await.unwrap();
    let body = String::from_utf8(body.to_vec()).unwrap();
    assert!(!body.contains("-1\n") && body.contains("-2\n"), "{body}");
    // The same URL, as a reconnecting EventSource requests it.
    let header = ("last-event-id", "0000000000000001-3");
    let response = ask(Request::get(uri).header(header.0, header.1)).await;
    assert_eq!(response.unwrap().status(), 204);
}

#[derive(Debug, Clone)]
enum Step {
    /// An event with so many bytes of padding.
    Publish(usize),
    Connect,
    /// The client receives up to so many events.
    Deliver(usize),
    /// The server sends up to so many events into a connection that is cut before they arrive.
    Cut(usize),
    /// The process starts again: an empty log with another epoch.
    Restart,
    /// The client comes back with something that the log never said.
    Corrupt(LastEventId),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let corrupt = prop_oneof![
        Just(LastEventId::Unusable),
        Just(LastEventId::None),
        // No id, one of a later life, and one beyond any tail; what looks genuine is believed.
        "[0-9a-f]{1,4}|ffffffffffffffff-[0-9]{1,3}|0000000000000000-9[0-9]{3}"
            .prop_map(LastEventId::Id),
    ];
    let step = prop_oneof![
        6 => (0..120usize).prop_map(Step::Publish),
        3 => Just(Step::Connect),
        5 => (1..6usize).prop_map(Step::Deliver),
        3 => (0..4usize).prop_map(Step::Cut),
        1 => Just(Step::Restart),
        1 => corrupt.prop_map(Step::Corrupt),
    ];
    prop::collection::vec(step, 1..120)
}

/// What the server holds, kept by other means than the log's own.
#[derive(Default)]
struct Model {
    epoch: u64,
    published: u64,
    /// Number and bytes.
    kept: VecDeque<(u64, usize)>,
}

const MAX_EVENTS: usize = 5;
const MAX_BYTES: usize = 300;

impl Model {
    fn publish(&mut self, size: usize) {
        self.published += 1;
        self.kept.push_back((self.published, size));
        while self.kept.len() > MAX_EVENTS
            || self.kept.iter().map(|k| k.1).sum::<usize>() > MAX_BYTES
        {
            self.kept.pop_front();
        }
    }

    fn oldest(&self) -> u64 {
        self.kept.front().map_or(self.published + 1, |k| k.0)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens in whatever order, a client gets each event once and in order, or a reset
    /// that has a reason; and what is there to be had is never withheld.
    #[test]
    fn exactly_once_or_an_explicit_reset(steps in steps()) {
        let mut model = Model::default();
        let mut log = Arc::new(Log::new(model.epoch, MAX_EVENTS, MAX_BYTES));
        let mut connection: Option<Subscription> = None;
        // The client: what it sends, and the last event that it has really seen (epoch, number).
        let mut cursor = LastEventId::None;
        let mut seen: Option<(u64, u64)> = None;

        for step in steps {
            match step {
                Step::Publish(padding) => {
                    let data = json!([model.epoch, model.published + 1, "x".repeat(padding)]);
                    let message = Message::new("e", &data).unwrap();
                    model.publish(message.size());
                    log.publish(message).unwrap();
                }
                Step::Connect => connection = subscribe(&log, &cursor),
                Step::Cut(sent) => {
                    if let Some(mut cut) = connection.take() {
                        for _ in 0..sent { let _ = cut.next().now_or_never(); }
                    }
                }
                Step::Restart => {
                    model = Model { epoch: model.epoch + 1, ..Model::default() };
                    log = Arc::new(Log::new(model.epoch, MAX_EVENTS, MAX_BYTES));
                    connection = None;
                }
                Step::Corrupt(other) => {
                    // A page that lost its state has none at all; garbage is noticed by the server.
                    if other == LastEventId::None { seen = None; }
                    cursor = other;
                    connection = None;
                }
                Step::Deliver(count) => for _ in 0..count {
                    let Some(open) = connection.as_mut() else { break };
                    let sent = seen.map_or(LastEventId::None, |(epoch, n)| LastEventId::Id(format!("{epoch:016x}-{n}")));
                    let (epoch, position) = seen.unwrap_or((model.epoch, 0));
                    let can_continue =
                        sent == cursor && epoch == model.epoch && position + 1 >= model.oldest();
                    let Some(message) = open.next().now_or_never() else {
                        prop_assert!(can_continue && position == model.published, "withheld after {seen:?}");
                        break;
                    };
                    let message = message.unwrap().unwrap();
                    if message.name() == "reset" {
                        prop_assert!(!can_continue, "a reset without need at {seen:?}");
                        seen = Some((model.epoch, model.oldest() - 1));
                    } else {
                        prop_assert!(can_continue, "{message:?} without a reset at {seen:?}");
                        let (epoch, n, _): (u64, u64, String) = serde_json::from_str(message.data()).unwrap();
                        prop_assert_eq!((epoch, n), (model.epoch, position + 1));
                        seen = Some((epoch, n));
                    }
                    cursor = LastEventId::Id(message.id().unwrap().to_owned());
                },
            }
        }
    }
}

/// The same with real threads: three publishers, four subscribers that cut themselves off.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn exactly_once_with_publishers_and_subscribers_on_threads() {
    const PUBLISHERS: u64 = 3;
    const EVENTS: u64 = 2_000;
    // More than all: no subscriber needs a reset, however the threads are scheduled.
    let log = log((PUBLISHERS * EVENTS) as usize + 1);
    let seen_first = Arc::new(Mutex::new(Vec::new()));
    let subscribers: Vec<_> = (0..4_u64)
        .map(|subscriber| {
            let log = log.clone();
            let seen_first = seen_first.clone();
            tokio::spawn(async move {
                let mut cursor = LastEventId::None;
                let mut seen = Vec::new();
                let mut connections = 0;
                while let Some(mut open) = subscribe(&log, &cursor) {
                    connections += 1;
                    // A different number of events each time, then a cut.
                    for _ in 0..(1 + (connections * 7 + subscriber) % 97) {
                        let Some(message) = open.next().await else {
                            break;
                        };
                        let message = message.unwrap();
                        assert_ne!(message.name(), "reset");
                        cursor = LastEventId::Id(message.id().unwrap().to_owned());
                        seen.push(message.data().to_owned());
                    }
                }
                let mut first = seen_first.lock().unwrap();
                if first.is_empty() {
                    *first = seen;
                } else {
                    assert_eq!(*first, seen, "all see the same order");
                }
            })
        })
        .collect();
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| {
            let log = log.clone();
            tokio::spawn(async move {
                for n in 0..EVENTS {
                    log.publish(event(publisher * EVENTS + n)).unwrap();
                    if n % 50 == 0 {
                        tokio::task::yield_now().await;
                    }
                }
            })
        })
        .collect();
    for publisher in publishers {
        within("a publisher", publisher).await.unwrap();
    }
    log.publish(event(PUBLISHERS * EVENTS).last()).unwrap();
    for subscriber in subscribers {
        within("a subscriber", subscriber).await.unwrap();
    }
    let mut seen: Vec<u64> = seen_first
        .lock()
        .unwrap()
        .iter()
        .map(|data| {
            serde_json::from_str::<serde_json::Value>(data).unwrap()["n"]
                .as_u64()
                .unwrap()
        })
        .collect();
    seen.sort_unstable();
    assert!(
        seen.iter().copied().eq(0..=PUBLISHERS * EVENTS),
        "each event once"
    );
}
