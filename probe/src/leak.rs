//! Text that a service must not show to strangers.

/// Beginnings of stack traces and names of internals, in the languages that serve streams.
const SIGNS: &[&str] = &[
	"panicked at ",
	"RUST_BACKTRACE",
	"Traceback (most recent call last)",
	"\n    at ",
	"<br> &nbsp; &nbsp;at ",
	"DEBUG = True",
	"Werkzeug Debugger",
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

/// Folders in which services keep their source. A URL has such a path too: only a path of a file counts.
const FOLDERS: &[&str] =
	&["/home/", "/Users/", "/usr/src/", "/usr/local/lib/", "node_modules/", "site-packages/", "src/main.rs", "C:\\"];

/// Endings of source files and libraries.
const SOURCES: &[&str] = &[
	"js", "mjs", "cjs", "ts", "mts", "tsx", "jsx", "py", "pyc", "rs", "go", "rb", "php", "java", "kt", "cs", "ex",
	"exs", "so", "dll", "jar", "sql", "env", "pem",
];

/// The first sign of a leak in `body`, with the text around it. `sent` is what the probe itself sent: a service may
/// repeat it.
pub(crate) fn find(body: &str, sent: &[&str]) -> Option<String> {
	let mut body = body.to_owned();
	for text in sent.iter().filter(|text| text.len() > 1) {
		body = body.replace(text, "…");
	}
	let at = SIGNS
		.iter()
		.find_map(|sign| sign_at(&body, sign))
		.or_else(|| FOLDERS.iter().find_map(|folder| file_at(&body, folder)))?;
	let from = body[..at].char_indices().rev().nth(30).map_or(0, |(index, _)| index);
	Some(body[from..].chars().take(110).collect())
}

fn sign_at(body: &str, sign: &str) -> Option<usize> {
	body.match_indices(sign).map(|(at, _)| at).find(|at| {
		if sign != "sk-" {
			return true;
		}
		// "sk-" alone is a part of many words: a key is long.
		let before = body[..*at].chars().next_back();
		let key = body[at + 3..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-' || *c == '_').count();
		key >= 16 && !before.is_some_and(char::is_alphanumeric)
	})
}

/// Where the path of a source file lies in `folder`: it has the ending of one, and is no part of a URL.
fn file_at(body: &str, folder: &str) -> Option<usize> {
	let ends = |c: char| c.is_whitespace() || "\"'`()<>[]{},;|".contains(c);
	body.match_indices(folder).map(|(at, _)| at).find(|at| {
		let begin = body[..*at].rfind(ends).map_or(0, |before| before + 1);
		let path = body[begin..].trim_start_matches(ends);
		let path = path.split(ends).next().unwrap_or_default();
		let file = path.trim_end_matches(|c: char| c.is_ascii_digit() || c == ':').trim_end_matches('.');
		let ending = file.rsplit('.').next().unwrap_or_default();
		let url = path.contains("://") && !path.starts_with("file://");
		!url && file.contains('.') && SOURCES.contains(&ending.to_ascii_lowercase().as_str())
	})
}

/// Whether a text speaks of a failure.
pub(crate) fn names_failure(text: &str) -> bool {
	let text = text.to_ascii_lowercase();
	["err", "fail", "exception", "traceback", "panic", "invalid", "refused"].iter().any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
	fn find(body: &str) -> Option<String> {
		super::find(body, &["/home/feed/stream-probe-missing"])
	}

	#[test]
	fn traces_and_keys_are_found_and_words_are_not() {
		assert!(find("thread 'main' panicked at src/lib.rs:3:5").is_some());
		assert!(find("Error: x\n    at Object.<anonymous> (/srv/app.js:1:1)").is_some());
		assert!(find("key sk-probe0123456789abcdef refused").is_some());
		assert!(find("the risk-free ask-me task-list of sk-1").is_none());
		assert!(find("404 Not Found").is_none());
	}

	#[test]
	fn a_path_of_a_file_is_found_and_a_url_is_not() {
		assert!(find("no module at /home/app/feed/server.js:10:5").is_some());
		assert!(find("cannot read '/Users/ada/shop/.env'").is_some());
		assert!(find("in C:\\app\\worker.py, line 7").is_some());
		assert!(find("Cannot GET /home/feed/stream-probe-missing").is_none());
		assert!(find("{\"next\":\"https://app.example/home/dashboard.js\"}").is_none());
		assert!(find("{\"path\":\"/Users/17\"}").is_none());
	}
}
