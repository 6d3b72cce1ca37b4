//! LLM token streaming.
//!
//! # Layout
//!
//! Start with `relay`, the endpoint between a browser and a model, or with `resume`, if answers outlive their reader; `chat` has
//! what the browser sends and gets. Agents: `agent`, then `use_chat` to serve `useChat`, or `mcp` to serve tools.
//! All of them ask the model with `upstream`, and `providers` decodes its bytes to `model_event`.
//! Helpers: `failure`, `public_error`, `meter`, `partial_json`; `scripted_model` is the model of the tests.

pub mod ag_ui;
pub mod agent;
pub mod agent_turn;
pub mod anthropic;
pub mod chat;
pub mod failure;
pub mod gemini;
pub mod generation;
pub mod http;
pub mod mcp;
pub mod meter;
pub mod model_event;
pub mod model_stream;
pub mod ollama;
pub mod openai_chat;
pub mod openai_responses;
pub mod partial_json;
pub mod providers;
pub mod public_error;
pub mod relay;
pub mod resume;
pub mod scripted_model;
pub mod ui_message;
pub mod ui_message_stream;
pub mod ui_part;
pub mod ui_writer;
pub mod upstream;
pub mod use_chat;
pub mod use_chat_history;
pub mod use_chat_request;
