//! The built book: the program's own build, which refuses one that warns or has a dead link, and no
//! chapter left out of it.

use std::fs;
use std::path::Path;

use streaming_api_patterns::book;

/// Builds the book of `root` into `out`; returns why it is refused.
pub fn build(root: &Path, out: &Path) -> Vec<String> {
    let refused = book::build(root, out).err();
    refused.map(|e| format!("{e:#}")).into_iter().collect()
}

/// Chapters that exist and that SUMMARY.md does not list; live examples of chapters that the page of all does not list.
pub fn unlisted(root: &Path) -> Vec<String> {
    let live = regex::Regex::new(r#"<div data-live="([^"]*)""#).unwrap();
    let examples = fs::read_to_string(root.join("book/src/live.md")).unwrap_or_default();
    let summary = fs::read_to_string(root.join("book/src/SUMMARY.md")).unwrap_or_default();
    let mut problems = Vec::new();
    super::walk(root, Path::new("book/src"), &mut |path| {
        let name = path
            .strip_prefix("book/src")
            .unwrap()
            .to_string_lossy()
            .into_owned();
        if name.ends_with(".md") && name != "SUMMARY.md" && !summary.contains(&format!("({name})"))
        {
            problems.push(format!("book/src/SUMMARY.md does not list {name}"));
        }
        let text = fs::read_to_string(root.join(path)).unwrap_or_default();
        for example in live.captures_iter(&text).map(|found| found[1].to_owned()) {
            let listed = [
                format!("data-example=\"{example}\""),
                format!("data-live=\"{example}\""),
            ];
            if name.ends_with(".md") && !listed.iter().any(|mark| examples.contains(mark)) {
                problems.push(format!(
                    "book/src/live.md does not list {example} of {name}"
                ));
            }
        }
    });
    problems
}
