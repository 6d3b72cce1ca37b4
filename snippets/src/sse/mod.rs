//! Server-Sent Events.

pub mod consume;
pub mod encode;
pub mod fanout;
pub mod listen;
pub mod reconnect;
pub mod subscription;
pub mod wire;
