//! From a provider's bytes to one typed event.
//!
//! Use it if your service calls a model over HTTP itself and must behave the same whichever provider answers. Here is the part that
//! all providers share; each decoder is a pattern of its own that brings it: `llm/openai_chat`, `llm/anthropic`,
//! `llm/openai_responses`, `llm/gemini`, `llm/ollama`. `llm/model_stream` reads an HTTP body with one of them. Needs this folder,
//! `llm/model_event`, `llm/failure` and `sse/wire`.
//!
//! Guarantees: bytes may be split anywhere; a field that is missing, null, of another type or unknown loses no text and merges no
//! tool calls; a stream ends either with exactly one [`ModelEvent::Finish`] or with an error, so a truncated answer is never treated
//! as a whole one; tool calls are released only with `Finish`; memory is bounded.

pub mod decode;
pub mod json;
pub mod surrogates;
pub mod tool_calls;

pub use super::failure::{Failure, ModelError};
pub use super::model_event::{FinishReason, ModelEvent, ToolCall, Usage};
pub use decode::{Decoder, EndRule};
pub use json::Json;
