//! Server-Sent Events.

pub mod jobs;
pub mod lifecycle;
pub mod message;
pub mod per_user;
pub mod protect;
pub mod resume;
pub mod serve;
pub mod wire;
pub mod tickets;

pub mod consume;
pub mod encode;
pub mod fanout;
pub mod listen;
pub mod reconnect;
pub mod subscription;

