use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use proptest::prelude::*;
use serde_json::json;
use snippets::sse::event::{Cursor, Ids};
use snippets::sse::event::{Event, LastEventId};
use snippets::sse::log::{self, Begin, Log, PublishError, Slow, Writer};
use snippets::sse::log_reader::Reader;
use snippets::sse::resume;
use snippets::sse::streams::{Config, Source, Streams};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::support::raw::End;
use crate::support::reader::{self, Block};
use crate::support::transcript::sse_filters;
use crate::support::{RawClient, Server, Transcript, within};

fn streams() -> Streams {
    Streams::start(Config::default(), CancellationToken::new())
}

fn event(n: u64) -> Event {
    Event::new("tick", &json!({ "n": n })).unwrap()
}

/// In epoch 1.
fn log_with(config: log::Config) -> Arc<Log> {
    Log::starting_after(Cursor { epoch: 1, seq: 0 }, config)
}

fn log(max_events: usize) -> Arc<Log> {
    log_with(log::Config::complete(max_events, 1 << 20))
}

fn cursor(id: &str) -> LastEventId {
    LastEventId::Id(id.into())
}

fn subscribe(log: &Arc<Log>, cursor: &LastEventId) -> Option<Reader> {
    log.read(cursor)
}

/// As `name id data`.
fn shown(blocks: Vec<Block>) -> Vec<String> {
    let show = |block: Block| format!("{} {} {}", block.name, block.id, block.data);
    blocks.into_iter().map(show).collect()
}

fn blocks(bytes: &[u8]) -> Vec<String> {
    shown(reader::blocks(bytes))
}

fn poll(reader: &mut Reader) -> Option<Option<Vec<String>>> {
    Some(reader::poll(reader)?.map(shown))
}

fn ready(reader: &mut Reader) -> Vec<String> {
    shown(reader::ready(reader))
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

    log.publish(&event(1)).unwrap();
    let mut client = get("").await;
    client.read_until("\"n\":1}\n\n").await;
    log.publish(&event(2)).unwrap();
    client.read_until("\"n\":2}\n\n").await;
    transcript.request(&request("")).response(&client);
    drop(client);

    transcript.note("cut; two events are published; the client reconnects");
    log.publish(&event(3)).unwrap();
    log.publish(&event(4)).unwrap();
    let mut client = get("last-event-id: 1-2").await;
    client.read_until("\"n\":4}\n\n").await;
    transcript.request(&request("last-event-id: 1-2"));
    transcript.response(&client);
    drop(client);

    transcript.note("cut; more events are published than the log keeps (3); the client reconnects");
    for n in 5..=9 {
        log.publish(&event(n)).unwrap();
    }
    let mut client = get("last-event-id: 1-4").await;
    client.read_until("\"n\":9}\n\n").await;
    transcript.request(&request("last-event-id: 1-4"));
    transcript.response(&client);

    transcript.note("the terminal event; a client that has it is cut and reconnects");
    let last = Event::new("done", &json!({})).unwrap().last();
    log.publish(&last).unwrap();
    assert_eq!(client.read_to_end().await, End::Complete);
    let mut client = get("last-event-id: 1-10").await;
    client.read_head().await;
    assert_eq!(client.status(), 204);
    transcript.request(&request("last-event-id: 1-10"));
    transcript.response(&client);
    let text = transcript.finish();
    insta::with_settings!({filters => sse_filters()}, {
        insta::assert_snapshot!(
            "sse_resume",
            text.trim_end_matches("[the response stays open]")
                .trim_end()
        );
    });
}

#[test]
fn each_cursor_that_cannot_be_continued_is_an_explicit_reset() {
    let log = log(3);
    for n in 1..=5 {
        log.publish(&event(n)).unwrap();
    }
    let kept = [
        "tick 1-3 {\"n\":3}",
        "tick 1-4 {\"n\":4}",
        "tick 1-5 {\"n\":5}",
    ];
    let id = |sequence: &str| cursor(&format!("1-{sequence}"));
    for (cursor, reason) in [
        (id("1"), "trimmed"),
        (id("0"), "trimmed"),
        (cursor("2-4"), "epoch"),
        (id("6"), "ahead"),
        (id("18446744073709551614"), "ahead"),
        (id("18446744073709551615"), "invalid"),
        (id("18446744073709551616"), "invalid"),
        (id("+4"), "invalid"),
        (id("04"), "invalid"),
        (cursor("01-4"), "invalid"),
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
    // A client that has seen nothing has nothing to drop.
    assert_eq!(
        ready(&mut subscribe(&log, &LastEventId::None).unwrap()),
        kept
    );
}

#[test]
fn a_client_that_is_cut_right_after_a_reset_is_not_reset_again() {
    let log = log(2);
    (1..=5).for_each(|n| {
        log.publish(&event(n)).unwrap();
    });
    let mut first = subscribe(&log, &cursor("garbage")).unwrap();
    assert_eq!(
        first.id(),
        None,
        "a cursor before the reset would hide the gap"
    );
    let reset = poll(&mut first).unwrap().unwrap();
    drop(first);
    let id = reset[0].split(' ').nth(1).unwrap();
    let seen = ready(&mut subscribe(&log, &cursor(id)).unwrap());
    assert_eq!(seen, ["tick 1-4 {\"n\":4}", "tick 1-5 {\"n\":5}"]);
}

#[test]
fn a_slow_subscriber_is_told_what_it_missed_while_connected() {
    let log = log(4);
    let mut slow = subscribe(&log, &LastEventId::None).unwrap();
    log.publish(&event(1)).unwrap();
    assert_eq!(ready(&mut slow), ["tick 1-1 {\"n\":1}"]);
    (2..=9).for_each(|n| {
        log.publish(&event(n)).unwrap();
    });
    // The newest half of what is kept: the oldest would be trimmed before the next read.
    let expected = [
        "reset 1-7 {\"reason\":\"trimmed\"}",
        "tick 1-8 {\"n\":8}",
        "tick 1-9 {\"n\":9}",
    ];
    assert_eq!(ready(&mut slow), expected);
}

/// Ten minutes of a publisher that is twice as fast as its reader.
#[test]
fn a_slow_reader_is_not_reset_at_every_second_event() {
    let log = log(100);
    let mut slow = subscribe(&log, &LastEventId::None).unwrap();
    let (mut events, mut resets) = (0, 0);
    for n in 0..6_000 {
        log.publish(&event(2 * n)).unwrap();
        log.publish(&event(2 * n + 1)).unwrap();
        // One chunk each time, as a socket that takes one write.
        for block in poll(&mut slow).flatten().unwrap_or_default() {
            match block.starts_with("reset") {
                true => resets += 1,
                false => events += 1,
            }
        }
    }
    assert!(resets < 240, "{resets} resets and {events} events");
}

#[test]
fn slow_readers_get_what_the_policy_says() {
    for (slow, expected) in [
        (Slow::End, &[][..]),
        (Slow::Reset, &["reset", "10"]),
        (Slow::Newest, &["10"]),
    ] {
        let config = log::Config {
            queue: 2,
            slow,
            begin: Begin::Now,
            ..log::Config::complete(5, 1 << 20)
        };
        let log = log_with(config);
        let mut reader = subscribe(&log, &LastEventId::None).unwrap();
        (1..=10).for_each(|n| {
            log.publish(&event(n)).unwrap();
        });
        let seen = ready(&mut reader);
        let seen: Vec<_> = seen
            .iter()
            .map(|block| match block.strip_prefix("reset") {
                Some(_) => "reset",
                None => block.rsplit([':', '}']).nth(1).unwrap(),
            })
            .collect();
        assert_eq!(seen, expected, "{slow:?}");
        // What a reader replays does not count as its queue.
        if slow == Slow::End {
            assert_eq!(
                ready(&mut subscribe(&log, &cursor("1-5")).unwrap()).len(),
                5
            );
        }
    }
}

#[test]
fn plain_numbers_are_ids_too() {
    let config = log::Config {
        ids: Ids::Sequence,
        ..log::Config::complete(3, 1 << 20)
    };
    // As after a restart: the numbers continue.
    let log = Log::starting_after(Cursor { epoch: 5, seq: 40 }, config);
    (41..=45).for_each(|n| {
        log.publish(&event(n)).unwrap();
    });
    let seen = ready(&mut subscribe(&log, &cursor("44")).unwrap());
    assert_eq!(seen, ["tick 45 {\"n\":45}"]);
    for (id, reason) in [
        ("40", "trimmed"),
        ("46", "ahead"),
        ("045", "invalid"),
        ("5-44", "invalid"),
    ] {
        let seen = ready(&mut subscribe(&log, &cursor(id)).unwrap());
        assert_eq!(
            seen[0],
            format!("reset 42 {{\"reason\":\"{reason}\"}}"),
            "{id}"
        );
    }
}

#[test]
fn a_first_visitor_starts_where_the_log_says() {
    for (begin, expected) in [
        (Begin::Now, &[][..]),
        (Begin::Newest, &["tick 1-3 {\"n\":3}"]),
        (Begin::Oldest, &["tick 1-2 {\"n\":2}", "tick 1-3 {\"n\":3}"]),
        (
            Begin::First,
            &[
                "reset 1-1 {\"reason\":\"trimmed\"}",
                "tick 1-2 {\"n\":2}",
                "tick 1-3 {\"n\":3}",
            ],
        ),
    ] {
        let log = log_with(log::Config {
            begin,
            ..log::Config::complete(2, 1 << 20)
        });
        (1..=3).for_each(|n| {
            log.publish(&event(n)).unwrap();
        });
        let mut reader = subscribe(&log, &LastEventId::None).unwrap();
        let start = reader.id();
        assert_eq!(ready(&mut reader), expected, "{begin:?}");
        let position = match begin {
            Begin::Now => Some("1-3"),
            Begin::Newest => Some("1-2"),
            Begin::Oldest => Some("1-1"),
            Begin::First => None,
        };
        assert_eq!(
            start.as_deref(),
            position,
            "a client that is cut now resumes from there"
        );
    }
}

/// A log that is filled from a broker which has lost its newest events, or all.
#[test]
fn a_log_that_went_back_resets_its_readers() {
    let page = |from: u64, to: u64| (from..=to).map(|n| (n, event(n))).collect::<Vec<_>>();
    let reset = |seq: u64, reason: &str| format!("reset {seq} {{\"reason\":\"{reason}\"}}");
    let log = log_with(log::Config {
        ids: Ids::Sequence,
        ..log::Config::complete(100, 1 << 20)
    });
    log.extend(1, 5, &page(1, 5));
    let (mut at_five, mut at_two) = (
        log.read(&cursor("5")).unwrap(),
        log.read(&cursor("2")).unwrap(),
    );
    assert!(ready(&mut at_five).is_empty());
    // 4 and 5 are lost and given out again, before any reader is polled.
    log.extend(1, 3, &page(1, 3));
    log.extend(1, 6, &page(4, 6));
    for reader in [&mut at_five, &mut at_two] {
        let seen = ready(reader);
        assert_eq!(seen[0], reset(0, "ahead"));
        assert_eq!(seen.len(), 1 + 6);
    }
    // The same pages again, as after a timeout: nothing is repeated.
    log.extend(1, 6, &page(4, 6));
    assert!(ready(&mut at_five).is_empty());
    // A hole: the log has missed what its readers miss.
    log.extend(1, 10, &page(9, 10));
    assert_eq!(ready(&mut at_five)[0], reset(8, "ahead"));
    log.extend(2, 1, &page(1, 1));
    assert_eq!(
        ready(&mut at_five),
        [reset(0, "epoch"), "tick 1 {\"n\":1}".into()]
    );
}

#[tokio::test(start_paused = true)]
async fn events_in_quick_succession_are_joined_and_the_first_is_not_held_back() {
    let log = log_with(log::Config {
        join: Duration::from_millis(20),
        ..log::Config::complete(100, 1 << 20)
    });
    let slot = streams().admit().unwrap();
    let mut body = slot
        .respond(subscribe(&log, &LastEventId::None).unwrap())
        .into_body();
    let mut frame = async || {
        let frame = within("a frame", body.frame()).await.unwrap().unwrap();
        blocks(&frame.into_data().unwrap()).len()
    };
    frame().await;
    let started = tokio::time::Instant::now();
    let publisher = async {
        tokio::task::yield_now().await;
        log.publish(&event(1)).unwrap();
        tokio::task::yield_now().await;
        log.publish(&event(2)).unwrap();
        tokio::time::advance(Duration::from_millis(10)).await;
        log.publish(&event(3)).unwrap();
    };
    let reader = async {
        let first = (frame().await, started.elapsed().as_millis());
        (first, (frame().await, started.elapsed().as_millis()))
    };
    let (seen, ()) = tokio::join!(reader, publisher);
    assert_eq!(seen, ((1, 0), (2, 20)), "(events, milliseconds)");
}

#[test]
fn a_worker_that_dies_says_so() {
    let log = log_with(log::Config::state(1000));
    let writer = Writer::new(log.clone(), Event::new("failed", &()).unwrap());
    writer.log.publish(&event(1)).unwrap();
    drop(writer);
    assert!(log.is_finished());
    // Each event is the whole state: no reset, whatever the client sends.
    for id in [
        LastEventId::None,
        LastEventId::Unusable,
        cursor("9-9"),
        cursor("1-1"),
    ] {
        assert_eq!(
            ready(&mut subscribe(&log, &id).unwrap()),
            ["failed 1-2 null"],
            "{id:?}"
        );
    }
    assert!(subscribe(&log, &cursor("1-2")).is_none());
    // After its terminal event, a worker has nothing more to say.
    let log = log_with(log::Config::state(1000));
    let writer = Writer::new(log.clone(), Event::new("failed", &()).unwrap());
    writer.log.publish(&event(1).last()).unwrap();
    drop(writer);
    assert_eq!(log.newest().seq, 1);
}

/// Encoded once: the same bytes, not equal ones.
#[test]
fn all_readers_share_the_bytes_of_an_event() {
    let log = log(10);
    let mut readers = [0; 2].map(|_| subscribe(&log, &LastEventId::None).unwrap());
    log.publish(&event(1)).unwrap();
    let [one, two] = readers.each_mut().map(|reader| {
        let Poll::Ready(Some(chunk)) = reader.poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("an event")
        };
        chunk.bytes.as_ptr()
    });
    assert_eq!(one, two);
    drop(readers);
    assert_eq!(log.readers(), 0);
}

/// The race of "read the snapshot, then subscribe": an event published at any point around the
/// subscription arrives, once.
#[tokio::test]
async fn an_event_published_around_the_subscription_arrives_once() {
    let log = log(8);
    log.publish(&event(1)).unwrap();
    let mut before_first_poll = subscribe(&log, &LastEventId::None).unwrap();
    log.publish(&event(2)).unwrap();
    let both = ["tick 1-1 {\"n\":1}", "tick 1-2 {\"n\":2}"];
    assert_eq!(ready(&mut before_first_poll), both);
    // While it waits: the task is parked in `next`, and is woken.
    let waiting = tokio::spawn(std::future::poll_fn(move |cx| before_first_poll.poll(cx)));
    tokio::task::yield_now().await;
    log.publish(&event(3)).unwrap();
    let chunk = within("the third event", waiting).await.unwrap().unwrap();
    assert_eq!(blocks(&chunk.bytes), ["tick 1-3 {\"n\":3}"]);
}

#[test]
fn the_log_is_bounded_by_count_and_by_bytes() {
    // On the wire: `id: 1-1`, the name and the data, in 100 bytes.
    let text = |len: usize| Event::new("t", &"x".repeat(len - 27)).unwrap();
    let log = log_with(log::Config::complete(1000, 350));
    (0..5).for_each(|_| {
        log.publish(&text(100)).unwrap();
    });
    assert_eq!(log.kept(), (3, 300));
    // One that fills the log alone pushes the others out; a larger one is refused and changes nothing.
    log.publish(&text(350)).unwrap();
    let refused = log.publish(&text(351)).unwrap_err();
    assert!(matches!(
        refused,
        PublishError::TooLarge {
            size: 351,
            max: 350
        }
    ));
    assert_eq!(log.kept(), (1, 350));
    // Ids stay in order after a refusal.
    log.publish(&Event::new("t", "x").unwrap()).unwrap();
    let seen = ready(&mut subscribe(&log, &cursor("1-6")).unwrap());
    assert_eq!(seen, ["t 1-7 \"x\""]);
}

#[test]
fn a_finished_log_ends_its_subscribers_and_takes_nothing_more() {
    let log = log(8);
    log.publish(&event(1)).unwrap();
    let mut open = subscribe(&log, &LastEventId::None).unwrap();
    log.publish(&event(2).last()).unwrap();
    assert!(matches!(
        log.publish(&event(3)),
        Err(PublishError::Finished)
    ));
    let both = ["tick 1-1 {\"n\":1}", "tick 1-2 {\"n\":2}"];
    assert_eq!(ready(&mut open), both);
    assert_eq!(poll(&mut open), Some(None), "the end");
    assert!(subscribe(&log, &cursor("1-2")).is_none());
    // A cursor that only looks finished is not answered with 204.
    let seen = ready(&mut subscribe(&log, &cursor("1-3")).unwrap());
    assert_eq!(seen[0], "reset 1-0 {\"reason\":\"ahead\"}");
}

#[tokio::test]
async fn the_cursor_of_the_header_wins_over_the_url() {
    let log = log(8);
    (1..=2).for_each(|n| {
        log.publish(&event(n)).unwrap();
    });
    log.publish(&event(3).last()).unwrap();
    let uri = "/events?lastEventId=1-1";
    let app = resume::app(log, streams());
    let ask = |request: axum::http::request::Builder| {
        app.clone().oneshot(request.body(Body::empty()).unwrap())
    };
    let body = ask(Request::get(uri)).await.unwrap().into_body();
    let body = axum::body::to_bytes(body, 10_000).await.unwrap();
    let body = String::from_utf8(body.to_vec()).unwrap();
    assert!(
        !body.contains("n\":1") && body.contains("id: 1-2\n"),
        "{body}"
    );
    // The same URL, as a reconnecting EventSource requests it.
    let header = ("last-event-id", "1-3");
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
        "[0-9a-f]{1,4}|ffffffffffffffff-[1-9][0-9]{0,2}|[0-9]-9[0-9]{3}".prop_map(LastEventId::Id),
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
        let new_log = |epoch| Log::starting_after(Cursor { epoch, seq: 0 }, log::Config::complete(MAX_EVENTS, MAX_BYTES));
        let mut model = Model::default();
        let mut log = new_log(model.epoch);
        let mut connection: Option<Reader> = None;
        // The client: what it sends, and the last event that it has really seen (epoch, number).
        let mut cursor = LastEventId::None;
        let mut seen: Option<(u64, u64)> = None;

        for step in steps {
            match step {
                Step::Publish(padding) => {
                    let data = json!([model.epoch, model.published + 1, "x".repeat(padding)]);
                    let event = Event::new("e", &data).unwrap();
                    model.publish(event.at(Cursor { epoch: model.epoch, seq: model.published + 1 }).len());
                    log.publish(&event).unwrap();
                }
                Step::Connect => {
                    connection = subscribe(&log, &cursor);
                    // The first bytes: the position of a client that is not reset.
                    if let Some(id) = connection.as_ref().and_then(|reader| reader.id()) {
                        if seen.is_none() { seen = Some((model.epoch, model.oldest() - 1)); }
                        cursor = LastEventId::Id(id);
                    }
                }
                Step::Cut(sent) => {
                    if let Some(mut cut) = connection.take() {
                        for _ in 0..sent { let _ = poll(&mut cut); }
                    }
                }
                Step::Restart => {
                    model = Model { epoch: model.epoch + 1, ..Model::default() };
                    log = new_log(model.epoch);
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
                    let can_continue = |seen: Option<(u64, u64)>, cursor: &LastEventId| {
                        let (epoch, position) = seen.unwrap_or((model.epoch, 0));
                        let sent = LastEventId::Id(Cursor { epoch, seq: position }.to_string());
                        sent == *cursor && epoch == model.epoch && position + 1 >= model.oldest()
                    };
                    let Some(chunk) = poll(open) else {
                        let position = seen.map_or(0, |seen| seen.1);
                        prop_assert!(can_continue(seen, &cursor) && position == model.published, "withheld after {seen:?}");
                        break;
                    };
                    for block in chunk.unwrap() {
                        let [name, id, data] = block.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{block}") };
                        let possible = can_continue(seen, &cursor);
                        if name == "reset" {
                            prop_assert!(!possible, "a reset without need at {seen:?}");
                            let position: Cursor = Ids::Epoch.parse(id, 0).unwrap();
                            prop_assert!(position.epoch == model.epoch && position.seq + 1 >= model.oldest());
                            prop_assert!(position.seq <= model.published);
                            seen = Some((model.epoch, position.seq));
                        } else {
                            prop_assert!(possible, "{block} without a reset at {seen:?}");
                            let (epoch, n, _): (u64, u64, String) = serde_json::from_str(data).unwrap();
                            prop_assert_eq!((epoch, n), (model.epoch, seen.map_or(0, |seen| seen.1) + 1));
                            seen = Some((epoch, n));
                        }
                        cursor = LastEventId::Id(id.to_owned());
                    }
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
                let mut connections = 0_u64;
                while let Some(mut open) = subscribe(&log, &cursor) {
                    connections += 1;
                    // A different number of events each time, then a cut.
                    for _ in 0..(1 + (connections * 7 + subscriber) % 97) {
                        let next = std::future::poll_fn(|cx| open.poll(cx));
                        let Some(chunk) = within("an event", next).await else {
                            break;
                        };
                        // Cut inside of the chunk: what was not read comes again.
                        let blocks = blocks(&chunk.bytes);
                        let read = 1 + (connections as usize * 31) % blocks.len();
                        for block in &blocks[..read] {
                            let [name, id, data] = block.splitn(3, ' ').collect::<Vec<_>>()[..]
                            else {
                                panic!("{block}")
                            };
                            assert_ne!(name, "reset");
                            cursor = LastEventId::Id(id.to_owned());
                            seen.push(data.to_owned());
                        }
                        if read < blocks.len() {
                            break;
                        }
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
                    log.publish(&event(publisher * EVENTS + n)).unwrap();
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
    log.publish(&event(PUBLISHERS * EVENTS).last()).unwrap();
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

/// Every pattern works under plain `axum::serve`; the other tests run under `connections::listen`.
#[tokio::test]
async fn a_log_under_plain_axum() {
    let log = log(8);
    log.publish(&event(1)).unwrap();
    let server = Server::plain(resume::app(log.clone(), streams())).await;
    let mut client = RawClient::get(server.addr, "/events", &["last-event-id: 1-0"]).await;
    client
        .read_until("id: 1-1\nevent: tick\ndata: {\"n\":1}\n\n")
        .await;
    log.publish(&event(2).last()).unwrap();
    assert_eq!(client.read_to_end().await, End::Complete);
    assert!(client.body().contains("id: 1-2\n"));
}
