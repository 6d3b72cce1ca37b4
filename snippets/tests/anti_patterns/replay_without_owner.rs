//! Wrong: one log for all tenants; live events are filtered by tenant, the replay after `Last-Event-ID` is not.
//! Harm: any user who reconnects with an early cursor is sent the events of all others.
//! Instead: production/security
//! Probe: cannot see: needs the credentials of two users

use std::collections::HashMap;

use futures::{FutureExt, Stream, StreamExt, stream};
use snippets::connections::crowd::Recheck;
use snippets::production::channels::{Channel, Channels, Reader};
use snippets::sse::event::Cursor;
use snippets::sse::event::{self, LastEventId};
use snippets::sse::log::{self, Log};
use snippets::sse::streams::{Config, Streams};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::support::source::Events;

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
        let at = Cursor { epoch, seq: 0 };
        let log = Log::starting_after(at, log::Config::complete(10, 1_000));
        Channel { readers, log }
    };
    let (alices, mallorys) = (channel(1, "alice"), channel(2, "mallory"));
    let (secret, own) = (alices.log.clone(), mallorys.log.clone());
    let channels = Channels {
        all: HashMap::from([("a".to_owned(), alices), ("m".to_owned(), mallorys)]).into(),
        streams: Streams::start(Config::default(), CancellationToken::new()),
        recheck: Recheck {
            every: std::time::Duration::from_secs(5),
            ..Recheck::default()
        },
    };
    let event = |text: &str| event::Event::new("e", text).unwrap();
    secret.publish(&event("alice's secret")).unwrap();
    own.publish(&event("own")).unwrap();
    let mallory = Reader("mallory".to_owned());
    assert!(channels.readable(&mallory, "a").is_none());
    let log = channels.readable(&mallory, "m").unwrap();
    // A cursor of the other channel is no position in this one.
    let cursor = LastEventId::Id("1-0".to_owned());
    let mut replay = Events::new(log.read(&cursor).unwrap());
    let reset = replay.next().await.unwrap();
    assert_eq!(
        (reset.name.as_str(), reset.data.as_str()),
        ("reset", r#"{"reason":"epoch"}"#)
    );
    assert_eq!(replay.next().await.unwrap().data, r#""own""#);
    assert!(replay.is_waiting());
}
