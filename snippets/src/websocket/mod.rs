//! WebSockets.

pub mod connection;
pub mod outbox;
pub mod serve;
