//! The event stream as the standard's prose has it: decode everything, split into lines, process the
//! fields. Slow, unbounded and not incremental, so that it can be compared with the text of HTML 9.2.6 by eye.

/// Events as (type, data, last event id), the last event id, and the reconnection time in milliseconds.
pub type Read = (Vec<(String, String, String)>, String, Option<u64>);

pub fn read(bytes: &[u8]) -> Read {
    let decoded = String::from_utf8_lossy(bytes);
    let text = decoded.strip_prefix('\u{FEFF}').unwrap_or(&decoded);
    let (mut events, mut last_event_id, mut retry) = (Vec::new(), String::new(), None);
    let (mut data, mut event_type, mut id) = (String::new(), String::new(), String::new());
    let lines = text.replace("\r\n", "\n").replace('\r', "\n");
    // What follows the last line ending is no line.
    let complete = lines.rfind('\n').map_or("", |end| &lines[..end]);
    if lines.contains('\n') {
        for line in complete.split('\n') {
            if line.is_empty() {
                last_event_id.clone_from(&id);
                if !data.is_empty() {
                    data.pop();
                    let name = if event_type.is_empty() {
                        "message"
                    } else {
                        &event_type
                    };
                    events.push((name.to_owned(), std::mem::take(&mut data), id.clone()));
                }
                event_type.clear();
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => event_type = value.to_owned(),
                "data" => {
                    data.push_str(value);
                    data.push('\n');
                }
                "id" if !value.contains('\0') => id = value.to_owned(),
                "retry" if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) => {
                    // The standard's number has no bound; the parser's stops at u64::MAX.
                    retry = Some(value.parse().unwrap_or(u64::MAX));
                }
                _ => {}
            }
        }
    }
    (events, last_event_id, retry)
}
