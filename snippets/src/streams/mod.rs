//! Streams and backpressure.
//!
//! # Layout
//!
//! Start with `backpressure`; `cancel` needs it. Then the file of your case, each complete without another: `body` (NDJSON,
//! downloads), `deadline`, `pace`, `slow_consumer`, `tee`.

pub mod backpressure;
pub mod body;
pub mod cancel;
pub mod deadline;
pub mod pace;
pub mod slow_consumer;
pub mod tee;
