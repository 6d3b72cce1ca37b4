//! The log of all patterns: a bounded ring of encoded events.
//!
//! Publishing never waits and encodes once; a subscriber is a position in the ring ([`Reader`], `log_reader.rs`), so
//! replay, live delivery and the policy for slow clients are one read. Use it for resume, fan-out, jobs, generations
//! and rooms; `topics.rs` keeps one per key, `production/shared_log.rs` fills it from a broker. The log is in memory:
//! after a restart, its epoch differs and every cursor is answered with a `reset`. Needs `event.rs`.

// ANCHOR: config
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::Waker,
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::{
    event::{Cursor, Ids, Reason},
    event::{Event, InvalidEvent, LastEventId, Names},
    log_reader::Reader,
};

// ANCHOR: policies
/// What happens to a slow client: one for which more than [`Config::queue`] events wait, or whose next event is trimmed
/// (removed because the log was full).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slow {
    /// The response ends: the client reconnects with its cursor and continues there, or gets a `reset` if its next event
    /// is trimmed.
    End,
    /// One `reset`, then the newest events: half of `queue` or half of the events that are kept, whichever is
    /// smaller. The client loads the current state.
    Reset,
    /// Only the newest event, without a `reset`. For events that each hold the whole state.
    Newest,
}

/// Where a client starts that has no cursor, or one that cannot be used. If no `reset` is sent, the first block of
/// the stream carries the id of that position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// At the next event.
    Now,
    /// At the newest event, if there is one: for events that each hold the current state.
    Newest,
    /// At the oldest event that is kept.
    Oldest,
    /// At the first event ever published; if that is trimmed, a `reset`, then the oldest event that is kept. For an
    /// answer that is useless without its start.
    First,
}

/// The number of the first event of a new log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    /// The number 1.
    One,
    /// The milliseconds since 1970. For [`Ids::Sequence`]: after a restart the numbers begin above all earlier ones,
    /// so the log sees an old cursor as trimmed and resets the client. This works as long as the clock does not go
    /// back and a log gets fewer than 1,000 events a second on average.
    Clock,
}
// ANCHOR_END: policies

impl First {
    fn number(self) -> u64 {
        match self {
            Self::One => 1,
            Self::Clock => UNIX_EPOCH.elapsed().map_or(1, |age| age.as_millis() as u64),
        }
    }
}

// ANCHOR: settings
/// How a log keeps its events, and how its readers are treated.
#[derive(Debug, Clone)]
pub struct Config {
    /// Maximum number of events that are kept.
    pub events: usize,
    /// Maximum number of bytes that are kept. [`Log::publish`] returns an error for a larger event.
    pub bytes: usize,
    /// Maximum number of events that may wait for a reader. Only events published after the reader subscribed count, so
    /// a long replay alone makes no reader slow.
    pub queue: usize,
    /// What a slow client gets.
    pub slow: Slow,
    /// Where a client without a usable cursor starts.
    pub begin: Begin,
    /// An event is sent immediately if none was sent within the last `join`. Otherwise it waits,
    /// and all that wait are sent together, each as its own event, when `join` has passed since the last send.
    pub join: Duration,
    /// The format of the ids.
    pub ids: Ids,
    /// The number of the first event.
    pub first: First,
    /// The data of the event [`Names::reset`].
    pub reset_data: fn(Reason) -> Value,
    /// The names of the protocol's own events, which no publisher can use: the log sends [`Names::reset`], the response
    /// the others, such as the heartbeat. Set the same `names` in `streams::Config`.
    pub names: Names,
}
// ANCHOR_END: settings

impl Config {
    /// Each event counts: bounded by `events` and `bytes`, from the oldest that is kept.
    pub fn complete(events: usize, bytes: usize) -> Self {
        Self {
            events,
            bytes,
            queue: usize::MAX,
            slow: Slow::Reset,
            begin: Begin::Oldest,
            join: Duration::ZERO,
            ids: Ids::Epoch,
            first: First::One,
            reset_data: |reason| json!({ "reason": reason }),
            names: Names::DEFAULT,
        }
    }

    /// Only the newest event counts: each is the whole state, at most `bytes` long.
    pub fn state(bytes: usize) -> Self {
        Self {
            slow: Slow::Newest,
            ..Self::complete(1, bytes)
        }
    }
}

/// Why an event was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// It would push out the whole log and still not fit.
    #[error("an event of {size} bytes does not fit into a log of {max} bytes")]
    TooLarge {
        /// Bytes of the event.
        size: usize,
        /// [`Config::bytes`].
        max: usize,
    },
    /// The terminal event was published.
    #[error("the log is finished")]
    Finished,
    /// The event has a name of the stream's own, or was not built: building and publishing need one error type.
    #[error(transparent)]
    Invalid(#[from] InvalidEvent),
}
// ANCHOR_END: config

// ANCHOR: log
/// A bounded log.
pub struct Log {
    pub(super) config: Config,
    /// Counts the changes: a reader that has the newest event needs no lock to know it.
    pub(super) version: AtomicU64,
    ring: Mutex<Ring>,
}

pub(super) struct Ring {
    pub(super) epoch: u64,
    /// Counts the restarts of the window: a reader of an earlier one is reset, even if its number exists again.
    pub(super) generation: u32,
    /// Sequence number of the first event of all.
    origin: u64,
    /// Sequence number of the oldest event that is kept, or of the next one.
    pub(super) first: u64,
    pub(super) events: VecDeque<Bytes>,
    bytes: usize,
    pub(super) finished: bool,
    /// One slot per reader; a waker is in it while its reader has nothing to send.
    pub(super) waiting: Vec<Option<Waker>>,
    pub(super) free: Vec<u32>,
    quiet_until: Option<Instant>,
    wake_planned: bool,
}

impl Log {
    /// An empty log. Its epoch is random: it differs from that of every earlier process.
    pub fn new(config: Config) -> Arc<Self> {
        let first = config.first.number();
        Self::starting_at(first, rand::random(), first, config)
    }

    /// An empty log whose next event follows `cursor`: for numbers that continue over restarts.
    pub fn starting_after(cursor: Cursor, config: Config) -> Arc<Self> {
        Self::starting_at(1, cursor.epoch, cursor.seq + 1, config)
    }

    fn starting_at(origin: u64, epoch: u64, first: u64, config: Config) -> Arc<Self> {
        let ring = Ring {
            epoch,
            generation: 0,
            origin,
            first,
            events: VecDeque::new(),
            bytes: 0,
            finished: false,
            waiting: Vec::new(),
            free: Vec::new(),
            quiet_until: None,
            wake_planned: false,
        };
        Arc::new(Self {
            config,
            version: AtomicU64::new(0),
            ring: Mutex::new(ring),
        })
    }

    /// Appends `event`, encoded once for all readers. After the terminal event the log is finished.
    ///
    /// # Errors
    /// If the event is larger than the log, has a name of [`Config::names`], or the log is finished.
    pub fn publish(self: &Arc<Self>, event: &Event) -> Result<Cursor, PublishError> {
        if self.config.names.has(event.name()) {
            return Err(InvalidEvent::ReservedName.into()); // a publisher could end or reset the clients
        }
        self.publish_with(event.is_last(), |id| event.at(id))
    }

    /// Appends the bytes that `encode` returns for the id of the event: a frame of any format that can follow another.
    ///
    /// # Errors
    /// As [`Log::publish`].
    pub fn publish_with(
        self: &Arc<Self>,
        last: bool,
        encode: impl FnOnce(&dyn std::fmt::Display) -> Bytes,
    ) -> Result<Cursor, PublishError> {
        let mut ring = self.ring();
        let cursor = Cursor {
            epoch: ring.epoch,
            seq: ring.next(),
        };
        let block = encode(&self.config.ids.id(cursor));
        self.append(&mut ring, block, last)?;
        self.wake(ring);
        Ok(cursor)
    }

    fn append(&self, ring: &mut Ring, block: Bytes, last: bool) -> Result<(), PublishError> {
        let (size, max) = (block.len(), self.config.bytes);
        if size > max {
            return Err(PublishError::TooLarge { size, max });
        }
        if ring.finished {
            return Err(PublishError::Finished);
        }
        ring.bytes += size;
        ring.events.push_back(block);
        ring.finished = last;
        while ring.events.len() > self.config.events.max(1) || ring.bytes > max {
            ring.bytes -= ring.events.pop_front().map_or(0, |oldest| oldest.len());
            ring.first += 1;
        }
        Ok(())
    }

    /// Takes events of a log that is kept elsewhere, such as a broker's: `events` are consecutive. If they do not follow
    /// those that are kept, because of another epoch or a hole, the window restarts with them.
    pub fn extend(self: &Arc<Self>, epoch: u64, tail: u64, events: &[(u64, Event)]) {
        let mut ring = self.ring();
        let first = events.first().map_or(tail + 1, |(seq, _)| *seq);
        // `tail` below ours in the same epoch: the log went back, and numbers would be given out twice.
        if ring.epoch != epoch || first > ring.next() || tail + 1 < ring.next() {
            ring.epoch = epoch;
            ring.generation += 1;
            ring.first = first;
            (ring.events, ring.bytes, ring.finished) = Default::default();
        }
        for (seq, event) in events {
            let cursor = Cursor { epoch, seq: *seq };
            let block = event.at(self.config.ids.id(cursor));
            if *seq == ring.next() && self.append(&mut ring, block, event.is_last()).is_err() {
                break;
            }
        }
        self.wake(ring);
    }

    /// Everything after `cursor`, then each new event. `None`: the client has the terminal event; return 204.
    pub fn read(self: &Arc<Self>, cursor: &LastEventId) -> Option<Reader> {
        let mut ring = self.ring();
        let (epoch, first, next) = (ring.epoch, ring.first, ring.next());
        let sent = match cursor {
            LastEventId::None => Ok(None),
            LastEventId::Id(id) => self
                .config
                .ids
                .parse(id, epoch)
                .ok_or(Reason::Invalid)
                .map(Some),
            LastEventId::Unusable => Err(Reason::Invalid),
        };
        let newest = first.max(next.saturating_sub(1));
        let start = match sent {
            // Each event is the whole state: wherever the client stopped, it needs the newest event alone.
            Ok(Some(at))
                if self.config.slow == Slow::Newest && at.epoch == epoch && at.seq < next =>
            {
                Ok(at.seq + 1)
            }
            _ if self.config.slow == Slow::Newest => Ok(first),
            Err(reason) => Err(reason),
            Ok(None) => match self.config.begin {
                Begin::Now => Ok(next),
                Begin::Newest => Ok(newest),
                Begin::First if first > ring.origin => Err(Reason::Trimmed),
                Begin::First | Begin::Oldest => Ok(first),
            },
            Ok(Some(at)) if at.epoch != epoch => Err(Reason::Epoch),
            Ok(Some(at)) if at.seq >= next => Err(Reason::Ahead),
            Ok(Some(at)) if at.seq + 1 < first => Err(Reason::Trimmed),
            Ok(Some(at)) => Ok(at.seq + 1),
        };
        if ring.finished && start == Ok(next) {
            return None;
        }
        let after_reset = match self.config.begin {
            Begin::Now => next,
            Begin::Newest => newest,
            Begin::Oldest | Begin::First => first,
        };
        Some(self.reader(&mut ring, epoch, start.unwrap_or(after_reset), start.err()))
    }

    /// Whether an event was ever published.
    pub fn has_begun(&self) -> bool {
        let ring = self.ring();
        ring.next() > ring.origin
    }

    /// A reader at `cursor`, wherever that is: its first read tells whether the log has what follows.
    pub fn read_at(self: &Arc<Self>, cursor: Cursor) -> Reader {
        let mut ring = self.ring();
        self.reader(&mut ring, cursor.epoch, cursor.seq + 1, None)
    }

    fn reader(
        self: &Arc<Self>,
        ring: &mut Ring,
        epoch: u64,
        next: u64,
        reset: Option<Reason>,
    ) -> Reader {
        let slot = ring.free.pop().unwrap_or_else(|| {
            ring.waiting.push(None);
            ring.waiting.len() as u32 - 1
        });
        Reader {
            log: self.clone(),
            slot,
            generation: ring.generation,
            epoch,
            next,
            joined: ring.next(),
            reset,
            armed: None,
        }
    }

    /// The position of a client that has everything.
    pub fn newest(&self) -> Cursor {
        let ring = self.ring();
        Cursor {
            epoch: ring.epoch,
            seq: ring.next() - 1,
        }
    }

    /// Whether `cursor` is that of the terminal event.
    pub fn finished_at(&self, cursor: Cursor) -> bool {
        let ring = self.ring();
        ring.finished
            && cursor
                == Cursor {
                    epoch: ring.epoch,
                    seq: ring.next() - 1,
                }
    }

    /// Whether the terminal event was published.
    pub fn is_finished(&self) -> bool {
        self.ring().finished
    }

    /// The number of readers.
    pub fn readers(&self) -> usize {
        let ring = self.ring();
        ring.waiting.len() - ring.free.len()
    }

    /// The number of events that are kept, and their bytes.
    pub fn kept(&self) -> (usize, usize) {
        let ring = self.ring();
        (ring.events.len(), ring.bytes)
    }

    pub(super) fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(self: &Arc<Self>, mut ring: MutexGuard<'_, Ring>) {
        let join = self.config.join;
        if ring.wake_planned {
            return;
        }
        if !join.is_zero() {
            let now = Instant::now();
            let quiet_until = ring.quiet_until.unwrap_or(now);
            if now < quiet_until {
                ring.wake_planned = true;
                ring.quiet_until = Some(quiet_until + join);
                let log = self.clone();
                tokio::spawn(async move {
                    sleep_until(quiet_until).await;
                    let mut ring = log.ring();
                    ring.wake_planned = false;
                    log.wake_all(ring);
                });
                return;
            }
            ring.quiet_until = Some(now + join);
        }
        self.wake_all(ring);
    }

    /// Wakes after the lock is released: a woken reader takes the same lock.
    fn wake_all(&self, mut ring: MutexGuard<'_, Ring>) {
        self.version.fetch_add(1, Ordering::Release);
        let wakers: Vec<Waker> = ring.waiting.iter_mut().filter_map(Option::take).collect();
        drop(ring);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Ring {
    pub(super) fn next(&self) -> u64 {
        self.first + self.events.len() as u64
    }
}

/// The writing end of a log that is written by one task. If it is dropped before the terminal event (a panic, an
/// aborted task), it publishes `last_words`.
pub struct Writer {
    /// The log.
    pub log: Arc<Log>,
    last_words: Event,
}

impl Writer {
    /// Writes `log`; `last_words` is made terminal.
    pub fn new(log: Arc<Log>, last_words: Event) -> Self {
        Self {
            log,
            last_words: last_words.last(),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Refused if the terminal event was published: then there is nothing to say.
        let _ = self.log.publish(&self.last_words);
    }
}
// ANCHOR_END: log
