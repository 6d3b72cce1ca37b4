//! A [`Store`] on two tables of Postgres (feature `postgres`; tested with Postgres 15, tokio-postgres 0.7).
//!
//! Use it if the events belong to data that is in Postgres: [`PostgresLog::append_in`] publishes in your transaction,
//! with the data or not at all. A row per log counts the events. Its lock is held until the commit, so that sequence
//! numbers become visible in their order and have no holes; those of `bigserial` do neither. The price: transactions that
//! publish to one log run one after the other, so publish last. Readers poll, one query for all logs of the process:
//! `NOTIFY` in a publishing transaction would serialize the commits of the whole server. Needs `store.rs`, `wakes.rs`.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex as SyncMutex, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    sync::{Mutex, Semaphore},
    time::{error::Elapsed, interval, sleep, timeout},
};
use tokio_postgres::{Client, Config, Error, GenericClient, NoTls, types::ToSql};
use tokio_util::task::AbortOnDropHandle;

use super::{
    store::{Page, Store},
    wakes::{Wake, Wakes},
};
use crate::sse::event::{Cursor, Event, InvalidEvent};

/// The tables, for your migrations. `home` names the history of the server, which changes when a standby is promoted or a
/// backup is recovered: the log then starts a new epoch.
pub const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS stream_log (
  log text PRIMARY KEY, epoch bigint NOT NULL, home text NOT NULL, tail bigint NOT NULL, kept bigint NOT NULL
);
CREATE TABLE IF NOT EXISTS stream_event (
  log text NOT NULL REFERENCES stream_log ON DELETE CASCADE,
  seq bigint NOT NULL, name text NOT NULL, data text NOT NULL, last boolean NOT NULL,
  PRIMARY KEY (log, seq)
);
CREATE OR REPLACE FUNCTION stream_home() RETURNS text VOLATILE LANGUAGE sql AS $$
  SELECT system_identifier || '/' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) FROM pg_control_system()
$$;
CREATE OR REPLACE FUNCTION stream_epoch() RETURNS bigint VOLATILE LANGUAGE sql AS $$
  SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
$$;";

// ANCHOR: append
/// One statement: the counter and the event. It wakes no reader and trims nothing.
const APPEND: &str = "
WITH counter AS (
  INSERT INTO stream_log AS l VALUES ($1, stream_epoch(), stream_home(), 1, $5)
  ON CONFLICT (log) DO UPDATE SET tail = l.tail + 1, kept = $5, home = excluded.home,
    epoch = CASE WHEN l.home = excluded.home THEN l.epoch ELSE greatest(excluded.epoch, l.epoch + 1) END
  RETURNING epoch, tail
), event AS (
  INSERT INTO stream_event SELECT $1, tail, $2, $3, $4 FROM counter
)
SELECT epoch, tail FROM counter";
// ANCHOR_END: append

/// One statement, so one snapshot.
const READ: &str = "
SELECT l.epoch, l.tail, l.home = stream_home() AS home, e.seq, e.name, e.data, e.last,
  (SELECT min(seq) FROM stream_event WHERE log = $1) AS head
FROM stream_log l LEFT JOIN LATERAL (
  SELECT * FROM stream_event WHERE log = $1 AND seq > $2 ORDER BY seq LIMIT $3
) e ON true WHERE l.log = $1 ORDER BY e.seq";

/// Where there is no log yet, or one of another history.
const OPEN: &str = "
INSERT INTO stream_log AS l VALUES ($1, stream_epoch(), stream_home(), 0, $2)
ON CONFLICT (log) DO UPDATE SET home = excluded.home, epoch = greatest(excluded.epoch, l.epoch + 1)
WHERE l.home <> excluded.home";

const NEWEST: &str = "SELECT log, epoch, tail FROM stream_log WHERE log = ANY($1)";

/// In the background and by one process at a time: a deletion with each append would be a dead row with each append.
const TRIM: &str = "
WITH mine AS (SELECT pg_try_advisory_xact_lock(hashtext('stream_event')) AS ok)
DELETE FROM stream_event e USING mine, stream_log l WHERE mine.ok AND e.log = l.log AND e.seq <= l.tail - l.kept";

/// Connections that append.
const WRITERS: usize = 4;

/// How the logs of a process use the server.
#[derive(Debug, Clone)]
pub struct Timing {
    /// Bounds connecting, each answer, and the wait for another publisher's transaction.
    pub patience: Duration,
    /// The process reads the counters of all its logs this often, in one query: events are late by this at most.
    pub poll: Duration,
    /// How often old events are deleted.
    pub trim: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(5),
            poll: Duration::from_millis(50),
            trim: Duration::from_secs(10),
        }
    }
}

/// At most `1 + WRITERS` connections, however many logs the process has.
pub struct Postgres {
    config: Config,
    timing: Timing,
    reads: Mutex<Option<Arc<Session>>>,
    writes: SyncMutex<Vec<Arc<Session>>>,
    writing: Semaphore,
    wakes: Wakes,
    background: SyncMutex<Vec<AbortOnDropHandle<()>>>,
}

/// Why Postgres failed.
#[derive(Debug, thiserror::Error)]
pub enum PostgresLogError {
    /// Not reachable, or an error of the server.
    #[error(transparent)]
    Postgres(#[from] Error),
    /// No answer in time. The event may be in the log anyway.
    #[error("no answer in time")]
    Slow(#[from] Elapsed),
    /// The table holds a row that is not an event of ours.
    #[error("not an event: {0}")]
    Event(#[from] InvalidEvent),
    /// The process is ending.
    #[error("closed")]
    Closed(#[from] tokio::sync::AcquireError),
}

/// A connection and the task that drives it.
struct Session {
    client: Client,
    _driver: AbortOnDropHandle<()>,
}

impl Postgres {
    /// Connects when it is used.
    pub fn start(config: Config, timing: Timing) -> Arc<Self> {
        let postgres = Arc::new(Self {
            config,
            reads: Mutex::default(),
            writes: SyncMutex::default(),
            writing: Semaphore::new(WRITERS),
            wakes: Wakes::default(),
            background: SyncMutex::default(),
            timing,
        });
        let (poll, trim) = (postgres.timing.poll, postgres.timing.trim);
        let tasks = [
            tokio::spawn(poll_on(Arc::downgrade(&postgres), poll)),
            tokio::spawn(trim_on(Arc::downgrade(&postgres), trim)),
        ];
        lock(&postgres.background).extend(tasks.map(AbortOnDropHandle::new));
        postgres
    }

    /// The log `name`, which keeps about `max_events`: older ones are deleted every [`Timing::trim`].
    pub fn log(self: &Arc<Self>, name: &str, max_events: u32) -> PostgresLog {
        PostgresLog {
            postgres: self.clone(),
            log: name.to_owned(),
            kept: max_events.into(),
            turn: Mutex::default(),
            wake: Mutex::default(),
        }
    }

    /// Without TLS: put your connector in its place.
    async fn connect(&self) -> Result<Arc<Session>, Error> {
        let (client, connection) = self.config.connect(NoTls).await?;
        let driver = AbortOnDropHandle::new(tokio::spawn(async {
            if let Err(error) = connection.await {
                tracing::warn!(%error, "a connection to Postgres has ended");
            }
        }));
        // The server stops as well, so that an append that is given up holds no connection and no lock.
        let limit = format!(
            "SET statement_timeout = {}",
            self.timing.patience.as_millis()
        );
        client.batch_execute(&limit).await?;
        Ok(Arc::new(Session {
            client,
            _driver: driver,
        }))
    }

    /// On the connection that only reads: no lock of a publisher reaches it.
    async fn reading<T>(
        &self,
        work: impl AsyncFnOnce(&Client) -> Result<T, Error>,
    ) -> Result<T, PostgresLogError> {
        let done = async {
            let session = {
                let mut reads = self.reads.lock().await;
                match reads.take().filter(|session| !session.client.is_closed()) {
                    Some(session) => reads.insert(session).clone(),
                    None => reads.insert(self.connect().await?).clone(),
                }
            };
            work(&session.client).await
        };
        match timeout(self.timing.patience, done).await {
            Ok(done) => Ok(done?),
            Err(slow) => {
                // If it is locked, another caller is connecting already.
                if let Ok(mut reads) = self.reads.try_lock() {
                    reads.take();
                }
                Err(slow.into())
            }
        }
    }

    /// On a connection of its own: an append may wait for a transaction that has published and is still open.
    async fn writing<T>(
        &self,
        work: impl AsyncFnOnce(&Client) -> Result<T, Error>,
    ) -> Result<T, PostgresLogError> {
        let done = async {
            let _permit = self.writing.acquire().await?;
            let idle = lock(&self.writes).pop();
            let session = match idle.filter(|session| !session.client.is_closed()) {
                Some(session) => session,
                None => self.connect().await?,
            };
            let done = work(&session.client).await;
            lock(&self.writes).push(session);
            Ok::<T, PostgresLogError>(done?)
        };
        // Dropped in between, the connection is closed: its answer would be taken for the next one's.
        timeout(self.timing.patience, done).await?
    }

    /// Deletes the events that are no longer kept, of all logs.
    ///
    /// # Errors
    /// If Postgres does not do it in time.
    pub async fn trim(&self) -> Result<(), PostgresLogError> {
        let trim = async |client: &Client| client.execute(TRIM, &[]).await.map(drop);
        self.writing(trim).await
    }
}

/// Wakes the readers of the logs whose counter has moved; all of them while Postgres does not answer, so that they notice.
async fn poll_on(postgres: Weak<Postgres>, every: Duration) {
    let (mut ticks, mut last) = (interval(every), HashMap::new());
    loop {
        ticks.tick().await;
        let Some(postgres) = postgres.upgrade() else {
            return;
        };
        let (come, gone) = postgres.wakes.changes();
        last.retain(|name, _| !gone.contains(name));
        last.extend(come.into_iter().map(|name| (name, (0, 0))));
        if last.is_empty() {
            continue;
        }
        let names: Vec<&String> = last.keys().collect();
        match postgres
            .reading(async |client| client.query(NEWEST, &[&names]).await)
            .await
        {
            Ok(rows) => {
                let mut now: HashMap<String, (i64, i64)> = rows
                    .iter()
                    .filter_map(|row| {
                        Some((
                            row.try_get(0).ok()?,
                            (row.try_get(1).ok()?, row.try_get(2).ok()?),
                        ))
                    })
                    .collect();
                for (name, seen) in &mut last {
                    // A log that was deleted has none.
                    let newest = now.remove(name).unwrap_or_default();
                    if std::mem::replace(seen, newest) != newest || newest == (0, 0) {
                        postgres.wakes.wake(name);
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, "no wake-ups from Postgres");
                postgres.wakes.wake_all();
                drop(postgres);
                sleep(rand::random_range(Duration::ZERO..Duration::from_secs(1))).await;
            }
        }
    }
}

async fn trim_on(postgres: Weak<Postgres>, every: Duration) {
    let mut ticks = interval(every);
    loop {
        ticks.tick().await;
        let Some(postgres) = postgres.upgrade() else {
            return;
        };
        if let Err(error) = postgres.trim().await {
            tracing::warn!(%error, "old events stay in Postgres");
        }
    }
}

fn lock<T>(mutex: &SyncMutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One log.
pub struct PostgresLog {
    postgres: Arc<Postgres>,
    log: String,
    kept: i64,
    /// Appends of this process to this log run one after the other anyway: they take one connection.
    turn: Mutex<()>,
    wake: Mutex<Option<Wake>>,
}

impl PostgresLog {
    /// Appends `event` in your transaction: it is in the log when that commits, and not when it does not. From here to
    /// the commit every other publisher of this log waits, so append to several logs in one order everywhere.
    ///
    /// # Errors
    /// Above READ COMMITTED with 40001 if another event was published since the transaction began: run that again.
    pub async fn append_in(
        &self,
        client: &impl GenericClient,
        event: &Event,
    ) -> Result<Cursor, Error> {
        let (name, data, last) = (event.name(), event.data(), event.is_last());
        let parameters: [&(dyn ToSql + Sync); 5] = [&self.log, &name, &data, &last, &self.kept];
        let row = client.query_one(APPEND, &parameters).await?;
        let (epoch, tail): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        Ok(Cursor {
            epoch: epoch as u64,
            seq: tail as u64,
        })
    }
}

impl Store for PostgresLog {
    type Error = PostgresLogError;

    async fn append(&self, event: &Event) -> Result<Cursor, Self::Error> {
        let _turn = timeout(self.postgres.timing.patience, self.turn.lock()).await?;
        let appended = self
            .postgres
            .writing(async |client| self.append_in(client, event).await);
        let cursor = appended.await?;
        // This process need not wait for its next poll.
        self.postgres.wakes.wake(&self.log);
        Ok(cursor)
    }

    async fn read(&self, seen: u64, max: usize) -> Result<Page, Self::Error> {
        let seen = i64::try_from(seen).unwrap_or(i64::MAX);
        let max = i64::try_from(max).unwrap_or(i64::MAX);
        let parameters: [&(dyn ToSql + Sync); 3] = [&self.log, &seen, &max];
        let read = || {
            self.postgres
                .reading(async |client| client.query(READ, &parameters).await)
        };
        let mut rows = read().await?;
        let home = rows.first().map(|row| row.try_get("home")).transpose()?;
        if home != Some(true) {
            let open = async |client: &Client| client.execute(OPEN, &[&self.log, &self.kept]).await;
            self.postgres.writing(open).await?;
            rows = read().await?;
        }
        let mut page = Page {
            epoch: 0,
            head: 1,
            tail: 0,
            events: Vec::with_capacity(rows.len()),
        };
        for row in rows {
            page.epoch = row.try_get::<_, i64>("epoch")? as u64;
            page.tail = row.try_get::<_, i64>("tail")? as u64;
            let head = row.try_get::<_, Option<i64>>("head")?;
            page.head = head.map_or(page.tail + 1, |head| head as u64);
            let Some(seq) = row.try_get::<_, Option<i64>>("seq")? else {
                continue; // nothing after `seen`
            };
            let event = Event::text(row.try_get("name")?, row.try_get("data")?)?;
            let event = if row.try_get("last")? {
                event.last()
            } else {
                event
            };
            page.events.push((seq as u64, event));
        }
        Ok(page)
    }

    async fn wait(&self, _epoch: u64, _seen: u64) -> Result<(), Self::Error> {
        let mut wake = self.wake.lock().await;
        let wake = wake.get_or_insert_with(|| self.postgres.wakes.register(&self.log));
        wake.wait(Duration::from_secs(60)).await;
        Ok(())
    }
}
