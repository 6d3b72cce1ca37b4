//! Blocks of the book that are generated: checklist items, the chapters for each kind of endpoint,
//! wrong twins, whole files of Markdown (`<!-- copy: path -->` … `<!-- /copy -->`), and the numbers of the front page
//! (`<!-- numbers: all -->` … `<!-- /numbers -->`), which are those of the chapters.
//!
//! `<!-- checklist: sse/resume -->` … `<!-- /checklist -->` and
//! `<!-- anti-patterns: sse/resume -->` … `<!-- /anti-patterns -->`. With `all` instead of a chapter the block names its data, and
//! the program that builds the book puts the table of the whole pack there ([`fill`]): no copy of it is committed.

use std::fs;
use std::path::{Path, PathBuf};

use super::checklist::{self, GROUPS, Item, KINDS as ENDPOINTS, Level, SYMPTOMS, TOPICS};
use super::fences::directive;

const KINDS: [&str; 5] = ["checklist", "endpoints", "anti-patterns", "copy", "numbers"];

/// Compares every generated block of `document`; returns the corrected text and the problems.
pub fn sync(root: &Path, document: &Path, text: &str) -> (String, Vec<String>) {
    let name = document.display();
    let mut problems = Vec::new();
    let mut out: Vec<String> = Vec::new();
    let lines: Vec<&str> = text.lines().collect();
    let mut at = 0;
    while at < lines.len() {
        out.push(lines[at].to_owned());
        let opened = KINDS
            .iter()
            .find_map(|kind| directive(lines[at], kind).map(|argument| (*kind, argument)));
        if let Some((kind, argument)) = opened {
            let end = format!("<!-- /{kind} -->");
            let Some(length) = lines[at..].iter().position(|l| l.trim() == end) else {
                problems.push(format!("{name}:{}: no {end} after this line", at + 1));
                at += 1;
                continue;
            };
            let found = lines[at + 1..at + length].join("\n");
            let made = match kind {
                "checklist" => checklist_block(root, &argument),
                "endpoints" => endpoints_block(root),
                "numbers" => numbers_block(root),
                "copy" => {
                    fs::read_to_string(root.join(&argument)).map_err(|e| format!("{argument}: {e}"))
                }
                _ => twins_block(root, &argument),
            };
            match made {
                Err(e) => problems.push(format!("{name}:{}: {e}", at + 1)),
                Ok(made) => {
                    let made = format!("\n{}\n", made.trim());
                    if made != format!("\n{}\n", found.trim()) {
                        problems.push(format!(
                            "{name}:{}: the {kind} block is out of date; `cargo xtask sync` rewrites it",
                            at + 1
                        ));
                    }
                    out.extend(made.lines().map(str::to_owned));
                    out.push(String::new());
                    at += length;
                    continue;
                }
            }
        }
        at += 1;
    }
    let mut text = out.join("\n") + "\n";
    while text.contains("\n\n\n<!-- /") {
        text = text.replace("\n\n\n<!-- /", "\n\n<!-- /");
    }
    (text, problems)
}

/// The tables of the whole pack: kind of the block, what the committed page says instead, and what makes the table.
type Table = (
    &'static str,
    &'static str,
    fn(&Path) -> Result<String, String>,
);
const TABLES: [Table; 2] = [
    (
        "checklist",
        "When the book is built, the table is made here from `checklist/*.jsonl`.",
        checklist_table,
    ),
    (
        "anti-patterns",
        "When the book is built, the table is made here from the headers of the files in `snippets/tests/anti_patterns/` and\n\
         `snippets/typescript/test/anti-patterns/`.",
        twins_table,
    ),
];

/// The content of a block `kind` that is for the whole pack, as it is committed.
fn place(kind: &str) -> String {
    let table = TABLES.iter().find(|(known, _, _)| *known == kind);
    table.map_or(String::new(), |(_, place, _)| (*place).to_owned())
}

/// `page` with the tables that are made when the book is built; `None`: it has none.
pub fn fill(root: &Path, page: &str) -> Result<Option<String>, String> {
    let mut filled = None;
    for (kind, _, make) in TABLES {
        let text = filled.as_deref().unwrap_or(page);
        let opening = format!("<!-- {kind}: all -->");
        let closing = format!("<!-- /{kind} -->");
        let Some((before, rest)) = text.split_once(&opening) else {
            continue;
        };
        let (_, after) = rest
            .split_once(&closing)
            .ok_or_else(|| format!("no {closing} after {opening}"))?;
        filled = Some(format!("{before}\n{}\n{after}", make(root)?.trim()));
    }
    Ok(filled)
}

fn checklist_block(root: &Path, which: &str) -> Result<String, String> {
    if which == "all" {
        return Ok(place("checklist"));
    }
    let mut found = checklist::read_all(root)?;
    found.retain(|item| item.is_of(which));
    found.sort_by_key(|item| (item.damage(), item.level.clone()));
    if found.is_empty() {
        return Err(format!("no checklist item has the chapter {which}"));
    }
    let mut lines: Vec<String> = found.iter().map(line).collect();
    lines.extend(probe_command(&found));
    Ok(lines.join("\n"))
}

fn checklist_table(root: &Path) -> Result<String, String> {
    let all = checklist::read_all(root)?;
    let mut text = String::new();
    for (group, title) in GROUPS {
        let mut items: Vec<&Item> = all.iter().filter(|item| item.group() == group).collect();
        items.sort_by_key(|item| (item.damage(), item.level.clone()));
        if items.is_empty() {
            continue;
        }
        text.push_str(&format!(
            "## {title}\n\n| item | for | what | proof | verify |\n|---|---|---|---|---|\n"
        ));
        for item in items {
            text.push_str(&row(item));
        }
        text.push('\n');
    }
    Ok(text)
}

/// The codes of `audit.txt`, each with its meaning and the number of its lines.
fn endpoints_block(root: &Path) -> Result<String, String> {
    let items = checklist::read_all(root)?;
    let kinds = ENDPOINTS.map(|(code, name)| {
        let count = items.iter().filter(|i| i.kinds().contains(&code)).count();
        format!("`{code}` {name} ({count})")
    });
    let symptoms = SYMPTOMS.map(|(code, meaning)| format!("- `{code}`: {meaning}"));
    Ok(format!(
        "Kinds: {}.\n\nSymptoms, the greatest damage first:\n\n{}",
        kinds.join(", "),
        symptoms.join("\n")
    ))
}

/// What is measured, the chapter whose benchmark has it, the column, the row of the pattern and the row to compare it with.
const MEASURED: [(&str, &str, usize, [&str; 2]); 5] = [
    (
        "CPU per event to 500 SSE clients, as a multiple of a bare `write`",
        "sse/fanout",
        1,
        ["`sse/resume` under `listen`", "axum `Sse`"],
    ),
    (
        "memory of an idle SSE connection, KiB",
        "sse/fanout",
        3,
        ["`sse/resume` under `listen`", "axum `Sse`"],
    ),
    (
        "CPU per message to 500 members of a room, as a multiple of a bare `write`",
        "websocket/rooms",
        1,
        ["the pattern under `connections/listen`", "naive rooms"],
    ),
    (
        "memory of an idle WebSocket, KiB",
        "websocket/rooms",
        2,
        ["the pattern under `connections/listen`", "naive rooms"],
    ),
    (
        "parsing a model's event stream on one core, GB/s (more is better)",
        "sse/wire",
        1,
        ["`wire`, events lent", "eventsource-stream"],
    ),
];

/// The benchmarks of the chapters in five rows, and what is counted.
fn numbers_block(root: &Path) -> Result<String, String> {
    let mut text = String::from("| measured | here | compared with | |\n|---|---:|---:|---|\n");
    for (what, chapter, column, rows) in MEASURED {
        let path = format!("book/src/{chapter}.md");
        let page = fs::read_to_string(root.join(&path)).map_err(|e| format!("{path}: {e}"))?;
        let bench = page
            .split_once("<!-- bench -->")
            .and_then(|(_, rest)| rest.split_once("<!-- /bench -->"))
            .map_or("", |(bench, _)| bench);
        let cell = |row: &str, column: usize| {
            let line = bench
                .lines()
                .find(|l| l.starts_with('|') && l.contains(row));
            let cell = line.and_then(|l| l.split('|').nth(column + 1));
            cell.map(str::trim)
                .ok_or_else(|| format!("{path}: no row {row} in its benchmark"))
        };
        let number = |row: &str| {
            let cell = cell(row, column)?;
            Ok::<_, String>(cell.split(' ').next().unwrap_or("").to_owned())
        };
        text.push_str(&format!(
            "| [{what}]({chapter}.md) | **{}** | {} | {} |\n",
            number(rows[0])?,
            number(rows[1])?,
            cell(rows[1], 0)?
        ));
    }
    let items = checklist::read_all(root)?;
    text.push_str(&format!(
        "\n{} items in the checklist, {} of them checks of the probe; {} counterexamples, each with a test that shows its harm.\n",
        items.len(),
        items.iter().filter(|item| item.probe).count(),
        twins(root).0.len()
    ));
    Ok(text)
}

/// `audit.txt`: what to search for, one line for each item and kind.
pub fn audit_index(root: &Path) -> Result<String, String> {
    let mut items = checklist::read_all(root)?;
    items.sort_by_key(|item| (item.damage(), item.level.clone()));
    let mut text = String::new();
    for (code, _) in ENDPOINTS {
        for item in items.iter().filter(|item| item.kinds().contains(&code)) {
            text.push_str(&format!(
                "{code}:{}:{}{}: {}\n",
                item.symptom,
                item.id,
                if item.level == Level::Must { "" } else { "?" },
                item.look_for
            ));
        }
    }
    Ok(text)
}

/// `probe/src/checklist.rs`: the items that the probe checks, as constants, one block for each chapter.
pub fn probe_items(root: &Path) -> Result<String, String> {
    let items = checklist::read_all(root)?;
    let probed: Vec<&Item> = items.iter().filter(|item| item.probe).collect();
    let mut text = PROBE_ITEMS.to_owned();
    let mut seen: Vec<&str> = Vec::new();
    for Item { chapter, .. } in &probed {
        if seen.contains(&chapter.as_str()) {
            continue;
        }
        seen.push(chapter);
        text.push_str(&format!("\nitems! {{ \"{chapter}\"\n"));
        for item in probed.iter().filter(|item| item.chapter == *chapter) {
            let title = item.title.as_deref().unwrap_or_default();
            let name = constant(&item.id);
            text.push_str(&format!("\t{name} {:?} {title:?};\n", item.level));
        }
        text.push_str("}\n");
    }
    Ok(text)
}

/// The constant of the check with this id.
pub fn constant(id: &str) -> String {
    id.replace('-', "_").to_uppercase()
}

const PROBE_ITEMS: &str = "\
//! The items of the checklist that the probe checks; `cargo xtask sync` writes them from `checklist/*.jsonl`.

// An item without a row in `checks.rs` does not compile.
#![deny(dead_code)]

use crate::checks::Level;

pub(crate) struct Item {
\tpub(crate) id: &'static str,
\tpub(crate) level: Level,
\tpub(crate) chapter: &'static str,
\tpub(crate) title: &'static str,
}

macro_rules! items {
\t($chapter:literal $($name:ident $level:ident $title:literal;)*) => {$(
\t\tpub(crate) const $name: Item = {
\t\t\tconst NAME: &str = stringify!($name);
\t\t\tconst ID: [u8; NAME.len()] = id(NAME);
\t\t\tItem { id: text(&ID), level: Level::$level, chapter: $chapter, title: $title }
\t\t};
\t)*};
}

/// `SSE_UTF8` as `sse-utf8`.
const fn id<const LENGTH: usize>(name: &str) -> [u8; LENGTH] {
\tlet (mut id, mut at) = ([b'-'; LENGTH], 0);
\twhile at < LENGTH {
\t\tif name.as_bytes()[at] != b'_' {
\t\t\tid[at] = name.as_bytes()[at].to_ascii_lowercase();
\t\t}
\t\tat += 1;
\t}
\tid
}

const fn text(id: &[u8]) -> &str {
\tmatch std::str::from_utf8(id) {
\t\tOk(id) => id,
\t\tErr(_) => \"\",
\t}
}
";

fn line(item: &Item) -> String {
    let level = if item.level == Level::Must {
        ""
    } else {
        " (should)"
    };
    format!("- `{}`{level}: {}", item.id, item.text)
}

/// What runs those of `items` that the wire shows.
fn probe_command(items: &[Item]) -> Option<String> {
    let probed: Vec<&Item> = items.iter().filter(|item| item.probe).collect();
    let kind = probed.first()?.id.split('-').next()?;
    let share = match probed.len() {
        all if all == items.len() => format!("checks all {all} items"),
        some => format!(
            "checks {some} of {} items; review the code for the others",
            items.len()
        ),
    };
    // Without these the probe cannot test what the items demand.
    let with = match kind {
        "llm" => " -d @chat.json",
        _ if probed.iter().any(|item| item.id.contains("-resume-")) => " --publish CMD",
        _ => "",
    };
    Some(format!(
        "\n```sh\ncargo run -q --manifest-path probe/Cargo.toml -- {kind} URL{with}   # {share}\n```"
    ))
}

fn row(item: &Item) -> String {
    let level = match item.level {
        Level::Must => "must",
        Level::Should => "should",
    };
    let kinds = item.kinds();
    let names: Vec<&str> = ENDPOINTS
        .iter()
        .filter(|(code, _)| kinds.contains(code))
        .map(|(_, name)| *name)
        .collect();
    let mut proof: Vec<String> = item
        .proof
        .iter()
        .map(|p| format!("`{}`", short(p)))
        .collect();
    if let Some(source) = &item.source {
        proof.push(format!("[source]({}), {}", source.url, source.date));
    }
    format!(
        "| [`{}`]({}.md) <br> {level} | {} | {} <br> <small>Look for: {}</small> | {} | {} |\n",
        item.id,
        item.chapter,
        names.join(", "),
        item.text.replace('|', "\\|"),
        escape(&item.look_for),
        proof.join(" <br> "),
        if item.probe { "probe" } else { "review" }
    )
}

/// `text` as Markdown that shows it as it is written.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '|' | '*' | '_' | '`' | '[' | ']' => escaped.extend(['\\', c]),
            _ => escaped.push(c),
        }
    }
    escaped
}

/// `snippets/tests/sse_resume.rs::name` as `sse_resume::name`.
fn short(proof: &str) -> String {
    let (path, test) = proof.split_once("::").unwrap_or((proof, ""));
    let file = path.rsplit('/').next().unwrap_or(path);
    let file = file
        .trim_end_matches(".rs")
        .trim_end_matches(".ts")
        .trim_end_matches(".tsx");
    format!("{file}::{test}")
}

/// What the probe says in place of an id when the service has ended before all checks have run.
const BROKEN_OFF: &str = "broken_off";

/// A counterexample, as its header describes it.
#[derive(Debug, Clone)]
pub struct Twin {
    pub path: PathBuf,
    pub wrong: String,
    pub harm: String,
    /// `topic/pattern`
    pub instead: String,
    /// The checks that fail, unless the probe cannot see the fault.
    pub fails: Option<Vec<String>>,
}

/// All counterexamples; a file without the four lines of a header is a problem.
pub fn twins(root: &Path) -> (Vec<Twin>, Vec<String>) {
    let mut twins = Vec::new();
    let mut problems = Vec::new();
    let items = checklist::read_all(root).unwrap_or_default();
    for folder in [
        "snippets/tests/anti_patterns",
        "snippets/typescript/test/anti-patterns",
    ] {
        super::walk(root, Path::new(folder), &mut |path| {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
            let is_twin = (name.ends_with(".rs") && name != "mod.rs")
                || name.ends_with(".test.ts")
                || name.ends_with(".test.tsx");
            if !is_twin || path.parent() != Some(Path::new(folder)) {
                return;
            }
            let text = fs::read_to_string(root.join(path)).unwrap_or_default();
            let line = |what: &str| {
                text.lines().take(12).find_map(|l| {
                    let l = l.trim_start_matches("//!").trim_start_matches("//").trim();
                    l.strip_prefix(what)?
                        .strip_prefix(':')
                        .map(|r| r.trim().to_owned())
                })
            };
            let (wrong, harm, instead) = (line("Wrong"), line("Harm"), line("Instead"));
            let (Some(wrong), Some(harm), Some(instead), Some(probe)) =
                (wrong, harm, instead, line("Probe"))
            else {
                problems.push(format!(
                    "{}: opens with Wrong:, Harm:, Instead: and Probe: lines",
                    path.display()
                ));
                return;
            };
            let fails = probe.strip_prefix("fails ");
            let fails: Option<Vec<String>> =
                fails.map(|ids| ids.split(", ").map(str::to_owned).collect());
            if fails.is_none() && !probe.starts_with("cannot see: ") {
                problems.push(format!(
                    "{}: Probe: is `fails ID, ID` or `cannot see: REASON`",
                    path.display()
                ));
            }
            for id in fails.iter().flatten().filter(|id| *id != BROKEN_OFF) {
                if !items.iter().any(|item| item.probe && item.id == *id) {
                    problems.push(format!(
                        "{}: Probe: names {id}, which the probe does not check",
                        path.display()
                    ));
                }
            }
            let instead = instead
                .trim_matches('`')
                .split([' ', '`'])
                .next()
                .unwrap_or("")
                .to_owned();
            if !root.join(format!("book/src/{instead}.md")).is_file() {
                problems.push(format!(
                    "{}: Instead: names no chapter ({instead})",
                    path.display()
                ));
            }
            twins.push(Twin {
                path: path.to_owned(),
                wrong,
                harm,
                instead,
                fails,
            });
        });
    }
    (twins, problems)
}

fn twin_line(twin: &Twin) -> String {
    let name = twin.path.file_name().and_then(|n| n.to_str()).unwrap_or("");
    let name = name.split('.').next().unwrap_or(name);
    format!(
        "{} {} (`{name}`)",
        sentence(&twin.wrong),
        sentence(&twin.harm)
    )
}

fn sentence(text: &str) -> String {
    let mut letters = text.trim().chars();
    let text: String = letters
        .next()
        .into_iter()
        .flat_map(char::to_uppercase)
        .chain(letters)
        .collect();
    if text.ends_with('.') {
        text
    } else {
        format!("{text}.")
    }
}

fn twins_block(root: &Path, which: &str) -> Result<String, String> {
    if which == "all" {
        return Ok(place("anti-patterns"));
    }
    let lines: Vec<String> = twins(root)
        .0
        .iter()
        .filter(|twin| twin.instead == which)
        .map(|twin| format!("- {}", twin_line(twin)))
        .collect();
    if lines.is_empty() {
        return Err(format!("no counterexample names {which}"));
    }
    Ok(lines.join("\n"))
}

fn twins_table(root: &Path) -> Result<String, String> {
    let (twins, _) = twins(root);
    let mut text = String::new();
    for (topic, title, _) in TOPICS {
        let prefix = format!("{topic}/");
        let of_topic: Vec<&Twin> = twins
            .iter()
            .filter(|t| t.instead.starts_with(&prefix))
            .collect();
        if of_topic.is_empty() {
            continue;
        }
        text.push_str(&format!(
            "## {title}\n\n| wrong | harm | instead |\n|---|---|---|\n"
        ));
        for twin in of_topic {
            text.push_str(&format!(
                "| {} | {} <br> `{}` | [{}]({}.md) |\n",
                sentence(&twin.wrong).replace('|', "\\|"),
                sentence(&twin.harm).replace('|', "\\|"),
                // The tests are not installed.
                twin.path.file_name().and_then(|n| n.to_str()).unwrap_or(""),
                twin.instead,
                twin.instead
            ));
        }
        text.push('\n');
    }
    Ok(text)
}
