//! The log of several processes: a broker keeps the events, and each process reads them once into a [`Log`].
//!
//! Use it if clients may reconnect to another instance. Order, retention and ids are the broker's ([`Store`]:
//! `redis_log.rs`, `nats_log.rs`, `postgres_log.rs`). Subscribers read the recent part from memory and older pages from the
//! broker; nothing is queued for them. It guarantees: no event is missing or delivered twice without a `reset` before it,
//! even if the broker loses events that it has acknowledged; a slow reader is reset once and continues in memory; while
//! the broker is down, open streams wait for `max_outage` and then end in band. Needs `store.rs` and
//! `sse/{event,log,log_reader,streams}.rs`.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::BytesMut;
use tokio::{
    sync::Semaphore,
    time::{Instant, Sleep, sleep},
};
use tokio_util::task::AbortOnDropHandle;

use super::store::{Page, Store};
use crate::sse::{
    event::{Cursor, Ids, Reason},
    event::{Event, LastEventId, Names},
    log::{self, Log},
    log_reader::{Next, Reader},
    streams::{Chunk, Slot, Source, Streams, head},
};

/// Events per read of the broker.
pub const PAGE: usize = 256;

/// The part of a log that a process keeps, and how it reads the rest.
#[derive(Debug, Clone)]
pub struct Config {
    /// Most events in memory.
    pub events: usize,
    /// Most bytes in memory.
    pub bytes: usize,
    /// How long streams wait for a broker that does not answer.
    pub max_outage: Duration,
    /// Reads of the broker at a time, for subscribers that are behind memory. Clones share it.
    pub reads: Arc<Semaphore>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            events: 1_000,
            bytes: 4 << 20,
            max_outage: Duration::from_secs(30),
            reads: Arc::new(Semaphore::new(16)),
        }
    }
}

/// One per process and log. Dropping it ends the reader.
pub struct SharedLog<S> {
    store: Arc<S>,
    recent: Arc<Recent>,
    _reader: AbortOnDropHandle<()>,
}

/// What the reader and the subscribers share.
struct Recent {
    log: Arc<Log>,
    config: Config,
    /// When the broker stopped answering.
    down: Mutex<Option<Instant>>,
    /// How often the broker has lost events, and the newest event that it still had the last time.
    losses: AtomicU64,
    kept_by_loss: AtomicU64,
}

impl<S: Store> SharedLog<S> {
    /// Connects to the log and starts the reader.
    ///
    /// # Errors
    /// If the broker does not answer.
    pub async fn start(store: S, config: Config) -> Result<Self, S::Error> {
        let recent = Recent {
            log: Log::new(log::Config::complete(config.events, config.bytes)),
            config,
            down: Mutex::new(None),
            losses: AtomicU64::new(0),
            kept_by_loss: AtomicU64::new(0),
        };
        let (store, recent) = (Arc::new(store), Arc::new(recent));
        let last = load(&*store, &recent).await?;
        let reader = tokio::spawn(read_on(store.clone(), recent.clone(), last));
        let _reader = AbortOnDropHandle::new(reader);
        Ok(Self {
            store,
            recent,
            _reader,
        })
    }

    /// Appends `event`; every process of the service delivers it.
    ///
    /// # Errors
    /// If the broker does not acknowledge it. It may be in the log anyway.
    pub async fn publish(&self, event: &Event) -> Result<Cursor, S::Error> {
        self.store.append(event).await
    }

    /// Everything after `cursor`, then each new event. `None`: the client has the terminal event; return 204.
    ///
    /// # Errors
    /// If it needs the broker, and that does not answer: return 503.
    pub async fn read(&self, cursor: &LastEventId) -> Result<Option<Paged<S>>, S::Error> {
        let newest = self.recent.log.newest();
        let parsed = match cursor {
            LastEventId::None => Ok(None),
            LastEventId::Id(id) => Ids::Epoch.parse(id, 0).map(Some).ok_or(Reason::Invalid),
            LastEventId::Unusable => Err(Reason::Invalid),
        };
        let (mut at, mut lost) = match parsed {
            Ok(None) => (Cursor { seq: 0, ..newest }, None),
            Ok(Some(at)) => (at, None),
            Err(reason) => (newest, Some(reason)),
        };
        // The client may come from an instance whose reader is ahead of this one: the broker knows.
        if lost.is_some() || at.epoch != newest.epoch || at.seq > newest.seq {
            let seen = if lost.is_some() {
                0
            } else {
                at.seq.saturating_sub(1)
            };
            let page = self.recent.read(&*self.store, seen, 1).await?;
            match page.events.first() {
                _ if lost.is_some() => {}
                _ if page.epoch != at.epoch => lost = Some(Reason::Epoch),
                _ if page.tail < at.seq => lost = Some(Reason::Ahead),
                Some((seq, event)) if *seq == at.seq && event.is_last() => return Ok(None),
                _ => {}
            }
            if lost.is_some() {
                at = Cursor {
                    epoch: page.epoch,
                    seq: page.head - 1,
                };
            }
        }
        if lost.is_none() && self.recent.log.finished_at(at) {
            return Ok(None);
        }
        Ok(Some(Paged {
            reader: self.recent.log.read_at(at),
            newcomer: parsed == Ok(None),
            losses: self.recent.losses.load(Ordering::Acquire),
            store: self.store.clone(),
            recent: self.recent.clone(),
            lost,
            begun: false,
            doing: Doing::Memory,
        }))
    }
}

impl Recent {
    async fn read<S: Store>(&self, store: &S, seen: u64, max: usize) -> Result<Page, S::Error> {
        // Fails only if it is closed, which nobody does.
        let _permit = self.config.reads.acquire().await;
        store.read(seen, max).await
    }

    /// Whether the broker has not answered for longer than streams wait for it.
    fn is_down(&self) -> bool {
        let down = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        down.is_some_and(|since| since.elapsed() >= self.config.max_outage)
    }

    fn set_down(&self, down: bool) {
        let mut since = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        *since = down.then(|| since.unwrap_or_else(Instant::now));
    }
}

/// Reads the newest events into memory; returns the newest.
async fn load<S: Store>(store: &S, recent: &Recent) -> Result<Option<Event>, S::Error> {
    let now = store.read(u64::MAX, 1).await?;
    let newest = PAGE.min(recent.config.events) as u64;
    let page = store.read(now.tail.saturating_sub(newest), PAGE).await?;
    recent.log.extend(page.epoch, page.tail, &page.events);
    Ok(page.events.last().map(|(_, event)| event.clone()))
}

// ANCHOR: reader
/// The one reader of this process.
async fn read_on<S: Store>(store: Arc<S>, recent: Arc<Recent>, mut last: Option<Event>) {
    let mut failures = 0_u32;
    loop {
        let newest = recent.log.newest();
        let read = async {
            store.wait(newest.epoch, newest.seq).await?;
            // The newest event once more: a broker that lost events gives out their numbers again.
            let page = store.read(newest.seq.saturating_sub(1), PAGE + 1).await?;
            let again = page.events.iter().find(|(seq, _)| *seq == newest.seq);
            if page.epoch == newest.epoch
                && page.tail >= newest.seq
                && again.is_none_or(|(_, again)| last.as_ref().is_none_or(|last| last == again))
            {
                recent.log.extend(page.epoch, page.tail, &page.events);
                return Ok(page
                    .events
                    .last()
                    .map(|(_, event)| event.clone())
                    .or(last.clone()));
            }
            if page.epoch == newest.epoch {
                tracing::error!(
                    had = newest.seq,
                    has = page.tail,
                    "the broker has lost events"
                );
                let kept = if page.tail < newest.seq {
                    page.tail
                } else {
                    page.head - 1
                };
                recent.kept_by_loss.store(kept, Ordering::Relaxed);
                recent.losses.fetch_add(1, Ordering::Release);
                recent.log.extend(page.epoch, page.head - 1, &[]);
            }
            load(&*store, &recent).await
        };
        match read.await {
            Ok(newest) => {
                (failures, last) = (0, newest);
                recent.set_down(false);
            }
            Err(error) => {
                let error: S::Error = error;
                tracing::warn!(%error, failures, "the broker does not answer");
                recent.set_down(true);
                // Full jitter: the instances do not return in step.
                sleep(rand::random_range(
                    Duration::from_millis(5)..=Duration::from_millis(100 << failures.min(6)),
                ))
                .await;
                failures += 1;
            }
        }
    }
}

// ANCHOR_END: reader

/// A subscriber: a position in the shared log.
pub struct Paged<S: Store> {
    store: Arc<S>,
    recent: Arc<Recent>,
    reader: Reader,
    /// Without a cursor: starts with what is kept, and without a `reset`.
    newcomer: bool,
    /// Sent first.
    lost: Option<Reason>,
    losses: u64,
    begun: bool,
    doing: Doing<S::Error>,
}

enum Doing<E> {
    Memory,
    /// Reads what memory no longer has.
    Page(Pin<Box<dyn Future<Output = Result<Page, E>> + Send>>),
    /// The broker has what memory does not have yet.
    Pause(Pin<Box<Sleep>>),
}

impl<S: Store> Paged<S> {
    /// Continues where the client can keep up: after a `reset` it loads a snapshot, which has what is left out.
    fn jump(&mut self, reason: Reason) -> Chunk {
        let (newest, (kept, _)) = (self.recent.log.newest(), self.recent.log.kept());
        let room = match reason {
            Reason::Epoch | Reason::Ahead => kept,
            _ => kept / 2,
        };
        self.reset(
            reason,
            Cursor {
                seq: newest.seq.saturating_sub(room as u64),
                ..newest
            },
        )
    }

    fn reset(&mut self, reason: Reason, at: Cursor) -> Chunk {
        (self.begun, self.newcomer) = (true, false);
        self.reader.seek(at);
        Chunk {
            bytes: self.reader.reset(reason),
            reset: Some(reason),
            ..Chunk::default()
        }
    }

    fn page(&mut self, page: Page) -> Option<Chunk> {
        let seen = self.reader.at();
        let lost = match page {
            _ if page.epoch != seen.epoch => Some(Reason::Epoch),
            _ if page.tail < seen.seq => Some(Reason::Ahead),
            _ if page.head > seen.seq + 1 && !self.newcomer => Some(Reason::Trimmed),
            _ => None,
        };
        match lost {
            Some(reason) if self.begun => return Some(self.jump(reason)),
            // The client starts anyway: it gets all that is kept.
            Some(reason) => {
                return Some(self.reset(
                    reason,
                    Cursor {
                        epoch: page.epoch,
                        seq: page.head - 1,
                    },
                ));
            }
            None => {}
        }
        let (mut bytes, mut last) = (BytesMut::new(), false);
        for (seq, event) in &page.events {
            let cursor = Cursor {
                epoch: page.epoch,
                seq: *seq,
            };
            bytes.extend_from_slice(&event.at(cursor));
            self.reader.seek(cursor);
            last = event.is_last();
        }
        if bytes.is_empty() {
            let pause = rand::random_range(Duration::from_millis(20)..Duration::from_millis(200));
            self.doing = Doing::Pause(Box::pin(sleep(pause)));
            return None;
        }
        (self.begun, self.newcomer) = (true, false);
        Some(Chunk {
            bytes: bytes.freeze(),
            last,
            ..Chunk::default()
        })
    }
}

impl<S: Store> Source for Paged<S> {
    fn id(&self) -> Option<String> {
        // Before a `reset`, a cursor would hide the gap from a client whose connection breaks between the two.
        (self.lost.is_none() && !self.newcomer).then(|| self.reader.at().to_string())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Chunk>> {
        loop {
            if let Some(reason) = self.lost.take() {
                let at = self.reader.at();
                return Poll::Ready(Some(self.reset(reason, at)));
            }
            let losses = self.recent.losses.load(Ordering::Acquire);
            if std::mem::replace(&mut self.losses, losses) != losses
                && self.reader.at().seq > self.recent.kept_by_loss.load(Ordering::Relaxed)
            {
                self.doing = Doing::Memory;
                return Poll::Ready(Some(self.jump(Reason::Ahead)));
            }
            match &mut self.doing {
                Doing::Memory => {}
                Doing::Pause(pause) => {
                    ready!(pause.as_mut().poll(cx));
                    self.doing = Doing::Memory;
                }
                Doing::Page(reading) => {
                    let read = ready!(reading.as_mut().poll(cx));
                    self.doing = Doing::Memory;
                    match read {
                        Ok(page) => match self.page(page) {
                            Some(chunk) => return Poll::Ready(Some(chunk)),
                            None => continue,
                        },
                        Err(error) => {
                            tracing::warn!(%error, "the broker does not answer");
                            return Poll::Ready(Some(Chunk::from(&unavailable())));
                        }
                    }
                }
            }
            let seen = self.reader.at();
            let chunk = match ready!(self.reader.next(cx)) {
                Next::Blocks(bytes) => Chunk {
                    bytes,
                    ..Chunk::default()
                },
                Next::Last(bytes) => Chunk {
                    bytes,
                    last: true,
                    ..Chunk::default()
                },
                Next::End => return Poll::Ready(None),
                Next::Missed(Reason::Epoch, _)
                    if self.begun && self.reader.at().epoch > seen.epoch =>
                {
                    let at = self.reader.at();
                    self.reset(Reason::Epoch, at)
                }
                Next::Missed(..) => {
                    // Not in memory: the broker has it, or shows that it has not.
                    self.reader.seek(seen);
                    let (store, recent) = (self.store.clone(), self.recent.clone());
                    self.doing = Doing::Page(Box::pin(async move {
                        recent.read(&*store, seen.seq, PAGE).await
                    }));
                    continue;
                }
            };
            (self.begun, self.newcomer) = (true, false);
            return Poll::Ready(Some(chunk));
        }
    }

    fn beat(&mut self) -> Option<Event> {
        self.recent.is_down().then(unavailable)
    }
}

/// The terminal event of a stream whose broker is down; the client reconnects with its cursor.
fn unavailable() -> Event {
    let data = serde_json::json!({ "code": "unavailable" });
    let event = Event::unreserved(Names::DEFAULT.failed, &data);
    event
        .unwrap_or_else(|_| unreachable!("a name without control characters"))
        .last()
}

/// `GET /events`, on each instance.
pub fn app<S: Store>(log: Arc<SharedLog<S>>, streams: Streams) -> Router {
    Router::new()
        .route("/events", get(events::<S>).head(head))
        .with_state((log, streams))
}

async fn events<S: Store>(
    State((log, streams)): State<(Arc<SharedLog<S>>, Streams)>,
    cursor: LastEventId,
) -> Response {
    let slot = match streams.admit() {
        Ok(slot) => slot,
        Err(refused) => return refused.into_response(),
    };
    respond(slot, log.read(&cursor).await)
}

/// The response for what [`SharedLog::read`] returns.
pub fn respond<S: Store>(slot: Slot, read: Result<Option<Paged<S>>, S::Error>) -> Response {
    match read {
        Ok(Some(source)) => slot.respond(source),
        Ok(None) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => {
            tracing::warn!(%error, "the broker does not answer");
            // In band: 503 would stop an `EventSource` permanently.
            slot.respond(Down)
        }
    }
}

/// A stream that ends at once, since its log cannot be read.
struct Down;

impl Source for Down {
    fn poll(&mut self, _: &mut Context<'_>) -> Poll<Option<Chunk>> {
        Poll::Ready(Some(Chunk::from(&unavailable())))
    }
}
