//! The UI message stream (v1) of the AI SDK, written from Rust: `useChat` talks to your axum service
//! without a Next.js route between.
//!
//! Use it when the front end is built on the AI SDK; otherwise `super::relay` has a smaller
//! protocol. Files: `part` (what is sent), `writer` (in which order), `response`;
//! and `super::providers`, `sse/streams`.

mod part;
mod response;
mod writer;

pub use part::UiPart;
pub use response::{UiMessage, ui_parts, ui_response};
pub use writer::UiWriter;
