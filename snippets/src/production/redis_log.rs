//! A [`Store`] on a Redis stream (feature `redis`; tested with Redis 7.0, redis 1.8).
//!
//! Ids are `EPOCH-SEQUENCE` in Redis too, and `XADD key EPOCH-*` counts the sequence up by one. Redis' own ids are times, and
//! a hole between two times shows nothing: `XREAD` from a trimmed id returns the oldest survivors without an error. One
//! [`Redis`] has two connections, however many logs it serves. Needs `store.rs` and `wakes.rs`.

// ANCHOR: redis
use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use redis::{
    Client, RedisError, Script,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use tokio::{
    sync::Mutex,
    time::{interval, sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    store::{Page, Store},
    wakes::{Wake, Wakes},
};
use crate::sse::event::{Cursor, Event, InvalidEvent};

/// What a restart of Redis or a failover may lose of what it has acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Events: with the default persistence, `appendfsync everysec`, or replicas without `WAIT`. Each restart and each
    /// failover starts a new epoch, so that every client is reset.
    Lossy,
    /// Nothing: `appendfsync always` and no failover to a replica that may lag. Cursors outlive a restart.
    Kept,
}

/// Opens the log. `KEYS[2]` names the server whose history the log has: `master_replid` changes with each restart and each
/// failover. A log of another history keeps its events and gets a new epoch. What is empty remembers its last id.
const OPEN: &str = r"
local key, home = KEYS[1], KEYS[2]
local now = redis.call('TIME')
local run = ARGV[1] == 'kept' and 'kept' or string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
local function state()
  local info, fields = redis.call('XINFO', 'STREAM', key), {}
  for i = 1, #info, 2 do fields[info[i]] = info[i + 1] end
  local epoch, tail = string.match(fields['last-generated-id'], '^(%d+)-(%d+)$')
  return epoch, tail, fields['first-entry']
end
local function begin(tail, entries, last)
  local epoch = string.format('%d', math.max(now[1] * 1000 + math.floor(now[2] / 1000), last + 1))
  redis.call('DEL', key)
  for _, entry in ipairs(entries) do
    redis.call('XADD', key, epoch .. '-' .. string.match(entry[1], '%d+$'), unpack(entry[2]))
  end
  if #entries == 0 then redis.call('XDEL', key, redis.call('XADD', key, epoch .. '-' .. tail, 'd', '')) end
  redis.call('SET', home, run)
end
if redis.call('EXISTS', key) == 0 then
  begin('0', {}, 0)
elseif redis.call('GET', home) ~= run then
  local last, tail = state()
  begin(tail, redis.call('XRANGE', key, '-', '+'), last)
end
local epoch, tail, first = state()
";

/// The wake-up carries nothing: Redis Pub/Sub keeps nothing for a subscriber that is away.
const APPEND: &str = r"
local id = redis.call('XADD', key, 'MAXLEN', ARGV[2], epoch .. '-*', 'n', ARGV[3], 'd', ARGV[4], 'l', ARGV[5])
redis.call('PUBLISH', key, '')
return {epoch, string.match(id, '%d+$')}
";

const READ: &str = r"
local head = first and string.match(first[1], '%d+$') or string.format('%d', tail + 1)
local events = redis.call('XRANGE', key, '(' .. epoch .. '-' .. ARGV[2], '+', 'COUNT', ARGV[3])
return {epoch, head, tail, events}
";

/// Without a wake-up, each log is read this often.
const SWEEP: Duration = Duration::from_secs(60);
/// How often the connection that receives the wake-ups is checked.
const PING: Duration = Duration::from_secs(5);
/// Channels per `SUBSCRIBE`.
const CHANNELS: usize = 500;

/// Two connections to one Redis: commands, and wake-ups.
pub struct Redis {
    commands: ConnectionManager,
    durability: Durability,
    append: Script,
    read: Script,
    wakes: Arc<Wakes>,
    _listener: AbortOnDropHandle<()>,
}

impl Redis {
    /// `timeout` bounds connecting and each answer.
    ///
    /// # Errors
    /// If `url` is malformed, or if Redis does not answer.
    pub async fn connect(
        url: &str,
        durability: Durability,
        timeout: Duration,
    ) -> Result<Arc<Self>, RedisError> {
        let client = Client::open(url)?;
        // One retry: a publish must fail soon while Redis is down, and readers have a backoff of their own.
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(1)
            .set_connection_timeout(Some(timeout))
            .set_response_timeout(Some(timeout));
        let wakes = Arc::new(Wakes::default());
        Ok(Arc::new(Self {
            commands: client.get_connection_manager_with_config(config).await?,
            durability,
            append: Script::new(&format!("{OPEN}{APPEND}")),
            read: Script::new(&format!("{OPEN}{READ}")),
            _listener: AbortOnDropHandle::new(tokio::spawn(listen(client, wakes.clone(), timeout))),
            wakes,
        }))
    }

    /// The log `key`, which keeps `max_events`.
    pub fn log(self: &Arc<Self>, key: &str, max_events: usize) -> RedisLog {
        RedisLog {
            redis: self.clone(),
            key: key.to_owned(),
            max_events,
            wake: Mutex::new(None),
        }
    }
}

/// Receives the wake-ups of all logs, on a connection that is replaced when it fails.
async fn listen(client: Client, wakes: Arc<Wakes>, patience: Duration) {
    loop {
        wakes.forget();
        let lost = listen_once(&client, &wakes, patience).await;
        tracing::warn!(error = ?lost.err(), "no wake-ups from Redis");
        // Readers go on without: each reads its log now, and at every further attempt.
        wakes.wake_all();
        sleep(rand::random_range(
            Duration::from_millis(100)..Duration::from_secs(1),
        ))
        .await;
    }
}

async fn listen_once(
    client: &Client,
    wakes: &Wakes,
    patience: Duration,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (mut sink, mut messages) = timeout(patience, client.get_async_pubsub()).await??.split();
    let mut ping = interval(PING);
    loop {
        tokio::select! {
            message = messages.next() => match message {
                Some(message) => wakes.wake(message.get_channel_name()),
                None => return Ok(()),
            },
            () = wakes.added.notified() => {}
            _ = ping.tick() => {
                let _: redis::Value = timeout(patience, sink.ping()).await??;
            }
        }
        let (come, gone) = wakes.changes();
        for gone in gone.chunks(CHANNELS) {
            timeout(patience, sink.unsubscribe(gone)).await??;
        }
        for come in come.chunks(CHANNELS) {
            timeout(patience, sink.subscribe(come)).await??;
            // Subscribed first, read second: an event in between is found.
            come.iter().for_each(|name| wakes.wake(name));
        }
    }
}

/// One log: one Redis stream.
pub struct RedisLog {
    redis: Arc<Redis>,
    key: String,
    max_events: usize,
    wake: Mutex<Option<Wake>>,
}

/// Why Redis failed.
#[derive(Debug, thiserror::Error)]
pub enum RedisLogError {
    /// Not reachable, too slow, or an error of the server.
    #[error(transparent)]
    Redis(#[from] RedisError),
    /// The stream holds an entry that is not an event of ours.
    #[error("not an event: {0}")]
    Event(#[from] InvalidEvent),
}

impl RedisLog {
    fn call<'a>(&self, script: &'a Script) -> redis::ScriptInvocation<'a> {
        let mut call = script.prepare_invoke();
        // In a cluster both keys are in one slot.
        call.key(&self.key).key(format!("{{{}}}:home", self.key));
        call.arg(match self.redis.durability {
            Durability::Lossy => "lossy",
            Durability::Kept => "kept",
        });
        call
    }
}

impl Store for RedisLog {
    type Error = RedisLogError;

    async fn append(&self, event: &Event) -> Result<Cursor, Self::Error> {
        let mut call = self.call(&self.redis.append);
        call.arg(self.max_events).arg(event.name());
        call.arg(&*event.data()).arg(u8::from(event.is_last()));
        let (epoch, seq) = call.invoke_async(&mut self.redis.commands.clone()).await?;
        Ok(Cursor { epoch, seq })
    }

    async fn read(&self, seen: u64, max: usize) -> Result<Page, Self::Error> {
        type Entry = (String, Vec<String>);
        let mut call = self.call(&self.redis.read);
        let answer = call.arg(seen).arg(max);
        let (epoch, head, tail, entries): (u64, u64, u64, Vec<Entry>) = answer
            .invoke_async(&mut self.redis.commands.clone())
            .await?;
        let mut events = Vec::with_capacity(entries.len());
        for (id, fields) in entries {
            let seq = id.rsplit('-').next().and_then(|seq| seq.parse().ok());
            let (Some(seq), [_, name, _, data, _, last]) = (seq, fields.as_slice()) else {
                return Err(InvalidEvent::Name.into());
            };
            let event = Event::text(name, data)?;
            events.push((seq, if last == "1" { event.last() } else { event }));
        }
        Ok(Page {
            epoch,
            head,
            tail,
            events,
        })
    }

    async fn wait(&self, _epoch: u64, _seen: u64) -> Result<(), Self::Error> {
        let mut wake = self.wake.lock().await;
        let wake = wake.get_or_insert_with(|| self.redis.wakes.register(&self.key));
        wake.wait(SWEEP).await;
        Ok(())
    }
}
// ANCHOR_END: redis
