//! What event streams and sockets share: the permit of a connection, and the server.

pub mod crowd;
pub mod listen;
pub mod send_deadline;
pub mod takeover;
