//! A [`Store`] on a Redis stream (feature `redis`; tested with Redis 7.0, redis 1.8).
//!
//! Ids are `EPOCH-SEQUENCE` in Redis too: the epoch is the time of the stream's creation, and
//! `XADD key EPOCH-*` counts the sequence up by one. Redis' own ids are times, and a hole between two
//! times tells nothing: `XREAD` from a trimmed id returns the oldest survivors without an error.

// ANCHOR: redis
use std::time::Duration;

use redis::{
    AsyncConnectionConfig, Client, RedisError, Script,
    aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection},
};
use serde_json::value::RawValue;
use tokio::sync::Mutex;

use super::store::{Page, Store, id};
use crate::sse::message::{InvalidMessage, Message};

/// Creates the stream (empty, with its epoch) where there is none, and tells its last id.
const OPEN: &str = r"
local function open(key)
  if redis.call('EXISTS', key) == 0 then
    local now = redis.call('TIME')
    local first = string.format('%d%03d-0', now[1], math.floor(now[2] / 1000))
    redis.call('XDEL', key, redis.call('XADD', key, first, 'd', ''))
  end
  local info, fields = redis.call('XINFO', 'STREAM', key), {}
  for i = 1, #info, 2 do fields[info[i]] = info[i + 1] end
  local epoch, tail = string.match(fields['last-generated-id'], '^(%d+)-(%d+)$')
  return epoch, tail, fields['first-entry']
end
";

const APPEND: &str = r"
local epoch = open(KEYS[1])
return redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[1], epoch .. '-*', 'n', ARGV[2], 'd', ARGV[3], 'l', ARGV[4])
";

const READ: &str = r"
local epoch, tail, first = open(KEYS[1])
local head = first and string.match(first[1], '-(%d+)$') or string.format('%d', tail + 1)
local events = redis.call('XRANGE', KEYS[1], '(' .. epoch .. '-' .. ARGV[1], '+', 'COUNT', ARGV[2])
return {epoch, head, tail, events}
";

/// How long one blocking read lasts at most.
const BLOCK: Duration = Duration::from_secs(2);

/// One log: one Redis stream.
pub struct RedisLog {
    key: String,
    max_events: usize,
    client: Client,
    commands: ConnectionManager,
    /// `XREAD BLOCK` holds up everything else on its connection. Only the reader uses it.
    blocking: Mutex<Option<MultiplexedConnection>>,
    append: Script,
    read: Script,
}

/// Why Redis did not do it.
#[derive(Debug, thiserror::Error)]
pub enum RedisLogError {
    /// Not reachable, too slow, or an error of the server.
    #[error(transparent)]
    Redis(#[from] RedisError),
    /// The stream holds what is no event of ours.
    #[error("not an event: {0}")]
    Event(#[from] InvalidMessage),
    /// Likewise.
    #[error("not JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl RedisLog {
    /// `key` is one topic; `max_events` are kept (`MAXLEN`). `timeout` bounds connecting and each answer.
    pub async fn connect(
        url: &str,
        key: &str,
        max_events: usize,
        timeout: Duration,
    ) -> Result<Self, RedisError> {
        let client = Client::open(url)?;
        // One retry: a publish must fail soon while Redis is down, and the reader has a backoff of its own.
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(1)
            .set_connection_timeout(Some(timeout))
            .set_response_timeout(Some(timeout));
        Ok(Self {
            commands: client.get_connection_manager_with_config(config).await?,
            client,
            key: key.to_owned(),
            max_events,
            blocking: Mutex::new(None),
            append: Script::new(&format!("{OPEN}{APPEND}")),
            read: Script::new(&format!("{OPEN}{READ}")),
        })
    }

    async fn blocking_connection(&self) -> Result<MultiplexedConnection, RedisError> {
        // The default response timeout of 500 ms is shorter than the blocking read.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(BLOCK))
            .set_response_timeout(Some(BLOCK * 2));
        self.client
            .get_multiplexed_async_connection_with_config(&config)
            .await
    }
}

impl Store for RedisLog {
    type Error = RedisLogError;

    async fn append(&self, message: &Message) -> Result<(), Self::Error> {
        let _: String = self
            .append
            .key(&self.key)
            .arg(self.max_events)
            .arg(message.name())
            .arg(message.data())
            .arg(u8::from(message.is_last()))
            .invoke_async(&mut self.commands.clone())
            .await?;
        Ok(())
    }

    async fn read(&self, seen: u64, max: usize) -> Result<Page, Self::Error> {
        type Entry = (String, Vec<String>);
        let (epoch, head, tail, entries): (u64, u64, u64, Vec<Entry>) = self
            .read
            .key(&self.key)
            .arg(seen)
            .arg(max)
            .invoke_async(&mut self.commands.clone())
            .await?;
        let mut events = Vec::with_capacity(entries.len());
        for (redis_id, fields) in entries {
            let sequence = redis_id
                .rsplit('-')
                .next()
                .and_then(|s| s.parse().ok())
                .unwrap_or(0);
            let [_, name, _, data, _, last] = fields.as_slice() else {
                return Err(InvalidMessage::Name.into());
            };
            let data: &RawValue = serde_json::from_str(data)?;
            let message = Message::new(name, &data)?.with_id(id(epoch, sequence))?;
            events.push((sequence, if last == "1" { message.last() } else { message }));
        }
        Ok(Page {
            epoch,
            head,
            tail,
            events,
        })
    }

    async fn wait(&self, epoch: u64, seen: u64) -> Result<(), Self::Error> {
        let mut slot = self.blocking.lock().await;
        let mut connection = match slot.take() {
            Some(connection) => connection,
            None => self.blocking_connection().await?,
        };
        let _: redis::Value = redis::cmd("XREAD")
            .arg("COUNT")
            .arg(1)
            .arg("BLOCK")
            .arg(BLOCK.as_millis() as u64)
            .arg("STREAMS")
            .arg(&self.key)
            .arg(id(epoch, seen))
            .query_async(&mut connection)
            .await?;
        // Kept only after a success: the next call connects anew after an error.
        *slot = Some(connection);
        Ok(())
    }
}
// ANCHOR_END: redis
