//! Size and shape of the chapters: focused guidance helps a reader, long guidance harms.

use std::fs;
use std::path::Path;

/// Tokens are counted as characters / 4, as the stores do.
pub const CHAPTER_TOKENS: usize = 4_000;

/// Lines of the longest listing of a chapter. A longer one is shown as its pieces, each after a sentence that explains it.
pub const LISTING_LINES: usize = 60;

const HEADINGS: [&str; 5] = [
    "Code",
    "Guarantees",
    "On the wire",
    "What goes wrong",
    "Verify",
];

/// Tokens of `text`.
pub fn tokens(text: &str) -> usize {
    text.chars().count().div_ceil(4)
}

/// Whether `document` is the chapter of a pattern (`book/src/<topic>/<pattern>.md`).
pub fn is_chapter(document: &Path) -> bool {
    let parts: Vec<_> = document.iter().filter_map(|p| p.to_str()).collect();
    matches!(parts.as_slice(), ["book", "src", topic, _]
        if super::checklist::TOPICS.iter().any(|(name, _, _)| name == topic))
}

/// Problems of the chapter's size and of its headings.
pub fn check(root: &Path, document: &Path) -> Vec<String> {
    let name = document.display();
    let text = match fs::read_to_string(root.join(document)) {
        Ok(text) => text,
        Err(e) => return vec![format!("{name}: {e}")],
    };
    let mut problems = Vec::new();
    let used = tokens(&text);
    if used > CHAPTER_TOKENS {
        problems.push(format!(
            "{name}: {used} tokens, the budget is {CHAPTER_TOKENS}"
        ));
    }
    for fence in super::fences::parse(&text).unwrap_or_default() {
        let lines = fence.close - fence.open - 1;
        if lines > LISTING_LINES {
            problems.push(format!(
                "{name}:{}: a listing of {lines} lines, the limit is {LISTING_LINES}: show its pieces (ANCHOR), each after a sentence",
                fence.open + 1
            ));
        }
    }
    let mut in_fence = false;
    let found: Vec<&str> = text
        .lines()
        .filter(|line| {
            if line.starts_with("```") {
                in_fence = !in_fence;
            }
            !in_fence
        })
        .filter_map(|line| line.strip_prefix("## "))
        .map(str::trim)
        .collect();
    let known: Vec<&str> = HEADINGS.into_iter().filter(|h| found.contains(h)).collect();
    let in_order: Vec<&str> = found
        .iter()
        .copied()
        .filter(|h| HEADINGS.contains(h))
        .collect();
    if known != in_order {
        problems.push(format!(
            "{name}: the headings stand in the order {HEADINGS:?}"
        ));
    }
    for heading in HEADINGS {
        if !found.contains(&heading) && heading != "On the wire" {
            problems.push(format!("{name}: no heading `## {heading}`"));
        }
    }
    if !text.starts_with("# ") {
        problems.push(format!("{name}: begins with its title"));
    }
    problems
}
