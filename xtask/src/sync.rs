//! All text that is generated: the blocks and fences of documents, `audit.txt`, `copying.tsv`, the lists of
//! test files, the crates of fences in `Cargo.toml`, what the probe takes from the checklist, and the copies of the published probe.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{REWRITES, copying, dependencies, fences, generated, modules};

/// Patterns that the published probe is built from; `probe/build.rs` names the same ones.
const OF_THE_PROBE: [&str; 8] = [
    "sse/wire.rs",
    "llm/failure.rs",
    "llm/model_event.rs",
    "llm/anthropic.rs",
    "llm/gemini.rs",
    "llm/ollama.rs",
    "llm/openai_chat.rs",
    "llm/openai_responses.rs",
];

/// What [`run`] has done.
#[derive(Debug, Default)]
pub struct Synced {
    /// Files that were written or removed.
    pub changed: BTreeSet<PathBuf>,
    /// What no rewriting solves.
    pub problems: Vec<String>,
}

/// Writes everything that is generated, again and again until nothing changes.
///
/// # Errors
///
/// A file cannot be written.
pub fn run(root: &Path) -> io::Result<Synced> {
    let mut synced = Synced::default();
    // A page may copy a document that has generated blocks itself: two rounds settle that, more would be a circle.
    for _ in 0..5 {
        let wanted = wanted(root);
        synced.problems = wanted.problems;
        let mut changed = BTreeSet::new();
        for (path, content) in wanted.files {
            let file = root.join(&path);
            match content {
                Some(content) if fs::read(&file).is_ok_and(|found| found == content) => continue,
                Some(content) => fs::write(&file, content)?,
                None => fs::remove_file(&file)?,
            }
            changed.insert(path);
        }
        if changed.is_empty() {
            return Ok(synced);
        }
        synced.changed.extend(changed);
    }
    synced
        .problems
        .push("generated text changes with each round: two files copy each other".to_owned());
    Ok(synced)
}

/// Every generated file that is not as it would be made, and what keeps one from being made.
pub fn check(root: &Path) -> Vec<String> {
    let mut wanted = wanted(root);
    for (path, content) in &wanted.files {
        let found = fs::read(root.join(path)).ok();
        if found != *content {
            wanted
                .problems
                .push(format!("{}: is out of date; {REWRITES}", path.display()));
        }
    }
    wanted.problems
}

/// Problems of the fences and generated blocks of `document`.
pub fn check_document(root: &Path, document: &Path) -> Vec<String> {
    match made(root, document) {
        Err(problem) => vec![problem],
        Ok((_, problems)) => problems,
    }
}

struct Wanted {
    /// What each file is to hold; `None`: it has no source.
    files: Vec<(PathBuf, Option<Vec<u8>>)>,
    problems: Vec<String>,
}

fn wanted(root: &Path) -> Wanted {
    let (mut files, mut problems) = (Vec::new(), Vec::new());
    for document in super::documents(root) {
        match made(root, &document) {
            Err(problem) => problems.push(problem),
            Ok((text, found)) => {
                problems.extend(found.into_iter().filter(|p| !p.ends_with(REWRITES)));
                files.push((document, Some(text.into_bytes())));
            }
        }
    }
    for (copy, source) in copies(root) {
        match source.map(|source| fs::read(root.join(&source)).map_err(|e| (source, e))) {
            None => files.push((copy, None)),
            Some(Ok(content)) => files.push((copy, Some(content))),
            Some(Err((source, e))) => problems.push(format!("{}: {e}", source.display())),
        }
    }
    match generated::audit_index(root) {
        Ok(text) => files.push(("audit.txt".into(), Some(text.into_bytes()))),
        Err(problem) => problems.push(problem),
    }
    match dependencies::manifest(root) {
        Ok(text) => files.push(("Cargo.toml".into(), Some(text.into_bytes()))),
        Err(problem) => problems.push(problem),
    }
    match generated::probe_items(root) {
        Ok(text) => files.push(("probe/src/checklist.rs".into(), Some(text.into_bytes()))),
        Err(problem) => problems.push(problem),
    }
    match modules::lists(root) {
        Ok(lists) => {
            files.extend(
                lists
                    .into_iter()
                    .map(|(path, text)| (path, Some(text.into_bytes()))),
            );
        }
        Err(problem) => problems.push(problem),
    }
    match copying::table(root) {
        Ok(text) => files.push((copying::TABLE.into(), Some(text.into_bytes()))),
        Err(found) => problems.extend(found),
    }
    Wanted { files, problems }
}

/// `document` as it is to be, and its problems.
fn made(root: &Path, document: &Path) -> Result<(String, Vec<String>), String> {
    let text = fs::read_to_string(root.join(document))
        .map_err(|e| format!("{}: {e}", document.display()))?;
    let (text, mut problems) = fences::sync(root, document, &text);
    let (text, more) = generated::sync(root, document, &text);
    problems.extend(more);
    Ok((text, problems))
}

/// The copies in the published probe, each with its source; `None`: a copy whose source is gone.
pub fn copies(root: &Path) -> Vec<(PathBuf, Option<PathBuf>)> {
    let (patterns, copies) = (Path::new("snippets/src"), Path::new("probe/patterns"));
    let mut sources: BTreeSet<PathBuf> = OF_THE_PROBE.map(PathBuf::from).into();
    let of_folder = |folder: PathBuf| {
        let mut found = Vec::new();
        super::walk(root, &folder, &mut |path| found.push(path.to_owned()));
        found
    };
    let providers = of_folder(patterns.join("llm/providers")).into_iter();
    sources.extend(
        providers
            .filter(|path| !path.ends_with("mod.rs"))
            .filter_map(|path| Some(path.strip_prefix(patterns).ok()?.to_owned())),
    );
    let mut pairs = vec![(
        PathBuf::from("probe/LICENSE"),
        Some(PathBuf::from("LICENSE")),
    )];
    for copy in of_folder(copies.to_owned()) {
        let name = copy.strip_prefix(copies).unwrap_or(&copy);
        if !sources.contains(name) {
            pairs.push((copy, None));
        }
    }
    pairs.extend(
        sources
            .iter()
            .map(|name| (copies.join(name), Some(patterns.join(name)))),
    );
    pairs
}
