//! WebSockets.

pub mod limits;
pub mod messages;
pub mod outbox;
pub mod protect;
pub mod rooms;
pub mod rooms_endpoint;
pub mod serve;
