//! Server-Sent Events.

pub mod jobs;
pub mod lifecycle;
pub mod message;
pub mod per_user;
pub mod protect;
pub mod resume;
pub mod serve;
pub mod tickets;
pub mod wire;
