//! Where a line comes from: of `book/src/sse/serve.md:212`, the line of the source that has to be edited.

use std::fs;
use std::path::Path;

use super::checklist::{self, TOPICS};
use super::fences::{self, directive};
use super::{copying, generated, sync};

/// The source of line `line` of `path` (from the root, with `/`), and what to do there.
pub fn find(root: &Path, path: &str, line: usize) -> Result<String, String> {
    let text = fs::read_to_string(root.join(path))
        .map_err(|e| format!("{path} cannot be read ({e}): name a file of the repository"))?;
    let lines: Vec<&str> = text.lines().collect();
    let Some(shown) = line.checked_sub(1).and_then(|at| lines.get(at)) else {
        return Err(format!(
            "{path} has {} lines, no line {line}: choose one of them",
            lines.len()
        ));
    };
    if path == "audit.txt" {
        let id = shown
            .split(':')
            .nth(2)
            .unwrap_or_default()
            .trim_end_matches('?');
        return item(root, id).ok_or_else(|| {
            format!("{path}:{line}: no checklist item {id}: run `cargo xtask sync`")
        });
    }
    if path == copying::TABLE {
        return Ok(format!(
            "{path} is made by xtask/src/copying.rs from the sources, the chapters and the lock files"
        ));
    }
    let copied = sync::copies(root)
        .into_iter()
        .find(|(copy, _)| copy == Path::new(path));
    if let Some((_, Some(source))) = copied {
        return Ok(format!("{}:{line}", source.display()));
    }
    if !path.ends_with(".md") {
        return Ok(format!("{path}:{line} is written by hand: edit it there"));
    }
    for fence in fences::parse(&text)? {
        if (fence.open..=fence.close).contains(&(line - 1)) {
            let Some(from) = fence.from else { break };
            let nth = (line - 1).saturating_sub(fence.open + 1);
            let file = from.split('#').next().unwrap_or(&from);
            let hint = match file.ends_with(".snap") {
                true => {
                    " (a snapshot: change the code, then run its test with INSTA_UPDATE=always)"
                }
                false => "",
            };
            let place = located(root, &from)?
                .get(nth)
                .map_or(file.to_owned(), |at| format!("{file}:{at}"));
            return Ok(place + hint);
        }
    }
    let Some((kind, argument, opened)) = block(&lines, line - 1) else {
        return Ok(format!("{path}:{line} is written by hand: edit it there"));
    };
    let name = |marks: &str| {
        let spans = shown.split('`').skip(1).step_by(2);
        if marks == "first" {
            spans.map(str::to_owned).next()
        } else {
            spans.map(str::to_owned).last()
        }
    };
    match kind {
        "copy" => {
            // Empty lines at both ends are not copied.
            let source = fs::read_to_string(root.join(&argument)).unwrap_or_default();
            let skipped = source
                .lines()
                .take_while(|line| line.trim().is_empty())
                .count();
            let before = lines[opened + 1..line - 1]
                .iter()
                .skip_while(|line| line.is_empty())
                .count();
            let copied = source.trim_end().lines().count();
            find(root, &argument, (skipped + before + 1).min(copied))
        }
        "checklist" => {
            let found = name("first").and_then(|id| item(root, &id));
            Ok(found.unwrap_or_else(|| format!("checklist/*.jsonl: computed from the items of {argument} by xtask/src/generated.rs")))
        }
        "anti-patterns" => {
            let (twins, _) = generated::twins(root);
            let of = name("last").unwrap_or_default();
            let twin = twins.iter().find(|twin| {
                twin.path
                    .file_name()
                    .and_then(|n| n.to_str())
                    .is_some_and(|file| file.split('.').next() == of.split('.').next())
            });
            Ok(twin.map_or(
                "headers of snippets/tests/anti_patterns/*.rs".to_owned(),
                |twin| {
                    format!(
                        "{}: the lines Wrong:, Harm: and Instead: at its start",
                        twin.path.display()
                    )
                },
            ))
        }
        "bench" => Ok(format!("measured: `{}` writes it", bench(path))),
        _ => Ok("xtask/src/checklist.rs: KINDS and SYMPTOMS".to_owned()),
    }
}

/// For each line that `from` shows, its number in the file.
fn located(root: &Path, from: &str) -> Result<Vec<usize>, String> {
    let shown = fences::source(root, from)?;
    let (path, anchor) = from.split_once('#').unwrap_or((from, ""));
    let text = fs::read_to_string(root.join(path)).map_err(|e| format!("{path}: {e}"))?;
    let mark = format!("ANCHOR: {anchor}");
    let region = text
        .lines()
        .position(|line| !anchor.is_empty() && line.contains(&mark))
        .unwrap_or(0);
    let lines: Vec<(usize, &str)> = (1..)
        .zip(text.lines())
        .skip(region)
        .filter(|(_, line)| !line.contains("ANCHOR: ") && !line.contains("ANCHOR_END: "))
        .collect();
    let shown: Vec<&str> = shown.lines().map(str::trim).collect();
    let same = |window: &&[(usize, &str)]| {
        window
            .iter()
            .map(|(_, line)| line.trim())
            .eq(shown.iter().copied())
    };
    let found = lines.windows(shown.len().max(1)).find(same);
    Ok(found.into_iter().flatten().map(|(at, _)| *at).collect())
}

/// The generated block around line `at`: its kind, its argument and the index of its first line.
fn block(lines: &[&str], at: usize) -> Option<(&'static str, String, usize)> {
    ["checklist", "anti-patterns", "endpoints", "copy", "bench"]
        .into_iter()
        .find_map(|kind| {
            let opens = |line: &&str| {
                let plain = format!("<!-- {kind} -->");
                directive(line, kind).or_else(|| (line.trim() == plain).then(String::new))
            };
            let opened = lines[..at].iter().rposition(|line| opens(line).is_some())?;
            let end = format!("<!-- /{kind} -->");
            let closed = lines[opened..at].iter().any(|line| line.trim() == end);
            (!closed).then(|| (kind, opens(&lines[opened]).unwrap_or_default(), opened))
        })
}

/// The benchmark that writes into `page`.
fn bench(page: &str) -> &'static str {
    match page {
        "book/src/websocket/rooms.md" => "cargo bench -p snippets --bench websocket",
        "book/src/llm/relay.md" => "cargo bench -p snippets --bench relay",
        _ => "cargo bench -p snippets --bench streams",
    }
}

/// File and line of the checklist item `id`.
fn item(root: &Path, id: &str) -> Option<String> {
    let known = checklist::read_all(root)
        .ok()?
        .into_iter()
        .any(|item| item.id == id);
    TOPICS.iter().filter(|_| known).find_map(|(topic, _, _)| {
        let path = format!("checklist/{topic}.jsonl");
        let text = fs::read_to_string(root.join(&path)).ok()?;
        let at = text
            .lines()
            .position(|line| line.contains(&format!("\"id\": \"{id}\"")))?;
        Some(format!("{path}:{}", at + 1))
    })
}
