//! All open connections of a service: their limit, their heartbeat, and their end at a shutdown.
//!
//! Event streams and sockets hold a [`Place`]. It is the permit; its heartbeat is one tick that all share, so that no
//! connection has a timer of its own; a shutdown reaches the places evenly over `drain_spread`, and none is busy enough
//! to miss it. [`Recheck`] asks again whether a connection may stay open. `sse/streams.rs` and `websocket/serve.rs` are built on it.

// ANCHOR: crowd
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Waker},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// What the places of one crowd share.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Most places that are taken at once.
    pub max: usize,
    /// How often each place is woken.
    pub heartbeat: Duration,
    /// A shutdown reaches the places evenly within this.
    pub drain_spread: Duration,
}

/// Cloning is cheap.
#[derive(Clone)]
pub struct Crowd(Arc<Shared>);

struct Shared {
    rules: Rules,
    shutdown: CancellationToken,
    /// Low half: ticks, [`PHASES`] per heartbeat. High half: the progress of the shutdown, of [`WHOLE`].
    clock: AtomicU64,
    table: Mutex<Table>,
    empty: Notify,
}

#[derive(Default)]
struct Table {
    wakers: Vec<Option<Waker>>,
    free: Vec<u32>,
}

/// Each tick wakes one sixteenth of the places: the connections do not all write at once.
const PHASES: u32 = 16;
const WHOLE: u64 = 1 << 16;

/// What is due for a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nothing since the last poll.
    Nothing,
    /// A heartbeat; the number of heartbeats since the place was taken.
    Beat(u32),
    /// The shutdown has reached this place.
    Shutdown,
}

impl Crowd {
    /// Starts the one task of the crowd.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(rules: Rules, shutdown: CancellationToken) -> Self {
        let shared = Shared {
            rules,
            shutdown,
            clock: AtomicU64::new(0),
            table: Mutex::default(),
            empty: Notify::new(),
        };
        let crowd = Self(Arc::new(shared));
        let (rules, shutdown) = (crowd.0.rules.clone(), crowd.0.shutdown.clone());
        tokio::spawn(run(Arc::downgrade(&crowd.0), rules, shutdown));
        crowd
    }

    /// A place, unless all are taken or the shutdown has begun.
    pub fn enter(&self) -> Option<Place> {
        let mut table = self.0.table();
        // Read before the check: a shutdown that begins after it is a change that the place sees.
        let clock = self.0.clock.load(Ordering::Acquire);
        if table.taken() >= self.0.rules.max || self.0.shutdown.is_cancelled() {
            return None;
        }
        let index = table.free.pop().unwrap_or_else(|| {
            table.wakers.push(None);
            table.wakers.len() as u32 - 1
        });
        drop(table);
        let beat = beat(clock, index);
        Some(Place {
            crowd: self.clone(),
            index,
            clock,
            beat,
            born: beat,
            waker: None,
        })
    }

    /// The number of places that are taken, for a gauge.
    pub fn count(&self) -> usize {
        self.0.table().taken()
    }

    /// The rules that it was started with.
    pub fn rules(&self) -> &Rules {
        &self.0.rules
    }

    /// Waits until all places are free, for at most `deadline`. Returns how many are still taken.
    pub async fn drained(&self, deadline: Duration) -> usize {
        let empty = async {
            loop {
                let left = self.0.empty.notified();
                if self.count() == 0 {
                    return;
                }
                left.await;
            }
        };
        let _ = timeout(deadline, empty).await;
        self.count()
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the clock before it wakes: a place that is woken sees the new time.
    fn set(&self, clock: u64, concerned: impl Fn(u32) -> bool) {
        self.clock.store(clock, Ordering::Release);
        let wakers: Vec<Waker> = {
            let table = self.table();
            let all = (0..).zip(&table.wakers);
            all.filter(|(index, _)| concerned(*index))
                .filter_map(|(_, waker)| waker.clone())
                .collect()
        };
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Table {
    fn taken(&self) -> usize {
        self.wakers.len() - self.free.len()
    }
}

fn beat(clock: u64, index: u32) -> u32 {
    (clock as u32).wrapping_add(index % PHASES) / PHASES
}

/// The progress of the shutdown at which a place is reached: neighbors are far apart, and the whole is even.
fn lot(index: u32) -> u64 {
    u64::from((index as u16).wrapping_mul(40503))
}

async fn run(crowd: Weak<Shared>, rules: Rules, shutdown: CancellationToken) {
    let mut ticks = interval((rules.heartbeat / PHASES).max(Duration::from_millis(1)));
    // After a stall, one heartbeat and not a burst; `Delay` would also add the lateness of each tick to all that follow.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks.tick().await;
    let mut now: u32 = 0;
    loop {
        tokio::select! {
            _ = ticks.tick() => now = now.wrapping_add(1),
            () = shutdown.cancelled() => break,
        }
        let Some(crowd) = crowd.upgrade() else { return };
        crowd.set(now.into(), |index| {
            now.wrapping_add(index % PHASES).is_multiple_of(PHASES)
        });
    }
    let begun = Instant::now();
    loop {
        let spread = rules.drain_spread.as_secs_f64();
        let part = if spread == 0.0 {
            1.0
        } else {
            begun.elapsed().as_secs_f64() / spread
        };
        let reached = ((part.min(1.0) * WHOLE as f64) as u64).max(1);
        let Some(crowd) = crowd.upgrade() else { return };
        crowd.set(u64::from(now) | reached << 32, |index| lot(index) < reached);
        if reached == WHOLE {
            return;
        }
        sleep(rules.drain_spread / 64).await;
    }
}

/// The permit for one stream or socket, until it is dropped. Keep it in the body or the connection: a concurrency layer
/// releases its permit when the handler returns, which is when a stream begins.
pub struct Place {
    crowd: Crowd,
    index: u32,
    /// The shared clock at the last poll.
    clock: u64,
    beat: u32,
    born: u32,
    waker: Option<Waker>,
}

impl Place {
    /// What is due. Costs one atomic load if nothing is.
    pub fn poll(&mut self, cx: &Context<'_>) -> Due {
        let shared = &self.crowd.0;
        if self
            .waker
            .as_ref()
            .is_none_or(|waker| !waker.will_wake(cx.waker()))
        {
            self.waker = Some(cx.waker().clone());
            shared.table().wakers[self.index as usize] = self.waker.clone();
        }
        let clock = shared.clock.load(Ordering::Acquire);
        if clock == self.clock {
            return Due::Nothing;
        }
        self.clock = clock;
        if clock >> 32 > lot(self.index) {
            return Due::Shutdown;
        }
        let beat = beat(clock, self.index);
        if std::mem::replace(&mut self.beat, beat) == beat {
            return Due::Nothing;
        }
        Due::Beat(beat.wrapping_sub(self.born))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.crowd.0.table();
        table.wakers[self.index as usize] = None;
        table.free.push(self.index);
        if table.taken() == 0 {
            self.crowd.0.empty.notify_waiters();
        }
    }
}

// ANCHOR: recheck
/// How often a session is checked again while a connection is open.
#[derive(Debug, Clone, Copy)]
pub struct Recheck {
    /// Each check begins 0.8 to 1 times this after the last one, so that connections that were opened together are not
    /// checked together.
    pub every: Duration,
    /// Longest time of one check; then it has failed.
    pub deadline: Duration,
    /// How long a connection stays open while all checks fail: a session store that is down must not end every connection.
    pub patience: Duration,
}

/// Why a connection must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// The session is not valid.
    Invalid,
    /// For [`Recheck::patience`], no check was answered.
    Unknown,
}

impl Recheck {
    /// Completes when `valid` returns `Ok(false)`, or when it has failed for too long. Poll it with the connection, as
    /// `sse/until.rs` and `websocket/users.rs` do: while a check waits, events and heartbeats are sent.
    pub async fn over<F, E>(self, valid: impl Fn() -> F) -> Over
    where
        F: Future<Output = Result<bool, E>>,
    {
        let mut answered = Instant::now();
        loop {
            sleep(self.every.mul_f64(rand::random_range(0.8..=1.0))).await;
            match timeout(self.deadline, valid()).await {
                Ok(Ok(true)) => answered = Instant::now(),
                Ok(Ok(false)) => return Over::Invalid,
                _ if answered.elapsed() >= self.patience => return Over::Unknown,
                _ => tracing::warn!("a session cannot be checked"),
            }
        }
    }
}
// ANCHOR_END: recheck

impl Default for Recheck {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(30),
            deadline: Duration::from_secs(5),
            patience: Duration::from_secs(5 * 60),
        }
    }
}
// ANCHOR_END: crowd
