//! A position in a log, how it is written as an event id, and why a cursor cannot be used.
//!
//! The default id is `EPOCH-SEQUENCE`: sequence numbers count within one epoch (one lifetime of a log), so a cursor of an
//! earlier process is recognized. [`Ids::Sequence`] is for contracts that prescribe plain numbers.

// ANCHOR: cursor
use std::fmt;

use serde::Serialize;

/// The last event that a client has: everything up to and including `seq`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// Differs for each lifetime of the log.
    pub epoch: u64,
    /// The first event is 1; 0 is the position before it.
    pub seq: u64,
}

/// `EPOCH-SEQUENCE`, the epoch in hexadecimal.
impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{}", self.epoch, self.seq)
    }
}

/// The format of event ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ids {
    /// `EPOCH-SEQUENCE`.
    #[default]
    Epoch,
    /// The sequence number alone. A cursor of an earlier lifetime is noticed only if it is ahead of the log: let the
    /// numbers continue over restarts ([`Log::starting_after`](super::log::Log::starting_after)).
    Sequence,
}

impl Ids {
    /// The id of `cursor`.
    pub fn id(self, cursor: Cursor) -> impl fmt::Display {
        Id(self, cursor)
    }

    /// The cursor whose id is `id`, for a log in `epoch`. Only the exact spelling is accepted: neither `+5` nor `05`.
    pub fn parse(self, id: &str, epoch: u64) -> Option<Cursor> {
        let (epoch, seq) = match self {
            Self::Epoch => {
                let (epoch, seq) = id.split_once('-')?;
                (u64::from_str_radix(epoch, 16).ok()?, seq.parse().ok()?)
            }
            Self::Sequence => (epoch, id.parse().ok()?),
        };
        let cursor = Cursor { epoch, seq };
        (seq < u64::MAX && self.id(cursor).to_string() == id).then_some(cursor)
    }
}

struct Id(Ids, Cursor);

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Ids::Epoch => self.1.fmt(f),
            Ids::Sequence => self.1.seq.fmt(f),
        }
    }
}

/// Why a client must drop its state: the data of the event `reset` is `{"reason": …}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The log no longer keeps the next event.
    Trimmed,
    /// The cursor is from another lifetime of the log.
    Epoch,
    /// The cursor is beyond the newest event.
    Ahead,
    /// The cursor is not an id of this log.
    Invalid,
    /// The client reads too slowly and has missed events.
    Slow,
}
// ANCHOR_END: cursor
