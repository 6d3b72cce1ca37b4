//! The patterns of the streaming-api-patterns pack. One file is one pattern: copy the file, and
//! the siblings that its first lines name, into your own service.
//!
//! Topics: [`connections`], [`sse`], [`websocket`], [`streams`], [`llm`], [`production`].

pub mod connections;
pub mod llm;
pub mod production;
pub mod sse;
pub mod streams;
pub mod websocket;
