//! Text that a service must not show to strangers.

/// What begins a stack trace or names the inside of a service, in the languages that serve streams.
const SIGNS: &[&str] = &[
    "panicked at ",
    "RUST_BACKTRACE",
    "Traceback (most recent call last)",
    "\n    at ",
    "<br> &nbsp; &nbsp;at ",
    "node_modules/",
    "site-packages/",
    "src/main.rs",
    "/usr/src/",
    "/usr/local/lib/",
    "/home/",
    "/Users/",
    "C:\\",
    ".cargo/registry",
    "goroutine 1 [",
    "java.lang.",
    "SQLSTATE",
    "syntax error at or near",
    "ECONNREFUSED",
    "Connection refused (os error",
    "postgres://",
    "postgresql://",
    "mysql://",
    "mongodb://",
    "mongodb+srv://",
    "redis://",
    "amqp://",
    "-----BEGIN ",
    "sk-",
];

/// The first sign of a leak in `body`, with what stands around it.
pub(crate) fn find(body: &str) -> Option<String> {
    for sign in SIGNS {
        let Some(at) = body.find(sign) else { continue };
        // "sk-" alone is a part of many words: a key is long.
        if *sign == "sk-" {
            let before = body[..at].chars().next_back();
            let key = body[at + 3..]
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '-' || *c == '_')
                .count();
            if key < 16 || before.is_some_and(char::is_alphanumeric) {
                continue;
            }
        }
        let from = body[..at]
            .char_indices()
            .rev()
            .nth(30)
            .map_or(0, |(index, _)| index);
        let around: String = body[from..].chars().take(110).collect();
        return Some(around);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn traces_and_keys_are_found_and_words_are_not() {
        assert!(find("thread 'main' panicked at src/lib.rs:3:5").is_some());
        assert!(find("Error: x\n    at Object.<anonymous> (/srv/app.js:1:1)").is_some());
        assert!(find("key sk-probe0123456789abcdef refused").is_some());
        assert!(find("the risk-free ask-me task-list of sk-1").is_none());
        assert!(find("404 Not Found").is_none());
    }
}
