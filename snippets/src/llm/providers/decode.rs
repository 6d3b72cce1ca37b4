//! The byte layer: what arrives, cut anywhere, becomes records, and records become model events.

use crate::sse::wire::{Limits, Parser};

/// Bytes of one SSE event or one NDJSON line. Some events repeat the whole answer.
pub const MAX_RECORD_BYTES: usize = 4 * 1024 * 1024;

// ANCHOR: decoder
use crate::llm::providers::{ModelError, ModelEvent};

/// How a provider separates its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// `text/event-stream`.
    Sse,
    /// One JSON value a line.
    Ndjson,
}

/// What differs between providers.
pub trait Decoder {
    /// How records are separated.
    const FRAMING: Framing = Framing::Sse;

    /// Takes one record (the type and data of an SSE event; an empty name and an NDJSON line) and
    /// appends what it says to `out`. Records after [`ModelEvent::Finish`] are not passed on.
    ///
    /// # Errors
    /// The answer has failed; nothing more will come of it.
    fn record(
        &mut self,
        name: &str,
        data: &str,
        out: &mut Vec<ModelEvent>,
    ) -> Result<(), ModelError>;

    /// The body has ended without [`ModelEvent::Finish`].
    ///
    /// # Errors
    /// [`ModelError::Truncated`], unless the provider has no terminal event (Gemini) and the last
    /// record said that it was the last.
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
    finished: bool,
}

impl<D: Decoder> Records<D> {
    /// For a new response.
    pub fn new(decoder: D) -> Self {
        Self {
            decoder,
            sse: Parser::new(Limits {
                line: MAX_RECORD_BYTES,
                event: MAX_RECORD_BYTES,
            }),
            line: Vec::new(),
            finished: false,
        }
    }

    /// Takes the next bytes and appends what they say to `out`.
    ///
    /// # Errors
    /// The answer has failed; what was appended before it stands.
    pub fn push(&mut self, chunk: &[u8], out: &mut Vec<ModelEvent>) -> Result<(), ModelError> {
        let before = out.len();
        match D::FRAMING {
            Framing::Sse => self.push_sse(chunk, out)?,
            Framing::Ndjson => self.push_ndjson(chunk, out)?,
        }
        // Comments, half a record, unknown events: nothing to show, but the provider is alive.
        if out.len() == before && !chunk.is_empty() && !self.finished {
            out.push(ModelEvent::Heartbeat);
        }
        Ok(())
    }

    /// The body has ended.
    ///
    /// # Errors
    /// [`ModelError::Truncated`] when the answer had not. An unfinished record is never decoded:
    /// that it happens to parse does not make it whole.
    pub fn end(&mut self, out: &mut Vec<ModelEvent>) -> Result<(), ModelError> {
        if self.finished {
            return Ok(());
        }
        self.finished = true;
        self.decoder.end(out)
    }

    fn push_sse(&mut self, chunk: &[u8], out: &mut Vec<ModelEvent>) -> Result<(), ModelError> {
        let mut events = self.sse.push(chunk);
        loop {
            let event = events.next().map_err(|_| too_large())?;
            let Some(event) = event else { return Ok(()) };
            // Blank data keeps the connection alive with some hosts.
            if !self.finished && !event.data.trim().is_empty() {
                self.decoder.record(event.event_type, event.data, out)?;
                self.finished = matches!(out.last(), Some(ModelEvent::Finish { .. }));
            }
        }
    }

    fn push_ndjson(&mut self, chunk: &[u8], out: &mut Vec<ModelEvent>) -> Result<(), ModelError> {
        let mut rest = chunk;
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            let (line, after) = (&rest[..end], &rest[end + 1..]);
            rest = after;
            self.grow_line(line)?;
            let line = std::mem::take(&mut self.line);
            let line = str::from_utf8(&line).map_err(|e| ModelError::Malformed(e.to_string()))?;
            if !line.trim().is_empty() && !self.finished {
                self.decoder.record("", line, out)?;
                self.finished = matches!(out.last(), Some(ModelEvent::Finish { .. }));
            }
        }
        self.grow_line(rest)
    }

    fn grow_line(&mut self, bytes: &[u8]) -> Result<(), ModelError> {
        if self.line.len() + bytes.len() > MAX_RECORD_BYTES {
            return Err(too_large());
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }
}

fn too_large() -> ModelError {
    ModelError::TooLarge {
        what: "a record of the provider",
        limit: MAX_RECORD_BYTES,
    }
}
// ANCHOR_END: records
