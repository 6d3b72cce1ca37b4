//! WebSockets.

pub mod admission;
pub mod limits;
pub mod messages;
pub mod outbox;
pub mod protect;
pub mod rates;
pub mod rooms;
pub mod rooms_endpoint;
pub mod serve;
