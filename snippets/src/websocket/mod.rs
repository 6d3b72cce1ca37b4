//! WebSockets.

pub mod admission;
pub mod binary;
pub mod binary_endpoint;
pub mod client;
pub mod client_session;
pub mod connection;
pub mod limits;
pub mod messages;
pub mod observe;
pub mod outbox;
pub mod pending;
pub mod presence;
pub mod protect;
pub mod rates;
pub mod rooms;
pub mod rooms_endpoint;
pub mod serve;
pub mod throttle;
pub mod users;
