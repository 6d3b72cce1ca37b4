//! Fences that are copies of source files, and their comparison with the source.

use std::fs;
use std::path::Path;

/// Languages whose fences must name their source. `rs` is a piece of a Rust file that does not compile without the rest of
/// it: skeptic leaves it out.
const CHECKED: [&str; 11] = [
    "rust", "rs", "ts", "tsx", "js", "python", "http", "nginx", "haproxy", "caddy", "yaml",
];

/// A fenced block of a document.
#[derive(Debug, Clone)]
pub struct Fence {
    /// The first word after the backticks.
    pub language: String,
    /// `path#anchor` of the comment above, where there is one.
    pub from: Option<String>,
    /// Index of the line with the opening backticks.
    pub open: usize,
    /// Index of the line with the closing backticks.
    pub close: usize,
    pub content: String,
}

/// All fences of `text`, in order.
pub fn parse(text: &str) -> Result<Vec<Fence>, String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut fences = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let Some(info) = lines[at].trim_start().strip_prefix("```") else {
            at += 1;
            continue;
        };
        let open = at;
        let close = lines[open + 1..]
            .iter()
            .position(|line| line.trim() == "```")
            .map(|offset| open + 1 + offset)
            .ok_or_else(|| format!("line {}: the fence is never closed", open + 1))?;
        let above = lines[..open].iter().rev().find(|l| !l.trim().is_empty());
        fences.push(Fence {
            language: info
                .trim()
                .split([',', ' '])
                .next()
                .unwrap_or("")
                .to_owned(),
            from: above.and_then(|line| directive(line, "from")),
            open,
            close,
            content: lines[open + 1..close].join("\n"),
        });
        at = close + 1;
    }
    Ok(fences)
}

/// The argument of a line `<!-- name: argument -->`.
pub fn directive(line: &str, name: &str) -> Option<String> {
    let inner = line.trim().strip_prefix("<!--")?.strip_suffix("-->")?;
    let argument = inner.trim().strip_prefix(name)?.strip_prefix(':')?;
    Some(argument.trim().to_owned())
}

/// The text that `from` means: `path`, `path#anchor`, or `path.snap#2`, the second exchange of a transcript. `path.snap#2 to TEXT` ends
/// it with the first line that contains TEXT, `path.snap#2 after TEXT` begins it after that line.
pub fn source(root: &Path, from: &str) -> Result<String, String> {
    let (path, anchor) = match from.split_once('#') {
        Some((path, anchor)) => (path, Some(anchor)),
        None => (from, None),
    };
    let text = fs::read_to_string(root.join(path)).map_err(|e| format!("{path}: {e}"))?;
    if path.ends_with(".snap") {
        let body = snapshot_body(&text).ok_or_else(|| format!("{path}: not a snapshot file"))?;
        return match anchor {
            None => Ok(body.to_owned()),
            Some(part) => {
                exchange(body, part).ok_or_else(|| format!("{path}: no exchange named {part}"))
            }
        };
    }
    let text = &text;
    let lines: Vec<&str> = match anchor {
        None => text.lines().collect(),
        Some(anchor) => {
            let begin = marker(text, "ANCHOR", anchor);
            let end = marker(text, "ANCHOR_END", anchor);
            match (begin.as_slice(), end.as_slice()) {
                ([begin], [end]) if begin < end => {
                    text.lines().collect::<Vec<_>>()[begin + 1..*end].to_vec()
                }
                ([], _) | (_, []) => return Err(format!("{path}: no region named {anchor}")),
                _ => return Err(format!("{path}: the region {anchor} is not marked once")),
            }
        }
    };
    let lines: Vec<&str> = lines
        .into_iter()
        .filter(|line| !line.contains("ANCHOR: ") && !line.contains("ANCHOR_END: "))
        .collect();
    Ok(dedent(&lines))
}

fn marker(text: &str, kind: &str, name: &str) -> Vec<usize> {
    let wanted = format!("{kind}: {name}");
    text.lines()
        .enumerate()
        .filter(|(_, line)| {
            line.split_once(&wanted).is_some_and(|(before, after)| {
                !before.ends_with("_") && (after.is_empty() || after.starts_with([' ', '*', '-']))
            })
        })
        .map(|(at, _)| at)
        .collect()
}

/// An insta snapshot without its header.
fn snapshot_body(text: &str) -> Option<&str> {
    let rest = text.strip_prefix("---\n")?;
    let at = rest.find("\n---\n")?;
    Some(rest[at + 5..].trim_matches('\n'))
}

/// A part of a transcript: see [`source`].
fn exchange(body: &str, part: &str) -> Option<String> {
    let (number, cut) = part.split_once(' ').unwrap_or((part, ""));
    let starts = |line: &&str| {
        let request = line.split_once(" /").map(|(method, _)| method);
        matches!(
            request,
            Some("GET" | "HEAD" | "POST" | "DELETE" | "OPTIONS")
        )
    };
    let lines: Vec<&str> = body.lines().collect();
    let mut begins = (0..lines.len()).filter(|at| starts(&lines[*at]));
    let begin = begins.nth(number.parse::<usize>().ok()?.checked_sub(1)?)?;
    let mut lines = &lines[begin..begins.next().unwrap_or(lines.len())];
    if let Some((how, text)) = cut.split_once(' ') {
        let at = 1 + lines.iter().position(|line| line.contains(text))?;
        lines = match how {
            "to" => &lines[..at],
            "after" => &lines[at..],
            _ => return None,
        };
    }
    Some(lines.join("\n").trim_matches('\n').to_owned())
}

fn dedent(lines: &[&str]) -> String {
    let indent = lines
        .iter()
        .filter(|l| !l.trim().is_empty())
        .map(|l| l.len() - l.trim_start().len())
        .min()
        .unwrap_or(0);
    let text: Vec<&str> = lines
        .iter()
        // Only a blank line may be shorter. Blanks at the end of a line stay: `data: ` is not `data:`.
        .map(|l| l.get(indent..).unwrap_or(""))
        .collect();
    text.join("\n").trim_matches('\n').to_owned()
}

/// Compares every fence of `document` with its source; returns the corrected text and the problems.
pub fn sync(root: &Path, document: &Path, text: &str) -> (String, Vec<String>) {
    let name = document.display();
    let mut problems = Vec::new();
    if text.contains("{{#") {
        problems.push(format!(
            "{name}: {{{{#include}}}} is not used here: a reader of the raw chapter sees only the directive; write <!-- from: path#anchor -->"
        ));
    }
    let fences = match parse(text) {
        Ok(fences) => fences,
        Err(e) => return (text.to_owned(), vec![format!("{name}: {e}")]),
    };
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for fence in fences.iter().rev() {
        let line = fence.open + 1;
        let Some(from) = &fence.from else {
            if CHECKED.contains(&fence.language.as_str()) {
                problems.push(format!(
                    "{name}:{line}: a {} fence without <!-- from: path#anchor --> above it",
                    fence.language
                ));
            }
            continue;
        };
        match source(root, from) {
            Err(e) => problems.push(format!("{name}:{line}: {e}")),
            Ok(wanted) if wanted.contains("\n```") => {
                problems.push(format!("{name}:{line}: {from} contains a fence itself"));
            }
            Ok(wanted) if wanted != fence.content => {
                problems.push(format!(
                    "{name}:{line}: differs from {from}; `cargo xtask sync` rewrites it"
                ));
                lines.splice(
                    fence.open + 1..fence.close,
                    wanted.lines().map(str::to_owned),
                );
            }
            Ok(_) => {}
        }
    }
    problems.reverse();
    (lines.join("\n") + "\n", problems)
}
