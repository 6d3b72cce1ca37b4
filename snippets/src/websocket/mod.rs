//! WebSockets.

pub mod limits;
pub mod messages;
pub mod outbox;
pub mod serve;
