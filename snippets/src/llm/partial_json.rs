//! Structured output, or the arguments of a call, while the model writes them: a view for the page.
//!
//! Use it to show a form that fills up, once per frame and not per token: each view reads the text from its start. Guarantees: a number, a
//! key or a literal is in the view only when it is complete, since half of `100` is 10; strings grow. It is not a result: parse the whole
//! text into your own type after the finish reason, and check it there, once. Needs no other file.

// ANCHOR: view
use serde_json::Value;

/// What `text`, the start of a JSON document, has so far; `None` before its first value.
pub fn view(text: &str) -> Option<Value> {
    // The closers of what is open, and the last place at which closing it gives JSON.
    let (mut open, mut safe) = (Vec::<char>::new(), None);
    // In an object, the next string is a key. In a string: whether it is a key, and where its last escape begins.
    let (mut key, mut string, mut escape) = (false, None::<bool>, None::<usize>);
    for (at, c) in text.char_indices() {
        if let Some(is_key) = string {
            match (escape, c) {
                (Some(start), 'u') if at == start + 1 => {}
                (Some(start), _) if at < start + 5 && text[start + 1..].starts_with('u') => {}
                (Some(start), _) if at == start + 1 => escape = None,
                (_, '\\') => escape = Some(at),
                (_, '"') => {
                    (string, escape) = (None, None);
                    if !is_key {
                        safe = Some((at + 1, open.clone()));
                    }
                }
                _ => escape = None,
            }
            if escape.is_some_and(|start| at == start + 5) {
                escape = None;
            }
            continue;
        }
        match c {
            '"' => string = Some(key),
            ':' => key = false,
            ',' => {
                safe = Some((at, open.clone()));
                key = open.last() == Some(&'}');
            }
            '{' | '[' => {
                open.push(if c == '{' { '}' } else { ']' });
                safe = Some((at + 1, open.clone()));
                key = c == '{';
            }
            '}' | ']' => {
                open.pop();
                safe = Some((at + 1, open.clone()));
            }
            _ => {}
        }
    }
    let close = |end: usize, quote: &str, open: &[char]| -> Option<Value> {
        let closers: String = open.iter().rev().collect();
        serde_json::from_str(&format!("{}{quote}{closers}", &text[..end])).ok()
    };
    let growing = (string == Some(false)).then(|| escape.unwrap_or(text.len()));
    // Without the half of a surrogate pair.
    let ends = |end: usize| {
        [
            Some(end),
            end.checked_sub(6).filter(|end| text.is_char_boundary(*end)),
        ]
    };
    let growing = growing.and_then(|end| {
        let mut ends = ends(end).into_iter().flatten();
        ends.find_map(|end| close(end, "\"", &open))
    });
    growing.or_else(|| safe.and_then(|(end, open)| close(end, "", &open)))
}
// ANCHOR_END: view
