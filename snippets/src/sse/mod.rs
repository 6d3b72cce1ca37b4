//! Server-Sent Events.

pub mod consume;
pub mod encode;
pub mod fanout;
pub mod jobs;
pub mod lifecycle;
pub mod listen;
pub mod message;
pub mod per_user;
pub mod protect;
pub mod reconnect;
pub mod resume;
pub mod serve;
pub mod subscription;
pub mod tickets;
pub mod wire;

