//! The checklist: one JSON object a line in `checklist/<topic>.jsonl`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

/// Topics in the order of every tree of the pack, with the heading of each and the prefix of its ids.
pub const TOPICS: [(&str, &str, &str); 5] = [
    ("sse", "Server-Sent Events", "sse-"),
    ("websocket", "WebSockets", "ws-"),
    ("streams", "Streams and backpressure", "stream-"),
    ("llm", "LLM token streaming", "llm-"),
    ("production", "Production", "prod-"),
];

/// The groups of the checklist's page, with the heading of each. The first five are the topics' own.
pub const GROUPS: [(&str, &str); 7] = [
    ("sse", "Server-Sent Events"),
    ("websocket", "WebSockets"),
    ("streams", "Streams and backpressure"),
    ("llm", "LLM token streaming"),
    ("security", "Security"),
    ("operations", "Operations"),
    ("testing", "Testing"),
];

/// What a reader may have in front of them. `streams` and `production` concern every server.
pub const ENDPOINTS: [&str; 8] = [
    "SSE server",
    "SSE client",
    "WebSocket server",
    "WebSocket client",
    "LLM relay",
    "MCP server",
    "TypeScript server",
    "page",
];
/// Stands for all servers of [`ENDPOINTS`].
pub const EVERY_SERVER: &str = "every server";

#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Must,
    Should,
}

/// Where a statement comes from that no test can prove.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    pub url: String,
    pub date: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    pub id: String,
    pub level: Level,
    pub chapter: String,
    pub text: String,
    /// One of [`GROUPS`], where it is not the one of the chapter.
    group: Option<String>,
    #[serde(default)]
    pub proof: Vec<String>,
    pub source: Option<Source>,
    pub probe: bool,
}

impl Item {
    /// Its group: as written, or of its chapter.
    pub fn group(&self) -> &str {
        let (topic, name) = self.chapter.split_once('/').unwrap_or_default();
        match (&self.group, topic, name) {
            (Some(group), _, _) => group,
            (_, _, "protect" | "rates") => "security",
            (_, "testing", _) => "testing",
            (_, "production", name) if name.contains("test") || name.contains("load") => "testing",
            (_, "production", _) => "operations",
            _ => topic,
        }
    }

    /// What it is asked of.
    pub fn endpoints(&self) -> &'static [&'static str] {
        let (topic, name) = self.chapter.split_once('/').unwrap_or_default();
        match (topic, name) {
            (_, name) if name.starts_with("next") || name.starts_with("node") => {
                &["TypeScript server"]
            }
            ("streams", "readable") => &["TypeScript server"],
            (_, "browser" | "event-source" | "react") => &["page"],
            ("sse", "wire") => &["SSE server", "SSE client"],
            ("sse", "consume") => &["SSE client"],
            ("websocket", "client") => &["WebSocket client"],
            ("llm", "mcp") => &["MCP server"],
            ("sse", _) => &["SSE server"],
            ("websocket", _) => &["WebSocket server"],
            ("llm", _) => &["LLM relay"],
            _ => &[EVERY_SERVER],
        }
    }
}

/// The items of `topic`, sorted by chapter in the order of the book, then as written.
pub fn read(root: &Path, topic: &str) -> Result<Vec<Item>, String> {
    let path = format!("checklist/{topic}.jsonl");
    let text = fs::read_to_string(root.join(&path)).map_err(|e| format!("{path}: {e}"))?;
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(at, line)| serde_json::from_str(line).map_err(|e| format!("{path}:{}: {e}", at + 1)))
        .collect()
}

pub fn read_all(root: &Path) -> Result<Vec<Item>, String> {
    let mut items = Vec::new();
    for (topic, _, _) in TOPICS {
        items.extend(read(root, topic)?);
    }
    Ok(items)
}

/// Everything that is wrong with the checklist, except its agreement with the probe.
pub fn check(root: &Path) -> Vec<String> {
    let mut problems = Vec::new();
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for (topic, _, prefix) in TOPICS {
        let items = match read(root, topic) {
            Ok(items) => items,
            Err(e) => {
                problems.push(e);
                continue;
            }
        };
        for item in items {
            let id = item.id.clone();
            if let Some(other) = seen.insert(id.clone(), topic) {
                problems.push(format!("{id}: stands twice ({other}, {topic})"));
            }
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            if !id.starts_with(prefix) || !id.chars().all(plain) {
                problems.push(format!(
                    "{id}: ids of {topic} are {prefix}… in a-z, 0-9 and -"
                ));
            }
            if !root
                .join("book/src")
                .join(format!("{}.md", item.chapter))
                .is_file()
            {
                problems.push(format!("{id}: no chapter book/src/{}.md", item.chapter));
            }
            if !GROUPS.iter().any(|(name, _)| *name == item.group()) {
                problems.push(format!("{id}: no group {}", item.group()));
            }
            if item.text.len() > 240 || !item.text.ends_with('.') {
                problems.push(format!(
                    "{id}: the text is one sentence of at most 240 bytes"
                ));
            }
            match (&item.source, item.proof.is_empty()) {
                (None, true) => problems.push(format!("{id}: neither a proof nor a dated source")),
                (Some(source), _) if !dated(source) => {
                    problems.push(format!(
                        "{id}: a source has an https address and a date YYYY-MM-DD"
                    ));
                }
                _ => {}
            }
            for proof in &item.proof {
                if let Err(e) = find_test(root, proof) {
                    problems.push(format!("{id}: {e}"));
                }
            }
        }
    }
    problems
}

fn dated(source: &Source) -> bool {
    let digits: Vec<&str> = source.date.split('-').collect();
    source.url.starts_with("https://")
        && digits.iter().map(|d| d.len()).eq([4, 2, 2])
        && digits.iter().all(|d| d.bytes().all(|b| b.is_ascii_digit()))
}

/// Whether `proof` (`file::test`) names a test that `./check` runs.
pub fn find_test(root: &Path, proof: &str) -> Result<(), String> {
    let (path, name) = proof
        .split_once("::")
        .ok_or_else(|| format!("the proof {proof} is not of the form file::test"))?;
    let text = fs::read_to_string(root.join(path))
        .map_err(|_| format!("the proof {proof} names a file that is not there"))?;
    if path.ends_with(".rs") {
        let name = name.rsplit("::").next().unwrap_or(name);
        let lines: Vec<&str> = text.lines().collect();
        let is_test = lines.iter().enumerate().any(|(at, line)| {
            let line = line.trim_start();
            let names_it = line
                .strip_prefix("async ")
                .unwrap_or(line)
                .strip_prefix("fn ")
                .and_then(|rest| rest.strip_prefix(name))
                .is_some_and(|rest| rest.starts_with('('));
            names_it && has_test_attribute(&lines[..at])
        });
        let in_macro = (text.contains("proptest!") && is_in_proptest(&lines, name))
            || ((text.contains("async fn $name()") || text.contains("contract!("))
                && is_listed(&lines, name));
        if !is_test && !in_macro {
            return Err(format!("the proof {proof} names no test"));
        }
        module_is_compiled(root, path)
    } else if path.ends_with(".test.ts") || path.ends_with(".test.tsx") {
        let quoted = ['"', '\'', '`']
            .iter()
            .any(|q| text.contains(&format!("{q}{name}{q}")));
        if quoted {
            Ok(())
        } else {
            Err(format!("the proof {proof} names no test"))
        }
    } else {
        Err(format!(
            "the proof {proof} is neither a Rust nor a Vitest file"
        ))
    }
}

fn has_test_attribute(above: &[&str]) -> bool {
    above
        .iter()
        .rev()
        .map(|l| l.trim())
        .take_while(|l| l.starts_with("#[") || l.starts_with("//") || l.ends_with(")]"))
        .any(|l| l.starts_with("#[test]") || l.starts_with("#[tokio::test"))
}

fn is_in_proptest(lines: &[&str], name: &str) -> bool {
    lines.iter().enumerate().any(|(at, line)| {
        line.trim_start().starts_with(&format!("fn {name}("))
            && lines[..at]
                .iter()
                .rev()
                .take(4)
                .any(|l| l.trim() == "#[test]")
    })
}

/// A macro of the file makes a test of each function that it is given.
fn is_listed(lines: &[&str], name: &str) -> bool {
    lines
        .iter()
        .any(|line| line.trim().trim_end_matches(',') == name)
}

/// A test file that no test binary includes never runs.
fn module_is_compiled(root: &Path, path: &str) -> Result<(), String> {
    let Some(rest) = path.strip_prefix("snippets/tests/") else {
        return Ok(());
    };
    let (list, module) = match rest.strip_prefix("anti_patterns/") {
        Some(file) => ("snippets/tests/anti_patterns/mod.rs", file),
        None => ("snippets/tests/main.rs", rest),
    };
    let module = module
        .split('/')
        .next()
        .unwrap_or(module)
        .trim_end_matches(".rs");
    let text = fs::read_to_string(root.join(list)).unwrap_or_default();
    if text.lines().any(|l| l.trim() == format!("mod {module};")) {
        Ok(())
    } else {
        Err(format!(
            "{path} is not part of the test binary (no `mod {module};` in {list})"
        ))
    }
}
