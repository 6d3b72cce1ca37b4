//! Server-Sent Events.

pub mod encode;
pub mod wire;
