//! Server-Sent Events.
//!
//! # Layout
//!
//! Start with the file of your case: `jobs` (the newest state), `resume` (each event counts), `fanout` (many topics),
//! `lifecycle` (work for one client), `protect` and `until` (who may read, and for how long).
//! All of them use `event`, `cursor`, `log`, `log_reader` and `streams`; `fanout` uses `topics` too.
//! To read a stream: `consume`, with `reconnect`, `wire` and `transports`.

pub mod consume;
pub mod cursor;
pub mod event;
pub mod fanout;
pub mod jobs;
pub mod lifecycle;
pub mod log;
pub mod log_reader;
pub mod protect;
pub mod reconnect;
pub mod resume;
pub mod streams;
pub mod topics;
pub mod transports;
pub mod until;
pub mod wire;
