//! Wrong: the publisher awaits `send` for one subscriber after the other.
//! Harm: one reader that has stopped reading stops the events of all others, and the publisher.
//! Instead: sse/fanout

use http_body_util::BodyExt;
use snippets::sse::fanout::{Config, Hub};
use snippets::sse::message::LastEventId;
use tokio::sync::mpsc;
use tokio::time::{Duration, timeout};

use crate::support::within;

#[tokio::test(start_paused = true)]
async fn one_stalled_reader_stops_all() {
    let (stalled, _never_read) = mpsc::channel(4);
    let (healthy, mut events) = mpsc::channel(4);
    let publisher = async {
        for number in 0..100 {
            for subscriber in [&stalled, &healthy] {
                subscriber.send(number).await.unwrap();
            }
        }
    };
    let mut received = 0;
    let reader = async {
        while events.recv().await.is_some() {
            received += 1;
        }
    };
    let day = Duration::from_secs(24 * 3600);
    let ended = timeout(day, async { tokio::join!(publisher, reader) }).await;
    assert!(ended.is_err(), "the publisher still waits after a day");
    assert_eq!(
        received, 4,
        "the healthy reader got what the stalled one had room for"
    );
}

#[tokio::test(start_paused = true)]
async fn with_the_hub_the_others_get_everything() {
    let hub = Hub::start(Config::default());
    let _stalled = hub.subscribe("topic", &LastEventId::None);
    let mut healthy = hub.subscribe("topic", &LastEventId::None);
    within("the prelude", healthy.frame())
        .await
        .unwrap()
        .unwrap();
    for number in 0..100 {
        hub.publish("topic", "tick", &number.to_string()).unwrap();
        let frame = within("the event", healthy.frame()).await.unwrap().unwrap();
        let expected = format!("data: {number}\n\n");
        assert!(frame.into_data().unwrap().ends_with(expected.as_bytes()));
    }
}
