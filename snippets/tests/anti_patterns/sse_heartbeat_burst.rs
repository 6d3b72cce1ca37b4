//! Wrong: a heartbeat from `tokio::time::interval` with its default settings.
//! Harm: the default is `Burst`: after a stall every missed tick fires at once, on every stream of the process.
//! Instead: sse/serve
//! Probe: cannot see: needs a process that was stopped

use std::convert::Infallible;
use std::time::Duration;

use futures::{FutureExt, StreamExt, stream};
use snippets::sse::event::Event;
use snippets::sse::streams::{Config, Produced, Streams};
use tokio::time::{MissedTickBehavior, advance, interval};
use tokio_util::sync::CancellationToken;

const PERIOD: Duration = Duration::from_millis(50);
const STALL: Duration = Duration::from_millis(520);

#[tokio::test(start_paused = true)]
async fn a_stall_is_followed_by_a_burst() {
    let mut heartbeat = interval(PERIOD);
    heartbeat.tick().await;
    advance(STALL).await;
    let mut at_once = 0;
    while heartbeat.tick().now_or_never().is_some() {
        at_once += 1;
    }
    assert_eq!(at_once, 10);

    // Where an interval is needed: Delay.
    let mut heartbeat = interval(PERIOD);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    heartbeat.tick().await;
    advance(STALL).await;
    assert!(heartbeat.tick().now_or_never().is_some());
    assert!(heartbeat.tick().now_or_never().is_none());
}

#[tokio::test(start_paused = true)]
async fn the_responder_sends_one() {
    let config = Config {
        heartbeat: PERIOD,
        ..Config::default()
    };
    let slot = Streams::start(config, CancellationToken::new())
        .admit()
        .unwrap();
    let quiet = slot.respond(Produced::new(stream::pending::<Result<Event, Infallible>>()));
    let body = quiet.into_body();
    let mut frames = body.into_data_stream();
    let prelude = frames.next().await.unwrap().unwrap();
    assert!(prelude.starts_with(b"retry: "));
    assert!(frames.next().now_or_never().is_none());
    advance(STALL).await;
    let ping = frames.next().await.unwrap().unwrap();
    assert_eq!(&ping[..], b"event: ping\ndata: {}\n\n");
    tokio::task::yield_now().await;
    assert!(frames.next().now_or_never().is_none());
}
