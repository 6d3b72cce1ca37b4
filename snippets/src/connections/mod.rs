//! What event streams and sockets have in common: who may connect, how many, and from where.

pub mod client_ip;
pub mod crowd;
pub mod per_user;
#[cfg(feature = "redis")]
pub mod redis_tickets;
pub mod send_deadline;
pub mod tickets;
