//! What the scripted model says, and how it goes wrong.

use std::time::Duration;

use serde_json::Value;

// ANCHOR: script
/// One answer.
#[derive(Debug, Clone, Default)]
pub struct Script {
    /// What the model says.
    pub reply: Reply,
    /// A recorded answer in place of the reply: each block up to a blank line counts as a token.
    pub recorded: Option<String>,
    /// How the answer goes wrong.
    pub fault: Fault,
    /// Bytes of each HTTP chunk, whatever lies in them; `None`: one chunk an event. 1 cuts every
    /// line ending and every UTF-8 sequence.
    pub chunk_bytes: Option<usize>,
    /// Time between two tokens.
    pub pace: Duration,
}

/// What the model says: each string is one delta of one token.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    /// Reasoning, before the answer. (OpenAI chat completions have none: left out there.)
    pub reasoning: Vec<String>,
    /// The answer.
    pub text: Vec<String>,
    /// Tool calls, after the answer.
    pub tool_calls: Vec<ScriptedCall>,
    /// Why it stops.
    pub stop: Stop,
}

/// A tool call.
#[derive(Debug, Clone, Default)]
pub struct ScriptedCall {
    /// The tool's name.
    pub name: String,
    /// Pieces of the JSON arguments; none for a model that writes nothing at all.
    pub arguments: Vec<String>,
}

/// Why the model stops.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Stop {
    /// `stop`, or `tool_calls` when there are any.
    #[default]
    Natural,
    /// The limit on output tokens.
    Length,
    /// A refusal or content filter.
    Refusal,
}

/// How an answer goes wrong. `after` counts tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Fault {
    /// It does not.
    #[default]
    None,
    /// Another status than 200, with an error body in the provider's format.
    Status {
        /// 429, 500, 529, …
        status: u16,
        /// Seconds for `Retry-After`.
        retry_after: Option<u32>,
    },
    /// No response head until [`super::ScriptedModel::release`].
    HoldHead,
    /// Silence, on an open connection, until [`super::ScriptedModel::release`].
    Stall {
        /// Tokens before the silence.
        after: usize,
    },
    /// The body ends between two events.
    CutBetween {
        /// Tokens before the end.
        after: usize,
        /// How the body ends.
        ending: Ending,
    },
    /// The body ends in the middle of an event's line.
    CutInside {
        /// Whole tokens before the end.
        after: usize,
        /// How the body ends.
        ending: Ending,
    },
    /// The provider's error event, then a clean end.
    Error {
        /// Tokens before the error.
        after: usize,
    },
}

/// How a body ends too early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// As if it were complete: what a proxy makes of a provider that died.
    Clean,
    /// FIN without the last chunk.
    Abort,
}
// ANCHOR_END: script

impl Reply {
    /// An answer of one token a word.
    pub fn text(text: &str) -> Self {
        Self {
            text: text.split_inclusive(' ').map(str::to_owned).collect(),
            ..Self::default()
        }
    }

    /// Adds a tool call whose arguments arrive in pieces of `piece` characters (at least 1).
    #[must_use]
    pub fn with_call(mut self, name: &str, arguments: &str, piece: usize) -> Self {
        let characters: Vec<char> = arguments.chars().collect();
        self.tool_calls.push(ScriptedCall {
            name: name.to_owned(),
            arguments: characters
                .chunks(piece.max(1))
                .map(String::from_iter)
                .collect(),
        });
        self
    }

    /// Tokens in all: reasoning, answer and pieces of arguments.
    pub fn tokens(&self) -> usize {
        let arguments = self.tool_calls.iter().map(|call| call.arguments.len());
        self.reasoning.len() + self.text.len() + arguments.sum::<usize>()
    }
}

/// The script `agent`: `tools`, and `plain` for a request whose last message has results of tools.
pub(super) fn of_agent(request: &Value) -> &'static str {
    let conversation = ["messages", "input", "contents"].map(|name| request[name].as_array());
    let last = conversation
        .into_iter()
        .flatten()
        .next()
        .and_then(|all| all.last());
    let has_results = last.is_some_and(|last| {
        let parts = ["content", "parts"].map(|name| last[name].as_array());
        let mut parts = parts.into_iter().flatten().flatten();
        let is_result =
            |part: &Value| part["type"] == "tool_result" || part["functionResponse"].is_object();
        last["role"] == "tool" || last["type"] == "function_call_output" || parts.any(is_result)
    });
    if has_results { "plain" } else { "tools" }
}

impl Script {
    /// `reply` without a fault, as fast as the reader reads.
    pub fn reply(reply: Reply) -> Self {
        Self {
            reply,
            ..Self::default()
        }
    }

    /// The same answer with `fault`.
    #[must_use]
    pub fn with_fault(mut self, fault: Fault) -> Self {
        self.fault = fault;
        self
    }

    /// Names for [`Script::apply`], which any client can use as `"model": "scripted/<name>"`.
    pub const NAMES: [&str; 13] = [
        "plain",
        "bytes",
        "tools",
        "length",
        "refusal",
        "cut",
        "cut-inside",
        "abort",
        "stall",
        "hold-head",
        "error",
        "rate-limit",
        "overloaded",
    ];

    /// This script with the fault of that name; `None` when there is no such name.
    #[must_use]
    pub fn apply(mut self, name: &str) -> Option<Self> {
        // In the middle of whatever the model says, so that something is lost.
        let after = (self.reply.tokens() / 2).max(1);
        let ending = Ending::Clean;
        match name {
            "plain" => self.fault = Fault::None,
            "bytes" => self.chunk_bytes = Some(1),
            "tools" => {
                self.reply = self
                    .reply
                    .with_call("get_weather", r#"{"city":"Zürich","days":3}"#, 7)
                    .with_call("get_time", "", 1);
            }
            "length" => self.reply.stop = Stop::Length,
            "refusal" => self.reply.stop = Stop::Refusal,
            "cut" => self.fault = Fault::CutBetween { after, ending },
            "cut-inside" => self.fault = Fault::CutInside { after, ending },
            "abort" => {
                let ending = Ending::Abort;
                self.fault = Fault::CutBetween { after, ending };
            }
            "stall" => self.fault = Fault::Stall { after },
            "hold-head" => self.fault = Fault::HoldHead,
            "error" => self.fault = Fault::Error { after },
            "rate-limit" => {
                self.fault = Fault::Status {
                    status: 429,
                    retry_after: Some(7),
                }
            }
            "overloaded" => {
                self.fault = Fault::Status {
                    status: 529,
                    retry_after: None,
                }
            }
            _ => return None,
        }
        Some(self)
    }
}
