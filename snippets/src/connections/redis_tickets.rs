//! Used tickets in Redis, so that a ticket is valid once over all instances.
//!
//! Use it with `tickets.rs` if more than one instance redeems tickets. Redis may forget the last second of its writes when it
//! is killed (its default persistence): a ticket that was used then is valid again until it expires.

// ANCHOR: redis_tickets
use std::time::Duration;

use futures::future::BoxFuture;
use redis::aio::ConnectionManager;

use super::tickets::{MAX_LIFE, TicketError, UsedTickets};

/// The used tickets of all instances that share a Redis. Cloning shares the connection.
#[derive(Clone)]
pub struct RedisTickets {
    connection: ConnectionManager,
    prefix: String,
    max_per_user: u64,
    deadline: Duration,
}

impl RedisTickets {
    /// Keys begin with `prefix`. One user may redeem `max_per_user` tickets within [`MAX_LIFE`]. A handshake waits for Redis for
    /// at most `deadline`.
    pub fn new(
        connection: ConnectionManager,
        prefix: &str,
        max_per_user: u64,
        deadline: Duration,
    ) -> Self {
        Self {
            connection,
            prefix: prefix.to_owned(),
            max_per_user,
            deadline,
        }
    }

    async fn claim_in_redis(&self, user: &str, id: u128) -> Result<(), TicketError> {
        let Self { prefix, .. } = self;
        let life = MAX_LIFE.as_millis() as u64;
        let (ticket, count) = (format!("{prefix}:{id:x}"), format!("{prefix}:user:{user}"));
        let mut commands = redis::pipe();
        commands
            .atomic()
            .cmd("SET")
            .arg(&ticket)
            .arg(1)
            .arg("NX")
            .arg("PX")
            .arg(life);
        commands.cmd("INCR").arg(&count);
        // The window of the count begins with its first ticket.
        commands
            .cmd("PEXPIRE")
            .arg(&count)
            .arg(life)
            .arg("NX")
            .ignore();
        let mut connection = self.connection.clone();
        let asked = commands.query_async::<(Option<String>, u64)>(&mut connection);
        let (set, count) = tokio::time::timeout(self.deadline, asked)
            .await
            .map_err(|_| TicketError::Unavailable)?
            .map_err(|_| TicketError::Unavailable)?;
        match set {
            None => Err(TicketError::Used),
            Some(_) if count > self.max_per_user => Err(TicketError::TooMany),
            Some(_) => Ok(()),
        }
    }
}

impl UsedTickets for RedisTickets {
    fn claim<'a>(&'a self, user: &'a str, id: u128) -> BoxFuture<'a, Result<(), TicketError>> {
        Box::pin(self.claim_in_redis(user, id))
    }
}
// ANCHOR_END: redis_tickets
