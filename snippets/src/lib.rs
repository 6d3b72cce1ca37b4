//! The patterns of the streaming-api-patterns pack. One file is one pattern: copy the file, and
//! the siblings that its first lines name, into your own service.
//!
//! # Layout
//!
//! - [`sse`]: event streams. Start here for a page that follows something.
//! - [`websocket`]: sockets and rooms, if the client sends at a high rate too.
//! - [`llm`]: model providers, a relay, and answers that outlive their connection.
//! - [`streams`]: response bodies that are not event streams: backpressure, deadlines, cancellation.
//! - [`connections`]: what event streams and sockets share, and the server.
//! - [`production`]: brokers, drain, metrics, load, faults.

pub mod connections;
pub mod llm;
pub mod production;
pub mod sse;
pub mod streams;
pub mod websocket;
