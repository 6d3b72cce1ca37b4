//! Server-Sent Events.
pub mod jobs;
pub mod message;
pub mod resume;
pub mod serve;

pub mod wire;
