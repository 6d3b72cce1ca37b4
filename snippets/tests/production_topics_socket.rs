//! `production/topics_socket` and `production/disconnects`: one socket for many topics, and the end of a user's connections,
//! each with two instances.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Extension;
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use snippets::production::disconnects::Disconnects;
use snippets::production::presence::{self, Presence};
use snippets::production::shared_log::Config;
use snippets::production::store::Store;
use snippets::production::topics::{Limits, Topics};
use snippets::production::topics_socket::{MAX_TOPICS, MayRead, router};
use snippets::sse::event::Event;
use snippets::sse::until::Users;
use snippets::websocket::rates::{Quotas, Rates};
use snippets::websocket::serve::{self, Sockets};
use snippets::websocket::users::{EXPIRED, User};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tokio_util::sync::CancellationToken;

use crate::support::memory::Memory;
use crate::support::{Server, eventually, within};

/// One instance of the service: its socket at `/topics`.
struct Instance<S> {
    topics: Arc<Topics<S>>,
    rates: Rates,
    server: Server,
    sockets: Sockets,
}

fn user(name: &str) -> User {
    User {
        name: name.into(),
        admin: false,
        expires: tokio::time::Instant::now() + Duration::from_secs(3600),
    }
}

async fn instance<S: Store>(
    open: impl Fn(&str) -> S + Send + Sync + 'static,
    name: &str,
    may_read: MayRead,
    limits: serve::Limits,
) -> Instance<S> {
    instance_with(None, open, name, may_read, limits).await
}

async fn instance_with<S: Store>(
    presence: Option<Presence>,
    open: impl Fn(&str) -> S + Send + Sync + 'static,
    name: &str,
    may_read: MayRead,
    limits: serve::Limits,
) -> Instance<S> {
    let topics = Arc::new(Topics::start(open, Config::default(), Limits::default()));
    let rates = Rates::new(Quotas::default());
    let sockets = Sockets::new(limits, CancellationToken::new());
    let app = router(
        sockets.clone(),
        topics.clone(),
        presence,
        may_read,
        rates.clone(),
    );
    let server = Server::start(app.layer(Extension(user(name)))).await;
    Instance {
        topics,
        rates,
        server,
        sockets,
    }
}

fn all() -> MayRead {
    Arc::new(|_, _| true)
}

/// Topics in memory that all instances share.
fn in_memory() -> impl Fn(&str) -> Memory + Clone + Send + Sync + 'static {
    let logs = Arc::new(Mutex::new(HashMap::new()));
    move |topic: &str| {
        let mut logs = logs.lock().unwrap();
        let log = logs
            .entry(topic.to_owned())
            .or_insert_with(|| Memory::new(100));
        log.clone()
    }
}

struct Page(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Page {
    async fn open<S>(instance: &Instance<S>) -> Self {
        let url = format!("ws://{}/topics", instance.server.addr);
        let (socket, _) = within("a socket", connect_async(url)).await.unwrap();
        Self(socket)
    }

    async fn send(&mut self, message: Value) {
        let text = message.to_string();
        self.0.send(Message::Text(text.into())).await.unwrap();
    }

    async fn subscribe(&mut self, topic: &str, after: Option<&str>) {
        let mut message = json!({"type": "subscribe", "topic": topic});
        if let Some(after) = after {
            message["after"] = after.into();
        }
        loop {
            self.send(message.clone()).await;
            let answer = self.next().await;
            assert_eq!(answer["topic"], topic, "{answer}");
            match answer["code"].as_str() {
                None => break assert_eq!(answer["type"], "subscribed"),
                // A broker that was restarted: the first request finds its connection closed.
                Some("unavailable") => {}
                // The page asks for more topics than it may send messages in a second.
                Some("rate_limited") => tokio::time::sleep(Duration::from_millis(50)).await,
                Some(code) => panic!("{topic}: {code}"),
            }
        }
    }

    /// The next message; a Close is `{"close": CODE}`, an end without one `{"close": null}`.
    async fn next(&mut self) -> Value {
        loop {
            match within("a message", self.0.next()).await {
                Some(Ok(Message::Text(text))) => break serde_json::from_str(&text).unwrap(),
                Some(Ok(Message::Close(Some(frame)))) => {
                    break json!({"close": u16::from(frame.code)});
                }
                Some(Ok(_)) => {}
                None | Some(Err(_)) => break json!({"close": null}),
            }
        }
    }

    /// Reads until exactly these users are in `room`.
    async fn present(&mut self, users: &[&str]) {
        loop {
            let message = self.next().await;
            assert_eq!(message["type"], "presence", "{message}");
            if message["users"] == json!(users) {
                break assert_eq!(message["count"], users.len());
            }
        }
    }

    /// As [`Page::tick`], after any number of changes of presence.
    async fn tick_after_presence(&mut self, topic: &str, n: u64) -> String {
        loop {
            let message = self.next().await;
            if message["type"] == "event" {
                assert_eq!(
                    (&message["topic"], &message["data"]),
                    (&json!(topic), &json!(n))
                );
                break message["id"].as_str().unwrap().to_owned();
            }
            assert_eq!(message["type"], "presence", "{message}");
        }
    }

    /// Expects the event `n` of `topic`; returns its id.
    async fn tick(&mut self, topic: &str, n: u64) -> String {
        let event = self.next().await;
        let expected =
            json!({"type": "event", "topic": topic, "id": event["id"], "event": "tick", "data": n});
        assert_eq!(event, expected);
        event["id"].as_str().unwrap().to_owned()
    }
}

async fn publish<S: Store>(topics: &Topics<S>, topic: &str, n: u64) {
    within("an acknowledgement", async {
        // While a broker restarts, there is none.
        let event = Event::new("tick", &n).unwrap();
        while topics.publish(topic, &event).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// Published anywhere, read anywhere, resumed on the other instance.
async fn two_instances<S: Store>(a: Instance<S>, b: Instance<S>) {
    let mut on_a = Page::open(&a).await;
    let mut on_b = Page::open(&b).await;
    for page in [&mut on_a, &mut on_b] {
        page.subscribe("one", None).await;
        page.subscribe("two", None).await;
    }
    publish(&a.topics, "one", 1).await;
    let one = on_a.tick("one", 1).await;
    assert_eq!(on_b.tick("one", 1).await, one);
    publish(&b.topics, "two", 2).await;
    let two = on_a.tick("two", 2).await;
    on_b.tick("two", 2).await;
    // What is unsubscribed is not sent.
    on_b.send(json!({"type": "unsubscribe", "topic": "one"}))
        .await;
    let left = json!({"type": "unsubscribed", "topic": "one"});
    assert_eq!(on_b.next().await, left);
    // An instance dies: its page continues on the other, each topic after its own cursor.
    drop((on_a, a));
    publish(&b.topics, "one", 3).await;
    publish(&b.topics, "two", 4).await;
    on_b.tick("two", 4).await;
    let mut moved = Page::open(&b).await;
    moved.subscribe("one", Some(&one)).await;
    moved.tick("one", 3).await;
    moved.subscribe("two", Some(&two)).await;
    moved.tick("two", 4).await;
    drop((on_b, moved));
    eventually("the sockets to end", || b.sockets.count() == 0).await;
}

#[tokio::test]
async fn a_socket_follows_many_topics_and_resumes_each_on_another_instance() {
    let open = in_memory();
    let a = instance(open.clone(), "ada", all(), serve::Limits::default()).await;
    let b = instance(open, "ada", all(), serve::Limits::default()).await;
    two_instances(a, b).await;
}

#[tokio::test]
async fn a_refusal_names_its_topic_and_leaves_the_others_alone() {
    let may_read: MayRead = Arc::new(|user, topic| {
        topic
            .strip_prefix("user:")
            .is_none_or(|owner| owner == &*user.name)
    });
    let instance = instance(in_memory(), "ada", may_read, serve::Limits::default()).await;
    // Its rate limits are tested elsewhere: here each message waits for its answer.
    let mut page = Page::open(&instance).await;
    page.subscribe("user:ada", None).await;
    let long = "x".repeat(65);
    for (message, code, topic) in [
        (
            json!({"type": "subscribe", "topic": "user:bob"}),
            "forbidden",
            json!("user:bob"),
        ),
        (
            json!({"type": "unsubscribe", "topic": "two"}),
            "not_subscribed",
            json!("two"),
        ),
        (
            json!({"type": "subscribe", "topic": long}),
            "invalid_topic",
            Value::Null,
        ),
        (
            json!({"type": "subscribe", "topic": "a b"}),
            "invalid_topic",
            json!("a b"),
        ),
        (json!({"type": "other"}), "invalid_message", Value::Null),
    ] {
        page.send(message).await;
        let error = json!({"type": "error", "code": code, "topic": topic});
        assert_eq!(page.next().await, error);
    }
    page.send(json!({"type": "ping"})).await;
    assert_eq!(page.next().await, json!({"type": "pong"}));
    // A cursor of another topic is a reset, and not a position.
    publish(&instance.topics, "two", 1).await;
    page.send(json!({"type": "subscribe", "topic": "two", "after": "1-999"}))
        .await;
    assert_eq!(page.next().await["type"], "subscribed");
    assert_eq!(page.next().await["event"], "reset");
    page.tick("two", 1).await;
    publish(&instance.topics, "user:ada", 5).await;
    page.tick("user:ada", 5).await;
    // Malformed messages alone end a connection.
    for _ in 0..2 {
        page.send(json!({"type": "other"})).await;
    }
    while page.next().await != json!({"close": 1008}) {}
}

#[tokio::test]
async fn subscriptions_of_a_connection_are_bounded() {
    let topics = Topics::start(in_memory(), Config::default(), Limits::default());
    let sockets = Sockets::new(serve::Limits::default(), CancellationToken::new());
    let app = router(sockets, Arc::new(topics), None, all(), ());
    let server = Server::start(app.layer(Extension(user("ada")))).await;
    let url = format!("ws://{}/topics", server.addr);
    let mut page = Page(connect_async(url).await.unwrap().0);
    for n in 0..MAX_TOPICS {
        page.subscribe(&n.to_string(), None).await;
    }
    // The same one again is the same subscription.
    page.subscribe("0", None).await;
    page.send(json!({"type": "subscribe", "topic": "more"}))
        .await;
    let error = json!({"type": "error", "code": "too_many_topics", "topic": "more"});
    assert_eq!(page.next().await, error);
}

#[tokio::test]
async fn a_right_that_is_lost_ends_the_subscription_at_the_next_ping() {
    let allowed = Arc::new(AtomicBool::new(true));
    let right = allowed.clone();
    let may_read: MayRead =
        Arc::new(move |_, topic| topic != "secret" || right.load(Ordering::SeqCst));
    let limits = serve::Limits {
        ping_every: Duration::from_millis(100),
        ..serve::Limits::default()
    };
    let instance = instance(in_memory(), "ada", may_read, limits).await;
    let mut page = Page::open(&instance).await;
    page.subscribe("secret", None).await;
    page.subscribe("open", None).await;
    allowed.store(false, Ordering::SeqCst);
    let error = json!({"type": "error", "code": "forbidden", "topic": "secret"});
    assert_eq!(page.next().await, error);
    publish(&instance.topics, "secret", 1).await;
    publish(&instance.topics, "open", 2).await;
    page.tick("open", 2).await;
}

/// Disconnected on one instance, gone on both; another user stays.
async fn disconnected_everywhere<S: Store>(log: impl AsyncFn() -> S) {
    let mut running = Vec::new();
    for _ in 0..2 {
        let (open, streams) = (in_memory(), Users::default());
        let ada = instance(open.clone(), "ada", all(), serve::Limits::default()).await;
        let bob = instance(open, "bob", all(), serve::Limits::default()).await;
        let (of_streams, of_ada, of_bob) = (streams.clone(), ada.rates.clone(), bob.rates.clone());
        let disconnects = Disconnects::start(log().await, move |user| {
            of_streams.disconnect(user);
            of_ada.disconnect(user, EXPIRED, "log in again");
            of_bob.disconnect(user, EXPIRED, "log in again");
        });
        let disconnects = disconnects.await.unwrap_or_else(|error| panic!("{error}"));
        let mut pages = [Page::open(&ada).await, Page::open(&bob).await];
        for page in &mut pages {
            page.subscribe("a", None).await;
        }
        let stream = streams.disconnected("ada");
        running.push((disconnects, pages, stream, ada, bob));
    }
    within("an acknowledgement", async {
        while running[0].0.publish("ada").await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    for (_disconnects, [mut ada, mut bob], stream, _ada, on_bob) in running {
        assert_eq!(ada.next().await, json!({"close": EXPIRED}));
        within("the stream's end", stream).await;
        publish(&on_bob.topics, "a", 1).await;
        bob.tick("a", 1).await;
    }
}

#[tokio::test]
async fn a_user_is_disconnected_on_every_instance() {
    let log = Memory::new(100);
    disconnected_everywhere(async || log.clone()).await;
}

/// Who follows a topic is known on both instances; when one dies, its users leave, and a restart of the broker changes nothing.
async fn presence_over_instances<S: Store>(
    open: impl AsyncFn() -> Box<dyn Fn(&str) -> S + Send + Sync>,
    restart: impl AsyncFnOnce(),
) {
    // Short, so that the test does not wait for the defaults; each wait below has an event for its end.
    let config = presence::Config {
        grace: Duration::from_millis(500),
        beat: Duration::from_millis(500),
        ..presence::Config::default()
    };
    let mut running = Vec::new();
    for user in ["ada", "bob"] {
        let open = open().await;
        let presence = Presence::start(open("presence"), config.clone()).await;
        let presence = presence.unwrap_or_else(|error| panic!("{error}"));
        let limits = serve::Limits::default();
        let instance = instance_with(Some(presence), open, user, all(), limits).await;
        let mut page = Page::open(&instance).await;
        page.subscribe("room", None).await;
        running.push((instance, page));
    }
    let (b, mut bob) = running.pop().unwrap();
    let (a, mut ada) = running.pop().unwrap();
    for page in [&mut ada, &mut bob] {
        page.present(&["ada", "bob"]).await;
    }
    restart().await;
    // Presence is no event of the topic: what is published comes with the topic's own ids.
    publish(&b.topics, "room", 1).await;
    let mut ids = Vec::new();
    for page in [&mut ada, &mut bob] {
        ids.push(page.tick_after_presence("room", 1).await);
    }
    assert_eq!(ids[0], ids[1]);
    // An instance dies.
    drop((ada, a));
    bob.present(&["bob"]).await;
    assert_eq!(b.sockets.count(), 1);
}

#[tokio::test]
async fn presence_is_that_of_all_instances() {
    let open = in_memory();
    presence_over_instances(async || Box::new(open.clone()) as Box<_>, async || {}).await;
}

#[cfg(feature = "redis")]
mod on_redis {
    use snippets::production::redis_log::{Durability, Redis};

    use super::*;
    use crate::support::broker::{Broker, Kind};

    async fn connect(broker: &Broker) -> Arc<Redis> {
        Redis::connect(&broker.url(), Durability::Kept, crate::support::PATIENCE)
            .await
            .unwrap()
    }

    #[tokio::test]
    #[ignore = "needs Redis: run ./check"]
    async fn a_socket_resumes_on_another_instance_and_over_a_restart_of_redis() {
        let mut broker = Broker::start(Kind::Redis).await;
        let mut instances = Vec::new();
        for _ in 0..3 {
            let redis = connect(&broker).await;
            let open = move |topic: &str| redis.log(&format!("topic:{topic}"), 100);
            instances.push(instance(open, "ada", all(), serve::Limits::default()).await);
        }
        let c = instances.pop().unwrap();
        let mut page = Page::open(&c).await;
        page.subscribe("kept", None).await;
        publish(&c.topics, "kept", 1).await;
        page.tick("kept", 1).await;
        broker.kill();
        broker.resume().await;
        publish(&c.topics, "kept", 2).await;
        page.tick("kept", 2).await;
        let (b, a) = (instances.pop().unwrap(), instances.pop().unwrap());
        two_instances(a, b).await;
    }

    #[tokio::test]
    #[ignore = "needs Redis: run ./check"]
    async fn presence_is_that_of_all_instances_over_a_restart_of_redis() {
        let broker = tokio::sync::Mutex::new(Broker::start(Kind::Redis).await);
        let open = async || {
            let redis = connect(&*broker.lock().await).await;
            Box::new(move |topic: &str| redis.log(&format!("topic:{topic}"), 100)) as Box<_>
        };
        let restart = async || {
            let mut broker = broker.lock().await;
            broker.kill();
            broker.resume().await;
        };
        presence_over_instances(open, restart).await;
    }

    #[tokio::test]
    #[ignore = "needs Redis: run ./check"]
    async fn a_user_is_disconnected_on_every_instance_through_redis() {
        let broker = Broker::start(Kind::Redis).await;
        disconnected_everywhere(async || connect(&broker).await.log("disconnects", 100)).await;
    }
}

#[cfg(feature = "postgres")]
mod on_postgres {
    use snippets::production::postgres_log::SCHEMA;

    use super::*;
    use crate::production_shared_log::with_postgres::Postgres;

    async fn start() -> Postgres {
        let broker = Postgres::start().await;
        broker.client().await.batch_execute(SCHEMA).await.unwrap();
        broker
    }

    #[tokio::test]
    #[ignore = "needs Postgres: run ./check"]
    async fn a_socket_resumes_on_another_instance_through_postgres() {
        let broker = start().await;
        let mut instances = Vec::new();
        for _ in 0..2 {
            let postgres = broker.connections(crate::support::PATIENCE);
            let open = move |topic: &str| postgres.log(topic, 100);
            instances.push(instance(open, "ada", all(), serve::Limits::default()).await);
        }
        let (b, a) = (instances.pop().unwrap(), instances.pop().unwrap());
        two_instances(a, b).await;
    }

    #[tokio::test]
    #[ignore = "needs Postgres: run ./check"]
    async fn presence_is_that_of_all_instances_through_postgres() {
        let broker = start().await;
        let open = async || {
            let postgres = broker.connections(crate::support::PATIENCE);
            Box::new(move |topic: &str| postgres.log(topic, 100)) as Box<_>
        };
        presence_over_instances(open, async || {}).await;
    }
}

#[cfg(feature = "nats")]
mod on_nats {
    use snippets::production::nats_log::NatsLog;

    use super::*;
    use crate::support::broker::{Broker, Kind};

    async fn connect(broker: &Broker) -> async_nats::Client {
        let options =
            async_nats::ConnectOptions::new().request_timeout(Some(crate::support::PATIENCE));
        options.connect(broker.url()).await.unwrap()
    }

    #[tokio::test]
    #[ignore = "needs NATS: run ./check"]
    async fn presence_is_that_of_all_instances_over_a_restart_of_nats() {
        let broker = tokio::sync::Mutex::new(Broker::start(Kind::Nats).await);
        let open = async || {
            let client = connect(&*broker.lock().await).await;
            let open =
                move |topic: &str| NatsLog::new(client.clone(), &format!("topic-{topic}"), 100);
            Box::new(open) as Box<_>
        };
        let restart = async || {
            let mut broker = broker.lock().await;
            broker.kill();
            broker.resume().await;
        };
        presence_over_instances(open, restart).await;
    }

    /// One stream of JetStream for each topic.
    #[tokio::test]
    #[ignore = "needs NATS: run ./check"]
    async fn a_socket_resumes_on_another_instance_and_over_a_restart_of_nats() {
        let mut broker = Broker::start(Kind::Nats).await;
        let mut instances = Vec::new();
        for _ in 0..3 {
            let client = connect(&broker).await;
            let open =
                move |topic: &str| NatsLog::new(client.clone(), &format!("topic-{topic}"), 100);
            instances.push(instance(open, "ada", all(), serve::Limits::default()).await);
        }
        let c = instances.pop().unwrap();
        let mut page = Page::open(&c).await;
        page.subscribe("kept", None).await;
        publish(&c.topics, "kept", 1).await;
        let cursor = page.tick("kept", 1).await;
        broker.kill();
        broker.resume().await;
        publish(&c.topics, "kept", 2).await;
        // An append that was not acknowledged may have arrived: NATS may have the event more than once.
        page.tick("kept", 2).await;
        let (b, a) = (instances.pop().unwrap(), instances.pop().unwrap());
        let mut moved = Page::open(&b).await;
        moved.subscribe("kept", Some(&cursor)).await;
        moved.tick("kept", 2).await;
        drop(moved);
        two_instances(a, b).await;
    }
}
