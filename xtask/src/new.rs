//! Starts a pattern or a check of the probe: every file and list entry that it needs, with `WRITE:` where a person has to decide.
//! [`left`] finds those marks, so the tests say what remains.

use std::fs;
use std::path::{Path, PathBuf};

use super::checklist::{self, TOPICS};
use super::generated;

/// What was started.
#[derive(Debug, Default)]
pub struct Made {
    /// Files that are new or have a new entry.
    pub files: Vec<PathBuf>,
    /// What to do now.
    pub next: Vec<String>,
}

/// Files to write, all or none.
struct Plan<'a> {
    root: &'a Path,
    files: Vec<(PathBuf, String)>,
}

impl Plan<'_> {
    /// A file that must not exist yet.
    fn create(&mut self, path: String, text: String) -> Result<(), String> {
        if self.root.join(&path).exists() {
            return Err(format!(
                "{path} exists already: choose another name, or edit it"
            ));
        }
        self.files.push((path.into(), text));
        Ok(())
    }

    /// Changes a file; `None`: it has no place for the entry.
    fn edit(
        &mut self,
        path: &str,
        change: impl FnOnce(&str) -> Option<String>,
    ) -> Result<(), String> {
        let text = fs::read_to_string(self.root.join(path))
            .map_err(|e| format!("{path} cannot be read ({e})"))?;
        let changed = change(&text).ok_or_else(|| {
            format!(
                "{path} has no place for the entry: its shape has changed, adapt xtask/src/new.rs"
            )
        })?;
        self.files.push((path.into(), changed));
        Ok(())
    }

    fn write(self, next: Vec<String>) -> Result<Made, String> {
        for (path, text) in &self.files {
            fs::write(self.root.join(path), text)
                .map_err(|e| format!("{} cannot be written ({e})", path.display()))?;
        }
        let files = self.files.into_iter().map(|(path, _)| path).collect();
        Ok(Made { files, next })
    }
}

/// Starts the pattern `name` (`sse/foo`).
///
/// # Errors
///
/// The name is not one, or the pattern exists. Nothing is written then.
pub fn pattern(root: &Path, name: &str) -> Result<Made, String> {
    let topics: Vec<&str> = TOPICS.iter().map(|(topic, _, _)| *topic).collect();
    let plain = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_lowercase())
            && text
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let (topic, file) = name
        .split_once('/')
        .filter(|(topic, file)| topics.contains(topic) && plain(file))
        .ok_or_else(|| format!("{name} is not the name of a pattern: write TOPIC/NAME, TOPIC one of {}, NAME in a-z, 0-9 and _", topics.join(", ")))?;
    let prefix = TOPICS
        .iter()
        .find(|(known, _, _)| *known == topic)
        .map_or("", |(_, _, prefix)| prefix);
    let id = format!("{prefix}{}", file.replace('_', "-"));
    if checklist::read_all(root)?.iter().any(|item| item.id == id) {
        return Err(format!(
            "the checklist has an item {id} already: choose another name"
        ));
    }
    let words = file.replace('_', " ");
    let title = words[..1].to_uppercase() + &words[1..];
    let tests = format!("{topic}_{file}");
    let wrong = format!("{topic}_without_{file}");
    let mut plan = Plan {
        root,
        files: Vec::new(),
    };
    plan.create(
        format!("snippets/src/{topic}/{file}.rs"),
        format!(
            "//! WRITE: what it is, as one noun phrase. Use it if …. What it guarantees. Needs `sibling.rs`; the layout in `mod.rs` names it.\n//!\n//! ```\n//! // WRITE: the start, in about five lines; `copy` prints them.\n//! ```\n\n// ANCHOR: {file}\n/// WRITE: what it is for, with units and errors.\n#[derive(Debug)]\npub struct {};\n// ANCHOR_END: {file}\n",
            camel(file)
        ),
    )?;
    plan.edit(&format!("snippets/src/{topic}/mod.rs"), |text| {
        listed(text, "pub mod ", file)
    })?;
    plan.create(
        format!("snippets/tests/{tests}.rs"),
        format!(
            "//! `{name}`: WRITE: what these tests show.\n\n#[test]\nfn it_guarantees_what_the_chapter_says() {{\n    panic!(\"WRITE: a real server on port 0 (`support::Server`), a real client, hostile timing, no sleeps\");\n}}\n"
        ),
    )?;
    plan.create(
        format!("snippets/tests/anti_patterns/{wrong}.rs"),
        format!(
            "//! Wrong: WRITE: the code as people write it, as a noun phrase.\n//! Harm: WRITE: what happens, measured, as a sentence with a subject.\n//! Instead: {name}\n//! Probe: cannot see: WRITE: why no wire shows it, or `fails ID, ID`\n\n#[test]\nfn it_harms_and_the_pattern_does_not() {{\n    panic!(\"WRITE: the harm, then the same scenario with the pattern\");\n}}\n"
        ),
    )?;
    let item = item(
        &id,
        name,
        &format!("snippets/tests/{tests}.rs::it_guarantees_what_the_chapter_says"),
        false,
    );
    plan.edit(&format!("checklist/{topic}.jsonl"), |text| {
        Some(format!("{}\n{item}\n", text.trim_end()))
    })?;
    plan.create(
        format!("book/src/{name}.md"),
        format!(
            "# {title}\n\nWRITE: Use this to …. If …, use [another](another.md) instead.\n\n## Code\n\n<!-- from: snippets/src/{name}.rs#{file} -->\n```rust\n```\n\n## Guarantees\n\n- WRITE: one statement per test.\n\n## What goes wrong\n\n<!-- anti-patterns: {name} -->\n\n<!-- /anti-patterns -->\n\n## Verify\n\n<!-- checklist: {name} -->\n\n<!-- /checklist -->\n"
        ),
    )?;
    plan.edit("book/src/SUMMARY.md", |text| {
        let last = text.rmatch_indices(&format!("]({topic}/")).next()?.0;
        let end = last + text[last..].find('\n')? + 1;
        Some(format!(
            "{}- [{title}]({name}.md)\n{}",
            &text[..end],
            &text[end..]
        ))
    })?;
    plan.write(vec![
        format!("write what is left; `cargo test --workspace --test patterns -- {tests} {wrong}` runs its tests"),
        "a crate that no pattern has yet: `[workspace.dependencies]` of Cargo.toml and `snippets/Cargo.toml`".to_owned(),
        format!("a wire: `## On the wire` before `## What goes wrong`, with `<!-- from: snippets/tests/snapshots/patterns__{tests}__NAME.snap -->` over an `http` fence"),
        "then `cargo xtask sync`, `cargo test -p xtask` and `cargo test --test pack -- fences`".to_owned(),
    ])
}

/// Where the probe keeps what a check needs: prefix of ids, folder, its chapter, the tests, the service with faults, and the line before
/// which every other verdict is there.
const KINDS: [(&str, &str, &str, &str, &str, &str); 3] = [
    (
        "sse-",
        "sse",
        "sse/serve",
        "probe/tests/sse.rs",
        "probe/tests/support/sse.rs",
        "\n\tprobe.shutdown().await;",
    ),
    (
        "ws-",
        "ws",
        "websocket/serve",
        "probe/tests/ws.rs",
        "probe/tests/support/ws.rs",
        "\n\tprobe.shutdown().await;",
    ),
    (
        "llm-",
        "llm",
        "llm/relay",
        "probe/tests/llm.rs",
        "probe/tests/support/relay.rs",
        "\n\t\tprobe.bad_request().await;",
    ),
];

/// Starts the check `id` (`sse-foo`); an item of the checklist that has this id becomes one that the probe checks.
///
/// # Errors
///
/// The id is not one, or the check exists. Nothing is written then.
pub fn check(root: &Path, id: &str) -> Result<Made, String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let (prefix, folder, chapter, tests, service, end) = KINDS
        .into_iter()
        .find(|(prefix, ..)| id.starts_with(prefix) && id.len() > prefix.len() && id.chars().all(plain))
        .ok_or_else(|| format!("{id} is not the id of a check: begin it with sse-, ws- or llm-, and name the requirement in a-z, 0-9 and -"))?;
    let table = "probe/src/checks.rs";
    let text = fs::read_to_string(root.join(table))
        .map_err(|e| format!("{table} cannot be read ({e})"))?;
    let name = generated::constant(id);
    if text.contains(&format!("\t{name}\n")) {
        return Err(format!(
            "the probe has the check {id} already: edit its row in {table}"
        ));
    }
    let found = checklist::read_all(root)?
        .into_iter()
        .find(|item| item.id == id);
    let fault = camel(&id[prefix.len()..].replace('-', "_"));
    let mut plan = Plan {
        root,
        files: Vec::new(),
    };
    let topic = TOPICS
        .iter()
        .find(|(_, _, known)| *known == prefix)
        .map_or("", |(topic, _, _)| topic);
    plan.edit(&format!("checklist/{topic}.jsonl"), |text| match &found {
        None => Some(format!(
            "{}\n{}\n",
            text.trim_end(),
            item(id, chapter, "WRITE: snippets/tests/FILE.rs::TEST", true)
        )),
        Some(_) => {
            let lines =
                text.lines()
                    .map(|line| match line.contains(&format!("\"id\": \"{id}\"")) {
                        true => {
                            line.replace("\"probe\": false", &format!("\"probe\": true{TITLE}"))
                        }
                        false => line.to_owned(),
                    });
            Some(lines.map(|line| line + "\n").collect())
        }
    })?;
    plan.edit(table, |text| {
        let of_kind = format!("\n\t{}", generated::constant(prefix));
        let last = text.rmatch_indices(&of_kind).next()?.0;
        let end = last + text[last..].find(";\n")? + 2;
        let row = format!(
            "\t{name}\n\t\t\"WRITE: the failure on the wire\"\n\t\t\"WRITE: what to change, in any language\";\n"
        );
        Some(format!("{}{row}{}", &text[..end], &text[end..]))
    })?;
    plan.edit(&format!("probe/src/{folder}/mod.rs"), |text| {
        let at = text.find(end)? + 1;
        let blanks = "\t".repeat(end.matches('\t').count());
        let run = if folder == "llm" { "probe.run" } else { "run" };
        Some(format!(
            "{}{blanks}{run}.unknown(checks::{name}, \"WRITE: decide it with run.pass, run.fail or run.unknown, with evidence\");\n{}",
            &text[..at],
            &text[at..]
        ))
    })?;
    plan.edit(service, |text| match text.contains(&format!("\n    {fault},\n")) {
        true => Some(text.to_owned()),
        false => before_end(text, "pub enum Fault {", "\n}", &format!("    /// WRITE: what is wrong with the service; make it so below, and rename it if it says the opposite.\n    {fault},\n")),
    })?;
    plan.edit(tests, |text| {
        before_end(
            text,
            "const FAULTS",
            "\n];",
            &format!("    (Fault::{fault}, &[\"{id}\"]),\n"),
        )
    })?;
    plan.write(vec![
        format!("write what is left; `cargo test -p stream-probe --test checks -- {folder}:: --include-ignored` tests the check and all others"),
        "a check fails only with a control that passes; a shape that the probe does not know is `unknown`".to_owned(),
        "a counterexample that fails the check now: the `Probe:` line of its header".to_owned(),
    ])
}

/// What a person still has to write: the marks of this file, and chapters that a list lacks.
pub fn left(root: &Path) -> Vec<String> {
    let mut files = super::documents(root);
    for folder in [
        "checklist",
        "snippets/src",
        "snippets/tests",
        "probe/src",
        "probe/tests",
    ] {
        super::walk(root, Path::new(folder), &mut |path| {
            if path.extension().is_some_and(|e| e == "rs" || e == "jsonl") {
                files.push(path.to_owned());
            }
        });
    }
    let mut problems = Vec::new();
    for path in files {
        let text = fs::read_to_string(root.join(&path)).unwrap_or_default();
        if !text.contains("WRITE: ") {
            continue;
        }
        let name = path.to_string_lossy().replace('\\', "/");
        for (at, line) in (1..)
            .zip(text.lines())
            .filter(|(_, line)| line.contains("WRITE: "))
        {
            // A copy is written where it comes from.
            let copy = super::origin::find(root, &name, at)
                .is_ok_and(|origin| !origin.ends_with("edit it there"));
            if !copy {
                for mark in line.split("WRITE: ").skip(1) {
                    let what = mark.split(['"', '\n']).next().unwrap_or(mark);
                    problems.push(format!(
                        "{name}:{at}: {}",
                        what.trim_end_matches(['.', '*', '/', ' '])
                    ));
                }
            }
        }
    }
    problems.extend(super::summary::check(root));
    problems
}

/// What an item has besides if the probe checks it.
const TITLE: &str = ", \"title\": \"WRITE: the item in six words\"";

/// A line of the checklist.
fn item(id: &str, chapter: &str, proof: &str, probe: bool) -> String {
    let title = if probe { TITLE } else { "" };
    format!(
        "{{\"id\": \"{id}\", \"level\": \"must\", \"chapter\": \"{chapter}\", \"symptom\": \"lost\", \"text\": \"WRITE: what holds, as one sentence that names its actor, and its level and symptom.\", \"look_for\": \"WRITE: the code that betrays the fault of {id}\", \"proof\": [\"{proof}\"], \"probe\": {probe}{title}}}"
    )
}

/// `text` with `{keyword}{name};` after the last module that precedes it in the alphabet.
fn listed(text: &str, keyword: &str, name: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().collect();
    let module = |line: &str| {
        line.strip_prefix(keyword)?
            .strip_suffix(';')
            .map(str::to_owned)
    };
    let first = lines.iter().position(|line| module(line).is_some())?;
    let last = lines
        .iter()
        .rposition(|line| module(line).is_some_and(|other| other.as_str() < name));
    let at = last.map_or(first, |at| at + 1);
    let mut lines: Vec<String> = lines.into_iter().map(str::to_owned).collect();
    lines.insert(at, format!("{keyword}{name};"));
    Some(lines.join("\n") + "\n")
}

/// `text` with `entry` before the first `end` after `begin`.
fn before_end(text: &str, begin: &str, end: &str, entry: &str) -> Option<String> {
    let from = text.find(begin)?;
    let at = from + text[from..].find(end)? + 1;
    Some(format!("{}{entry}{}", &text[..at], &text[at..]))
}

/// `foo_bar` as `FooBar`.
fn camel(name: &str) -> String {
    let words = name.split('_').filter(|word| !word.is_empty());
    words
        .map(|word| word[..1].to_uppercase() + &word[1..])
        .collect()
}
