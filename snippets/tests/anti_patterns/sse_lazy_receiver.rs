//! Wrong: a subscription that is made inside the stream of the response.
//! Harm: it starts when the body is first polled, so events that are published before that are lost.
//! Instead: sse/resume
//! Probe: cannot see: a race of microseconds between the head and the first poll

use futures::{FutureExt, Stream, StreamExt};
use snippets::sse::event::{Event, LastEventId};
use snippets::sse::log::{Config, Log};
use tokio::sync::broadcast;

use crate::support::reader::ready;

fn wrong(hub: broadcast::Sender<u32>) -> impl Stream<Item = u32> {
    async_stream::stream! {
        let mut subscriber = hub.subscribe();
        while let Ok(n) = subscriber.recv().await {
            yield n;
        }
    }
}

#[tokio::test]
async fn what_is_published_before_the_first_poll_is_lost() {
    let (hub, _keep) = broadcast::channel(8);
    let mut stream = Box::pin(wrong(hub.clone()));
    hub.send(1).unwrap();
    assert!(stream.next().now_or_never().is_none());
    hub.send(2).unwrap();
    assert_eq!(stream.next().now_or_never(), Some(Some(2)));
}

#[tokio::test]
async fn a_position_is_taken_before_the_response_is_returned() {
    let log = Log::new(Config::complete(8, 1024));
    let mut reader = log.read(&LastEventId::None).unwrap();
    log.publish(&Event::new("n", &1).unwrap()).unwrap();
    assert_eq!(ready(&mut reader)[0].data, "1");
}
