//! The `text/event-stream` format, parsed incrementally: bytes in as they arrive, events out.
//!
//! Use it wherever Rust reads an event stream: a client (`super::consume`), a proxy, a test. It agrees
//! with the web platform tests however the bytes are cut, replaces invalid UTF-8 as a browser does,
//! bounds what a peer can make it hold, and copies nothing while an event lies within one chunk.
//! This file stands alone; the other direction is in `super::event`. Standard: HTML, sections 9.2.5 and
//! 9.2.6. Read with `let mut events = parser.push(&chunk); while let Some(event) = events.next()? { … }`.

use std::time::Duration;

// ANCHOR: limits
/// How much one peer can make the parser hold. The standard sets no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest line in bytes, without its line ending; comments and unknown fields count too.
    pub line: usize,
    /// Maximum number of bytes of `data` in one event, line feeds included.
    pub event: usize,
}

impl Default for Limits {
    /// 1 MiB each: some LLM providers repeat the whole answer in their last event.
    fn default() -> Self {
        Self {
            line: 1 << 20,
            event: 1 << 20,
        }
    }
}

/// The peer passed a bound. The rest of the stream cannot be read: close the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// A line passed [`Limits::line`].
    #[error("a line of the event stream is longer than {0} bytes")]
    LineTooLong(usize),
    /// The data of an event passed [`Limits::event`].
    #[error("an event of the event stream is larger than {0} bytes")]
    EventTooLarge(usize),
}

// ANCHOR_END: limits

/// One event, borrowed from the chunk or from the parser until the next call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// The `event` field, or `message`.
    pub event_type: &'a str,
    /// The `data` lines, joined by line feeds.
    pub data: &'a str,
    /// The last id seen on the stream, which may be that of an earlier event.
    pub last_event_id: &'a str,
}

/// The state between two chunks.
#[derive(Debug, Default)]
pub struct Parser {
    limits: Limits,
    failed: Option<ParseError>,
    /// How many bytes of the byte order mark have passed; 3 when it has passed or cannot come.
    bom: usize,
    /// The last chunk ended in CR: an LF that comes first now belongs to it.
    skip_lf: bool,
    /// The last event has been handed out: its type and data are to be forgotten.
    dispatched: bool,
    /// Length of the unfinished line, whose bytes are where `tail` says.
    line_len: usize,
    tail: Tail,
    line: Vec<u8>,
    has_data: bool,
    data: Vec<u8>,
    event_type: String,
    /// The id of the block being read; it takes effect at the blank line.
    id_buffer: String,
    id_set: bool,
    last_event_id: String,
    retry: Option<Duration>,
    /// The data of an event that was not UTF-8, with U+FFFD in its place.
    replaced: String,
}

/// Where the bytes of an unfinished line are kept.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
enum Tail {
    #[default]
    Line,
    /// The line is `data:` for certain: its value goes where it belongs at once.
    Data,
    /// A comment.
    Nowhere,
}

/// The data of a complete event: still in the chunk, or in [`Parser::data`].
enum Found<'c> {
    InChunk(&'c [u8]),
    Copied,
}

/// The events of one chunk; see [`Parser::push`].
#[derive(Debug)]
#[must_use = "an event that is not taken out is not parsed"]
pub struct Events<'p, 'c> {
    parser: &'p mut Parser,
    rest: &'c [u8],
}

impl<'c> Events<'_, 'c> {
    /// The next event that is complete, `None` when the chunk is used up.
    ///
    /// # Errors
    /// When the peer passes one of the [`Limits`]; every later call says the same.
    #[allow(clippy::should_implement_trait)] // An iterator cannot lend.
    pub fn next(&mut self) -> Result<Option<Event<'_>>, ParseError> {
        if let Some(error) = self.parser.failed {
            return Err(error);
        }
        match self.parser.scan(&mut self.rest) {
            Ok(found) => Ok(found.map(|found| self.parser.dispatch(found))),
            Err(error) => {
                self.parser.failed = Some(error);
                Err(error)
            }
        }
    }

    /// The bytes that have not been parsed yet, for one who takes events one at a time.
    pub fn rest(&self) -> &'c [u8] {
        self.rest
    }
}

impl Parser {
    /// A parser for a new event stream.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Sets the id that events carry until the stream sends one: what `Last-Event-ID` said.
    #[must_use]
    pub fn resume_after(mut self, last_event_id: &str) -> Self {
        last_event_id.clone_into(&mut self.id_buffer);
        last_event_id.clone_into(&mut self.last_event_id);
        self
    }

    /// The cursor to send as `Last-Event-ID`. A block without data moves it too; an event that the
    /// stream did not finish does not.
    pub fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    /// The reconnection time, if the stream has sent one. The peer chooses it: clamp it.
    pub fn retry(&self) -> Option<Duration> {
        self.retry
    }

    /// The response has ended: discards the unfinished event and is ready for the next response.
    pub fn reset(&mut self) {
        *self = Self {
            retry: self.retry,
            ..Self::new(self.limits).resume_after(&self.last_event_id)
        };
    }

    /// Takes the next bytes. Call [`Events::next`] until it says `None`.
    pub fn push<'p, 'c>(&'p mut self, chunk: &'c [u8]) -> Events<'p, 'c> {
        Events {
            parser: self,
            rest: chunk,
        }
    }

    /// Reads lines until a blank one completes an event.
    fn scan<'c>(&mut self, rest: &mut &'c [u8]) -> Result<Option<Found<'c>>, ParseError> {
        if std::mem::take(&mut self.dispatched) {
            self.event_type.clear();
            clear(&mut self.data);
            self.replaced = String::new();
        }
        if self.bom < BOM.len() {
            self.strip_bom(rest);
        }
        // The first data line stays in the chunk until a second one, or the chunk's end, comes.
        let mut first: Option<&'c [u8]> = None;
        loop {
            if self.skip_lf && !rest.is_empty() {
                self.skip_lf = false;
                *rest = rest.strip_prefix(b"\n").unwrap_or(rest);
            }
            let Some(end) = line_end(rest) else {
                self.data.extend_from_slice(first.unwrap_or_default());
                self.keep_tail(std::mem::take(rest))?;
                return Ok(None);
            };
            let (line, ending) = (&rest[..end], rest[end]);
            *rest = &rest[end + 1..];
            if ending == b'\r' {
                // CR alone ends a line; waiting for an LF would hold the last event back.
                self.skip_lf = rest.is_empty();
                *rest = rest.strip_prefix(b"\n").unwrap_or(rest);
            }
            self.check_line(line.len())?;
            if self.line_len > 0 {
                self.end_carried_line(line)?;
            } else if line.is_empty() {
                // HTML 9.2.6: the id takes effect here, whether there is an event or not.
                if std::mem::take(&mut self.id_set) {
                    self.id_buffer.clone_into(&mut self.last_event_id);
                }
                if std::mem::take(&mut self.has_data) {
                    self.dispatched = true;
                    return Ok(Some(first.map_or(Found::Copied, Found::InChunk)));
                }
                self.event_type.clear();
            } else if let Some(value) = self.field(line) {
                if self.has_data {
                    self.data
                        .extend_from_slice(first.take().unwrap_or_default());
                    self.begin_data_line();
                    self.add_data(value)?;
                } else {
                    self.check_event(value.len())?;
                    self.has_data = true;
                    first = Some(value);
                }
            }
        }
    }

    /// HTML 9.2.6, processing of a field; returns the value of a data field.
    fn field<'l>(&mut self, line: &'l [u8]) -> Option<&'l [u8]> {
        // Nearly every line of a stream is this one.
        if let Some(value) = line.strip_prefix(b"data:") {
            return Some(value.strip_prefix(b" ").unwrap_or(value));
        }
        let colon = line.iter().position(|&byte| byte == b':');
        let (name, value) = match colon {
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &[][..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"data" => return Some(value),
            b"event" => set_text(&mut self.event_type, value),
            b"id" if !value.contains(&0) => {
                set_text(&mut self.id_buffer, value);
                self.id_set = true;
            }
            b"retry" if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                let millis = value.iter().fold(0_u64, |sum, digit| {
                    sum.saturating_mul(10)
                        .saturating_add(u64::from(digit - b'0'))
                });
                self.retry = Some(Duration::from_millis(millis));
            }
            _ => {}
        }
        None
    }

    /// The end of a line that began in an earlier chunk.
    fn end_carried_line(&mut self, end: &[u8]) -> Result<(), ParseError> {
        self.line_len = 0;
        match std::mem::take(&mut self.tail) {
            Tail::Data => self.add_data(end),
            Tail::Nowhere => Ok(()),
            Tail::Line => {
                let mut line = std::mem::take(&mut self.line);
                line.extend_from_slice(end);
                if let Some(value) = self.field(&line) {
                    self.begin_data_line();
                    self.add_data(value)?;
                }
                clear(&mut line);
                self.line = line;
                Ok(())
            }
        }
    }

    /// The chunk ends within a line.
    fn keep_tail(&mut self, mut tail: &[u8]) -> Result<(), ParseError> {
        self.check_line(tail.len())?;
        if self.line_len == 0 {
            self.line_len = tail.len();
            match tail.strip_prefix(b"data:") {
                // With the byte after the colon the optional space is decided too.
                Some(value) if !value.is_empty() => {
                    self.tail = Tail::Data;
                    self.begin_data_line();
                    tail = value.strip_prefix(b" ").unwrap_or(value);
                }
                _ if tail.starts_with(b":") => self.tail = Tail::Nowhere,
                _ => {}
            }
        } else {
            self.line_len += tail.len();
        }
        match self.tail {
            Tail::Data => self.add_data(tail)?,
            Tail::Line => self.line.extend_from_slice(tail),
            Tail::Nowhere => {}
        }
        Ok(())
    }

    fn dispatch<'e>(&'e mut self, found: Found<'e>) -> Event<'e> {
        let data = match found {
            Found::InChunk(bytes) => bytes,
            Found::Copied => &self.data,
        };
        let data = simdutf8::basic::from_utf8(data).unwrap_or_else(|_| {
            self.replaced = String::from_utf8_lossy(data).into_owned();
            &self.replaced
        });
        let event_type = match self.event_type.as_str() {
            "" => "message",
            name => name,
        };
        Event {
            event_type,
            data,
            last_event_id: &self.last_event_id,
        }
    }

    fn begin_data_line(&mut self) {
        if self.has_data {
            self.data.push(b'\n');
        }
        self.has_data = true;
    }

    fn add_data(&mut self, value: &[u8]) -> Result<(), ParseError> {
        self.check_event(self.data.len() + value.len())?;
        self.data.extend_from_slice(value);
        Ok(())
    }

    fn check_line(&self, more: usize) -> Result<(), ParseError> {
        if self.line_len + more > self.limits.line {
            return Err(ParseError::LineTooLong(self.limits.line));
        }
        Ok(())
    }

    fn check_event(&self, data: usize) -> Result<(), ParseError> {
        if data > self.limits.event {
            return Err(ParseError::EventTooLarge(self.limits.event));
        }
        Ok(())
    }

    /// HTML 9.2.5: one byte order mark at the very beginning is no part of the first line.
    fn strip_bom(&mut self, rest: &mut &[u8]) {
        while let (Some(expected), Some(byte)) = (BOM.get(self.bom), rest.first()) {
            if byte != expected {
                self.line.extend_from_slice(&BOM[..self.bom]);
                self.line_len = self.bom;
                self.bom = BOM.len();
                return;
            }
            self.bom += 1;
            *rest = &rest[1..];
        }
    }
}

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// Buffers keep their memory from event to event, but not that of an unusually large one.
const KEPT_CAPACITY: usize = 256 * 1024;

fn clear(buffer: &mut Vec<u8>) {
    buffer.clear();
    if buffer.capacity() > KEPT_CAPACITY {
        *buffer = Vec::new();
    }
}

/// The standard decodes the stream before it splits lines. Every line ending and delimiter is ASCII, and
/// a UTF-8 decoder never takes an ASCII byte into a malformed sequence, so decoding later is the same.
fn set_text(target: &mut String, bytes: &[u8]) {
    target.clear();
    match simdutf8::basic::from_utf8(bytes) {
        Ok(text) => target.push_str(text),
        Err(_) => target.push_str(&String::from_utf8_lossy(bytes)),
    }
}

fn line_end(bytes: &[u8]) -> Option<usize> {
    match bytes.first() {
        // Half of all lines are empty: not worth the call.
        Some(b'\n' | b'\r') => Some(0),
        _ => memchr::memchr2(b'\n', b'\r', bytes),
    }
}
