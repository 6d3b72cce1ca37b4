//! What event streams and sockets share: who may connect, how many and from where; the permit of a connection; the server.
//!
//! # Layout
//!
//! Start with `listen`, the server; it needs `takeover` and `send_deadline`.
//! Then `crowd`: the permit, the shared heartbeat and the drain of all connections.
//! Helpers: `per_user`, `tickets`, `redis_tickets`, `client_ip`, `refusal`.

pub mod client_ip;
pub mod crowd;
pub mod listen;
pub mod per_user;
#[cfg(feature = "redis")]
pub mod redis_tickets;
pub mod refusal;
pub mod send_deadline;
pub mod takeover;
pub mod tickets;
