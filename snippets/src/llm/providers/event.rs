//! What a model stream is made of, whichever provider sends it.

// ANCHOR: event
use serde::de::DeserializeOwned;

/// One thing that happened in a model's answer.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelEvent {
    /// Bytes arrived that say only "still working". It resets your idle timer; it is not content.
    Heartbeat,
    /// Append to the answer.
    Text(String),
    /// Append to the reasoning (a summary with some providers). Show it apart from the answer.
    Reasoning(String),
    /// Append to the model's refusal, which takes the place of the answer.
    Refusal(String),
    /// A tool call begins. For display only.
    ToolCallStart {
        /// Which call of this answer: calls may interleave.
        index: u32,
        /// The provider's id of the call, which its result must name.
        id: String,
        /// The tool that the model asks for.
        name: String,
    },
    /// A piece of a call's JSON arguments. For display only: half of `{"amount": 100}` is not an amount.
    ToolCallDelta {
        /// As in [`ModelEvent::ToolCallStart`].
        index: u32,
        /// Append to the arguments of this call.
        fragment: String,
    },
    /// Token counts so far. Each one replaces the one before: they are totals, never increments.
    Usage(Usage),
    /// The answer is whole. Always the last event, and the only one that releases tool calls.
    Finish {
        /// Why the model stopped; anything but `Stop` and `ToolCalls` needs a decision of yours.
        reason: FinishReason,
        /// The calls to execute, complete, in the order of their index. Empty when the model was
        /// cut off (`MaxTokens`, …), since the arguments may be as well.
        tool_calls: Vec<ToolCall>,
    },
}

/// Why the model stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FinishReason {
    /// It had said everything, or reached a stop sequence.
    Stop,
    /// It waits for the results of its tool calls.
    ToolCalls,
    /// The limit on output tokens or the context window cut it off.
    MaxTokens,
    /// A filter of the provider withheld the rest.
    ContentFilter,
    /// The model, or a classifier of the provider, declined.
    Refusal,
    /// The provider paused a long turn: send the answer back unchanged to go on (Anthropic `pause_turn`).
    Paused,
    /// A reason that this version does not know, as the provider wrote it.
    Other(String),
}

/// Token counts as they are billed. `None`: the provider has not said yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, those read from and written to a cache included.
    pub input: Option<u64>,
    /// The part of `input` that was read from a cache.
    pub cached_input: Option<u64>,
    /// Tokens produced, reasoning included.
    pub output: Option<u64>,
    /// The part of `output` that was reasoning.
    pub reasoning: Option<u64>,
}

/// A complete tool call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// The provider's id of the call; empty where the provider has none (Ollama).
    pub id: String,
    /// The tool's name, as the model wrote it: look it up, never interpolate it.
    pub name: String,
    /// JSON text as the model wrote it, `{}` when it wrote nothing.
    pub arguments: String,
}

impl ToolCall {
    /// The arguments as your own type.
    ///
    /// # Errors
    /// When the model wrote something else: give the error back to it as the tool's result.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.arguments)
    }
}
// ANCHOR_END: event

// ANCHOR: error
use std::time::Duration;

/// Why an answer is not whole. What was received before it is a fragment, whatever it looks like.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// The bytes ended before the provider's terminal event.
    #[error("the stream ended before the model had finished")]
    Truncated,
    /// The provider reported a failure inside the stream, after its 200.
    #[error("the provider failed ({failure:?}, {code}): {message}")]
    Provider {
        /// What to do about it.
        failure: Failure,
        /// The provider's code or type.
        code: String,
        /// The provider's text. For your log: it may quote the prompt, limits or account names.
        message: String,
    },
    /// The provider answered with another status than 200.
    #[error("the provider answered {status}: {body}")]
    Status {
        /// The HTTP status.
        status: u16,
        /// The provider's `Retry-After`, where it gave seconds.
        retry_after: Option<Duration>,
        /// The start of the body. For your log, as `message` above.
        body: String,
    },
    /// What arrived is not this provider's format.
    #[error("malformed answer: {0}")]
    Malformed(String),
    /// A bound of the decoder was reached.
    #[error("{what} is larger than {limit} bytes or items")]
    TooLarge {
        /// What grew too large.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
    /// The connection failed, or the read timeout passed.
    #[error("the connection to the provider failed: {0}")]
    Transport(String),
}

/// Kinds of failure that callers treat differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Too many requests or tokens: retry later, with back-off.
    RateLimited,
    /// The provider is out of capacity: retry later, or elsewhere.
    Overloaded,
    /// The provider broke: one retry may help.
    Internal,
    /// The request, the credentials or the policy: the same request will fail again.
    Rejected,
}

impl Failure {
    /// Reads a provider's error code or type; names are compared as OpenAI, Anthropic and Google
    /// write them.
    pub fn from_code(code: &str) -> Self {
        match code {
            "rate_limit_exceeded" | "rate_limit_error" | "RESOURCE_EXHAUSTED" | "429" => {
                Self::RateLimited
            }
            "overloaded_error" | "server_overloaded" | "UNAVAILABLE" | "503" | "529" => {
                Self::Overloaded
            }
            "server_error" | "api_error" | "timeout_error" | "INTERNAL" | "DEADLINE_EXCEEDED"
            | "500" | "502" | "504" => Self::Internal,
            _ => Self::Rejected,
        }
    }

    /// Whether the same request may succeed later.
    pub fn is_retryable(self) -> bool {
        self != Self::Rejected
    }
}
// ANCHOR_END: error
