//! LLM token streaming.

pub mod chat;
pub mod failure;
pub mod generation;
pub mod http;
pub mod mcp;
pub mod meter;
pub mod model_event;
pub mod providers;
pub mod public_error;
pub mod relay;
pub mod request;
pub mod resume;
pub mod scripted_model;
pub mod ui_message_stream;
pub mod upstream;
