//! From a provider's bytes to one typed event.
//!
//! Use it if your service calls a model over HTTP itself and must behave the same whichever provider answers. Needs this folder,
//! `llm/model_event.rs`, `llm/failure.rs` and `sse/wire.rs`; delete the providers that you do not use.
//!
//! Guarantees: bytes may be split anywhere; a field that is missing, null, of another type or unknown loses no text and merges no
//! tool calls; a stream ends either with exactly one [`ModelEvent::Finish`] or with an error, so a truncated answer is never treated
//! as a whole one; tool calls are released only with `Finish`; memory is bounded.

pub mod anthropic;
pub mod decode;
pub mod gemini;
pub mod in_band;
pub mod json;
pub mod ollama;
pub mod openai_chat;
pub mod openai_responses;
pub mod stream;
pub mod surrogates;
pub mod tool_calls;

pub use super::failure::{Failure, ModelError};
pub use super::model_event::{FinishReason, ModelEvent, ToolCall, Usage};
pub use decode::{Decoder, EndRule};
pub use json::Json;
pub use stream::model_events;
