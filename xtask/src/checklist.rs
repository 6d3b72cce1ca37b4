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

/// The kinds of endpoint and of work that an item concerns: its code in `audit.txt`, and its name.
pub const KINDS: [(&str, &str); 15] = [
    ("sse", "SSE server"),
    ("sse-client", "SSE client"),
    ("ws", "WebSocket server"),
    ("ws-client", "WebSocket client"),
    ("llm", "LLM relay"),
    ("agent", "agent or useChat server"),
    ("mcp", "MCP server"),
    ("ts", "TypeScript server"),
    ("node", "Node or Python server"),
    ("page", "page"),
    ("any", "every server"),
    ("proxy", "proxy"),
    ("instances", "several instances"),
    ("deploy", "deployment"),
    ("tests", "test suite"),
];

/// What users notice if an item does not hold, the greatest damage first.
pub const SYMPTOMS: [(&str, &str); 8] = [
    (
        "lost",
        "events or text are lost, duplicated or corrupted, or a cut answer looks complete",
    ),
    (
        "security",
        "someone reads, sends or injects what they must not",
    ),
    (
        "cost",
        "paid or heavy work continues, runs twice or has no limit",
    ),
    (
        "outage",
        "the service crashes, hangs, refuses users or does not stop",
    ),
    (
        "reconnect",
        "clients reconnect forever, never, or all at once",
    ),
    ("memory", "memory, tasks or descriptors grow"),
    ("late", "data arrives late or all at once"),
    ("blind", "metrics, logs or tests hide a fault"),
];

/// The longest `look_for`, in characters.
const LOOK_FOR: usize = 120;

#[derive(Debug, Clone, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
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
    /// Other chapters that list it.
    #[serde(default)]
    pub also: Vec<String>,
    /// One of [`SYMPTOMS`].
    pub symptom: String,
    pub text: String,
    /// The code or configuration that betrays the fault, in one line.
    pub look_for: String,
    /// One of [`GROUPS`], where it is not the one of the chapter.
    group: Option<String>,
    #[serde(default)]
    pub proof: Vec<String>,
    pub source: Option<Source>,
    /// Whether the probe checks it.
    pub probe: bool,
    /// The requirement in a few words, for the reports of the probe.
    pub title: Option<String>,
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

    /// Whether `chapter` lists it.
    pub fn is_of(&self, chapter: &str) -> bool {
        self.chapter == chapter || self.also.iter().any(|also| also == chapter)
    }

    /// Its rank in [`SYMPTOMS`]: the greatest damage first.
    pub fn damage(&self) -> usize {
        let rank = SYMPTOMS.iter().position(|(name, _)| *name == self.symptom);
        rank.unwrap_or(SYMPTOMS.len())
    }

    /// The codes of [`KINDS`] that it concerns.
    pub fn kinds(&self) -> Vec<&'static str> {
        let mut found = Vec::new();
        for chapter in std::iter::once(&self.chapter).chain(&self.also) {
            for kind in kinds(chapter) {
                if !found.contains(kind) {
                    found.push(kind);
                }
            }
        }
        found
    }
}

fn kinds(chapter: &str) -> &'static [&'static str] {
    let (topic, name) = chapter.split_once('/').unwrap_or_default();
    match (topic, name) {
        (_, name) if name.starts_with("next") => &["ts"],
        (_, "node" | "other_stacks") => &["node"],
        ("streams", "readable") => &["ts"],
        (_, "browser" | "event-source" | "react" | "chat_page") => &["page"],
        ("sse", "wire") => &["sse", "sse-client"],
        ("sse", "consume") => &["sse-client"],
        ("websocket", "client") => &["ws-client"],
        ("llm", "mcp") => &["mcp"],
        ("llm", "agents" | "use_chat" | "ui_message_stream") => &["agent"],
        ("sse", _) => &["sse"],
        ("websocket", _) => &["ws"],
        ("llm", _) => &["llm"],
        (_, "proxies") => &["proxy"],
        (_, "shared_log" | "topics" | "snapshot" | "postgres_log") => &["instances"],
        (_, "deploy" | "limits") => &["deploy"],
        (_, "testing") => &["tests"],
        _ => &["any"],
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
    let mut looks: BTreeMap<String, String> = BTreeMap::new();
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
                problems.push(format!("{id}: is there twice ({other}, {topic})"));
            }
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            if !id.starts_with(prefix) || !id.chars().all(plain) {
                problems.push(format!(
                    "{id}: ids of {topic} are {prefix}… in a-z, 0-9 and -"
                ));
            }
            for chapter in std::iter::once(&item.chapter).chain(&item.also) {
                if !root.join(format!("book/src/{chapter}.md")).is_file() {
                    problems.push(format!("{id}: no chapter book/src/{chapter}.md"));
                }
            }
            if item.damage() == SYMPTOMS.len() {
                problems.push(format!("{id}: no symptom {}", item.symptom));
            }
            problems.extend(wording(&item));
            let look_for = item.look_for.clone();
            if let Some(other) = looks.insert(look_for, id.clone()) {
                problems.push(format!("{id}: the same look_for as {other}"));
            }
            if !GROUPS.iter().any(|(name, _)| *name == item.group()) {
                problems.push(format!("{id}: no group {}", item.group()));
            }
            if item.probe != item.title.is_some() {
                problems.push(format!("{id}: an item has a title if the probe checks it"));
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

/// What is wrong with the words of `item`: each is read alone, in a page and by `grep`.
fn wording(item: &Item) -> Vec<String> {
    let id = &item.id;
    let mut problems = Vec::new();
    let text = &item.text;
    if text.chars().count() > 160 || !text.ends_with('.') || text.contains(". ") {
        problems.push(format!(
            "{id}: the text is one sentence of at most 160 characters"
        ));
    }
    let first = text.split([' ', ',']).next().unwrap_or_default();
    let dangling = [
        "So", "Then", "It", "This", "These", "That", "They", "One", "There", "Such",
    ];
    if dangling.contains(&first) || first.starts_with(char::is_lowercase) {
        problems.push(format!(
            "{id}: the text begins with its actor or its condition, not with {first}"
        ));
    }
    let look_for = &item.look_for;
    let length = look_for.chars().count();
    if !(12..=LOOK_FOR).contains(&length) || look_for.contains('\n') || look_for.ends_with('.') {
        problems.push(format!(
            "{id}: look_for has {length} characters; it is one line of 12 to {LOOK_FOR}, without a period"
        ));
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
        Ok(())
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
