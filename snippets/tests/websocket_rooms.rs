//! `websocket/rooms`: order, slow members next to fast ones under each policy, presence, freeing, and resume.

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use axum::Extension;
use axum::extract::ws::Message;
use serde_json::{Value, json};
use snippets::websocket::outbox::Outbox;
use snippets::websocket::presence::USERS_SHOWN;
use snippets::websocket::rooms::{Full, Hub, Rules};
use snippets::websocket::rooms_endpoint::{self, MAX_ROOMS};
use snippets::websocket::rooms_protocol::Cursor;
use snippets::websocket::serve::Limits;
use snippets::websocket::serve::{Handler, Sockets};
use snippets::websocket::users::User;
use tokio_util::sync::CancellationToken;

use crate::support::frames::{CLOSE, PING, Seen, TEXT};
use crate::support::member::{Member, answers};
use crate::support::{Frame, FrameClient, Server, eventually};

/// Presence comes in its own time, and not in between.
fn rules() -> Rules {
    Rules {
        presence_every: Duration::from_secs(3600),
        full: policy,
        ..Rules::default()
    }
}

fn policy(name: &str) -> Full {
    match name {
        "prices" => Full::Conflate,
        "log" => Full::DropOldest,
        _ => Full::Disconnect,
    }
}

fn user(name: &str) -> User {
    User {
        name: name.into(),
        admin: false,
        expires: tokio::time::Instant::now() + Duration::from_secs(3600),
    }
}

async fn start(hub: &Hub, user_name: &str, limits: Limits) -> Server {
    let sockets = Sockets::new(limits, CancellationToken::new());
    let router = rooms_endpoint::router(sockets, hub.clone(), ());
    Server::start(router.layer(Extension(user(user_name)))).await
}

#[tokio::test]
async fn transcript() {
    let hub = Hub::new(rules());
    let ada = start(&hub, "ada", Limits::default()).await;
    let bob = Member::join(&hub, "talk", "bob", None);
    let mut client = FrameClient::connect(ada.addr, "/rooms").await;
    client.send_text(r#"{"type":"join","room":"talk"}"#).await;
    let joined = client.next_json().await;
    let epoch = joined["epoch"].as_str().unwrap().to_owned();
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
    drop(client);
    bob.publish("b1", "while ada was away");

    let mut client = FrameClient::connect(ada.addr, "/rooms").await;
    client.note("the connection was lost; on the next one the client resumes");
    let resume = json!({ "type": "join", "room": "talk", "resume": { "epoch": epoch, "seq": 1 } });
    client.send_text(&resume.to_string()).await;
    assert_eq!(client.next_json().await["type"], "joined");
    assert_eq!(client.next_json().await["data"], "while ada was away");
    client.note("a cursor that the room does not know");
    let resume =
        json!({ "type": "join", "room": "talk", "resume": { "epoch": "other", "seq": 1 } });
    client.send_text(&resume.to_string()).await;
    assert_eq!(client.next_json().await["type"], "reset");
    text.push('\n');
    let transcript = client.transcript();
    let frames = transcript.split_once("\n\n\n").unwrap().1;
    text.push_str(frames.split_once("\n\n").unwrap().1);
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(&epoch, "[epoch]");
    settings.bind(|| insta::assert_snapshot!(text));
}

/// Sequence numbers and order are the same for all, whoever publishes, and the bytes are encoded once.
#[tokio::test]
async fn all_members_see_one_order_and_share_one_encoding() {
    let hub = Hub::new(Rules {
        history: 1001,
        queue: 1001,
        ..rules()
    });
    let mut members: Vec<_> = (0..3)
        .map(|_| Member::join(&hub, "talk", "ada", None))
        .collect();
    std::thread::scope(|scope| {
        for publisher in 0..4 {
            let place = Member::join(&hub, "talk", "ada", None);
            scope.spawn(move || {
                for n in 0..250 {
                    place.publish(&format!("{publisher}-{n}"), n);
                }
            });
        }
    });
    let seen: Vec<_> = members
        .iter_mut()
        .map(|member| member.take()[1..].to_vec())
        .collect();
    assert_eq!(seen[0].len(), 1000);
    assert!((1..).zip(&seen[0]).all(|(seq, event)| event["seq"] == seq));
    assert!(seen.iter().all(|events| *events == seen[0]));
    members[0].publish("one more", 1);
    let mut cx = Context::from_waker(Waker::noop());
    let bytes = members
        .iter_mut()
        .map(|member| match member.place.poll_frames(&mut cx) {
            Poll::Ready(Some(frames)) => frames.as_ptr() as usize,
            _ => panic!("nothing was sent"),
        });
    let bytes: Vec<_> = bytes.collect();
    assert!(
        bytes.iter().all(|at| *at == bytes[0]),
        "copies of the bytes"
    );
}

const FAST: usize = 3;
const EVENTS: u64 = 120;

/// One member that does not read next to fast ones, over real sockets. Every fast one receives every event before the next
/// is published. The stalled one holds nothing but its position; then it reads, and what it saw is returned.
async fn stalled_beside_fast(room: &str) -> Vec<Frame> {
    let limits = Limits {
        send_deadline: Duration::from_secs(60),
        ..Limits::default()
    };
    let hub = Hub::new(Rules {
        history: 32,
        history_bytes: 4 << 20,
        queue: 16,
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
    let publisher = Member::join(&hub, room, "ada", None);
    for n in 0..EVENTS {
        let seq = publisher.publish(&format!("{n}"), "x".repeat(60_000));
        for client in &mut fast {
            assert_eq!(client.next_json().await["seq"], seq);
        }
    }
    drop(publisher);
    let mut seen = Vec::new();
    loop {
        match stalled.next().await {
            // It comes whenever the machine was slow.
            Seen::Frame(frame) if frame.opcode == PING => {}
            Seen::Frame(frame) => {
                let last = frame.opcode == CLOSE
                    || frame.opcode == TEXT && json_of(&frame)["seq"] == EVENTS;
                seen.push(frame);
                if last {
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
    let mut next = 1;
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
    assert_eq!(next, EVENTS + 1);
    assert!(gaps >= 1);
}

#[tokio::test]
async fn a_stalled_member_gets_the_newest_value() {
    let seen = stalled_beside_fast("prices").await;
    assert!((seen.len() as u64) < EVENTS, "nothing was conflated");
    let seqs = seen.iter().map(|frame| json_of(frame)["seq"].as_u64());
    assert!(seqs.is_sorted());
}

/// A value that replaces the one before is of use to a newcomer, too.
#[tokio::test]
async fn a_newcomer_gets_the_newest_value() {
    let hub = Hub::new(rules());
    let publisher = Member::join(&hub, "prices", "ada", None);
    for n in 1..=3 {
        publisher.publish(&n.to_string(), n);
    }
    let seen = Member::join(&hub, "prices", "bob", None).take();
    assert_eq!(
        (&seen[0]["type"], &seen[0]["seq"]),
        (&json!("joined"), &json!(2))
    );
    assert_eq!((&seen[1]["data"], &seen[1]["seq"]), (&json!(3), &json!(3)));
}

/// What a member receives under `DropOldest` accounts for every event, whenever it reads.
#[test]
fn gap_notices_account_for_every_dropped_event() {
    use proptest::prelude::*;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let _inside = runtime.enter();
    proptest!(|(reads in proptest::collection::vec(any::<bool>(), 1..200), queue in 1..6_usize, history in 1..12_usize)| {
        let hub = Hub::new(Rules { queue, history, ..rules() });
        let publisher = Member::join(&hub, "log", "ada", None);
        let mut reader = Member::join(&hub, "log", "bob", None);
        let mut next = 1;
        let mut account = |reader: &mut Member| {
            for value in reader.take() {
                let (from, to) = match value["type"].as_str().unwrap() {
                    "joined" => continue,
                    "gap" => (value["from"].as_u64().unwrap(), value["to"].as_u64().unwrap()),
                    _ => (value["seq"].as_u64().unwrap(), value["seq"].as_u64().unwrap()),
                };
                assert_eq!(from, next);
                assert!(to >= from);
                next = to + 1;
            }
        };
        for (n, read) in reads.iter().enumerate() {
            publisher.publish(&n.to_string(), 1);
            if *read {
                account(&mut reader);
            }
        }
        account(&mut reader);
        assert_eq!(next, reads.len() as u64 + 1);
    });
}

fn presence(member: &mut Member) -> Vec<(u64, Vec<String>)> {
    let mut all = member.take();
    all.retain(|message| message["type"] == "presence");
    all.iter()
        .map(|presence| {
            let users = serde_json::from_value(presence["users"].clone()).unwrap();
            (presence["count"].as_u64().unwrap(), users)
        })
        .collect()
}

fn timed() -> Rules {
    Rules {
        full: policy,
        ..Rules::default()
    }
}

#[tokio::test(start_paused = true)]
async fn presence_counts_users_not_connections() {
    let second = Duration::from_secs(1);
    let hub = Hub::new(timed());
    let mut bob = Member::join(&hub, "talk", "bob", None);
    assert_eq!(bob.take()[0]["users"], json!(["bob"]));
    let first = Member::join(&hub, "talk", "ada", None);
    let second_tab = Member::join(&hub, "talk", "ada", None);
    tokio::time::sleep(2 * second).await;
    assert_eq!(presence(&mut bob), [(2, vec!["ada".into(), "bob".into()])]);
    drop(first);
    tokio::time::sleep(60 * second).await;
    assert_eq!(presence(&mut bob), []);
    drop(second_tab);
    tokio::time::sleep(60 * second).await;
    assert_eq!(presence(&mut bob), [(1, vec!["bob".into()])]);
}

#[tokio::test(start_paused = true)]
async fn a_contract_may_have_no_presence() {
    let hub = Hub::new(Rules {
        presence: false,
        ..timed()
    });
    let mut bob = Member::join(&hub, "talk", "bob", None);
    assert_eq!(bob.take()[0].get("users"), None);
    let _ada = Member::join(&hub, "talk", "ada", None);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(presence(&mut bob), []);
}

/// A reconnect within the grace period is no coming and going, and it pushes no message out of the history.
#[tokio::test(start_paused = true)]
async fn a_reconnect_of_everyone_resumes() {
    let hub = Hub::new(timed());
    let name = |n: usize| format!("user {n}");
    let mut members: Vec<_> = (0..200)
        .map(|n| Member::join(&hub, "all-hands", &name(n), None))
        .collect();
    members[0].publish("1", "the one message of today");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let cursors: Vec<Cursor> = members
        .iter_mut()
        .map(|member| {
            let all = member.events();
            Cursor {
                epoch: all[0]["epoch"].as_str().map(str::to_owned),
                seq: all.last().unwrap()["seq"].as_u64().unwrap(),
            }
        })
        .collect();
    let mut stays = members.pop().unwrap();
    members.clear();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let mut back: Vec<_> = (0..199)
        .map(|n| Member::join(&hub, "all-hands", &name(n), Some(&cursors[n])))
        .collect();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(presence(&mut stays), [], "nobody has come or gone");
    for member in &mut back {
        let all = member.take();
        assert_eq!(
            (all.len(), &all[0]["type"]),
            (1, &json!("joined")),
            "{all:?}"
        );
    }
}

/// `gap` is answered by joining again with the cursor. Nobody has left.
#[tokio::test(start_paused = true)]
async fn filling_a_gap_is_no_coming_and_going() {
    let hub = Hub::new(timed());
    let outbox = Outbox::new(1000, 1 << 20);
    let mut ada = rooms_endpoint::Member::new(hub.clone(), user("ada"));
    let mut ask = |request: Value| {
        ada.on_message(Message::Text(request.to_string().into()), &outbox);
        answers(&outbox).remove(0)
    };
    let joined = ask(json!({ "type": "join", "room": "log" }));
    let mut bob = Member::join(&hub, "log", "bob", None);
    bob.publish("1", 1);
    tokio::time::sleep(Duration::from_secs(2)).await;
    bob.take();
    let resume = json!({ "epoch": joined["epoch"], "seq": 0 });
    let again = ask(json!({ "type": "join", "room": "log", "resume": resume }));
    assert_eq!(
        (&again["type"], &again["seq"]),
        (&json!("joined"), &json!(0))
    );
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bob.take(), Vec::<Value>::new());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(
        ada.poll_frames(&mut cx, &outbox).is_ready(),
        "presence or the event"
    );
}

/// The answer to a join, and what the others are sent for it, have a size that does not depend on the room's.
#[tokio::test(start_paused = true)]
async fn a_join_costs_the_same_in_a_large_room() {
    let hub = Hub::new(timed());
    let mut watcher = Member::join(&hub, "talk", "user 0", None);
    let _members: Vec<_> = (1..5000)
        .map(|n| Member::join(&hub, "talk", &format!("user {n}"), None))
        .collect();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let presence = presence(&mut watcher);
    assert_eq!((presence.len(), presence[0].0), (1, 5000), "one for all");
    assert_eq!(presence[0].1.len(), USERS_SHOWN);
    let joined = Member::join(&hub, "talk", "one more", None)
        .take()
        .remove(0);
    assert_eq!(joined["count"], 5001);
    assert_eq!(joined["users"].as_array().unwrap().len(), USERS_SHOWN);
}

#[tokio::test(start_paused = true)]
async fn an_empty_room_is_kept_for_a_return_and_then_freed() {
    let hub = Hub::new(timed());
    let mut ada = Member::join(&hub, "talk", "ada", None);
    let joined = ada.take().remove(0);
    let cursor = Cursor {
        epoch: joined["epoch"].as_str().map(str::to_owned),
        seq: ada.publish("m", 1),
    };
    drop(ada);
    tokio::time::sleep(Duration::from_secs(50)).await;
    let back = Member::join(&hub, "talk", "ada", Some(&cursor)).take();
    assert_eq!(back[0]["type"], "joined");
    assert_eq!(hub.rooms(), 1);
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(hub.rooms(), 0);
    let back = Member::join(&hub, "talk", "ada", Some(&cursor)).take();
    assert_eq!(
        (&back[0]["type"], &back[0]["reason"]),
        (&json!("reset"), &json!("epoch")),
        "sequence numbers of another epoch"
    );
}

// Catalogue B29 for rooms: each cursor is replayed exactly, or answered with `reset`.
#[tokio::test]
async fn a_cursor_is_replayed_exactly_or_answered_with_reset() {
    let hub = Hub::new(Rules {
        history: 5,
        ..rules()
    });
    let mut ada = Member::join(&hub, "talk", "ada", None);
    let epoch = ada.take()[0]["epoch"].as_str().unwrap().to_owned();
    for n in 1..=10_u64 {
        assert_eq!(ada.publish(&n.to_string(), n), n);
    }
    let resume = |epoch: &str, seq| {
        let cursor = Cursor {
            epoch: Some(epoch.to_owned()),
            seq,
        };
        let all = Member::join(&hub, "talk", "bob", Some(&cursor)).take();
        let seqs: Vec<_> = all[1..]
            .iter()
            .map(|event| event["seq"].as_u64().unwrap())
            .collect();
        let kind = all[0]["reason"].as_str().or(all[0]["type"].as_str());
        (
            kind.unwrap().to_owned(),
            all[0]["seq"].as_u64().unwrap(),
            seqs,
        )
    };
    assert_eq!(resume(&epoch, 10), ("joined".into(), 10, vec![]));
    assert_eq!(resume(&epoch, 7), ("joined".into(), 7, vec![8, 9, 10]));
    assert_eq!(
        resume(&epoch, 5),
        ("joined".into(), 5, vec![6, 7, 8, 9, 10])
    );
    for (reason, epoch, seq) in [
        ("trimmed", &*epoch, 4),
        ("trimmed", &*epoch, 0),
        ("ahead", &*epoch, 11),
        ("epoch", "other", 7),
        ("epoch", "other", 10),
        ("invalid", &*epoch, u64::MAX),
    ] {
        assert_eq!(resume(epoch, seq), (reason.into(), 10, vec![]), "{reason}");
    }
}

/// Catalogue B28: between the replay and the live events there is no moment in which an event is lost or comes twice.
#[tokio::test]
async fn resuming_while_others_publish_leaves_no_gap_and_no_duplicate() {
    let hub = Hub::new(Rules {
        history: 100_000,
        history_bytes: 64 << 20,
        queue: 100_000,
        ..rules()
    });
    let publisher = Member::join(&hub, "log", "ada", None);
    let answer = Member::join(&hub, "log", "ada", None).take().remove(0);
    let cursor = Cursor {
        epoch: answer["epoch"].as_str().map(str::to_owned),
        seq: answer["seq"].as_u64().unwrap(),
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..5000 {
                publisher.publish(&n.to_string(), n);
            }
        });
        for _ in 0..20 {
            let mut member = Member::join(&hub, "log", "ada", Some(&cursor));
            let mut next = cursor.seq + 1;
            while next < 200 {
                for event in member.take() {
                    if event["type"] == "message" {
                        assert_eq!(event["seq"], next);
                        next += 1;
                    }
                }
                std::thread::yield_now();
            }
        }
    });
}

#[tokio::test]
async fn a_message_that_does_not_fit_is_refused() {
    let hub = Hub::new(Rules {
        history_bytes: 1000,
        ..rules()
    });
    let ada = Member::join(&hub, "talk", "ada", None);
    let large = json!("x".repeat(1000));
    assert_eq!(ada.place.publish("1".into(), &large), Err("too_large"));
    assert_eq!(ada.publish("2", 1), 1);
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
async fn a_client_of_another_protocol_is_refused() {
    let hub = Hub::new(rules());
    let server = start(&hub, "ada", Limits::default()).await;
    for (offer, status) in [("rooms.v2", 400), ("rooms.v2, rooms.v1", 101)] {
        let offer = format!("sec-websocket-protocol: {offer}");
        let client = FrameClient::handshake(server.addr, "/rooms", &[&offer]).await;
        assert_eq!(client.status(), status);
    }
}

/// One busy room does not keep a connection from the events of another.
#[tokio::test]
async fn a_busy_room_does_not_starve_the_others() {
    let hub = Hub::new(rules());
    let outbox = Outbox::new(1000, 1 << 20);
    let mut member = rooms_endpoint::Member::new(hub.clone(), user("ada"));
    for room in ["busy", "quiet"] {
        let join = json!({ "type": "join", "room": room }).to_string();
        member.on_message(Message::Text(join.into()), &outbox);
    }
    let busy = Member::join(&hub, "busy", "bob", None);
    let quiet = Member::join(&hub, "quiet", "bob", None);
    quiet.publish("q", "quiet");
    let mut cx = Context::from_waker(Waker::noop());
    let mut seen = String::new();
    for n in 0..4 {
        busy.publish(&n.to_string(), n);
        if let Poll::Ready(frames) = member.poll_frames(&mut cx, &outbox) {
            seen.push_str(&String::from_utf8_lossy(&frames));
        }
    }
    assert!(seen.contains("quiet"), "{seen}");
}

/// What depends on the server's state never ends a connection: a page in too many rooms, and messages for a room that is full.
#[tokio::test]
async fn refusals_by_state_do_not_end_the_connection() {
    let hub = Hub::new(Rules {
        members: 1,
        ..rules()
    });
    let _other = Member::join(&hub, "full", "bob", None);
    let outbox = Outbox::new(1000, 1 << 20);
    let mut member = rooms_endpoint::Member::new(hub, user("ada"));
    let mut ask = |request: Value| {
        member.on_message(Message::Text(request.to_string().into()), &outbox);
        answers(&outbox).remove(0)
    };
    for n in 0..MAX_ROOMS {
        let joined = ask(json!({ "type": "join", "room": format!("r{n}") }));
        assert_eq!(joined["type"], "joined");
    }
    for n in 0..20 {
        let refused = ask(json!({ "type": "join", "room": format!("more {n}") }));
        assert_eq!(refused["code"], "too_many_rooms");
        assert_eq!(refused["room"], format!("more {n}"));
        ask(json!({ "type": "leave", "room": "r0" }));
        assert_eq!(
            ask(json!({ "type": "join", "room": "full" }))["code"],
            "full"
        );
        let publish = json!({ "type": "publish", "id": n.to_string(), "room": "full", "data": 1 });
        let refused = ask(publish);
        assert_eq!(
            (&refused["code"], &refused["id"]),
            (&json!("not_joined"), &json!(n.to_string()))
        );
        assert_eq!(
            ask(json!({ "type": "join", "room": "private/bob" }))["code"],
            "forbidden"
        );
        ask(json!({ "type": "join", "room": "r0" }));
    }
    assert!(!outbox.is_closed());
}

/// Malformed messages end it, with a rate: five within a minute, and not five in the life of a connection.
#[tokio::test(start_paused = true)]
async fn malformed_messages_are_counted_with_a_rate() {
    let outbox = Outbox::new(1000, 1 << 20);
    let mut member = rooms_endpoint::Member::new(Hub::new(rules()), user("ada"));
    for _ in 0..20 {
        member.on_message(Message::Text("{".into()), &outbox);
        tokio::time::sleep(Duration::from_secs(20)).await;
    }
    assert!(!outbox.is_closed());
    for _ in 0..5 {
        member.on_message(Message::Text("{".into()), &outbox);
    }
    assert_eq!(answers(&outbox).last().unwrap()["close"], 1008);
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
    for n in 0..MAX_ROOMS {
        let join = json!({ "type": "join", "room": format!("r{n}") });
        assert_eq!(ask(&mut client, join).await, "");
    }
    let publish = json!({ "type": "publish", "id": "x", "room": "r0", "data": 1 });
    for (request, code) in [
        (
            json!({ "type": "join", "room": "one more" }),
            "too_many_rooms",
        ),
        (json!({ "type": "leave", "room": "r0" }), ""),
        (publish, "not_joined"),
        (
            json!({ "type": "join", "room": "r".repeat(65) }),
            "invalid_value",
        ),
    ] {
        assert_eq!(ask(&mut client, request).await, code);
    }
    let places: Vec<_> = (0..2)
        .map(|_| Member::join(&hub, "small", "bob", None))
        .collect();
    assert_eq!(
        Member::try_join(&hub, "small", "bob", None).err(),
        Some("full")
    );
    drop(places);
    let mut places = Vec::new();
    let refused = loop {
        match Member::try_join(&hub, &format!("more {}", places.len()), "bob", None) {
            Ok(place) => places.push(place),
            Err(code) => break code,
        }
    };
    assert_eq!((refused, hub.rooms()), ("full", 20));
}

/// The hub's one task ends with the hub.
#[tokio::test]
async fn the_task_of_a_hub_ends_with_it() {
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let before = tasks();
    let hub = Hub::new(Rules {
        presence_every: Duration::from_millis(1),
        ..rules()
    });
    let member = Member::join(&hub, "talk", "ada", None);
    assert_eq!(tasks(), before + 1);
    drop((hub, member));
    eventually("the task to end", || tasks() == before).await;
}

/// The contract of a reader whose ids are plain numbers: no epoch in the answers, and none in the cursors.
#[tokio::test]
async fn rooms_without_epochs_resume_by_number_alone() {
    let cursor = |seq: u64| serde_json::from_value::<Cursor>(json!({ "seq": seq })).unwrap();
    for epochs in [false, true] {
        let hub = Hub::new(Rules {
            epochs,
            keep_empty: Duration::MAX,
            ..rules()
        });
        let mut ada = Member::join(&hub, "talk", "ada", None);
        let joined = ada.take().remove(0);
        assert_eq!(joined.get("epoch").is_some(), epochs, "{joined}");
        let base = joined["seq"].as_u64().unwrap();
        for n in 1..=3_u64 {
            ada.publish(&n.to_string(), n);
        }
        let mut bob = Member::join(&hub, "talk", "bob", Some(&cursor(base + 1)));
        let all = bob.events();
        let seqs: Vec<_> = all[1..].iter().map(|event| event["seq"].as_u64()).collect();
        if epochs {
            // Without its epoch, the number may be another event's.
            assert_eq!((&all[0]["type"], seqs), (&json!("reset"), vec![]));
            continue;
        }
        assert_eq!(
            (&all[0]["type"], seqs),
            (&json!("joined"), vec![Some(base + 2), Some(base + 3)])
        );
        let mut ahead = Member::join(&hub, "talk", "carol", Some(&cursor(base + 99)));
        assert_eq!(ahead.events()[0]["reason"], "ahead");
        // A number of another lifetime of the room, such as one that began earlier, or at 1.
        let mut early = Member::join(&hub, "talk", "dave", Some(&cursor(base - 1)));
        assert_eq!(early.events()[0]["reason"], "trimmed");
    }
}
