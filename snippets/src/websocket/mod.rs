//! WebSockets.
//!
//! # Layout
//!
//! Start with `messages`, an endpoint with typed messages, on `serve`, `connection` and `outbox`; `binary` has its binary form.
//! Rooms: `rooms_endpoint`, then `rooms` and `presence`. Who may connect and how much: `protect`, `admission`, `users`, `rates`,
//! `throttle`. The client is `client`, with `client_session` and `pending`. Metrics: `observe`.

pub mod admission;
pub mod binary;
pub mod client;
pub mod client_session;
pub mod connection;
pub mod messages;
pub mod observe;
pub mod outbox;
pub mod pending;
pub mod presence;
pub mod protect;
pub mod rates;
pub mod rooms;
pub mod rooms_endpoint;
pub mod rooms_protocol;
pub mod serve;
pub mod throttle;
pub mod users;
