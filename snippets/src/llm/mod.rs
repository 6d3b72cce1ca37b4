//! LLM token streaming.

pub mod chat;
pub mod meter;
pub mod per_user;
pub mod providers;
pub mod relay;
pub mod scripted_model;
pub mod upstream;
