//! What a log's reader has without waiting, as text.

use std::task::{Context, Poll, Waker};

use snippets::sse::log_reader::Reader;
use snippets::sse::streams::Source;

/// One event on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    pub name: String,
    pub id: String,
    pub data: String,
}

/// The events of some bytes.
pub fn blocks(bytes: &[u8]) -> Vec<Block> {
    let text = std::str::from_utf8(bytes).unwrap();
    let field = |block: &str, name: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().to_owned()
    };
    let block = |block| Block {
        name: field(block, "event: "),
        id: field(block, "id: "),
        data: field(block, "data: "),
    };
    text.split_terminator("\n\n").map(block).collect()
}

/// The next chunk if there is one without waiting; `Some(None)` at the end.
pub fn poll(reader: &mut Reader) -> Option<Option<Vec<Block>>> {
    match reader.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Pending => None,
        Poll::Ready(chunk) => Some(chunk.map(|chunk| blocks(&chunk.bytes))),
    }
}

/// All that is there without waiting.
pub fn ready(reader: &mut Reader) -> Vec<Block> {
    let mut seen = Vec::new();
    while let Some(Some(chunk)) = poll(reader) {
        seen.extend(chunk);
    }
    seen
}
