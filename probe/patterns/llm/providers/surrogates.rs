//! Halves of a character: some hosts cut text by UTF-16 index, and escape the two halves of an emoji in two events.
//!
//! A lonely half is not UTF-8, and JSON parsers refuse the record. It gets a stand-in from the private use area, which is joined
//! with the other half in the events, or becomes U+FFFD. Sibling: `decode`.

use std::collections::HashMap;

use crate::llm::model_event::ModelEvent;

/// Stand-ins are U+100000 to U+1007FF.
const FIRST: u32 = 0x10_0000;

/// `json` with its lonely halves replaced, `None` when it has none.
pub fn stand_in(json: &str) -> Option<String> {
    let unit = |at: usize| -> Option<u32> {
        let digits = json.get(at..)?.strip_prefix("\\u")?.get(..4)?;
        u32::from_str_radix(digits, 16).ok()
    };
    let (mut out, mut copied, mut at) = (String::new(), 0, 0);
    while let Some(found) = json.get(at..).and_then(|rest| rest.find('\\')) {
        at += found;
        match unit(at) {
            Some(0xD800..0xDC00) if matches!(unit(at + 6), Some(0xDC00..0xE000)) => at += 12,
            Some(half @ 0xD800..0xE000) => {
                out.push_str(&json[copied..at]);
                out.extend(char::from_u32(FIRST + half - 0xD800));
                at += 6;
                copied = at;
            }
            // The escaped character may be a backslash.
            _ => at += 1 + json[at + 1..].chars().next().map_or(0, char::len_utf8),
        }
    }
    (copied > 0).then(|| out + &json[copied..])
}

fn half(c: char) -> Option<u32> {
    let value = u32::from(c).checked_sub(FIRST)?;
    (value < 0x800).then_some(0xD800 + value)
}

fn is_high(c: char) -> bool {
    half(c).is_some_and(|half| half < 0xDC00)
}

fn joined(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match (half(c), rest.peek().copied().and_then(half)) {
            (Some(high @ ..0xDC00), Some(low @ 0xDC00..)) => {
                let pair = 0x1_0000 + ((high - 0xD800) << 10) + (low - 0xDC00);
                out.extend(char::from_u32(pair));
                rest.next();
            }
            (Some(_), _) => out.push(char::REPLACEMENT_CHARACTER),
            (None, _) => out.push(c),
        }
    }
    out
}

/// First halves that wait for the second, one a text.
#[derive(Debug, Default)]
pub struct Halves {
    waiting: HashMap<(u8, u32), char>,
}

impl Halves {
    /// Joins what came in the events from `from` on.
    pub fn join(&mut self, from: usize, events: &mut Vec<ModelEvent>) {
        for mut event in events.split_off(from) {
            let (text, place) = match &mut event {
                ModelEvent::Text(text) => (text, (0, 0)),
                ModelEvent::Reasoning(text) => (text, (1, 0)),
                ModelEvent::Refusal(text) => (text, (2, 0)),
                ModelEvent::ToolCallDelta { index, fragment } => (fragment, (3, *index)),
                ModelEvent::Other { raw, .. } => {
                    *raw = joined(raw);
                    events.push(event);
                    continue;
                }
                ModelEvent::Finish { tool_calls, .. } => {
                    for call in tool_calls {
                        call.arguments = joined(&call.arguments);
                    }
                    if self.waiting.remove(&(0, 0)).is_some() {
                        let lonely = char::REPLACEMENT_CHARACTER.to_string();
                        events.push(ModelEvent::Text(lonely));
                    }
                    events.push(event);
                    continue;
                }
                _ => {
                    events.push(event);
                    continue;
                }
            };
            let mut whole: String = self.waiting.remove(&place).into_iter().collect();
            whole.push_str(text);
            if whole.chars().next_back().is_some_and(is_high) {
                self.waiting.extend(whole.pop().map(|half| (place, half)));
            }
            *text = joined(&whole);
            if !text.is_empty() {
                events.push(event);
            }
        }
    }
}
