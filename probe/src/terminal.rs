//! The terminal event of a service's own shape (`--terminal`).

use serde_json::Value;

use crate::wire_log::Event;

/// How a terminal event is recognized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Terminal {
    /// By its event name, its whole data, or the `type` in its JSON.
    Name(String),
    /// By a field of its JSON: keys and indexes joined by dots, and the value, as JSON or as text.
    /// Without a value any but `null` and `false` counts.
    Field(String, Option<String>),
}

impl Terminal {
    /// Reads `NAME`, `event:NAME`, `data:TEXT`, `PATH=VALUE` or `.PATH`.
    pub fn parse(text: &str) -> Self {
        if let Some(name) = text
            .strip_prefix("event:")
            .or_else(|| text.strip_prefix("data:"))
        {
            return Self::Name(name.trim().to_owned());
        }
        if let Some(path) = text.strip_prefix('.') {
            return match path.split_once('=') {
                Some((path, value)) => Self::Field(path.to_owned(), Some(value.to_owned())),
                None => Self::Field(path.to_owned(), None),
            };
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        match text.split_once('=') {
            Some((path, value)) if !path.is_empty() && path.chars().all(plain) => {
                Self::Field(path.to_owned(), Some(value.to_owned()))
            }
            _ => Self::Name(text.to_owned()),
        }
    }

    pub(crate) fn matches(&self, event: &Event, json: Option<&Value>) -> bool {
        match self {
            Self::Name(name) => {
                let inner = json
                    .and_then(|json| json.get("type"))
                    .and_then(Value::as_str);
                *name == event.event_type || *name == event.data.trim() || inner == Some(name)
            }
            Self::Field(path, value) => {
                let pointer = format!("/{}", path.replace('.', "/"));
                let found = json.and_then(|json| json.pointer(&pointer));
                match (found, value) {
                    (Some(Value::String(found)), Some(value)) => found == value,
                    (Some(found), Some(value)) => {
                        serde_json::from_str(value).is_ok_and(|value: Value| value == *found)
                    }
                    (Some(found), None) => !matches!(found, Value::Null | Value::Bool(false)),
                    (None, _) => false,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_event_is_named_by_name_data_or_field() {
        let is = |terminal: &str, name: &str, data: &str| {
            let event = Event::new(std::time::Instant::now(), name, data, None);
            let json = serde_json::from_str(data).ok();
            Terminal::parse(terminal).matches(&event, json.as_ref())
        };
        assert!(is("over", "over", "{}"));
        assert!(is("over", "message", "{\"type\":\"over\"}"));
        assert!(is("event:over", "over", "{}"));
        assert!(is("data:OVER", "message", "OVER"));
        assert!(is("stop=true", "message", "{\"stop\":true,\"timings\":{}}"));
        assert!(!is("stop=true", "message", "{\"stop\":false}"));
        assert!(is(
            "meta.kind=end",
            "message",
            "{\"meta\":{\"kind\":\"end\"}}"
        ));
        assert!(is(
            ".choices.0.finish_reason",
            "message",
            "{\"choices\":[{\"finish_reason\":\"stop\"}]}"
        ));
        assert!(!is(
            ".choices.0.finish_reason",
            "message",
            "{\"choices\":[{\"finish_reason\":null}]}"
        ));
    }
}
