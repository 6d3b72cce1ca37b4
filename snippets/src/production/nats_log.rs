//! A [`Store`] on NATS JetStream (feature `nats`; tested with nats-server 2.15, async-nats 0.51).
//!
//! One JetStream stream with one subject is one log: its sequence numbers are dense, and the time of its
//! creation is the epoch.

// ANCHOR: nats
use std::time::Duration;

use async_nats::{
    Client, Subscriber,
    jetstream::{
        self, Context,
        context::{CreateStreamError, PublishError},
        stream::{Config, InfoError, RawMessageError, RawMessageErrorKind, Stream},
    },
};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::Mutex;

use super::store::{Page, Store, id};
use crate::sse::message::{InvalidMessage, Message};

/// How long one wait lasts at most.
const PATIENCE: Duration = Duration::from_secs(2);
/// Events that are asked for at a time.
const READ_AHEAD: usize = 32;

/// One log: one JetStream stream.
pub struct NatsLog {
    client: Client,
    context: Context,
    config: Config,
    subject: String,
    /// Wakes the reader; what it carries is read from the stream.
    wake: Mutex<Option<Subscriber>>,
}

/// Why NATS did not do it.
#[derive(Debug, thiserror::Error)]
pub enum NatsLogError {
    /// Not acknowledged; the event may be in the stream all the same.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// Not reachable, or an error of the server.
    #[error(transparent)]
    Create(#[from] CreateStreamError),
    /// Likewise.
    #[error(transparent)]
    Info(#[from] InfoError),
    /// Likewise.
    #[error(transparent)]
    Read(#[from] RawMessageError),
    /// Likewise.
    #[error(transparent)]
    Subscribe(#[from] async_nats::SubscribeError),
    /// The connection is down; the client reconnects by itself.
    #[error("not connected")]
    Disconnected,
    /// The stream holds what is no event of ours.
    #[error("not an event: {0}")]
    Event(#[from] InvalidMessage),
    /// Likewise.
    #[error("not JSON: {0}")]
    Json(#[from] serde_json::Error),
}

#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    name: &'a str,
    #[serde(borrow)]
    data: &'a RawValue,
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
            wake: Mutex::new(None),
        }
    }

    /// Creates the stream where there is none.
    async fn stream(&self) -> Result<Stream, NatsLogError> {
        // The client would queue the request until it is connected again.
        if self.client.connection_state() != async_nats::connection::State::Connected {
            return Err(NatsLogError::Disconnected);
        }
        Ok(self
            .context
            .get_or_create_stream(self.config.clone())
            .await?)
    }
}

impl Store for NatsLog {
    type Error = NatsLogError;

    async fn append(&self, message: &Message) -> Result<(), Self::Error> {
        self.stream().await?;
        let stored = Stored {
            name: message.name(),
            data: serde_json::from_str(message.data())?,
            last: message.is_last(),
        };
        let payload = serde_json::to_vec(&stored)?;
        // Two steps: sent, then acknowledged by the stream.
        self.context
            .publish(self.subject.clone(), payload.into())
            .await?
            .await?;
        Ok(())
    }

    async fn read(&self, seen: u64, max: usize) -> Result<Page, Self::Error> {
        let stream = self.stream().await?;
        let info = stream.cached_info();
        let epoch = info.created.unix_timestamp_nanos() as u64;
        let (mut head, tail) = (info.state.first_sequence.max(1), info.state.last_sequence);
        let first = seen.saturating_add(1).max(head);
        let wanted = first..=tail.min(first.saturating_add(max as u64 - 1));
        let mut answers = futures::stream::iter(wanted)
            .map(|sequence| {
                let stream = &stream;
                async move { (sequence, stream.get_raw_message(sequence).await) }
            })
            .buffered(READ_AHEAD);
        let mut events = Vec::new();
        while let Some((sequence, answer)) = answers.next().await {
            match answer {
                Ok(raw) => {
                    let stored: Stored<'_> = serde_json::from_slice(&raw.payload)?;
                    let message =
                        Message::new(stored.name, &stored.data)?.with_id(id(epoch, sequence))?;
                    events.push((sequence, if stored.last { message.last() } else { message }));
                }
                // Trimmed in the meantime (or deleted by hand): what follows is not consecutive.
                Err(e) if e.kind() == RawMessageErrorKind::NoMessageFound => {
                    events.clear();
                    head = sequence + 1;
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(Page {
            epoch,
            head,
            tail: tail.max(head - 1),
            events,
        })
    }

    async fn wait(&self, _epoch: u64, seen: u64) -> Result<(), Self::Error> {
        let mut wake = self.wake.lock().await;
        let subscriber = match &mut *wake {
            Some(subscriber) => subscriber,
            empty => empty.insert(self.client.subscribe(self.subject.clone()).await?),
        };
        // Subscribed first, looked second: an event published in between wakes all the same.
        if self.stream().await?.cached_info().state.last_sequence == seen {
            let _ = tokio::time::timeout(PATIENCE, subscriber.next()).await;
        }
        Ok(())
    }
}
// ANCHOR_END: nats
