//! The parts that the chapters combine, with their default settings: each server × each authentication × the rate limits ×
//! the client of the rooms, through connect, more messages than the quota, a cut, and a restart; and each proxy in front.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::{Router, middleware};
use serde_json::{Value, json};
use snippets::connections::listen;
use snippets::connections::tickets::Tickets;
use snippets::production::chaos_flow::{Cut, Plan};
use snippets::websocket::client::{Command, Config, Stopped, Update, run};
use snippets::websocket::pending::Pending;
use snippets::websocket::protect::{self, Guard, issue_ticket};
use snippets::websocket::rates::{self, Quotas, Rates};
use snippets::websocket::rooms::{Hub, Rules};
use snippets::websocket::rooms_endpoint;
use snippets::websocket::serve::Limits;
use snippets::websocket::serve::Sockets;
use snippets::websocket::users::{Accounts, Unavailable, User};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_util::sync::CancellationToken;

use crate::support::member::Member;
use crate::support::proxy::{Kind, Proxy, free_port, of_the_book};
use crate::support::{PATIENCE, chaos, eventually, within};

#[derive(Debug, Clone, Copy)]
enum Under {
    Axum,
    Listen,
}

#[derive(Debug, Clone, Copy)]
enum Auth {
    Cookie,
    Bearer,
    Subprotocol,
    Ticket,
}

/// Every pair that the chapters name.
const PAIRS: [(Under, Auth); 8] = [
    (Under::Axum, Auth::Cookie),
    (Under::Axum, Auth::Bearer),
    (Under::Axum, Auth::Subprotocol),
    (Under::Axum, Auth::Ticket),
    (Under::Listen, Auth::Cookie),
    (Under::Listen, Auth::Bearer),
    (Under::Listen, Auth::Subprotocol),
    (Under::Listen, Auth::Ticket),
];

struct OnlyAda;

fn ada() -> User {
    User {
        name: "ada".into(),
        admin: false,
        expires: tokio::time::Instant::now() + Duration::from_secs(3600),
    }
}

impl Accounts for OnlyAda {
    async fn by_session(&self, cookie: &str) -> Result<Option<User>, Unavailable> {
        Ok((cookie == "session").then(ada))
    }

    async fn by_token(&self, token: &str) -> Result<Option<User>, Unavailable> {
        Ok((token == "token").then(ada))
    }
}

struct Instance {
    addr: SocketAddr,
    hub: Hub,
    sockets: Sockets,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

impl Instance {
    /// As at a deploy: the sockets are closed, and the port is free.
    async fn end(self, pair: &str) {
        self.stop.cancel();
        assert_eq!(self.sockets.drained(PATIENCE).await, 0, "{pair}");
        // `axum::serve` without a signal does not end.
        self.serving.abort();
        let _ = within(pair, self.serving).await;
    }
}

/// All defaults, on `at`, where an earlier one may have been.
async fn instance(under: Under, tickets: &Tickets, at: SocketAddr) -> Instance {
    instance_with(under, tickets, at, Limits::default(), Rules::default()).await
}

async fn instance_with(
    under: Under,
    tickets: &Tickets,
    at: SocketAddr,
    limits: Limits,
    rules: Rules,
) -> Instance {
    let (stop, hub) = (CancellationToken::new(), Hub::new(rules));
    let sockets = Sockets::new(limits, stop.clone());
    let rates = Rates::new(Quotas::default());
    let guard = Guard {
        origins: Arc::new(["https://app.example".to_owned()]),
        cookie: "sid",
        subprotocols: &["rooms.v1"],
        accounts: Arc::new(OnlyAda),
        tickets: tickets.clone(),
        sockets: sockets.clone(),
        allowed: |_| true,
    };
    let app: Router = rooms_endpoint::router(sockets.clone(), hub.clone(), rates.clone())
        .layer(middleware::from_fn_with_state(guard, protect::authenticate))
        .layer(middleware::from_fn_with_state(rates, rates::limit_connects));
    let listener = within("the port", async {
        loop {
            match TcpListener::bind(at).await {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    })
    .await;
    let shutdown = stop.clone();
    let serving = match under {
        Under::Axum => {
            let app = app.into_make_service_with_connect_info::<SocketAddr>();
            tokio::spawn(async move { axum::serve(listener, app).await.unwrap() })
        }
        Under::Listen => {
            let config = listen::Config::default();
            tokio::spawn(async move {
                let _ = listen::serve(listener, app, config, shutdown).await;
            })
        }
    };
    Instance {
        addr: at,
        hub,
        sockets,
        stop,
        serving,
    }
}

/// Its commands, what it reports, and why it has stopped.
type Client = (
    mpsc::Sender<Command>,
    mpsc::Receiver<Update>,
    tokio::task::JoinHandle<Stopped>,
);

fn client(auth: Auth, addr: SocketAddr, tickets: Tickets) -> Client {
    client_of(ada, auth, addr, tickets)
}

/// As `user` is at each attempt.
fn client_of(
    user: impl Fn() -> User + Send + 'static,
    auth: Auth,
    addr: SocketAddr,
    tickets: Tickets,
) -> Client {
    let (commands, commands_rx) = mpsc::channel(16);
    let (updates, updates_rx) = mpsc::channel(16);
    let request = move || {
        let query = match auth {
            Auth::Ticket => format!("?ticket={}", issue_ticket(&tickets, &user()).unwrap()),
            _ => String::new(),
        };
        let mut request = format!("ws://{addr}/rooms{query}").into_client_request()?;
        let headers = request.headers_mut();
        let mut set = |name, value: &'static str| headers.insert(name, value.parse().unwrap());
        set("sec-websocket-protocol", "rooms.v1");
        match auth {
            Auth::Cookie => {
                set("origin", "https://app.example");
                set("cookie", "sid=session");
            }
            Auth::Bearer => drop(set("authorization", "Bearer token")),
            Auth::Subprotocol => {
                set("sec-websocket-protocol", "rooms.v1, bearer.token");
            }
            Auth::Ticket => drop(set("origin", "https://app.example")),
        }
        Ok(request)
    };
    let config = Config {
        request: Box::new(request),
        connect_timeout: Duration::from_secs(10),
        min_delay: Duration::from_millis(50),
        max_delay: Duration::from_secs(1),
        stable_after: Duration::from_secs(10),
        heartbeat: Duration::from_secs(15),
        max_message: 1 << 20,
        pending: Pending::new(1000, 32, Duration::from_secs(60)),
    };
    (
        commands,
        updates_rx,
        tokio::spawn(run(config, commands_rx, updates)),
    )
}

async fn scenario(under: Under, auth: Auth, through: Option<Kind>) {
    let pair = format!("{under:?} × {auth:?} × {through:?}");
    let (tickets, at) = (Tickets::default(), free_port());
    let first = instance(under, &tickets, at).await;
    let proxy = match through {
        Some(kind) => Some(Proxy::start(kind, &of_the_book(kind), at).await),
        None => None,
    };
    let front = proxy.as_ref().map_or(at, |proxy| proxy.addr);
    let network = chaos(front, 0, |_| Plan::default()).await;
    let (commands, mut updates, task) = client(auth, network.addr(), tickets.clone());
    let mut next = async || match within(&pair, updates.recv()).await {
        Some(update) => update,
        None => panic!("{pair}: the client has stopped"),
    };
    commands.send(Command::Join("talk".into())).await.unwrap();
    // More than the quota lets through at once.
    let sender = commands.clone();
    tokio::spawn(async move {
        for tag in 0..45 {
            let (room, data) = ("talk".into(), json!(tag));
            let _ = sender.send(Command::Publish { room, data, tag }).await;
        }
    });
    let (mut published, mut last, mut seen) = (0, 0, 0);
    while published < 45 || seen < 45 {
        match next().await {
            Update::Published { outcome, .. } => {
                outcome.unwrap();
                published += 1;
            }
            Update::Event { seq, .. } => {
                assert_eq!(seq, last + 1, "{pair}");
                (last, seen) = (seq, seen + 1);
            }
            Update::Disconnected => panic!("{pair}: cut by its own limits"),
            _ => {}
        }
    }
    // Cut, and resumed.
    network.refuse(true).await;
    network.cut_all(Cut::Reset);
    let bob = Member::join(&first.hub, "talk", "bob", None);
    for n in 0..10 {
        bob.publish(&n.to_string(), n);
    }
    network.refuse(false).await;
    while seen < 55 {
        match next().await {
            Update::Event { seq, .. } => {
                assert_eq!(seq, last + 1, "{pair}");
                (last, seen) = (seq, seen + 1);
            }
            Update::Reset { .. } => panic!("{pair}: a reset"),
            _ => {}
        }
    }
    // Restarted: another process with the same key.
    drop(bob);
    first.end(&pair).await;
    let second = instance(under, &tickets, at).await;
    loop {
        match next().await {
            Update::Reset { seq, .. } => {
                assert_eq!(seq, 0, "{pair}");
                break;
            }
            Update::Event { .. } => panic!("{pair}: an event of another life"),
            _ => {}
        }
    }
    let events = Member::join(&second.hub, "talk", "bob", None);
    events.publish("x", "new");
    loop {
        if let Update::Event { event, .. } = next().await {
            assert_eq!(event["data"], Value::from("new"), "{pair}");
            break;
        }
    }
    drop(commands);
    assert_eq!(within(&pair, task).await.unwrap(), Stopped::ByApplication);
    eventually(&pair, || second.sockets.count() == 0).await;
}

#[tokio::test]
async fn every_pair_survives_its_own_limits_a_cut_and_a_restart() {
    let all = PAIRS.map(|(under, auth)| tokio::spawn(scenario(under, auth, None)));
    for one in all {
        one.await.unwrap();
    }
}

/// The client comes in as soon as the server that was full has room.
#[tokio::test]
async fn the_client_outlives_a_server_that_is_full() {
    let (tickets, at) = (Tickets::default(), free_port());
    let limits = Limits {
        sockets: 1,
        ..Limits::default()
    };
    let server = instance_with(Under::Listen, &tickets, at, limits, Rules::default()).await;
    // Another client has the only place.
    let (other, mut of_other, _task) = client(Auth::Bearer, at, tickets.clone());
    assert_eq!(
        within("the other", of_other.recv()).await,
        Some(Update::Connected)
    );
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = attempts.clone();
    let user = move || {
        counted.fetch_add(1, Ordering::SeqCst);
        ada()
    };
    let (_commands, mut updates, _client) = client_of(user, Auth::Ticket, at, tickets);
    // Refused with 503 and `Retry-After`, which the client waits for: the second attempt comes after it.
    eventually("a refusal", || attempts.load(Ordering::SeqCst) >= 2).await;
    drop(other);
    while within("the place", updates.recv()).await.expect("a client") != Update::Connected {}
    drop(server);
}

/// Each session lives for a second or two; 4408 fetches a new ticket, and nothing is lost.
#[tokio::test]
async fn the_client_outlives_a_session_that_expires() {
    let (tickets, at) = (Tickets::default(), free_port());
    let server = instance(Under::Listen, &tickets, at).await;
    let short = || User {
        expires: tokio::time::Instant::now() + Duration::from_secs(2),
        ..ada()
    };
    let (commands, mut updates, _client) = client_of(short, Auth::Ticket, at, tickets);
    commands.send(Command::Join("talk".into())).await.unwrap();
    let bob = Member::join(&server.hub, "talk", "bob", None);
    let (mut cut, mut last, mut sent) = (0, 0, 0);
    let mut joined = false;
    while cut < 3 || last < sent {
        match within("an update", updates.recv()).await.expect("a client") {
            Update::Joined { .. } => joined = true,
            Update::Event { seq, .. } => {
                assert_eq!(seq, last + 1);
                last = seq;
            }
            Update::Disconnected => {
                cut += 1;
                if joined {
                    // While it is away.
                    sent = bob.publish(&cut.to_string(), cut);
                }
            }
            Update::Reset { .. } => panic!("a reset"),
            _ => {}
        }
    }
    assert!(sent >= 2);
}

#[tokio::test]
#[ignore = "needs nginx, Caddy, HAProxy and Envoy: run ./check"]
async fn every_proxy_passes_the_rooms_through_a_cut_and_a_restart() {
    let kinds = [Kind::Nginx, Kind::Caddy, Kind::Haproxy, Kind::Envoy];
    let all = kinds.map(|kind| tokio::spawn(scenario(Under::Listen, Auth::Ticket, Some(kind))));
    for one in all {
        one.await.unwrap();
    }
}

/// 429 at the handshake, under every server, and per client behind a proxy.
#[tokio::test]
async fn connects_are_limited_under_every_server() {
    use crate::support::RawClient;
    for under in [Under::Axum, Under::Listen] {
        let instance = instance(under, &Tickets::default(), free_port()).await;
        let mut statuses = Vec::new();
        let burst = Quotas::default().connects.burst_size().get() as usize;
        // The quota refills while this runs.
        while statuses.len() < 20 * burst && statuses.last() != Some(&429) {
            let mut client = RawClient::get(instance.addr, "/rooms", &["connection: close"]).await;
            client.read_head().await;
            statuses.push(client.status());
        }
        assert_eq!(statuses.last(), Some(&429), "{under:?}");
        assert!(statuses.len() >= burst, "{under:?}: {}", statuses.len());
        assert_eq!(statuses[0], 401);
    }
}
