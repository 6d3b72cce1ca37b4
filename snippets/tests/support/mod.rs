//! What the tests of all patterns share: `testkit`, a server on a loopback port, and wire transcripts for snapshots.

// Not every test file uses every tool.
#![allow(dead_code, unused_imports)]

pub mod broker;
pub mod chaos;
pub mod chat;
pub mod gated;
pub mod gauge;
pub mod hosts;
pub mod member;
pub mod memory;
pub mod reader;
pub mod server;
pub mod source;
pub mod sse_reference;
pub mod tls;
pub mod transcript;
pub mod wrong;

pub use testkit::frames::{Frame, FrameClient};
pub use testkit::raw::RawClient;
pub use testkit::stalled::{settled, stalled_get};
pub use testkit::{PATIENCE, eventually, frames, proxy, raw, within};

pub use chaos::chaos;
pub use gauge::Gauge;
pub use server::Server;
pub use transcript::Transcript;
