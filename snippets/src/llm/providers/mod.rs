//! From a provider's bytes to one typed event.
//!
//! Use it when your service calls a model over HTTP itself and must behave the same whichever
//! provider answers. Take this folder and `sse/wire.rs`; delete the providers that you do not use.
//!
//! Promises: bytes may be split anywhere; unknown events and fields are ignored; a stream ends
//! either with exactly one [`ModelEvent::Finish`] or with an error, so a truncated answer is never
//! taken for a whole one; tool calls are released only with `Finish`; memory is bounded.

pub mod anthropic;
pub mod decode;
pub mod event;
pub mod gemini;
pub mod http;
pub mod ollama;
pub mod openai_chat;
pub mod openai_responses;
pub mod stream;
pub mod tool_calls;

pub use decode::Decoder;
pub use event::{Failure, FinishReason, ModelError, ModelEvent, ToolCall, Usage};
pub use stream::model_events;
