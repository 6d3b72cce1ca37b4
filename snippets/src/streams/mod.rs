//! Streams and backpressure.
