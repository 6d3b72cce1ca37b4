//! Wrong: the body is collected and split on `"\n\n"`.
//! Harm: from a server that ends lines with CRLF or CR no event ever arrives, and the buffer grows without bound.
//! Instead: sse/wire
//! Probe: cannot see: a client

use snippets::sse::wire::{Limits, ParseError, Parser};

#[derive(Default)]
struct Splitter {
    buffer: String,
}

impl Splitter {
    fn push(&mut self, chunk: &str) -> Vec<String> {
        self.buffer.push_str(chunk);
        let mut blocks = Vec::new();
        while let Some((block, rest)) = self.buffer.split_once("\n\n") {
            blocks.push(block.to_owned());
            self.buffer = rest.to_owned();
        }
        blocks
    }
}

#[test]
fn nothing_comes_out_and_everything_is_kept() {
    for event in ["data: tick\r\n\r\n", "data: tick\r\r"] {
        let mut splitter = Splitter::default();
        for _ in 0..10_000 {
            assert!(splitter.push(event).is_empty());
        }
        assert_eq!(splitter.buffer.len(), 10_000 * event.len());
    }
}

#[test]
fn the_parser_reads_every_line_ending_and_bounds_what_it_keeps() {
    for event in ["data: tick\r\n\r\n", "data: tick\r\r", "data: tick\n\n"] {
        let mut parser = Parser::new(Limits::default());
        for _ in 0..100 {
            let mut events = parser.push(event.as_bytes());
            assert_eq!(events.next().unwrap().unwrap().data, "tick");
            assert!(events.next().unwrap().is_none());
        }
    }
    let limits = Limits {
        line: 100,
        event: 1000,
    };
    let mut parser = Parser::new(limits);
    let stream = "data: never a blank line\n".repeat(100);
    assert_eq!(
        parser.push(stream.as_bytes()).next(),
        Err(ParseError::EventTooLarge(1000))
    );
}
