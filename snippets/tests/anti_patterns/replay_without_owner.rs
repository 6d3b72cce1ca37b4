//! Wrong: one log for all tenants; live events are filtered by tenant, the replay after `Last-Event-ID` is not.
//! Harm: any user who reconnects with an early cursor is sent the events of all others.
//! Instead: production/security

use std::collections::HashMap;
use std::sync::Arc;

use futures::{FutureExt, Stream, StreamExt, stream};
use snippets::production::channels::{Channel, Channels, Reader};
use snippets::sse::legacy::Log;
use snippets::sse::message::{LastEventId, Message};
use snippets::sse::serve::{Config, Streams};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

/// Tenant and text.
type Event = (&'static str, &'static str);

#[derive(Clone)]
struct OneLog {
    kept: Vec<Event>,
    live: broadcast::Sender<Event>,
}

impl OneLog {
    fn publish(&mut self, event: Event) {
        self.kept.push(event);
        let _ = self.live.send(event);
    }

    fn subscribe(
        &self,
        tenant: &'static str,
        cursor: usize,
    ) -> impl Stream<Item = &'static str> + Unpin + use<> {
        let missed: Vec<_> = self.kept.iter().skip(cursor).map(|event| event.1).collect();
        let live = stream::unfold(self.live.subscribe(), async |mut live| {
            let event = live.recv().await.ok()?;
            Some((event, live))
        });
        let own = live
            .filter_map(move |event| std::future::ready((event.0 == tenant).then_some(event.1)));
        stream::iter(missed).chain(own).boxed()
    }
}

#[tokio::test]
async fn a_replay_hands_out_the_events_of_others() {
    let mut log = OneLog {
        kept: Vec::new(),
        live: broadcast::channel(16).0,
    };
    let mut fresh = log.subscribe("mallory", 0);
    log.publish(("alice", "alice's secret"));
    assert!(
        fresh.next().now_or_never().is_none(),
        "live it is right, as every test sees"
    );
    let mut back = log.subscribe("mallory", 0);
    assert_eq!(back.next().await, Some("alice's secret"));
}

#[tokio::test]
async fn with_a_log_for_each_channel_there_is_nothing_to_forget() {
    let channel = |epoch, reader: &str| {
        let readers = [reader.to_owned()].into();
        let log = Arc::new(Log::new(epoch, 10, 1_000));
        Channel { readers, log }
    };
    let (alices, mallorys) = (channel(1, "alice"), channel(2, "mallory"));
    let (secret, own) = (alices.log.clone(), mallorys.log.clone());
    let channels = Channels {
        all: HashMap::from([("a".to_owned(), alices), ("m".to_owned(), mallorys)]).into(),
        streams: Streams::new(Config::default(), CancellationToken::new()),
        recheck: std::time::Duration::from_secs(5),
    };
    secret
        .publish(Message::new("e", &"alice's secret").unwrap())
        .unwrap();
    own.publish(Message::new("e", &"own").unwrap()).unwrap();
    let mallory = Reader("mallory".to_owned());
    assert!(channels.readable(&mallory, "a").is_none());
    let log = channels.readable(&mallory, "m").unwrap();
    // A cursor of the other channel is no position in this one.
    let cursor = LastEventId::Id("0000000000000001-0".to_owned());
    let replay = log
        .subscribe(&cursor)
        .unwrap()
        .take(2)
        .map(|message| message.unwrap());
    let names: Vec<_> = replay
        .map(|m| (m.name().to_owned(), m.data().to_owned()))
        .collect()
        .await;
    let reset = ("reset".to_owned(), r#"{"reason":"epoch"}"#.to_owned());
    assert_eq!(names, [reset, ("e".to_owned(), r#""own""#.to_owned())]);
}
