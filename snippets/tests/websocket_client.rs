//! `websocket/client`: cut, stalled and refused connections between the client and the rooms.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::http::StatusCode;
use axum::routing::any;
use serde_json::{Value, json};
use snippets::production::chaos::ChaosProxy;
use snippets::production::chaos_flow::{Cut, Fault, Flow, Plan};
use snippets::websocket::client::{Command, Config, Stopped, Update, full_jitter, run};
use snippets::websocket::limits::Limits;
use snippets::websocket::outbox::{Full, Outbox};
use snippets::websocket::pending::Pending;
use snippets::websocket::protect::User;
use snippets::websocket::rates::{Quotas, Rates};
use snippets::websocket::rooms::{Hub, Membership, Rules};
use snippets::websocket::rooms_endpoint;
use snippets::websocket::serve::Sockets;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_util::sync::CancellationToken;

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
        history_bytes: 100_000,
        rooms: 10,
        members: 10,
        keep_empty: Duration::from_secs(60),
        full: |_| Full::Disconnect,
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
    fn member(&self, name: &str) -> (Membership, Outbox) {
        let outbox = Outbox::new(10_000, 1 << 20);
        let place = self
            .hub
            .join("talk", &Arc::from(name), &outbox, None)
            .unwrap();
        (place, outbox)
    }
}

fn config(addr: SocketAddr) -> Config {
    Config {
        request: Box::new(move || format!("ws://{addr}/rooms").into_client_request()),
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

    /// The next update that is not about the connection.
    async fn news(&mut self) -> Update {
        loop {
            match self.next().await {
                Update::Connected | Update::Disconnected => {}
                update => return update,
            }
        }
    }

    /// Waits for the first event, its own `user_joined`, which says that the join has been carried out.
    async fn joined(&mut self, member: &Membership) -> u64 {
        member.publish("first".into(), &json!("first"));
        loop {
            if let Update::Event { seq, event, .. } = self.news().await
                && event["data"] == "first"
            {
                return seq;
            }
        }
    }
}

async fn presence(outbox: &Outbox, kind: &str) {
    let expected = format!(r#""type":"{kind}""#);
    eventually(kind, || {
        std::iter::from_fn(|| (outbox.depth().0 > 0).then(|| outbox.pop()).flatten())
            .any(|message| matches!(message, Message::Text(text) if text.contains(&expected) && text.contains("ada")))
    })
    .await;
}

#[tokio::test]
async fn resumes_after_a_cut_without_gap_or_duplicate() {
    let world = generous_world().await;
    let (bob, watching) = world.member("bob");
    let mut client = start(config(world.addr));
    client.join().await;
    presence(&watching, "user_joined").await;
    let mut last = client.joined(&bob).await;
    for round in 0..5 {
        bob.publish(format!("{round} before"), &json!(round));
        world.down().await;
        presence(&watching, "user_left").await;
        for n in 0..10 {
            bob.publish(format!("{round} {n}"), &json!(n));
        }
        world.network.refuse(false).await;
        presence(&watching, "user_joined").await;
        let end = bob.publish(format!("{round} after"), &json!(round));
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
/// in the room once. (Each resume is one message: a network that never carries one whole lets nobody through.)
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
        let (bob, watching) = world.member("bob");
        let mut client = start(Config {
            max_delay: Duration::from_millis(10),
            ..config(world.addr)
        });
        client.join().await;
        presence(&watching, "user_joined").await;
        let mut last = client.joined(&bob).await;
        let (mut acknowledged, mut own) = (0, Vec::new());
        for tag in 0..12 {
            client.publish(tag).await;
            bob.publish(format!("{tag}"), &json!("x".repeat(800)));
        }
        let end = bob.publish("end".into(), &json!("end"));
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
    let (bob, watching) = first.member("bob");
    let mut client = start(Config {
        request: Box::new(move || {
            format!("ws://{}/rooms", asked.lock().unwrap()).into_client_request()
        }),
        ..config(first.addr)
    });
    client.join().await;
    presence(&watching, "user_joined").await;
    client.joined(&bob).await;
    *addr.lock().unwrap() = second.addr;
    first.down().await;
    assert_eq!(
        client.news().await,
        Update::Reset {
            room: "talk".into(),
            seq: 1
        }
    );
    // The new numbering is followed.
    let (eve, _watching) = second.member("eve");
    let seq = eve.publish("x".into(), &json!("new"));
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
    let (bob, watching) = world.member("bob");
    let mut client = start(config(world.addr));
    client.join().await;
    presence(&watching, "user_joined").await;
    client.joined(&bob).await;
    world.deaf();
    for tag in 0..20 {
        client.publish(tag).await;
    }
    // 16 are in the window; none of their acknowledgements can arrive.
    let mut seen: BTreeMap<u64, usize> = BTreeMap::new();
    let collect = |seen: &mut BTreeMap<u64, usize>| {
        while watching.depth().0 > 0 {
            let Some(Message::Text(text)) = watching.pop() else {
                continue;
            };
            let event: Value = serde_json::from_str(&text).unwrap();
            if event["type"] == "message"
                && let Some(tag) = event["data"].as_u64()
            {
                *seen.entry(tag).or_default() += 1;
            }
        }
        seen.len()
    };
    eventually("the server to have published the window", || {
        collect(&mut seen) == 16
    })
    .await;
    world.down().await;
    presence(&watching, "user_left").await;
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
    let (bob, watching) = world.member("bob");
    let mut client = start(Config {
        heartbeat: Duration::from_millis(200),
        ..config(world.addr)
    });
    client.join().await;
    presence(&watching, "user_joined").await;
    let mut last = client.joined(&bob).await;
    for n in 0..100 {
        bob.publish(n.to_string(), &json!(n));
    }
    // Nothing is read: the connection is given up after a heartbeat.
    presence(&watching, "user_left").await;
    let end = bob.publish("end".into(), &json!("end"));
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

async fn closing(code: u16) -> (Server, Arc<std::sync::atomic::AtomicUsize>) {
    let connects = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = connects.clone();
    let app = Router::new().route(
        "/rooms",
        any(move |ws: WebSocketUpgrade| async move {
            counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
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
        assert_eq!(connects.load(std::sync::atomic::Ordering::Relaxed), 1);
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
    for code in [1001, 1012, 1013, 1011] {
        let (server, connects) = closing(code).await;
        let mut client = start(config(server.addr));
        while connects.load(std::sync::atomic::Ordering::Relaxed) < 3 {
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
fn the_delay_is_anywhere_between_zero_and_a_bound_that_doubles() {
    let (min, max) = (Duration::from_millis(100), Duration::from_secs(30));
    for (failures, bound) in [
        (0, 100),
        (1, 200),
        (4, 1600),
        (20, 30_000),
        (u32::MAX, 30_000),
    ] {
        let bound = Duration::from_millis(bound);
        let delays: Vec<_> = (0..2000).map(|_| full_jitter(failures, min, max)).collect();
        assert!(delays.iter().all(|delay| *delay <= bound));
        // Full jitter: as many in the first quarter of the range as in the last.
        let quarters = [0, 3].map(|quarter| {
            delays
                .iter()
                .filter(|d| **d >= bound / 4 * quarter && **d < bound / 4 * (quarter + 1))
                .count()
        });
        assert!(
            quarters.iter().all(|count| (300..700).contains(count)),
            "{quarters:?}"
        );
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
        while connects.load(std::sync::atomic::Ordering::Relaxed) < 30 {
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
    assert_eq!(pending.next_unsent().unwrap().id, old);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(pending.expired(), Some(old.clone()));
    assert!(pending.settle(&old) && !pending.settle(&old));
    assert_eq!(pending.expired(), None);
    pending.send_again();
    assert_eq!(pending.next_unsent().unwrap().id, young);
    assert!(pending.settle(&young));
    assert!(pending.next_unsent().is_none());
}
