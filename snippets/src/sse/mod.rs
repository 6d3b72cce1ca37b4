//! Server-Sent Events.

pub mod wire;
pub mod jobs;
pub mod lifecycle;
pub mod message;
pub mod per_user;
pub mod protect;
pub mod resume;
pub mod serve;
pub mod tickets;
