//! What a pattern file needs besides itself: siblings and crates, read from the paths in the source.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::checklist::TOPICS;

/// Files (`topic/name.rs`) and crates that `file` needs, itself included.
pub fn needs(root: &Path, file: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut files, mut crates) = (BTreeSet::new(), BTreeSet::new());
    let known = dependencies(root);
    let mut pending = vec![file.to_owned()];
    while let Some(file) = pending.pop() {
        let Ok(text) = fs::read_to_string(root.join("snippets/src").join(&file)) else {
            continue;
        };
        if !files.insert(file.clone()) {
            continue;
        }
        // Comments name siblings that are not needed.
        let code: String = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .map(|line| format!("{line}\n"))
            .collect();
        for name in &known {
            let path = format!("{}::", name.replace('-', "_"));
            if mentions(&code, &path) {
                crates.insert(name.clone());
            }
        }
        for module in modules(&code, &file) {
            pending.extend(resolve(root, &module));
        }
    }
    (files, crates)
}

/// Whether `path` stands in `code` at the beginning of a path.
fn mentions(code: &str, path: &str) -> bool {
    code.match_indices(path).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    })
}

fn dependencies(root: &Path) -> Vec<String> {
    let manifest = fs::read_to_string(root.join("snippets/Cargo.toml")).unwrap_or_default();
    manifest
        .lines()
        .skip_while(|line| *line != "[dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

/// Module paths (`llm/providers/event`) that `code` of `file` names.
fn modules(code: &str, file: &str) -> Vec<String> {
    let flat: String = code.split_whitespace().collect::<Vec<_>>().join(" ");
    let here = Path::new(file);
    let is_mod = here.file_name().is_some_and(|n| n == "mod.rs");
    let own = here
        .parent()
        .map(|p| p.to_string_lossy().into_owned())
        .unwrap_or_default();
    let above = Path::new(&own)
        .parent()
        .map(|p| p.to_string_lossy().into_owned())
        .unwrap_or_default();
    let (self_base, super_base) = if is_mod {
        (own.clone(), above)
    } else {
        (file.trim_end_matches(".rs").to_owned(), own.clone())
    };
    let mut found = Vec::new();
    for (prefix, base) in [
        ("super::", super_base.as_str()),
        ("crate::", ""),
        ("self::", self_base.as_str()),
    ] {
        for (at, _) in flat.match_indices(prefix) {
            let before = flat[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            expand(&flat[at + prefix.len()..], base, &mut found);
        }
    }
    if is_mod {
        for line in code.lines() {
            let line = line.trim().trim_start_matches("pub ");
            if let Some(name) = line
                .strip_prefix("mod ")
                .and_then(|rest| rest.strip_suffix(';'))
            {
                found.push(join(&own, name));
            }
        }
    }
    found
}

/// The paths that begin with `rest`: `a::b`, `{a::b, c}`, `a::{b, c}`.
fn expand(rest: &str, base: &str, found: &mut Vec<String>) {
    let rest = rest.trim_start();
    if let Some(group) = rest.strip_prefix('{') {
        let mut depth = 0;
        let mut begin = 0;
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => {
                    expand(&group[begin..at], base, found);
                    return;
                }
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    expand(&group[begin..at], base, found);
                    begin = at + 1;
                }
                _ => {}
            }
        }
        return;
    }
    let name: String = rest
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect();
    if name.is_empty() || name == "super" {
        return;
    }
    let path = join(base, &name);
    found.push(path.clone());
    if let Some(deeper) = rest[name.len()..].strip_prefix("::") {
        expand(deeper, &path, found);
    }
}

fn join(base: &str, name: &str) -> String {
    if base.is_empty() {
        name.to_owned()
    } else {
        format!("{base}/{name}")
    }
}

/// The file of a module path, where it is one. A topic's `mod.rs` only lists its files.
fn resolve(root: &Path, module: &str) -> Option<String> {
    let src = root.join("snippets/src");
    let file = format!("{module}.rs");
    let folder = format!("{module}/mod.rs");
    if src.join(&file).is_file() {
        Some(file)
    } else if module.contains('/') && src.join(&folder).is_file() {
        Some(folder)
    } else {
        None
    }
}

/// The table of all patterns.
pub fn table(root: &Path) -> String {
    let mut text = String::from("| pattern | files | crates |\n|---|---|---|\n");
    for (topic, _, _) in TOPICS {
        super::walk(root, &Path::new("snippets/src").join(topic), &mut |path| {
            let file = path
                .strip_prefix("snippets/src")
                .unwrap()
                .to_string_lossy()
                .into_owned();
            if file.matches('/').count() != 1 || file.ends_with("mod.rs") {
                return;
            }
            let (mut files, crates) = needs(root, &file);
            files.remove(&file);
            let list =
                |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(" ");
            text.push_str(&format!(
                "| {} | {file} {} | {} |\n",
                file.trim_end_matches(".rs"),
                list(&files),
                list(&crates)
            ));
        });
    }
    text
}
