//! The parts of a model's answer, whichever provider sends it.
//!
//! Use it wherever an answer is read, measured or shown; `providers` produces it. Needs no other file.

use serde::de::DeserializeOwned;

// ANCHOR: event
/// One thing that happened in a model's answer.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelEvent {
    /// Bytes arrived that mean only "still working". They reset your idle timer, but are not content.
    Heartbeat,
    /// Append to the answer.
    Text(String),
    /// Append to the reasoning (a summary with some providers). Show it apart from the answer.
    Reasoning(String),
    /// Append to the model's refusal, which takes the place of the answer.
    Refusal(String),
    /// A tool call begins. For display only.
    ToolCallStart {
        /// The number of the call in this answer: calls may interleave.
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
    /// A part of the answer that has no event of its own, as the provider wrote it: a signature, a reasoning item, a
    /// citation, the work of a server tool, an image. If you send the answer back, send these parts back too; otherwise
    /// ignore them.
    Other {
        /// The provider's name of the part: `signature_delta`, `thoughtSignature`, `reasoning_details`,
        /// `response.output_item.done`.
        kind: String,
        /// The JSON of the part.
        raw: String,
    },
    /// The answer is complete. Always the last event, and the only one with tool calls to run.
    Finish {
        /// Why the model stopped; every reason except `Stop` and `ToolCalls` needs a decision of yours.
        reason: FinishReason,
        /// The calls to execute, complete, in the order of their index. Empty if the model was cut off (`MaxTokens`,
        /// …), since the arguments may be cut off too.
        tool_calls: Vec<ToolCall>,
    },
}
// ANCHOR_END: event

// ANCHOR: reason
/// Why the model stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FinishReason {
    /// The model finished, or reached a stop sequence.
    Stop,
    /// The model waits for the results of its tool calls.
    ToolCalls,
    /// The model waits for another input: an approval, a computer or shell action (OpenAI Responses). The items are in
    /// [`ModelEvent::Other`]; there may be tool calls too.
    AwaitsClient,
    /// The limit on output tokens or the context window cut it off.
    MaxTokens,
    /// A filter of the provider withheld the rest.
    ContentFilter,
    /// The model, or a classifier of the provider, declined.
    Refusal,
    /// The provider paused a long turn: send the answer back unchanged to continue (Anthropic `pause_turn`).
    Paused,
    /// A reason that this version does not know, as the provider wrote it.
    Other(String),
}
// ANCHOR_END: reason

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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ToolCall {
    /// The provider's id of the call; empty where the provider has none (Ollama).
    pub id: String,
    /// The tool's name, as the model wrote it: look it up, never interpolate it.
    pub name: String,
    /// JSON text as the model wrote it, `{}` when it wrote nothing; the input of OpenAI's custom tools is one JSON string.
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

use serde_json::Value;

/// What a model is asked.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Question {
    /// The user's instructions, which follow yours.
    pub system: Option<String>,
    /// The conversation, oldest first, as the provider has it: `{"role": …, "content": …}`.
    pub messages: Vec<Value>,
    /// The tools, as the provider has them.
    pub tools: Vec<Value>,
}

/// Called with the user when an answer begins; `meter::measure` makes one.
pub type Watch = dyn Fn(&str) -> Watching + Send + Sync;

/// Gets each event of the model, or the code of the error that ended the answer and the status with which the provider refused. It is
/// dropped at the end.
pub type Watching = Box<dyn FnMut(Result<&ModelEvent, (&'static str, Option<u16>)>) + Send>;

/// Which format the provider speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// `POST /v1/chat/completions`: OpenAI and the many servers that follow it, each in its own way.
    OpenAiChat,
    /// `POST /v1/messages`.
    Anthropic,
    /// `POST /v1/responses` of OpenAI.
    OpenAiResponses,
    /// `POST /v1beta/models/…:streamGenerateContent` of Gemini.
    Gemini,
}

impl Usage {
    /// These counts, with those of `earlier` where they are missing or zero: later records of some hosts say less.
    #[must_use]
    pub fn or(self, earlier: Self) -> Self {
        let pick = |new: Option<u64>, old: Option<u64>| new.filter(|n| *n > 0).or(old).or(new);
        Self {
            input: pick(self.input, earlier.input),
            cached_input: pick(self.cached_input, earlier.cached_input),
            output: pick(self.output, earlier.output),
            reasoning: pick(self.reasoning, earlier.reasoning),
        }
    }
}
