//! Server-Sent Events.

pub mod wire;
pub mod jobs;
pub mod message;
pub mod resume;
pub mod serve;
