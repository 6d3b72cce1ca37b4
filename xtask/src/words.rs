//! Words that readers stumble over: private vocabulary, British spelling, decoration.

use std::fs;
use std::path::{Path, PathBuf};

/// A pattern that no text may contain (case-insensitive, from a word's start), and what to write.
const OUT: [(&str, &str); 34] = [
    (r"for ever\b", "forever"),
    (r"mend(s|ed|ing)?\b", "fix"),
    (r"wrong twins?\b", "anti-pattern test, counterexample"),
    (r"the inside\b", "internals"),
    (r"stands? in\b", "is in"),
    (r"stands? for\b", "represents, simulates"),
    (r"(stands?|stood) still\b", "is frozen, is not polled"),
    (r"anew\b", "again; restarts, resets"),
    (r"shall\b", "must"),
    (r"somebody\b", "someone, another user"),
    (r"everybody\b", "everyone"),
    (r"whoever\b", "anyone who"),
    (r"belongs? into\b", "belongs in"),
    (r"put together from\b", "built from"),
    (r"beside\b", "next to, in addition to"),
    (r"in the moment\b", "as soon as"),
    (r"at the latest\b", "by"),
    (r"(is|are|was|be) told\b", "is notified, receives"),
    (r"comes? back\b", "reconnects, returns"),
    (r"for good\b", "permanently"),
    (r"all the same\b", "anyway"),
    (r"by (itself|themselves)\b", "automatically, on its own"),
    (r"provider's words\b", "provider text"),
    (r"look(s|ed|ing)? at\b", "read, check"),
    (r"a look at\b", "a check of, a review of"),
    (r"catalogued?\b", "the document has to be here"),
    (r"(silence|idle) limit\b", "idle timeout"),
    (r"(sanitis|authoris|serialis|recognis)", "z"),
    (r"behaviour", "behavior"),
    (r"robust\b", "the number, the cause or the test"),
    (r"seamless", "the number, the cause or the test"),
    (r"leverag", "use"),
    (r"note that\b", "nothing"),
    (r"goes on\b", "continues"),
];

/// Problems of the words that readers see: prose of Markdown, items, and comments of what is copied or run.
pub fn check(root: &Path) -> Vec<String> {
    let patterns: Vec<(regex::Regex, &str)> = OUT
        .iter()
        .map(|(out, instead)| {
            let pattern = regex::Regex::new(&format!(r"(?i)\b{out}")).unwrap();
            (pattern, *instead)
        })
        .collect();
    let mut problems = Vec::new();
    for (path, at, line) in lines(root) {
        for (pattern, instead) in &patterns {
            if let Some(found) = pattern.find(&line) {
                problems.push(format!(
                    "{}:{at}: not \"{}\" but {instead}",
                    path.display(),
                    found.as_str()
                ));
            }
        }
    }
    problems
}

/// The prose of every file that a reader sees: file, line and the words without code.
fn lines(root: &Path) -> Vec<(PathBuf, usize, String)> {
    let mut documents = super::documents(root);
    documents.push(PathBuf::from("probe/README.md"));
    for folder in [
        "checklist",
        "snippets/src",
        "snippets/typescript/src",
        "probe/src",
        "services",
        "src",
    ] {
        super::walk(root, Path::new(folder), &mut |path| {
            documents.push(path.to_owned())
        });
    }
    let code = regex::Regex::new(r"`[^`]*`|\]\([^)]*\)|<!--.*?-->").unwrap();
    let comment = regex::Regex::new(r"^\s*(?://[/!]?|/?\*\*?)(.*)").unwrap();
    let tail = regex::Regex::new(r"[;,{})]\s+// (.*)").unwrap();
    let item = regex::Regex::new(r#""(?:text|look_for)": "([^"]*)""#).unwrap();
    let mut found = Vec::new();
    for path in documents {
        let text = fs::read_to_string(root.join(&path)).unwrap_or_default();
        let kind = path.extension().and_then(|e| e.to_str()).unwrap_or("");
        let mut in_fence = false;
        for (at, line) in text.lines().enumerate() {
            let prose = match kind {
                "md" => {
                    in_fence ^= line.trim_start().starts_with("```");
                    if in_fence {
                        String::new()
                    } else {
                        line.to_owned()
                    }
                }
                "jsonl" => item
                    .captures_iter(line)
                    .map(|c| format!("{} ", &c[1]))
                    .collect(),
                "rs" | "ts" | "tsx" => {
                    let words = comment.captures(line).or_else(|| tail.captures(line));
                    words.map(|c| c[1].to_owned()).unwrap_or_default()
                }
                _ => String::new(),
            };
            if !prose.is_empty() {
                found.push((
                    path.clone(),
                    at + 1,
                    code.replace_all(&prose, "`").into_owned(),
                ));
            }
        }
    }
    found
}
