//! LLM token streaming.

pub mod mcp;
pub mod providers;
pub mod scripted_model;
pub mod ui_message_stream;
