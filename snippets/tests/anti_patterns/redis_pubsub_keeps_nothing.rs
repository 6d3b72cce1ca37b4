//! Wrong: topics over several instances as Redis Pub/Sub channels: what arrives is sent to the clients.
//! Harm: Pub/Sub keeps nothing: an event published while an instance reconnects is lost, without an error or a visible gap.
//! Instead: production/topics
//! Probe: cannot see: between the service and its broker

#![cfg(feature = "redis")]

use futures::StreamExt;
use redis::AsyncTypedCommands;
use snippets::production::redis_log::{Durability, Redis};
use snippets::production::shared_log::Config;
use snippets::production::topics::{Limits, Topics};
use snippets::sse::event::{Event, LastEventId};

use crate::support::broker::{Broker, Kind, redis_connection};
use crate::support::source::Events;
use crate::support::{PATIENCE, within};

/// The connection of one instance breaks and is made again; an event is published between the two.
#[tokio::test]
#[ignore = "needs Redis: run ./check"]
async fn an_event_between_two_subscriptions_is_lost() {
    let broker = Broker::start(Kind::Redis).await;
    let mut publisher = redis_connection(&broker).await;
    let client = redis::Client::open(broker.url()).unwrap();
    let subscribe = async || {
        let mut pubsub = client.get_async_pubsub().await.unwrap();
        pubsub.subscribe("lobby").await.unwrap();
        pubsub.into_on_message()
    };
    let mut instance = subscribe().await;
    publisher.publish("lobby", "1").await.unwrap();
    assert_eq!(
        within("an event", instance.next())
            .await
            .unwrap()
            .get_payload::<String>()
            .unwrap(),
        "1"
    );
    drop(instance);
    // Nobody receives it, and that is no error.
    assert_eq!(publisher.publish("lobby", "2").await.unwrap(), 0);
    let mut instance = subscribe().await;
    publisher.publish("lobby", "3").await.unwrap();
    assert_eq!(
        within("an event", instance.next())
            .await
            .unwrap()
            .get_payload::<String>()
            .unwrap(),
        "3"
    );
}

/// The same with the pattern: the wake-up is lost, the event is read from the stream.
#[tokio::test]
#[ignore = "needs Redis: run ./check"]
async fn a_topic_reads_what_its_wake_up_missed() {
    let broker = Broker::start(Kind::Redis).await;
    let instance = async || {
        let url = broker.url();
        let redis = Redis::connect(&url, Durability::Kept, PATIENCE)
            .await
            .unwrap();
        Topics::start(
            move |topic: &str| redis.log(topic, 100),
            Config::default(),
            Limits::default(),
        )
    };
    let (reader, publisher) = (instance().await, instance().await);
    let event = |n: u64| Event::new("tick", &n).unwrap();
    let source = reader.read("lobby", &LastEventId::None).await.unwrap();
    let mut events = Events::new(source.unwrap());
    publisher.publish("lobby", &event(1)).await.unwrap();
    assert_eq!(within("an event", events.next()).await.unwrap().data, "1");
    // Only the connections that receive wake-ups.
    let mut plain = redis_connection(&broker).await;
    let kill = redis::cmd("CLIENT")
        .arg(&["KILL", "TYPE", "pubsub"])
        .to_owned();
    assert!(kill.query_async::<u64>(&mut plain).await.unwrap() >= 1);
    publisher.publish("lobby", &event(2)).await.unwrap();
    publisher.publish("lobby", &event(3)).await.unwrap();
    assert_eq!(within("an event", events.next()).await.unwrap().data, "2");
    assert_eq!(within("an event", events.next()).await.unwrap().data, "3");
}
