//! Server-Sent Events.

pub mod wire;
