//! The byte layer: what arrives, cut anywhere, becomes records, and records become model events.

use memchr::memchr_iter;

use super::surrogates::{Halves, stand_in};
use crate::sse::wire::{Limits, Parser};

/// Bytes of one SSE event or one NDJSON line. Some events repeat the whole answer; one with an image needs more:
/// [`Records::with_limit`].
pub const MAX_RECORD_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of an error that a provider writes outside of the framing.
const MAX_BARE_BYTES: usize = 64 * 1024;

// ANCHOR: decoder
use crate::llm::{
    failure::{Failure, ModelError},
    model_event::ModelEvent,
    providers::json::Json,
};

/// How a provider separates its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// `text/event-stream`.
    Sse,
    /// One JSON value a line.
    Ndjson,
}

/// The evidence that an answer of a provider is whole, where its dialect has a terminal event (`[DONE]`, `message_stop`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EndRule {
    /// A finish reason, then the terminal event or the clean end of the body: many hosts leave out the event, or its blank line.
    #[default]
    Reason,
    /// A finish reason and the terminal event. For a host behind a proxy that ends a body cleanly in the middle of the usage.
    ReasonAndTerminal,
    /// The terminal event, also without a reason. For a host that never sends one.
    Terminal,
}

/// The part that differs between providers.
pub trait Decoder {
    /// How records are separated.
    const FRAMING: Framing = Framing::Sse;

    /// Takes one record (the type of an SSE event, empty for a line of NDJSON, and its JSON) and appends its events to `out`.
    /// Records after [`ModelEvent::Finish`] are not passed on.
    ///
    /// # Errors
    /// The answer has failed; nothing more will come of it.
    fn record(
        &mut self,
        name: &str,
        record: &Json<'_>,
        out: &mut Vec<ModelEvent>,
    ) -> Result<(), ModelError>;

    /// `data: [DONE]`, which is not JSON. Only OpenAI chat has it; other dialects ignore it.
    ///
    /// # Errors
    /// As [`Decoder::record`].
    fn done(&mut self, _out: &mut Vec<ModelEvent>) -> Result<(), ModelError> {
        Ok(())
    }

    /// The answer continues in another response: its id, and the number of the last event that was decoded. What is sent again is
    /// skipped from now on. `None` if the provider cannot continue it.
    fn continued(&mut self) -> Option<(String, u64)> {
        None
    }

    /// The body has ended cleanly without [`ModelEvent::Finish`].
    ///
    /// # Errors
    /// [`ModelError::Truncated`], unless the evidence is enough without a terminal event.
    fn end(&mut self, _out: &mut Vec<ModelEvent>) -> Result<(), ModelError> {
        Err(ModelError::Truncated)
    }
}
// ANCHOR_END: decoder

// ANCHOR: records
/// The same without I/O: bytes in, events out.
#[derive(Debug)]
pub struct Records<D> {
    decoder: D,
    sse: Parser,
    /// The unfinished NDJSON line.
    line: Vec<u8>,
    /// JSON outside of the SSE framing.
    bare: Bare,
    halves: Option<Halves>,
    limit: usize,
    finished: bool,
}

impl<D: Decoder> Records<D> {
    /// For a new response.
    pub fn new(decoder: D) -> Self {
        Self::with_limit(decoder, MAX_RECORD_BYTES)
    }

    /// The same with records of at most `limit` bytes.
    pub fn with_limit(decoder: D, limit: usize) -> Self {
        Self {
            decoder,
            sse: Self::parser(limit),
            line: Vec::new(),
            bare: Bare::LineStart,
            halves: None,
            limit,
            finished: false,
        }
    }

    fn parser(limit: usize) -> Parser {
        Parser::new(Limits {
            line: limit,
            event: limit,
        })
    }

    /// See [`Decoder::continued`]: drops the unfinished record.
    pub fn continued(&mut self) -> Option<(String, u64)> {
        let position = self.decoder.continued()?;
        self.sse = Self::parser(self.limit);
        self.bare = Bare::LineStart;
        self.line.clear();
        Some(position)
    }

    /// Takes the next bytes and appends their events to `out`.
    ///
    /// # Errors
    /// The answer has failed; the events that were appended before are a fragment of it.
    pub fn push(&mut self, chunk: &[u8], out: &mut Vec<ModelEvent>) -> Result<(), ModelError> {
        let before = out.len();
        match D::FRAMING {
            Framing::Sse => self.push_sse(chunk, out)?,
            Framing::Ndjson => self.push_ndjson(chunk, out)?,
        }
        // Comments, half a record, events without content: nothing to show, but the provider is alive.
        if out.len() == before && !chunk.is_empty() && !self.finished {
            out.push(ModelEvent::Heartbeat);
        }
        Ok(())
    }

    /// The body has ended cleanly. A body that ended with an error has not: do not call this then.
    ///
    /// # Errors
    /// [`ModelError::Truncated`] when the answer had not ended. An unfinished record is never decoded: that it happens to parse does
    /// not make it whole.
    pub fn end(&mut self, out: &mut Vec<ModelEvent>) -> Result<(), ModelError> {
        if self.finished {
            return Ok(());
        }
        self.finished = true;
        let from = out.len();
        let result = self.decoder.end(out);
        if let Some(halves) = &mut self.halves {
            halves.join(from, out);
        }
        result
    }

    fn push_sse(&mut self, chunk: &[u8], out: &mut Vec<ModelEvent>) -> Result<(), ModelError> {
        let mut events = self.sse.push(chunk);
        while let Some(event) = events.next().map_err(|_| too_large(self.limit))? {
            if !self.finished {
                let (decoder, halves) = (&mut self.decoder, &mut self.halves);
                decode(decoder, halves, event.event_type, event.data, out)?;
                self.finished = matches!(out.last(), Some(ModelEvent::Finish { .. }));
            }
        }
        match self.bare.push(chunk) {
            Some(json) if !self.finished => {
                decode(&mut self.decoder, &mut self.halves, "", &json, out)
            }
            _ => Ok(()),
        }
    }

    fn push_ndjson(&mut self, chunk: &[u8], out: &mut Vec<ModelEvent>) -> Result<(), ModelError> {
        let mut rest = chunk;
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            let (line, after) = (&rest[..end], &rest[end + 1..]);
            rest = after;
            self.grow_line(line)?;
            let line = std::mem::take(&mut self.line);
            if !self.finished {
                let line = String::from_utf8_lossy(&line);
                decode(&mut self.decoder, &mut self.halves, "", &line, out)?;
                self.finished = matches!(out.last(), Some(ModelEvent::Finish { .. }));
            }
        }
        self.grow_line(rest)
    }

    fn grow_line(&mut self, bytes: &[u8]) -> Result<(), ModelError> {
        if self.line.len() + bytes.len() > self.limit {
            return Err(too_large(self.limit));
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }
}
// ANCHOR_END: records

fn decode<D: Decoder>(
    decoder: &mut D,
    halves: &mut Option<Halves>,
    name: &str,
    data: &str,
    out: &mut Vec<ModelEvent>,
) -> Result<(), ModelError> {
    let (data, from) = (data.trim(), out.len());
    let result = match data {
        // Blank data keeps the connection alive with some hosts.
        "" => Ok(()),
        "[DONE]" => decoder.done(out),
        _ => match serde_json::from_str::<Json<'_>>(data) {
            Ok(record) => decoder.record(name, &record, out),
            Err(error) => {
                let malformed = ModelError::Malformed(error.to_string());
                let patched = stand_in(data).ok_or_else(|| malformed.clone())?;
                let record = serde_json::from_str(&patched).map_err(|_| malformed)?;
                halves.get_or_insert_default();
                decoder.record(name, &record, out)
            }
        },
    };
    if let Some(halves) = halves {
        halves.join(from, out);
    }
    result
}

fn too_large(limit: usize) -> ModelError {
    ModelError::TooLarge {
        what: "a record of the provider",
        limit,
    }
}

/// Gemini and some proxies abort with JSON, often on several lines, outside of the SSE framing, which a parser of event streams has
/// to ignore. No line of an event stream begins with a brace.
#[derive(Debug)]
enum Bare {
    LineStart,
    InLine,
    Json(Vec<u8>),
}

impl Bare {
    /// The JSON, when it is complete.
    fn push(&mut self, chunk: &[u8]) -> Option<String> {
        let mut json = chunk;
        if !matches!(self, Self::Json(_)) {
            let first = matches!(self, Self::LineStart).then_some(0);
            let lines = memchr_iter(b'\n', chunk).map(|end| end + 1);
            let mut starts = first.into_iter().chain(lines);
            let brace = |at: &usize| matches!(chunk.get(*at), Some(b'{' | b'['));
            match starts.find(brace) {
                Some(at) => {
                    json = &chunk[at..];
                    *self = Self::Json(Vec::new());
                }
                None => {
                    let ended = chunk.last().map(|byte| *byte == b'\n');
                    *self = match (ended, &self) {
                        (Some(true), _) | (None, Self::LineStart) => Self::LineStart,
                        _ => Self::InLine,
                    };
                }
            }
        }
        let Self::Json(found) = self else { return None };
        let room = MAX_BARE_BYTES.saturating_sub(found.len());
        found.extend_from_slice(&json[..json.len().min(room)]);
        let text = str::from_utf8(found).ok()?;
        let whole = text.trim_end().ends_with(['}', ']'])
            && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
        let text = whole.then(|| text.to_owned());
        if whole {
            *self = Self::LineStart;
        }
        text
    }
}

/// The failure that `record` reports: `error` with text or an object, `{"object": "error"}`, `{"detail": …}` (FastAPI), an event
/// named `error`, a list with an error (Google).
pub fn failure_in(name: &str, record: &Json<'_>) -> Option<ModelError> {
    let error = record.get("error");
    let typed = |field: &str| record.get(field).text() == Some("error");
    // An answer has an empty object or `false` there with some hosts.
    let reported = !error.is_empty() && *error != Json::Bool(false);
    let wrapped = record.items().first().map(|first| first.get("error"));
    let flat = name == "error" || typed("object") || typed("type");
    let detail = !record.get("detail").is_empty() && record.get("choices").is_empty();
    let listed = wrapped.is_some_and(|error| !error.is_empty());
    (reported || flat || detail || listed).then(|| ModelError::provider(&record.to_value()))
}

/// A finish reason that says that the provider gave up: the answer is not whole.
pub fn gave_up(reason: &str) -> Option<ModelError> {
    let failure = match reason {
        "error" | "abort" | "cancelled" | "failed" => Failure::Internal,
        "insufficient_system_resource" | "overloaded" | "engine_overloaded" => Failure::Overloaded,
        _ => return None,
    };
    Some(ModelError::Provider {
        failure,
        code: reason.to_owned(),
        message: "the provider ended the answer".to_owned(),
    })
}
