//! Streams and backpressure.
pub mod backpressure;
pub mod body;
pub mod cancel;
pub mod deadline;
pub mod pace;
pub mod slow_consumer;
pub mod tee;
