//! LLM token streaming.

pub mod chat;
pub mod generation;
pub mod meter;
pub mod per_user;
pub mod providers;
pub mod relay;
pub mod resume;
pub mod scripted_model;
pub mod upstream;
