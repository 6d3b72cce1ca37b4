//! `websocket/rooms`: order, slow members beside fast ones under each policy, presence, freeing, and resume.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::ws::Message;
use serde_json::{Value, json};
use snippets::websocket::limits::Limits;
use snippets::websocket::outbox::{Event, Full, Outbox};
use snippets::websocket::protect::User;
use snippets::websocket::rates::{Quotas, Rates};
use snippets::websocket::rooms::{Cursor, Hub, Rules};
use snippets::websocket::rooms_endpoint;
use snippets::websocket::serve::Sockets;
use tokio_util::sync::CancellationToken;

use crate::support::frames::{CLOSE, Seen, TEXT};
use crate::support::{Frame, FrameClient, Server, eventually};

fn rules() -> Rules {
    Rules {
        history: 100,
        history_bytes: 64 * 1024,
        rooms: 10,
        members: 100,
        keep_empty: Duration::from_secs(60),
        full: |name| match name {
            "prices" => Full::Conflate,
            "log" => Full::DropOldest,
            _ => Full::Disconnect,
        },
    }
}

/// The next message of an outbox, without a socket.
fn pop(outbox: &Outbox) -> Value {
    match outbox.pop() {
        Some(Message::Text(text)) => serde_json::from_str(&text).unwrap(),
        Some(Message::Close(Some(frame))) => json!({ "close": frame.code }),
        other => panic!("{other:?}"),
    }
}

fn drain(outbox: &Outbox) -> Vec<Value> {
    let mut all = Vec::new();
    while outbox.depth().0 > 0 {
        all.push(pop(outbox));
    }
    all
}

fn outbox() -> Outbox {
    Outbox::new(64, 256 * 1024)
}

fn name(user: &str) -> Arc<str> {
    user.into()
}

fn user(name: &str) -> Extension<User> {
    Extension(User {
        name: name.into(),
        admin: false,
        expires: tokio::time::Instant::now() + Duration::from_secs(3600),
    })
}

async fn start(hub: &Hub, user_name: &str, limits: Limits) -> Server {
    let plenty = governor::Quota::per_second(std::num::NonZeroU32::MAX);
    let quotas = Quotas {
        messages: plenty,
        user: plenty,
        ..Quotas::default()
    };
    let sockets = Sockets::new(limits, CancellationToken::new());
    Server::start(
        rooms_endpoint::router(sockets, hub.clone(), Rates::new(quotas)).layer(user(user_name)),
    )
    .await
}

#[tokio::test]
async fn transcript() {
    let hub = Hub::new(rules());
    let ada = start(&hub, "ada", Limits::default()).await;
    let bob = hub.join("talk", &name("bob"), &outbox(), None).unwrap();
    let mut client = FrameClient::connect(ada.addr, "/rooms").await;
    client.send_text(r#"{"type":"join","room":"talk"}"#).await;
    let epoch = client.next_json().await["epoch"]
        .as_str()
        .unwrap()
        .to_owned();
    client
        .send_text(r#"{"type":"publish","id":"m1","room":"talk","data":"hello"}"#)
        .await;
    client.next_text().await;
    client.next_text().await;
    client.note("the same id again: acknowledged, not published");
    client
        .send_text(r#"{"type":"publish","id":"m1","room":"talk","data":"hello"}"#)
        .await;
    client.next_text().await;
    client
        .send_text(r#"{"type":"join","room":"private/bob"}"#)
        .await;
    client.next_text().await;
    let mut text = client.transcript();
    let watcher = outbox();
    let _watching = hub.join("talk", &name("eve"), &watcher, None).unwrap();
    drop(client);
    eventually("ada to leave", || {
        drain(&watcher)
            .iter()
            .any(|event| event["type"] == "user_left")
    })
    .await;
    bob.publish("b1".into(), &json!("while ada was away"));

    let mut client = FrameClient::connect(ada.addr, "/rooms").await;
    client.note("the connection was lost; on the next one the client resumes");
    let resume = json!({ "type": "join", "room": "talk", "resume": { "epoch": epoch, "seq": 3 } });
    client.send_text(&resume.to_string()).await;
    let answer = client.next_json().await;
    assert_eq!(answer["type"], "joined");
    client.note("a cursor that the room does not know");
    let resume =
        json!({ "type": "join", "room": "talk", "resume": { "epoch": "other", "seq": 3 } });
    client.send_text(&resume.to_string()).await;
    while client.next_json().await["type"] != "reset" {}
    text.push('\n');
    text.push_str(
        client
            .transcript()
            .split_once("\n\n\n")
            .unwrap()
            .1
            .split_once("\n\n")
            .unwrap()
            .1,
    );
    // The names of those present come in no order, and the epoch is random.
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(&epoch, "[epoch]");
    settings.add_filter(r#""users":\[[^\]]*\]"#, r#""users":[…]"#);
    settings.bind(|| insta::assert_snapshot!(text));
}

/// Sequence numbers and order are the same for everyone, whoever publishes, and the bytes are encoded once.
#[tokio::test]
async fn all_members_see_one_order_and_share_one_encoding() {
    let hub = Hub::new(Rules {
        history: 10,
        ..rules()
    });
    let members: Vec<_> = (0..3).map(|_| Outbox::new(10_000, 1 << 20)).collect();
    let _places: Vec<_> = members
        .iter()
        .map(|out| hub.join("talk", &name("ada"), out, None).unwrap())
        .collect();
    std::thread::scope(|scope| {
        for publisher in 0..4 {
            let place = hub.join("talk", &name("ada"), &outbox(), None).unwrap();
            scope.spawn(move || {
                for n in 0..250 {
                    place.publish(format!("{publisher}-{n}"), &json!(n));
                }
            });
        }
    });
    let mut seen: Vec<Vec<(u64, usize)>> = Vec::new();
    for out in &members {
        let mut events = Vec::new();
        while out.depth().0 > 0 {
            let Some(Message::Text(text)) = out.pop() else {
                panic!()
            };
            let value: Value = serde_json::from_str(&text).unwrap();
            if value["type"] == "message" {
                events.push((value["seq"].as_u64().unwrap(), text.as_ptr() as usize));
            }
        }
        assert_eq!(events.len(), 1000);
        assert!(events.windows(2).all(|pair| pair[0].0 + 1 == pair[1].0));
        seen.push(events);
    }
    assert!(
        seen.iter().all(|events| *events == seen[0]),
        "another order, or copies of the bytes"
    );
}

const FAST: usize = 3;
const EVENTS: u64 = 120;

/// One member that does not read beside fast ones, over real sockets. Every fast one receives every event before the next
/// is published. What the stalled one holds is bounded all the time; then it reads, and what it saw is returned.
async fn stalled_beside_fast(room: &str) -> Vec<Frame> {
    let limits = Limits {
        queue: 16,
        send_deadline: Duration::from_secs(60),
        ..Limits::default()
    };
    let hub = Hub::new(Rules {
        history: 4,
        ..rules()
    });
    let server = start(&hub, "ada", limits).await;
    let join = json!({ "type": "join", "room": room }).to_string();
    let mut stalled = FrameClient::connect_small(server.addr, "/rooms").await;
    stalled.send_text(&join).await;
    stalled.next_text().await;
    let mut fast = Vec::new();
    for _ in 0..FAST {
        let mut client = FrameClient::connect(server.addr, "/rooms").await;
        client.send_text(&join).await;
        client.next_text().await;
        fast.push(client);
    }
    let own = outbox();
    let publisher = hub.join(room, &name("ada"), &own, None).unwrap();
    let payload = json!("x".repeat(60_000));
    for n in 0..EVENTS {
        let seq = publisher.publish(format!("{n}"), &payload);
        for client in &mut fast {
            assert_eq!(client.next_json().await["seq"], seq);
        }
        drain(&own);
    }
    drop(publisher);
    let mut seen = Vec::new();
    loop {
        match stalled.next().await {
            Seen::Frame(frame) if frame.opcode == TEXT => {
                let last = frame
                    .text_payload()
                    .contains(&format!(r#""seq":{}"#, EVENTS + 1))
                    || frame
                        .text_payload()
                        .contains(&format!(r#""seq":{EVENTS},"#))
                        && room == "prices";
                seen.push(frame);
                if last {
                    return seen;
                }
            }
            Seen::Frame(frame) => {
                let close = frame.opcode == CLOSE;
                seen.push(frame);
                if close {
                    return seen;
                }
            }
            Seen::Cut(cut) => panic!("{cut:?} without Close"),
        }
    }
}

fn json_of(frame: &Frame) -> Value {
    serde_json::from_str(frame.text_payload()).unwrap()
}

// Catalogue C21, one test for each policy.
#[tokio::test]
async fn a_stalled_member_is_disconnected_with_1013_and_the_others_go_on() {
    let seen = stalled_beside_fast("talk").await;
    assert_eq!(seen.last().unwrap().close_code(), Some(1013));
    assert!((seen.len() as u64) < EVENTS);
}

#[tokio::test]
async fn a_stalled_member_loses_the_oldest_and_is_told_which() {
    let seen = stalled_beside_fast("log").await;
    let mut next = 2; // after its own `user_joined`
    let mut gaps = 0;
    for value in seen.iter().map(json_of) {
        if value["type"] == "gap" {
            assert_eq!(value["from"], next);
            next = value["to"].as_u64().unwrap() + 1;
            gaps += 1;
        } else {
            assert_eq!(value["seq"], next);
            next += 1;
        }
    }
    assert_eq!(next, EVENTS + 2);
    assert!(gaps >= 1);
}

#[tokio::test]
async fn a_stalled_member_gets_the_newest_value() {
    let seen = stalled_beside_fast("prices").await;
    assert!((seen.len() as u64) < EVENTS, "nothing was conflated");
    assert!(
        seen.iter()
            .map(json_of)
            .map(|value| value["seq"].as_u64().unwrap())
            .is_sorted()
    );
}

/// What a peer receives under `DropOldest` accounts for every event of every room, whenever its queue was drained.
#[test]
fn gap_notices_account_for_every_dropped_event() {
    use proptest::prelude::*;
    proptest!(|(steps in proptest::collection::vec((0..3_usize, 0..3_usize), 1..200), capacity in 1..6_usize)| {
        let out = Outbox::new(capacity, 1 << 20);
        let rooms = [name("a"), name("b"), name("c")];
        let mut published = [0_u64; 3];
        let mut next = [1_u64; 3];
        let mut read = |out: &Outbox| {
            let value = pop(out);
            let room = rooms.iter().position(|room| **room == *value["room"].as_str().unwrap()).unwrap();
            let (from, to) = match value["type"].as_str().unwrap() {
                "gap" => (value["from"].as_u64().unwrap(), value["to"].as_u64().unwrap()),
                _ => (value["seq"].as_u64().unwrap(), value["seq"].as_u64().unwrap()),
            };
            assert_eq!(from, next[room]);
            next[room] = to + 1;
        };
        for (room, reads) in steps {
            published[room] += 1;
            let text = json!({ "type": "message", "room": &*rooms[room], "seq": published[room] }).to_string();
            let event = Event { room: rooms[room].clone(), seq: published[room], text: text.into() };
            prop_assert!(out.offer(event, Full::DropOldest));
            prop_assert!(out.depth().0 <= capacity + rooms.len());
            for _ in 0..reads.min(out.depth().0) {
                read(&out);
            }
        }
        while out.depth().0 > 0 {
            read(&out);
        }
        prop_assert_eq!(next, published.map(|count| count + 1));
    });
}

#[tokio::test]
async fn presence_counts_users_not_connections() {
    let hub = Hub::new(rules());
    let watcher = outbox();
    let _watching = hub.join("talk", &name("bob"), &watcher, None).unwrap();
    assert_eq!(pop(&watcher)["users"], json!(["bob"]));
    let first = hub.join("talk", &name("ada"), &outbox(), None).unwrap();
    let second = hub.join("talk", &name("ada"), &outbox(), None).unwrap();
    drop(first);
    assert_eq!(drain(&watcher).len(), 1, "one user_joined");
    drop(second);
    let left = drain(&watcher);
    assert_eq!(
        (left.len(), &left[0]["type"], &left[0]["user"]),
        (1, &json!("user_left"), &json!("ada"))
    );
}

#[tokio::test(start_paused = true)]
async fn an_empty_room_is_kept_for_a_return_and_then_freed() {
    let hub = Hub::new(rules());
    let out = outbox();
    let place = hub.join("talk", &name("ada"), &out, None).unwrap();
    let joined = pop(&out);
    let epoch = joined["epoch"].as_str().unwrap().to_owned();
    let seq = place.publish("m".into(), &json!(1));
    drop(place);
    tokio::time::sleep(Duration::from_secs(50)).await;
    let cursor = Cursor { epoch, seq };
    let out = outbox();
    drop(hub.join("talk", &name("ada"), &out, Some(&cursor)).unwrap());
    assert_eq!(pop(&out)["type"], "joined");
    assert_eq!(hub.rooms(), 1);
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(hub.rooms(), 0);
    let out = outbox();
    let _place = hub.join("talk", &name("ada"), &out, Some(&cursor)).unwrap();
    assert_eq!(
        pop(&out)["type"],
        "reset",
        "sequence numbers of another epoch"
    );
}

// Catalogue B29 for rooms: each cursor is replayed exactly, or answered with `reset`.
#[tokio::test]
async fn a_cursor_is_replayed_exactly_or_answered_with_reset() {
    let hub = Hub::new(Rules {
        history: 5,
        full: |_| Full::Conflate,
        ..rules()
    });
    let out = outbox();
    let place = hub.join("talk", &name("ada"), &out, None).unwrap();
    let epoch = pop(&out)["epoch"].as_str().unwrap().to_owned();
    for n in 1..=10_u64 {
        assert_eq!(place.publish(n.to_string(), &json!(n)), n);
    }
    let resume = |epoch: &str, seq| {
        let out = outbox();
        let _place = hub
            .join(
                "talk",
                &name("bob"),
                &out,
                Some(&Cursor {
                    epoch: epoch.to_owned(),
                    seq,
                }),
            )
            .unwrap();
        let answer = pop(&out);
        let seqs: Vec<_> = answer["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["seq"].as_u64().unwrap())
            .collect();
        (
            answer["type"].as_str().unwrap().to_owned(),
            answer["seq"].as_u64().unwrap(),
            seqs,
        )
    };
    assert_eq!(resume(&epoch, 10), ("joined".into(), 10, vec![]));
    assert_eq!(resume(&epoch, 7), ("joined".into(), 10, vec![8, 9, 10]));
    assert_eq!(
        resume(&epoch, 5),
        ("joined".into(), 10, vec![6, 7, 8, 9, 10])
    );
    for (why, epoch, seq) in [
        ("older than the history", &*epoch, 4),
        ("never seen", &*epoch, 0),
        ("newer than the tail", &*epoch, 11),
        ("another epoch", "other", 7),
        ("no overflow", &*epoch, u64::MAX),
    ] {
        assert_eq!(resume(epoch, seq), ("reset".into(), 10, vec![]), "{why}");
    }
}

/// Catalogue B28: between the replay and the live events there is no moment in which an event is lost or comes twice.
#[tokio::test]
async fn resuming_while_others_publish_leaves_no_gap_and_no_duplicate() {
    let hub = Hub::new(Rules {
        history: 100_000,
        history_bytes: 64 << 20,
        full: |_| Full::DropOldest,
        ..rules()
    });
    let publisher = hub.join("log", &name("ada"), &outbox(), None).unwrap();
    let first = outbox();
    let _first = hub.join("log", &name("ada"), &first, None).unwrap();
    let answer = pop(&first);
    let cursor = Cursor {
        epoch: answer["epoch"].as_str().unwrap().to_owned(),
        seq: answer["seq"].as_u64().unwrap(),
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..5000 {
                publisher.publish(n.to_string(), &json!(n));
            }
        });
        for _ in 0..20 {
            let out = Outbox::new(10_000, 64 << 20);
            let place = hub.join("log", &name("ada"), &out, Some(&cursor)).unwrap();
            let answer = pop(&out);
            let mut next = cursor.seq + 1;
            for event in answer["events"].as_array().unwrap() {
                assert_eq!(event["seq"], next);
                next += 1;
            }
            while next < 200 {
                if out.depth().0 > 0 {
                    assert_eq!(pop(&out)["seq"], next);
                    next += 1;
                } else {
                    std::thread::yield_now();
                }
            }
            drop(place);
        }
    });
}

#[tokio::test]
async fn the_ping_of_a_page_is_answered() {
    let hub = Hub::new(rules());
    let server = start(&hub, "ada", Limits::default()).await;
    let mut client = FrameClient::connect(server.addr, "/rooms").await;
    client.send_text(r#"{"type":"ping"}"#).await;
    assert_eq!(client.next_text().await, r#"{"type":"pong"}"#);
}

#[tokio::test]
async fn rooms_names_and_members_are_bounded() {
    let hub = Hub::new(Rules {
        rooms: 20,
        members: 2,
        ..rules()
    });
    let server = start(&hub, "ada", Limits::default()).await;
    let mut client = FrameClient::connect(server.addr, "/rooms").await;
    async fn ask(client: &mut FrameClient, request: Value) -> String {
        client.send_text(&request.to_string()).await;
        loop {
            let answer = client.next_json().await;
            match answer["type"].as_str().unwrap() {
                "error" => return answer["code"].as_str().unwrap().to_owned(),
                "joined" | "left" => return String::new(),
                _ => {}
            }
        }
    }
    for n in 0..rooms_endpoint::MAX_ROOMS {
        assert_eq!(
            ask(
                &mut client,
                json!({ "type": "join", "room": format!("r{n}") })
            )
            .await,
            ""
        );
    }
    assert_eq!(
        ask(&mut client, json!({ "type": "join", "room": "one more" })).await,
        "too_many_rooms"
    );
    assert_eq!(
        ask(&mut client, json!({ "type": "leave", "room": "r0" })).await,
        ""
    );
    assert_eq!(
        ask(
            &mut client,
            json!({ "type": "publish", "id": "x", "room": "r0", "data": 1 })
        )
        .await,
        "not_joined"
    );
    assert_eq!(
        ask(
            &mut client,
            json!({ "type": "join", "room": "r".repeat(65) })
        )
        .await,
        "invalid_value"
    );

    let places: Vec<_> = (0..2)
        .map(|_| hub.join("small", &name("bob"), &outbox(), None).unwrap())
        .collect();
    assert_eq!(
        hub.join("small", &name("bob"), &outbox(), None).err(),
        Some("full")
    );
    drop(places);
    let mut places = Vec::new();
    let refused = loop {
        match hub.join(
            &format!("more {}", places.len()),
            &name("bob"),
            &outbox(),
            None,
        ) {
            Ok(place) => places.push(place),
            Err(code) => break code,
        }
    };
    assert_eq!((refused, hub.rooms()), ("full", 20));
}
