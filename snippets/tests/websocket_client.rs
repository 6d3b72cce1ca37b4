//! `websocket/client`: cut, stalled and refused connections between the client and the rooms.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::http::StatusCode;
use axum::routing::any;
use serde_json::json;
use snippets::production::chaos::ChaosProxy;
use snippets::production::chaos_flow::{Cut, Fault, Flow, Plan};
use snippets::websocket::client::{Command, Config, Stopped, Update, backoff, run};
use snippets::websocket::limits::Limits;
use snippets::websocket::pending::Pending;
use snippets::websocket::protect::User;
use snippets::websocket::rates::{Quotas, Rates};
use snippets::websocket::rooms::{Full, Hub, Rules};
use snippets::websocket::rooms_endpoint;
use snippets::websocket::serve::Sockets;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_util::sync::CancellationToken;

use crate::support::member::Member;
use crate::support::{Server, chaos, eventually, within};

fn ada() -> User {
    User {
        name: "ada".into(),
        admin: false,
        expires: Instant::now() + Duration::from_secs(3600),
    }
}

fn plenty() -> governor::Quota {
    governor::Quota::per_second(std::num::NonZeroU32::MAX)
}

struct World {
    hub: Hub,
    _server: Server,
    network: ChaosProxy,
    addr: SocketAddr,
}

async fn world(quotas: Quotas) -> World {
    world_behind(quotas, 0, |_| Plan::default()).await
}

async fn world_behind(
    quotas: Quotas,
    seed: u64,
    plan: impl Fn(u64) -> Plan + Send + 'static,
) -> World {
    let hub = Hub::new(Rules {
        history: 1000,
        queue: 1000,
        grace: Duration::ZERO,
        presence_every: Duration::from_millis(5),
        full: |room| match room {
            "log" => Full::DropOldest,
            _ => Full::Disconnect,
        },
        ..Rules::default()
    });
    let sockets = Sockets::new(Limits::default(), CancellationToken::new());
    let app = rooms_endpoint::router(sockets, hub.clone(), Rates::new(quotas))
        .layer(axum::Extension(ada()));
    let server = Server::start(app).await;
    let network = chaos(server.addr, seed, plan).await;
    let addr = network.addr();
    World {
        hub,
        _server: server,
        network,
        addr,
    }
}

fn generous() -> Quotas {
    Quotas {
        messages: plenty(),
        user: plenty(),
        ..Quotas::default()
    }
}

async fn generous_world() -> World {
    world(generous()).await
}

impl World {
    /// Connections are reset, new ones are refused.
    async fn down(&self) {
        self.network.refuse(true).await;
        self.network.cut_all(Cut::Reset);
    }

    /// Nothing from the server arrives any more on the connections that are open.
    fn deaf(&self) {
        for connection in self.network.connections() {
            connection.to_client.stall();
        }
    }

    /// A member on the server's side.
    fn member(&self, name: &str) -> Member {
        Member::join(&self.hub, "talk", name, None)
    }
}

fn config(addr: SocketAddr) -> Config {
    Config {
        request: Box::new(move || format!("ws://{addr}/rooms").into_client_request()),
        connect_timeout: Duration::from_secs(10),
        min_delay: Duration::from_millis(5),
        max_delay: Duration::from_millis(500),
        stable_after: Duration::from_secs(10),
        heartbeat: Duration::from_secs(10),
        max_message: 1 << 20,
        pending: Pending::new(64, 16, Duration::from_secs(60)),
    }
}

struct Running {
    commands: mpsc::Sender<Command>,
    updates: mpsc::Receiver<Update>,
    task: JoinHandle<Stopped>,
}

fn start(config: Config) -> Running {
    let (commands, commands_rx) = mpsc::channel(16);
    let (updates_tx, updates) = mpsc::channel(16);
    Running {
        commands,
        updates,
        task: tokio::spawn(run(config, commands_rx, updates_tx)),
    }
}

impl Running {
    async fn join(&self) {
        self.commands
            .send(Command::Join("talk".into()))
            .await
            .unwrap();
    }

    async fn publish(&self, tag: u64) {
        let command = Command::Publish {
            room: "talk".into(),
            data: json!(tag),
            tag,
        };
        self.commands.send(command).await.unwrap();
    }

    async fn next(&mut self) -> Update {
        within("an update", self.updates.recv())
            .await
            .expect("the client has stopped")
    }

    /// The next update that is neither about the connection nor about presence.
    async fn news(&mut self) -> Update {
        loop {
            match self.next().await {
                Update::Connected | Update::Disconnected | Update::Presence { .. } => {}
                update => return update,
            }
        }
    }

    /// Joins, and waits until it is in the room.
    async fn joined(&mut self) -> u64 {
        self.join().await;
        match self.news().await {
            Update::Joined { seq, .. } => seq,
            other => panic!("{other:?}"),
        }
    }
}

/// Waits until `watcher` sees that ada is there, or is not.
async fn presence(watcher: &mut Member, there: bool) {
    eventually("the presence of ada", || {
        let seen = watcher.take();
        let mut presence = seen.iter().filter(|message| message["type"] == "presence");
        presence.any(|presence| {
            presence["users"]
                .as_array()
                .unwrap()
                .contains(&json!("ada"))
                == there
        })
    })
    .await;
}

#[tokio::test]
async fn resumes_after_a_cut_without_gap_or_duplicate() {
    let world = generous_world().await;
    let mut bob = world.member("bob");
    let mut client = start(config(world.addr));
    let mut last = client.joined().await;
    for round in 0..5 {
        bob.publish(&format!("{round} before"), round);
        presence(&mut bob, true).await;
        world.down().await;
        presence(&mut bob, false).await;
        for n in 0..10 {
            bob.publish(&format!("{round} {n}"), n);
        }
        world.network.refuse(false).await;
        let end = bob.publish(&format!("{round} after"), round);
        while last < end {
            match client.news().await {
                Update::Event { seq, .. } => {
                    assert_eq!(seq, last + 1);
                    last = seq;
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

/// In small pieces both ways, and six times cut at any byte: every event once and in order, every message of the client
/// in the room once.
#[tokio::test]
async fn loses_and_doubles_nothing_through_a_hostile_network() {
    for seed in 1..=4 {
        let world = world_behind(generous(), seed, |number| {
            let pieces = Flow {
                split: Some(1..=40),
                ..Flow::default()
            };
            let how = [Cut::Reset, Cut::Fin][(number % 2) as usize];
            Plan {
                to_client: Flow {
                    fault: (number < 6).then_some((200..=3_000, Fault::Cut(how))),
                    ..pieces.clone()
                },
                to_server: pieces,
            }
        })
        .await;
        let bob = world.member("bob");
        let mut client = start(Config {
            max_delay: Duration::from_millis(10),
            ..config(world.addr)
        });
        let mut last = client.joined().await;
        let (mut acknowledged, mut own) = (0, Vec::new());
        for tag in 0..12 {
            client.publish(tag).await;
            bob.publish(&format!("{tag}"), "x".repeat(800));
        }
        let end = bob.publish("end", "end");
        while last < end || acknowledged < 12 || own.len() < 12 {
            match client.news().await {
                Update::Event { seq, event, .. } => {
                    assert_eq!(seq, last + 1, "seed {seed}");
                    last = seq;
                    own.extend(event["data"].as_u64());
                }
                Update::Published { outcome, .. } => {
                    outcome.unwrap();
                    acknowledged += 1;
                }
                other => panic!("seed {seed}: {other:?}"),
            }
        }
        assert_eq!(own, (0..12).collect::<Vec<_>>(), "seed {seed}");
        let connections = world.network.connections().len();
        assert!(connections >= 3, "seed {seed} has cut nothing");
    }
}

#[tokio::test]
async fn a_room_that_has_begun_anew_is_reported_as_reset() {
    let first = generous_world().await;
    let second = generous_world().await;
    let addr = Arc::new(std::sync::Mutex::new(first.addr));
    let asked = addr.clone();
    let mut client = start(Config {
        request: Box::new(move || {
            format!("ws://{}/rooms", asked.lock().unwrap()).into_client_request()
        }),
        ..config(first.addr)
    });
    client.joined().await;
    *addr.lock().unwrap() = second.addr;
    first.down().await;
    assert_eq!(
        client.news().await,
        Update::Reset {
            room: "talk".into(),
            seq: 0
        }
    );
    // The new numbering is followed.
    let seq = second.member("eve").publish("x", "new");
    loop {
        if let Update::Event {
            seq: got, event, ..
        } = client.news().await
            && event["type"] == "message"
        {
            assert_eq!(got, seq);
            break;
        }
    }
}

/// The server has published the message, its acknowledgement is lost, the client sends it again: it is in the room once.
#[tokio::test]
async fn a_message_whose_ack_was_lost_is_published_once() {
    let world = generous_world().await;
    let mut watching = world.member("bob");
    let mut client = start(config(world.addr));
    client.joined().await;
    presence(&mut watching, true).await;
    world.deaf();
    for tag in 0..20 {
        client.publish(tag).await;
    }
    // 16 are in the window; none of their acknowledgements can arrive.
    let mut seen: BTreeMap<u64, usize> = BTreeMap::new();
    let mut collect = |seen: &mut BTreeMap<u64, usize>| {
        for event in watching.take() {
            if event["type"] == "message" {
                *seen.entry(event["data"].as_u64().unwrap()).or_default() += 1;
            }
        }
        seen.len()
    };
    eventually("the server to have published the window", || {
        collect(&mut seen) == 16
    })
    .await;
    world.down().await;
    world.network.refuse(false).await;
    let mut published = Vec::new();
    while published.len() < 20 {
        if let Update::Published { tag, outcome } = client.news().await {
            outcome.unwrap();
            published.push(tag);
        }
    }
    assert_eq!(published, (0..20).collect::<Vec<_>>());
    collect(&mut seen);
    assert!(
        seen.len() == 20 && seen.values().all(|count| *count == 1),
        "{seen:?}"
    );
}

#[tokio::test]
async fn messages_wait_while_offline_up_to_the_bound() {
    let world = generous_world().await;
    world.down().await;
    let mut client = start(Config {
        pending: Pending::new(3, 16, Duration::from_secs(60)),
        ..config(world.addr)
    });
    client.join().await;
    for tag in 0..4 {
        client.publish(tag).await;
    }
    assert_eq!(
        client.news().await,
        Update::Published {
            tag: 3,
            outcome: Err("queue_full".into())
        }
    );
    world.network.refuse(false).await;
    client.commands.send(Command::Wake).await.unwrap();
    let mut published = Vec::new();
    while published.len() < 3 {
        if let Update::Published { tag, outcome } = client.news().await {
            outcome.unwrap();
            published.push(tag);
        }
    }
    assert_eq!(published, [0, 1, 2]);
}

/// Being told to slow down is no refusal: everything arrives, in order.
#[tokio::test]
async fn waits_when_it_is_rate_limited() {
    let slow = governor::Quota::with_period(Duration::from_millis(20))
        .unwrap()
        .allow_burst(std::num::NonZeroU32::new(3).unwrap());
    let world = world(Quotas {
        messages: slow,
        user: plenty(),
        refusals: plenty(),
        ..Quotas::default()
    })
    .await;
    let mut client = start(Config {
        pending: Pending::new(64, 4, Duration::from_secs(60)),
        ..config(world.addr)
    });
    client.join().await;
    for tag in 0..10 {
        client.publish(tag).await;
    }
    let mut published = Vec::new();
    while published.len() < 10 {
        if let Update::Published { tag, outcome } = client.news().await {
            outcome.unwrap();
            published.push(tag);
        }
    }
    published.sort_unstable();
    assert_eq!(published, (0..10).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_silent_connection_is_given_up() {
    let world = generous_world().await;
    let mut client = start(Config {
        heartbeat: Duration::from_millis(100),
        ..config(world.addr)
    });
    assert_eq!(client.next().await, Update::Connected);
    world.deaf();
    assert_eq!(client.next().await, Update::Disconnected);
    assert_eq!(client.next().await, Update::Connected, "a new connection");
}

/// An application that does not take its updates is not buffered for, and loses nothing.
#[tokio::test]
async fn a_slow_application_is_resumed_and_loses_nothing() {
    let world = generous_world().await;
    let bob = world.member("bob");
    let mut client = start(Config {
        heartbeat: Duration::from_millis(200),
        ..config(world.addr)
    });
    let mut last = client.joined().await;
    for n in 0..100 {
        bob.publish(&n.to_string(), n);
    }
    // Nothing is read: the connection is dropped after a heartbeat.
    eventually("another connection", || {
        world.network.connections().len() > 1
    })
    .await;
    let end = bob.publish("end", "end");
    while last < end {
        match client.news().await {
            Update::Event { seq, .. } => {
                assert_eq!(seq, last + 1);
                last = seq;
            }
            other => panic!("{other:?}"),
        }
    }
}

async fn closing(code: u16) -> (Server, Arc<AtomicUsize>) {
    let connects = Arc::new(AtomicUsize::new(0));
    let counter = connects.clone();
    let app = Router::new().route(
        "/rooms",
        any(move |ws: WebSocketUpgrade| async move {
            counter.fetch_add(1, Ordering::Relaxed);
            ws.on_upgrade(move |mut socket: WebSocket| async move {
                let frame = CloseFrame {
                    code,
                    reason: "".into(),
                };
                let _ = socket.send(Message::Close(Some(frame))).await;
                while let Some(Ok(_)) = socket.recv().await {}
            })
        }),
    );
    (Server::start(app).await, connects)
}

#[tokio::test]
async fn stops_where_asking_again_is_useless() {
    for code in [4401, 4403, 1008] {
        let (server, connects) = closing(code).await;
        let mut client = start(config(server.addr));
        assert_eq!(client.next().await, Update::Connected);
        assert_eq!(client.next().await, Update::Disconnected);
        assert_eq!(
            within("the client to stop", client.task).await.unwrap(),
            Stopped::Code(code)
        );
        assert_eq!(connects.load(Ordering::Relaxed), 1);
    }
    for status in [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN] {
        let server =
            Server::start(Router::new().route("/rooms", any(move || async move { status }))).await;
        let client = start(config(server.addr));
        assert_eq!(
            within("the client to stop", client.task).await.unwrap(),
            Stopped::Status(status.as_u16())
        );
    }
}

#[tokio::test]
async fn comes_back_after_a_restart_and_an_overload() {
    for code in [1001, 1012, 1013, 1011, 4408] {
        let (server, connects) = closing(code).await;
        let mut client = start(config(server.addr));
        while connects.load(Ordering::Relaxed) < 3 {
            client.next().await;
        }
    }
}

#[tokio::test]
async fn dropping_the_commands_stops_it_with_a_close() {
    let world = generous_world().await;
    let mut client = start(config(world.addr));
    assert_eq!(client.next().await, Update::Connected);
    drop(client.commands);
    assert_eq!(
        within("the client to stop", client.task).await.unwrap(),
        Stopped::ByApplication
    );
}

#[test]
fn the_delay_is_at_least_the_minimum_and_spread_below_a_bound_that_doubles() {
    let (min, max) = (Duration::from_millis(100), Duration::from_secs(30));
    for (failures, bound) in [
        (0, 200),
        (1, 300),
        (4, 1700),
        (20, 30_000),
        (u32::MAX, 30_000),
    ] {
        let bound = Duration::from_millis(bound);
        let delays: Vec<_> = (0..2000).map(|_| backoff(failures, min, max)).collect();
        assert!(delays.iter().all(|delay| (min..=bound).contains(delay)));
        // As many in the first quarter of the range as in the last.
        let quarter = (bound - min) / 4;
        let low = delays.iter().filter(|delay| **delay < min + quarter);
        let high = delays.iter().filter(|delay| **delay >= bound - quarter);
        assert!((300..700).contains(&low.count()) && (300..700).contains(&high.count()));
    }
}

/// A server that is overloaded says when to come back.
#[tokio::test]
async fn retry_after_is_honored_at_the_handshake() {
    let connects = Arc::new(AtomicUsize::new(0));
    let counter = connects.clone();
    let refuse = move || async move {
        counter.fetch_add(1, Ordering::Relaxed);
        (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "3600")])
    };
    let server = Server::start(Router::new().route("/rooms", any(refuse))).await;
    let client = start(Config {
        min_delay: Duration::from_millis(1),
        max_delay: Duration::from_millis(5),
        ..config(server.addr)
    });
    eventually("the first attempt", || {
        connects.load(Ordering::Relaxed) == 1
    })
    .await;
    client.commands.send(Command::Wake).await.unwrap();
    assert!(
        tokio::time::timeout(Duration::from_millis(300), client.task)
            .await
            .is_err()
    );
    assert_eq!(connects.load(Ordering::Relaxed), 1);
}

/// Commands are taken while a handshake does not come to an end, and so is the end of the application.
#[tokio::test]
async fn commands_are_taken_while_it_connects() {
    let silent = tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await
        .unwrap();
    let addr = silent.local_addr().unwrap();
    let mut client = start(Config {
        connect_timeout: Duration::from_secs(3600),
        pending: Pending::new(1, 1, Duration::from_secs(60)),
        ..config(addr)
    });
    client.publish(1).await;
    client.publish(2).await;
    let refused = client.next().await;
    assert!(
        matches!(refused, Update::Published { tag: 2, .. }),
        "{refused:?}"
    );
    drop(client.commands);
    let stopped = within("the client to stop", client.task).await.unwrap();
    assert_eq!(stopped, Stopped::ByApplication);
}

async fn publish_all(client: &mut Running, count: u64) -> Vec<u64> {
    client.join().await;
    let commands = client.commands.clone();
    tokio::spawn(async move {
        for tag in 0..count {
            let (room, data) = ("talk".into(), json!(tag));
            let _ = commands.send(Command::Publish { room, data, tag }).await;
        }
    });
    let mut published = Vec::new();
    while published.len() < count as usize {
        match client.next().await {
            Update::Published { tag, outcome } => {
                outcome.unwrap();
                published.push(tag);
            }
            Update::Disconnected => panic!("the connection ended"),
            _ => {}
        }
    }
    published.sort_unstable();
    published
}

/// The window is larger than the channel to the writer.
#[tokio::test]
async fn a_window_of_a_hundred_messages_is_sent() {
    let world = generous_world().await;
    let mut client = start(Config {
        pending: Pending::new(1000, 200, Duration::from_secs(60)),
        ..config(world.addr)
    });
    let published = publish_all(&mut client, 200).await;
    assert_eq!(published, (0..200).collect::<Vec<_>>());
}

/// With the quotas of the pack: a client that was offline sends what has gathered, at the rate that the server allows.
#[tokio::test]
async fn a_client_that_was_offline_is_paced_and_not_stopped() {
    let world = world(Quotas::default()).await;
    let mut client = start(Config {
        pending: Pending::new(1000, 48, Duration::from_secs(60)),
        ..config(world.addr)
    });
    let published = publish_all(&mut client, 60).await;
    assert_eq!(published, (0..60).collect::<Vec<_>>());
    assert_eq!(world.network.connections().len(), 1);
}

#[tokio::test]
async fn a_join_that_was_rate_limited_is_made_later() {
    let few = governor::Quota::with_period(Duration::from_millis(50))
        .unwrap()
        .allow_burst(std::num::NonZeroU32::new(2).unwrap());
    let world = world(Quotas {
        messages: few,
        ..Quotas::default()
    })
    .await;
    let mut client = start(config(world.addr));
    let rooms = ["a", "b", "c", "d", "e"];
    for room in rooms {
        client
            .commands
            .send(Command::Join(room.into()))
            .await
            .unwrap();
    }
    let mut joined = Vec::new();
    while joined.len() < rooms.len() {
        match client.news().await {
            Update::Joined { room, .. } => joined.push(room),
            other => panic!("{other:?}"),
        }
    }
    joined.sort();
    assert_eq!(joined, rooms);
}

/// A room that drops events for slow members: the gap is filled from the history, or reported as `Reset`.
#[tokio::test]
async fn a_gap_is_filled_or_reported() {
    for (history, filled) in [(1000, true), (8, false)] {
        let hub = Hub::new(Rules {
            history,
            history_bytes: 64 << 20,
            queue: 4,
            full: |_| Full::DropOldest,
            ..Rules::default()
        });
        let sockets = Sockets::new(Limits::default(), CancellationToken::new());
        let rates = Rates::new(generous());
        let app = rooms_endpoint::router(sockets, hub.clone(), rates).layer(axum::Extension(ada()));
        let server = Server::start(app).await;
        let mut client = start(config(server.addr));
        client.join().await;
        let Update::Joined { seq: mut last, .. } = client.news().await else {
            panic!("not joined");
        };
        let bob = Member::join(&hub, "talk", "bob", None);
        // Nothing is taken meanwhile, and it is more than all buffers on the path hold.
        for n in 0..100 {
            bob.publish(&n.to_string(), "x".repeat(200_000));
        }
        let end = bob.publish("end", "end");
        let mut resets = 0;
        while last < end {
            match client.news().await {
                Update::Event { seq, .. } => {
                    assert_eq!(seq, last + 1);
                    last = seq;
                }
                Update::Reset { seq, .. } => {
                    resets += 1;
                    last = seq;
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(resets == 0, filled, "{resets} resets");
    }
}

/// A server that accepts and fails at once is not asked at the shortest delay for ever: an open alone resets nothing.
#[tokio::test]
async fn a_short_connection_does_not_reset_the_delay() {
    let (server, connects) = closing(1011).await;
    let mut client = start(Config {
        min_delay: Duration::from_millis(1),
        max_delay: Duration::from_secs(3600),
        ..config(server.addr)
    });
    // With a delay that doubles from 1 ms, 30 connects would take years; one that starts over would have them at once.
    let many = async {
        while connects.load(Ordering::Relaxed) < 30 {
            client.next().await;
        }
    };
    assert!(
        tokio::time::timeout(Duration::from_secs(1), many)
            .await
            .is_err()
    );
}

#[tokio::test(start_paused = true)]
async fn pending_messages_expire() {
    let mut pending = Pending::new(10, 2, Duration::from_secs(30));
    let old = pending.push("talk".into(), json!(1)).unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    let young = pending.push("talk".into(), json!(2)).unwrap();
    assert_eq!(pending.next_unsent(|_| true).unwrap().id, old);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(pending.expired(), Some(old.clone()));
    assert!(pending.settle(&old) && !pending.settle(&old));
    assert_eq!(pending.expired(), None);
    pending.send_again();
    assert_eq!(pending.next_unsent(|_| true).unwrap().id, young);
    assert!(pending.settle(&young));
    assert!(pending.next_unsent(|_| true).is_none());
}
