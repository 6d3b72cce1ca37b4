//! A [`Store`] on NATS JetStream (feature `nats`; tested with nats-server 2.15, async-nats 0.51).
//!
//! One JetStream stream with one subject is one log: its sequence numbers are dense, and the time of its creation is the
//! epoch. Needs `store.rs`.

// ANCHOR: nats
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use async_nats::{
    Client, SubscribeError,
    jetstream::{
        self, Context,
        consumer::{AckPolicy, DeliverPolicy, pull},
        context::{CreateStreamError, PublishError, PublishErrorKind},
        stream::{Config, ConsumerError, RawMessageError, RawMessageErrorKind, Stream},
    },
};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Mutex, watch},
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

use super::store::{Page, Store};
use crate::sse::event::{Cursor, Event, InvalidEvent};

/// Without a wake-up, the stream's state is read this often.
const SWEEP: Duration = Duration::from_secs(2);
/// How long the server keeps the consumer of a page.
const CONSUMER: Duration = Duration::from_secs(5);

/// One log: one JetStream stream.
pub struct NatsLog {
    client: Client,
    context: Context,
    config: Config,
    subject: String,
    /// Of the last answer.
    epoch: AtomicU64,
    wake: Mutex<Option<Wake>>,
}

/// A core subscription of the subject, emptied as it fills: what it carries is read from the stream.
struct Wake {
    woken: watch::Receiver<()>,
    _task: AbortOnDropHandle<()>,
}

/// Why NATS failed.
#[derive(Debug, thiserror::Error)]
pub enum NatsLogError {
    /// Not acknowledged; the event may be in the stream anyway.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// Not reachable, or an error of the server.
    #[error(transparent)]
    Create(#[from] CreateStreamError),
    /// Likewise.
    #[error(transparent)]
    Consumer(#[from] ConsumerError),
    /// Likewise.
    #[error(transparent)]
    Read(#[from] RawMessageError),
    /// Likewise.
    #[error(transparent)]
    Subscribe(#[from] SubscribeError),
    /// Likewise.
    #[error("a page broke off: {0}")]
    Page(#[source] async_nats::Error),
    /// The connection is down; the client reconnects on its own.
    #[error("not connected")]
    Disconnected,
    /// The stream holds a message that is not an event of ours.
    #[error("not an event: {0}")]
    Event(#[from] InvalidEvent),
    /// Likewise.
    #[error("not JSON: {0}")]
    Json(#[from] serde_json::Error),
}

#[derive(Serialize, Deserialize)]
struct Stored {
    name: String,
    data: String,
    last: bool,
}

impl NatsLog {
    /// `name` is the stream and, with `.events` after it, its one subject; `max_events` are kept. Set a timeout
    /// on `client` (`request_timeout`): it bounds every call here.
    pub fn new(client: Client, name: &str, max_events: i64) -> Self {
        let subject = format!("{name}.events");
        Self {
            context: jetstream::new(client.clone()),
            client,
            config: Config {
                name: name.to_owned(),
                subjects: vec![subject.clone()],
                max_messages: max_events,
                ..Config::default()
            },
            subject,
            epoch: AtomicU64::new(0),
            wake: Mutex::new(None),
        }
    }

    /// The stream with its current state, in one request; creates it if there is none.
    async fn stream(&self) -> Result<Stream, NatsLogError> {
        self.connected()?;
        let stream = self
            .context
            .get_or_create_stream(self.config.clone())
            .await?;
        let created = stream.cached_info().created.unix_timestamp_nanos() as u64;
        self.epoch.store(created, Ordering::Relaxed);
        Ok(stream)
    }

    /// The client would queue a request until it is connected again.
    fn connected(&self) -> Result<(), NatsLogError> {
        match self.client.connection_state() {
            async_nats::connection::State::Connected => Ok(()),
            _ => Err(NatsLogError::Disconnected),
        }
    }

    async fn publish(&self, payload: Vec<u8>) -> Result<u64, PublishError> {
        // Two steps: sent, then acknowledged by the stream.
        let sent = self.context.publish(self.subject.clone(), payload.into());
        Ok(sent.await?.await?.sequence)
    }
}

fn event(payload: &[u8]) -> Result<Event, NatsLogError> {
    let Stored { name, data, last } = serde_json::from_slice(payload)?;
    let event = Event::text(&name, &data)?;
    Ok(if last { event.last() } else { event })
}

/// The events from `first` on, in two requests; one event in one.
async fn page(stream: &Stream, first: u64, count: u64) -> Result<Vec<(u64, Event)>, NatsLogError> {
    if count == 1 {
        return match stream.get_raw_message(first).await {
            Ok(raw) => Ok(vec![(first, event(&raw.payload)?)]),
            // Trimmed in the meantime, or deleted by hand.
            Err(e) if e.kind() == RawMessageErrorKind::NoMessageFound => Ok(Vec::new()),
            Err(e) => Err(e.into()),
        };
    }
    let consumer = stream.create_consumer(pull::Config {
        deliver_policy: DeliverPolicy::ByStartSequence {
            start_sequence: first,
        },
        ack_policy: AckPolicy::None,
        inactive_threshold: CONSUMER,
        memory_storage: true,
        num_replicas: 1,
        ..pull::Config::default()
    });
    let consumer = consumer.await?;
    let batch = consumer.fetch().max_messages(count as usize).messages();
    let mut messages = batch.await.map_err(|e| NatsLogError::Page(e.into()))?;
    let mut events = Vec::new();
    while let Some(message) = messages.next().await {
        let message = message.map_err(NatsLogError::Page)?;
        let seq = message.info().map_err(NatsLogError::Page)?.stream_sequence;
        events.push((seq, event(&message.payload)?));
    }
    Ok(events)
}

impl Store for NatsLog {
    type Error = NatsLogError;

    async fn append(&self, event: &Event) -> Result<Cursor, Self::Error> {
        self.connected()?;
        let (name, data) = (event.name().to_owned(), event.data().into_owned());
        let payload = serde_json::to_vec(&Stored {
            name,
            data,
            last: event.is_last(),
        })?;
        // A log that only publishes has not seen its stream yet: the cursor needs the epoch.
        if self.epoch.load(Ordering::Relaxed) == 0 {
            self.stream().await?;
        }
        let known = self.epoch.load(Ordering::Relaxed);
        let seq = match self.publish(payload.clone()).await {
            // Without its stream, the subject has no responder, or only the subscribers that wait for a wake-up. If it
            // was created again since, the event is not in it.
            Err(error)
                if matches!(
                    error.kind(),
                    PublishErrorKind::StreamNotFound | PublishErrorKind::TimedOut
                ) =>
            {
                self.stream().await?;
                let same = self.epoch.load(Ordering::Relaxed) == known;
                if same && error.kind() == PublishErrorKind::TimedOut {
                    return Err(error.into());
                }
                self.publish(payload).await?
            }
            sent => sent?,
        };
        Ok(Cursor {
            epoch: self.epoch.load(Ordering::Relaxed),
            seq,
        })
    }

    async fn read(&self, seen: u64, max: usize) -> Result<Page, Self::Error> {
        let stream = self.stream().await?;
        let info = stream.cached_info();
        let epoch = info.created.unix_timestamp_nanos() as u64;
        let (mut head, tail) = (info.state.first_sequence.max(1), info.state.last_sequence);
        let first = seen.saturating_add(1).max(head);
        let mut events = match (tail + 1).saturating_sub(first).min(max as u64) {
            0 => Vec::new(),
            count => page(&stream, first, count).await?,
        };
        // Trimmed in the meantime (or deleted by hand): only what is consecutive up to the end counts.
        let holes = events
            .windows(2)
            .rposition(|pair| pair[1].0 != pair[0].0 + 1);
        events.drain(..holes.map_or(0, |hole| hole + 1));
        if let Some((oldest, _)) = events.first().filter(|(oldest, _)| *oldest > first) {
            head = *oldest;
        }
        Ok(Page {
            epoch,
            head,
            tail: tail.max(head - 1),
            events,
        })
    }

    async fn wait(&self, _epoch: u64, _seen: u64) -> Result<(), Self::Error> {
        let mut wake = self.wake.lock().await;
        let Some(wake) = &mut *wake else {
            let mut messages = self.client.subscribe(self.subject.clone()).await?;
            let (sender, woken) = watch::channel(());
            let task = tokio::spawn(async move {
                while messages.next().await.is_some() {
                    sender.send_replace(());
                }
            });
            *wake = Some(Wake {
                woken,
                _task: AbortOnDropHandle::new(task),
            });
            // Subscribed first, read second: an event in between is found.
            return Ok(());
        };
        let _ = timeout(SWEEP, wake.woken.changed()).await;
        Ok(())
    }
}
// ANCHOR_END: nats
