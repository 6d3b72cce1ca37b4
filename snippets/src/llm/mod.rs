//! LLM token streaming.

pub mod providers;
pub mod scripted_model;
