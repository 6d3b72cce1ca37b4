//! SUMMARY.md lists every page, SKILL.md sends readers to every chapter, and `live.md`, where there is one, shows every live example.

use std::fs;
use std::path::Path;

/// Chapters and live examples that a list leaves out.
pub fn check(root: &Path) -> Vec<String> {
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let (summary, skill) = (read("book/src/SUMMARY.md"), read("SKILL.md"));
    let all_live = fs::read_to_string(root.join("book/src/live.md")).ok();
    let live = regex::Regex::new(r#"<div data-live="([^"]*)""#).unwrap();
    let mut problems = Vec::new();
    super::walk(root, Path::new("book/src"), &mut |path| {
        let page = path.strip_prefix("book/src").unwrap_or(path);
        let page = page.to_string_lossy().replace('\\', "/");
        let Some(name) = page.strip_suffix(".md").filter(|name| *name != "SUMMARY") else {
            return;
        };
        if !summary.contains(&format!("({page})")) {
            problems.push(format!("book/src/SUMMARY.md does not list {page}"));
        }
        let named = [format!("`{name}`"), format!("book/src/{page}")];
        if super::budgets::is_chapter(path) && !named.iter().any(|name| skill.contains(name)) {
            problems.push(format!(
                "SKILL.md: no row of \"Copy and read\" names `{name}`: an agent would not find the chapter"
            ));
        }
        let Some(all_live) = &all_live else { return };
        for example in live.captures_iter(&read(&format!("book/src/{page}"))) {
            let marks = ["example", "live"].map(|mark| format!("data-{mark}=\"{}\"", &example[1]));
            if !marks.iter().any(|mark| all_live.contains(mark)) {
                problems.push(format!(
                    "book/src/live.md does not list {} of {page}",
                    &example[1]
                ));
            }
        }
    });
    problems
}
