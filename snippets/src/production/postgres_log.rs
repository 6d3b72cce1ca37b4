//! A [`Store`] on two tables of Postgres, woken by `NOTIFY` (feature `postgres`; tested with Postgres 15, tokio-postgres 0.7).
//!
//! Use it where the events belong to data that is in Postgres: [`PostgresLog::append_in`] publishes in your transaction,
//! with the data or not at all. A row per log counts the events. Its lock is held until the commit, so that sequence
//! numbers become visible in their order and have no holes; those of `bigserial` do neither. The price: transactions that
//! publish to one log run one after the other, so publish last.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use serde_json::value::RawValue;
use tokio::{
    sync::{Mutex, Notify},
    time::{error::Elapsed, timeout},
};
use tokio_postgres::{AsyncMessage, Client, Config, Error, GenericClient, NoTls, Row};
use tokio_util::task::AbortOnDropHandle;

use super::store::{Page, Store, id};
use crate::sse::message::{InvalidMessage, Message};

/// The tables, for your migrations.
pub const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS stream_log (
  log text PRIMARY KEY,
  epoch bigint NOT NULL DEFAULT extract(epoch FROM clock_timestamp()) * 1000000,
  tail bigint NOT NULL
);
CREATE TABLE IF NOT EXISTS stream_event (
  log text NOT NULL REFERENCES stream_log ON DELETE CASCADE,
  seq bigint NOT NULL, name text NOT NULL, data text NOT NULL, last boolean NOT NULL,
  PRIMARY KEY (log, seq)
);";

// ANCHOR: append
/// One statement: the counter, the event, what is trimmed, and the wake-up, which is sent at the commit. The payload
/// (less than 8,000 bytes) names the log only: what a listener gets is never the event.
const APPEND: &str = "
WITH counter AS (
  INSERT INTO stream_log (log, tail) VALUES ($1, 1)
  ON CONFLICT (log) DO UPDATE SET tail = stream_log.tail + 1 RETURNING tail
), event AS (
  INSERT INTO stream_event SELECT $1, tail, $2, $3, $4 FROM counter
), trimmed AS (
  DELETE FROM stream_event e USING counter c WHERE e.log = $1 AND e.seq <= c.tail - $5
)
SELECT pg_notify('stream_log', $1) FROM counter";
// ANCHOR_END: append

/// One statement, so one snapshot.
const READ: &str = "
SELECT l.epoch, l.tail, (SELECT min(seq) FROM stream_event WHERE log = $1) AS head, e.seq, e.name, e.data, e.last
FROM stream_log l LEFT JOIN LATERAL (
  SELECT * FROM stream_event WHERE log = $1 AND seq > $2 ORDER BY seq LIMIT $3
) e ON true WHERE l.log = $1 ORDER BY e.seq";

const CREATE: &str = "INSERT INTO stream_log (log, tail) VALUES ($1, 0) ON CONFLICT DO NOTHING";

/// How long one wait lasts at most.
const PATIENCE: Duration = Duration::from_secs(2);

/// One log.
pub struct PostgresLog {
    config: Config,
    log: String,
    max_events: i64,
    patience: Duration,
    commands: Mutex<Option<Arc<Session>>>,
    /// `LISTEN` needs a connection that stays: not through a pool that lends one per transaction.
    listener: Mutex<Option<Arc<Session>>>,
}

/// Why Postgres did not do it.
#[derive(Debug, thiserror::Error)]
pub enum PostgresLogError {
    /// Not reachable, or an error of the server.
    #[error(transparent)]
    Postgres(#[from] Error),
    /// No answer in time. What was to be appended may be in the log all the same.
    #[error("no answer in time")]
    Slow(#[from] Elapsed),
    /// The table holds what is no event of ours.
    #[error("not an event: {0}")]
    Event(#[from] InvalidMessage),
    /// Likewise.
    #[error("not JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// A connection and the task that drives it.
struct Session {
    client: Client,
    notified: Arc<Notify>,
    _driver: AbortOnDropHandle<()>,
}

impl PostgresLog {
    /// `log` is one topic; `max_events` are kept. `patience` bounds connecting and each answer.
    pub fn new(config: Config, log: &str, max_events: u32, patience: Duration) -> Self {
        Self {
            config,
            log: log.to_owned(),
            max_events: max_events.into(),
            patience,
            commands: Mutex::new(None),
            listener: Mutex::new(None),
        }
    }

    /// Appends `message` in your transaction: it is in the log when that commits, and not when it does not. From here to
    /// the commit every other publisher of this log waits, so append to several logs in one order everywhere. Above READ
    /// COMMITTED it fails with 40001 when another event was published since the transaction began: run that again.
    pub async fn append_in(
        &self,
        client: &impl GenericClient,
        message: &Message,
    ) -> Result<(), Error> {
        let (name, data, last) = (message.name(), message.data(), message.is_last());
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
            [&self.log, &name, &data, &last, &self.max_events];
        client.query(APPEND, &parameters).await.map(drop)
    }

    /// Without TLS: put your connector in its place.
    async fn connect(&self) -> Result<Arc<Session>, Error> {
        let (client, mut connection) = self.config.connect(NoTls).await?;
        let notified = Arc::new(Notify::new());
        let (wake, log) = (notified.clone(), self.log.clone());
        let driver = tokio::spawn(async move {
            let mut messages = stream::poll_fn(move |cx| connection.poll_message(cx));
            while let Some(Ok(message)) = messages.next().await {
                match message {
                    AsyncMessage::Notification(n) if n.payload() == log => wake.notify_one(),
                    _ => {}
                }
            }
            // Lost: whoever waits looks, and finds out.
            wake.notify_one();
        });
        Ok(Arc::new(Session {
            client,
            notified,
            _driver: AbortOnDropHandle::new(driver),
        }))
    }

    /// Runs `work` on the connection in `slot`, which is made anew when it is broken, and given up after a timeout.
    async fn bounded<T>(
        &self,
        slot: &Mutex<Option<Arc<Session>>>,
        work: impl AsyncFnOnce(&Session) -> Result<T, Error>,
    ) -> Result<T, PostgresLogError> {
        let done = async {
            let session = {
                let mut slot = slot.lock().await;
                match slot.take().filter(|session| !session.client.is_closed()) {
                    Some(session) => slot.insert(session).clone(),
                    None => slot.insert(self.connect().await?).clone(),
                }
            };
            work(&session).await
        };
        match timeout(self.patience, done).await {
            Ok(done) => Ok(done?),
            Err(slow) => {
                // Where it is locked, somebody is connecting anew already.
                if let Ok(mut slot) = slot.try_lock() {
                    slot.take();
                }
                Err(slow.into())
            }
        }
    }

    async fn rows(&self, seen: u64, max: usize) -> Result<Vec<Row>, PostgresLogError> {
        let seen = i64::try_from(seen).unwrap_or(i64::MAX);
        let max = i64::try_from(max).unwrap_or(i64::MAX);
        let read = async |session: &Session| {
            let rows = session
                .client
                .query(READ, &[&self.log, &seen, &max])
                .await?;
            if !rows.is_empty() {
                return Ok(rows);
            }
            session.client.execute(CREATE, &[&self.log]).await?;
            session.client.query(READ, &[&self.log, &seen, &max]).await
        };
        self.bounded(&self.commands, read).await
    }
}

impl Store for PostgresLog {
    type Error = PostgresLogError;

    async fn append(&self, message: &Message) -> Result<(), Self::Error> {
        let append = async |session: &Session| self.append_in(&session.client, message).await;
        self.bounded(&self.commands, append).await
    }

    async fn read(&self, seen: u64, max: usize) -> Result<Page, Self::Error> {
        let rows = self.rows(seen, max).await?;
        let (mut epoch, mut head, mut tail) = (0, 1, 0);
        let mut events = Vec::with_capacity(rows.len());
        for row in rows {
            epoch = row.try_get::<_, i64>("epoch")? as u64;
            tail = row.try_get::<_, i64>("tail")? as u64;
            head = row
                .try_get::<_, Option<i64>>("head")?
                .map_or(tail + 1, |head| head as u64);
            let Some(sequence) = row.try_get::<_, Option<i64>>("seq")? else {
                continue; // nothing after `seen`
            };
            let sequence = sequence as u64;
            let data: &RawValue = serde_json::from_str(row.try_get("data")?)?;
            let message =
                Message::new(row.try_get("name")?, &data)?.with_id(id(epoch, sequence))?;
            events.push((
                sequence,
                if row.try_get("last")? {
                    message.last()
                } else {
                    message
                },
            ));
        }
        Ok(Page {
            epoch,
            head,
            tail,
            events,
        })
    }

    async fn wait(&self, epoch: u64, seen: u64) -> Result<(), Self::Error> {
        // Listens first, looks second: an event in between wakes all the same. `LISTEN` again does nothing.
        let look = async |session: &Session| {
            session.client.batch_execute("LISTEN stream_log").await?;
            let newest = "SELECT 1 FROM stream_log WHERE log = $1 AND epoch = $2 AND tail = $3";
            let (epoch, seen) = (epoch as i64, seen as i64);
            let same = session
                .client
                .query_opt(newest, &[&self.log, &epoch, &seen])
                .await?;
            Ok((same.is_some(), session.notified.clone()))
        };
        let (same, notified) = self.bounded(&self.listener, look).await?;
        if same {
            let _ = timeout(PATIENCE, notified.notified()).await;
        }
        Ok(())
    }
}
