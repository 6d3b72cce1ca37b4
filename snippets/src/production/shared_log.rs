//! The resume log of several processes: a broker keeps the events, each process has one reader.
//!
//! Use it when clients may reconnect to another instance. Order, retention and ids are the broker's
//! ([`Store`]: `redis_log.rs`, `nats_log.rs`, `postgres_log.rs`); ids are `EPOCH-SEQUENCE` with dense sequence numbers, so
//! that a gap shows. Subscribers read the recent part from memory and older pages from the broker, and
//! nothing is queued for them. A cursor that cannot go on gets a `reset`, as in `sse/resume.rs`. While
//! the broker is down, open streams wait for `max_outage` and then end in band. Needs
//! `store.rs`, `recent.rs` and `sse/{message,serve,resume}.rs`.

// ANCHOR: shared
use std::{collections::VecDeque, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use futures::{Stream, stream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::{
    recent::{Newest, PAGE, Read, Recent, read_on},
    store::{Store, id},
};
use crate::sse::{
    legacy::Reset,
    message::{InvalidMessage, LastEventId, Message},
    serve::{self, Streams},
};

/// Why a stream ended, or did not begin.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// The broker does not answer. Answer 503, or end the stream: the client comes back with its id.
    #[error("the broker is unavailable")]
    Broker,
    /// The broker holds what is no event of ours.
    #[error(transparent)]
    Event(#[from] InvalidMessage),
}

/// One per process and log. Dropping it ends the reader.
#[derive(Debug)]
pub struct SharedLog<S> {
    store: Arc<S>,
    recent: Arc<Recent>,
    _reader: AbortOnDropHandle<()>,
}

impl<S: Store> SharedLog<S> {
    /// Connects to the log and starts the reader. At most `max_events` are kept in memory. When the
    /// broker has been gone for `max_outage`, open streams end; until then they only wait.
    pub async fn start(
        store: S,
        max_events: usize,
        max_outage: Duration,
    ) -> Result<Self, S::Error> {
        let store = Arc::new(store);
        let now = store.read(u64::MAX, 1).await?;
        let newest = PAGE.min(max_events) as u64;
        let before = now.tail.saturating_sub(newest).max(now.head - 1);
        let page = store.read(before, PAGE).await?;
        let recent = Arc::new(Recent::new(page, before, max_events, max_outage));
        let reader = tokio::spawn(read_on(Arc::clone(&store), Arc::clone(&recent)));
        Ok(Self {
            store,
            recent,
            _reader: AbortOnDropHandle::new(reader),
        })
    }

    /// Appends `message`; every process of the service delivers it.
    pub async fn publish(&self, message: &Message) -> Result<(), S::Error> {
        self.store.append(message).await
    }

    /// Everything after `cursor`, then what comes, up to the terminal event. `None`: the client has the
    /// terminal event, answer 204.
    pub async fn subscribe(
        &self,
        cursor: &LastEventId,
    ) -> Result<Option<impl Stream<Item = Result<Message, Unavailable>> + use<S>>, Unavailable>
    {
        let position = match parse(cursor) {
            Ok(None) => {
                let state = *self.recent.state.borrow();
                Position::After(state.epoch, 0)
            }
            Err(reason) => Position::Reset(reason),
            Ok(Some((epoch, seen))) => {
                let mut state = *self.recent.state.borrow();
                // The client may come from an instance whose reader is ahead of this one.
                if state.epoch != epoch || state.tail < seen {
                    let page = self.store.read(seen.saturating_sub(1), 1).await;
                    let page = page.map_err(unavailable)?;
                    (state.epoch, state.tail) = (page.epoch, page.tail);
                    let last = page
                        .events
                        .first()
                        .is_some_and(|(_, message)| message.is_last());
                    if last && (page.epoch, page.tail) == (epoch, seen) {
                        return Ok(None);
                    }
                }
                match seen {
                    _ if state.epoch != epoch => Position::Reset(Reset::Epoch),
                    _ if state.tail < seen => Position::Reset(Reset::Ahead),
                    _ if self.recent.finished_at(epoch, seen) => return Ok(None),
                    _ => Position::After(epoch, seen),
                }
            }
        };
        let subscriber = Subscriber {
            store: Arc::clone(&self.store),
            recent: Arc::clone(&self.recent),
            state: self.recent.state.subscribe(),
            page: VecDeque::new(),
            position,
        };
        Ok(Some(stream::unfold(Some(subscriber), |subscriber| async {
            let mut subscriber = subscriber?;
            let next = subscriber.next().await;
            let end = next.as_ref().map_or(true, Message::is_last);
            Some((next, (!end).then_some(subscriber)))
        })))
    }
}

enum Position {
    /// Seen up to this number in this epoch.
    After(u64, u64),
    Reset(Reset),
}

struct Subscriber<S> {
    store: Arc<S>,
    recent: Arc<Recent>,
    state: watch::Receiver<Newest>,
    /// Events read from the broker that are older than what is in memory; at most [`PAGE`].
    page: VecDeque<(u64, Message)>,
    position: Position,
}

impl<S: Store> Subscriber<S> {
    async fn next(&mut self) -> Result<Message, Unavailable> {
        loop {
            let (epoch, seen) = match self.position {
                Position::After(epoch, seen) => (epoch, seen),
                Position::Reset(reason) => return self.reset(reason).await,
            };
            if let Some((sequence, message)) = self.page.pop_front() {
                self.position = Position::After(epoch, sequence);
                return Ok(message);
            }
            match self.recent.read_after(epoch, seen) {
                Read::Event(message) => {
                    self.position = Position::After(epoch, seen + 1);
                    return Ok(message);
                }
                Read::Wait => self.wait(epoch, seen).await?,
                Read::Older => {
                    let page = self.store.read(seen, PAGE).await.map_err(unavailable)?;
                    if page.epoch != epoch {
                        self.position = Position::Reset(Reset::Epoch);
                    } else if page.head > seen + 1 {
                        self.position = Position::Reset(Reset::Trimmed);
                    } else {
                        self.page = page.events.into();
                    }
                }
                Read::Epoch => self.position = Position::Reset(Reset::Epoch),
            }
        }
    }

    /// Until there is something after `seen`, or the broker has been gone for too long.
    async fn wait(&mut self, epoch: u64, seen: u64) -> Result<(), Unavailable> {
        let ready = |state: &Newest| state.epoch != epoch || state.tail > seen;
        loop {
            let down = |state: &Newest| ready(state) || !state.available;
            if ready(
                &*self
                    .state
                    .wait_for(down)
                    .await
                    .map_err(|_| Unavailable::Broker)?,
            ) {
                return Ok(());
            }
            let back = |state: &Newest| ready(state) || state.available;
            let back = self.state.wait_for(back);
            match tokio::time::timeout(self.recent.max_outage, back).await {
                Ok(Ok(_)) => {}
                _ => return Err(Unavailable::Broker),
            }
        }
    }

    /// Goes on with the oldest event that the broker keeps.
    async fn reset(&mut self, reason: Reset) -> Result<Message, Unavailable> {
        let page = self.store.read(0, 1).await.map_err(unavailable)?;
        let position = page.head - 1;
        self.position = Position::After(page.epoch, position);
        let message = Message::new("reset", &serde_json::json!({ "reason": reason }))?;
        Ok(message.with_id(id(page.epoch, position))?)
    }
}

/// `GET /events`, on each instance.
pub fn app<S: Store>(log: Arc<SharedLog<S>>, streams: Streams) -> Router {
    Router::new()
        .route("/events", get(events::<S>).head(serve::head))
        .with_state((log, streams))
}

async fn events<S: Store>(
    State((log, streams)): State<(Arc<SharedLog<S>>, Streams)>,
    last_event_id: LastEventId,
) -> Response {
    let slot = match streams.admit() {
        Ok(slot) => slot,
        Err(refused) => return refused.into_response(),
    };
    match log.subscribe(&last_event_id).await {
        Ok(Some(messages)) => slot.respond(messages),
        Ok(None) => StatusCode::NO_CONTENT.into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "5")]).into_response(),
    }
}

fn parse(cursor: &LastEventId) -> Result<Option<(u64, u64)>, Reset> {
    let id = match cursor {
        LastEventId::None => return Ok(None),
        LastEventId::Id(id) => id,
        LastEventId::Unusable => return Err(Reset::Invalid),
    };
    let (epoch, sequence) = id.split_once('-').ok_or(Reset::Invalid)?;
    // Digits only: "$", "+" or "0" alone mean something else to a broker.
    let number = |digits: &str| {
        let plain = digits.bytes().all(|b| b.is_ascii_digit());
        plain
            .then(|| digits.parse().ok())
            .flatten()
            .ok_or(Reset::Invalid)
    };
    Ok(Some((number(epoch)?, number(sequence)?)))
}

fn unavailable(error: impl std::error::Error) -> Unavailable {
    tracing::warn!(%error, "the broker does not answer");
    Unavailable::Broker
}
// ANCHOR_END: shared
