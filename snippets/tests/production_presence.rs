//! `production/presence`: who reads a topic, over two instances, when one dies, when the broker is away, and when it forgets.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use snippets::production::presence::{Config, Presence, Present};
use snippets::production::store::{Page, Store};
use snippets::sse::event::{Cursor, Event};
use tokio::time::{Instant, sleep};

use crate::support::memory::Memory;
use crate::support::source::Events;

/// An instance's connection to the log, which a test can cut.
#[derive(Clone)]
struct Link {
    log: Memory,
    down: Arc<AtomicBool>,
}

impl Link {
    fn to(log: &Memory) -> Self {
        Self {
            log: log.clone(),
            down: Arc::default(),
        }
    }

    fn cut(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    fn up(&self) -> io::Result<()> {
        match self.down.load(Ordering::SeqCst) {
            true => Err(io::Error::other("the broker does not answer")),
            false => Ok(()),
        }
    }
}

impl Store for Link {
    type Error = io::Error;

    async fn append(&self, event: &Event) -> io::Result<Cursor> {
        self.up()?;
        Ok(self.log.append(event).await.unwrap())
    }

    async fn read(&self, seen: u64, max: usize) -> io::Result<Page> {
        self.up()?;
        Ok(self.log.read(seen, max).await.unwrap())
    }

    async fn wait(&self, epoch: u64, seen: u64) -> io::Result<()> {
        self.log.wait(epoch, seen).await.unwrap();
        self.up()
    }
}

async fn start(link: &Link) -> Presence {
    let presence = Presence::start(link.clone(), Config::default()).await;
    presence.unwrap_or_else(|error| panic!("{error}"))
}

fn enter(presence: &Presence, user: &str) -> Present {
    presence.enter("room", &user.into())
}

/// Two instances, with ada on the first and bob on the second.
async fn ada_and_bob(of_a: &Link, of_b: &Link) -> (Presence, Presence, [Present; 2]) {
    let (a, b) = (start(of_a).await, start(of_b).await);
    let present = [enter(&a, "ada"), enter(&b, "bob")];
    until(2, &[&a, &b]).await;
    (a, b, present)
}

/// How long until both see `count` users; the clock of the tests is virtual.
async fn until(count: usize, all: &[&Presence]) -> Duration {
    let begun = Instant::now();
    while all.iter().any(|presence| presence.count("room") != count) {
        assert!(begun.elapsed() < Duration::from_secs(3600), "{count} users");
        sleep(Duration::from_millis(100)).await;
    }
    begun.elapsed()
}

/// That it stays so for ten minutes.
async fn stays(count: usize, presence: &Presence) {
    for _ in 0..6_000 {
        assert_eq!(presence.count("room"), count);
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_user_counts_once_over_all_instances() {
    let log = Memory::new(1_000);
    let (a, b) = (start(&Link::to(&log)).await, start(&Link::to(&log)).await);
    let ada = enter(&a, "ada");
    let _bob = enter(&b, "bob");
    // An instance that has just come asks, and is answered at the next beat.
    assert!(until(2, &[&a, &b]).await <= 2 * Config::default().beat);
    let again = enter(&b, "ada");
    let twice = enter(&b, "ada");
    stays(2, &a).await;
    // From one instance to the other: neither gone nor come.
    drop((again, twice));
    stays(2, &b).await;
    drop(ada);
    sleep(Config::default().grace - Duration::from_secs(1)).await;
    assert_eq!((a.count("room"), b.count("room")), (2, 2));
    let back = enter(&b, "ada");
    stays(2, &a).await;
    drop(back);
    let left = until(1, &[&a, &b]).await;
    let (grace, beat) = (Config::default().grace, Config::default().beat);
    assert!(left >= grace - beat && left <= grace + 2 * beat, "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn the_users_of_an_instance_that_dies_leave_after_its_beats_are_missed() {
    let log = Memory::new(1_000);
    let (a, b) = (start(&Link::to(&log)).await, start(&Link::to(&log)).await);
    let ada = enter(&a, "ada");
    let _bob = enter(&b, "bob");
    until(2, &[&a, &b]).await;
    // Killed: it says nothing, not even that they go.
    drop(a);
    drop(ada);
    let left = until(1, &[&b]).await;
    let Config { beat, misses, .. } = Config::default();
    let bound = beat * (misses as u32 + 2);
    assert!(
        left > beat * (misses as u32 - 1) && left <= bound,
        "{left:?}"
    );
    // Another instance in its place starts with the living.
    let c = start(&Link::to(&log)).await;
    until(1, &[&c]).await;
    stays(1, &c).await;
}

#[tokio::test(start_paused = true)]
async fn while_the_broker_is_down_nobody_leaves_and_what_it_lost_comes_again() {
    let log = Memory::new(1_000);
    let (of_a, of_b) = (Link::to(&log), Link::to(&log));
    let (a, b, _present) = ada_and_bob(&of_a, &of_b).await;
    for link in [&of_a, &of_b] {
        link.cut(true);
    }
    // Wakes the readers, which find that it is away.
    log.set_back(0);
    let _eve = enter(&a, "eve");
    stays(2, &b).await;
    for link in [&of_a, &of_b] {
        link.cut(false);
    }
    // It has forgotten everything; those who are there are there again.
    until(3, &[&a, &b]).await;
    stays(3, &a).await;
    stays(3, &b).await;
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_was_taken_for_dead_has_its_users_again() {
    let log = Memory::new(1_000);
    let (of_a, of_b) = (Link::to(&log), Link::to(&log));
    let (a, b, _present) = ada_and_bob(&of_a, &of_b).await;
    of_a.cut(true);
    until(1, &[&b]).await;
    of_a.cut(false);
    until(2, &[&a, &b]).await;
    stays(2, &b).await;
}

/// One event for each, and one message for many in a second.
#[tokio::test(start_paused = true)]
async fn coming_costs_the_same_in_a_room_of_ten_thousand() {
    let log = Memory::new(100_000);
    let (a, b) = (start(&Link::to(&log)).await, start(&Link::to(&log)).await);
    let mut many: Vec<_> = (0..10_000)
        .map(|n| enter(&a, &format!("user-{n:05}")))
        .collect();
    until(10_000, &[&a, &b]).await;
    let mut watch = Events::new(b.watch("room").unwrap());
    let first = watch.next().await.unwrap();
    assert_eq!(first.name, "presence");
    let shown: serde_json::Value = serde_json::from_str(&first.data).unwrap();
    assert_eq!(shown["count"], 10_000);
    assert_eq!(shown["users"].as_array().unwrap().len(), 50);
    // The size of what one more costs.
    let before = log.read(u64::MAX, 1).await.unwrap().tail;
    many.push(enter(&a, "zoe"));
    until(10_001, &[&b]).await;
    let page = log.read(before, 10).await.unwrap();
    let here = page
        .events
        .iter()
        .map(|(_, event)| event.data().into_owned());
    let here: Vec<String> = here.filter(|data| data.contains("Here")).collect();
    assert_eq!(here.len(), 1);
    assert!(here[0].contains("zoe") && here[0].len() < 200, "{here:?}");
    let next: serde_json::Value = serde_json::from_str(&watch.next().await.unwrap().data).unwrap();
    assert_eq!(next["count"], 10_001);
}
