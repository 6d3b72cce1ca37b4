//! The table `| Setting | Default | What it changes |` in the README of each service has every field of its `Settings`, and no other.
//! A field that is a struct of the patterns is in it by its own fields: `streams.heartbeat`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use regex::Regex;
use syn::{Fields, Item, Type, UseTree, Visibility};

/// What a table lacks or has too much, one line each.
pub fn check(root: &Path) -> Vec<String> {
    let mut problems = Vec::new();
    let Ok(services) = fs::read_dir(root.join("services")) else {
        return vec!["services: cannot be read".to_owned()];
    };
    for service in services.flatten() {
        let folder = format!("services/{}", service.file_name().to_string_lossy());
        let source = root.join(&folder).join("src/lib.rs");
        let fields = if source.is_file() {
            fields(root, &source, "Settings")
        } else if root.join(&folder).join("next.config.ts").is_file() {
            next_fields(root)
        } else {
            continue;
        };
        let readme = fs::read_to_string(root.join(&folder).join("README.md")).unwrap_or_default();
        let rows = rows(&readme);
        for field in fields.difference(&rows) {
            problems.push(format!(
                "{folder}/README.md: the table of settings lacks {field}"
            ));
        }
        for row in rows.difference(&fields) {
            problems.push(format!("{folder}/README.md: there is no setting {row}"));
        }
    }
    problems
}

/// The code spans in the first cells of the table. `a.b`, `.c` is short for `a.b`, `a.c`.
fn rows(readme: &str) -> BTreeSet<String> {
    let span = Regex::new("`([^`]+)`").unwrap();
    let mut found = BTreeSet::new();
    let table = readme
        .lines()
        .skip_while(|line| !line.starts_with("| Setting |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    for line in table {
        let cell = line.split('|').nth(1).unwrap_or_default();
        let mut above = String::new();
        for name in span.captures_iter(cell) {
            let name = match name[1].strip_prefix('.') {
                Some(last) => format!("{above}.{last}"),
                None => name[1].to_owned(),
            };
            above = name
                .rsplit_once('.')
                .map_or(String::new(), |(above, _)| above.to_owned());
            found.insert(name);
        }
    }
    found
}

/// The public fields of `name` in `file`, those of structs of the patterns by their own.
fn fields(root: &Path, file: &Path, name: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let Ok(parsed) = syn::parse_file(&text) else {
        return BTreeSet::new();
    };
    let mut used = BTreeMap::new();
    for item in &parsed.items {
        if let Item::Use(item) = item {
            names(&item.tree, &mut Vec::new(), &mut used);
        }
    }
    let mut found = BTreeSet::new();
    for item in &parsed.items {
        let Item::Struct(item) = item else { continue };
        let Fields::Named(named) = &item.fields else {
            continue;
        };
        if item.ident != name {
            continue;
        }
        for field in &named.named {
            let (Some(own), Visibility::Public(_)) = (&field.ident, &field.vis) else {
                continue;
            };
            let inner = match &field.ty {
                Type::Path(of) if of.path.segments.len() <= 2 => inner(root, file, &used, of),
                _ => BTreeSet::new(),
            };
            if inner.is_empty() {
                found.insert(own.to_string());
            }
            found.extend(inner.iter().map(|inner| format!("{own}.{inner}")));
        }
    }
    found
}

/// The fields of the struct that `of` names in `file`, if a pattern has it.
fn inner(
    root: &Path,
    file: &Path,
    used: &BTreeMap<String, Vec<String>>,
    of: &syn::TypePath,
) -> BTreeSet<String> {
    let written: Vec<String> = of
        .path
        .segments
        .iter()
        .map(|s| s.ident.to_string())
        .collect();
    let Some(last) = written.last() else {
        return BTreeSet::new();
    };
    let mut path = used
        .get(&written[0])
        .cloned()
        .unwrap_or_else(|| vec![written[0].clone()]);
    path.extend(written[1..].iter().cloned());
    let name = if written.len() == 1 {
        path.last().unwrap_or(last).clone()
    } else {
        last.clone()
    };
    if path.len() == 1 {
        return fields(root, file, &name);
    }
    let mut folder = file.parent().unwrap_or(root).to_owned();
    let mut target = folder.clone();
    for part in &path[..path.len() - 1] {
        match part.as_str() {
            "snippets" | "crate" => folder = root.join("snippets/src"),
            "self" => folder = file.with_extension(""),
            "super" => {}
            part => {
                target = folder.join(format!("{part}.rs"));
                folder = folder.join(part);
            }
        }
    }
    fields(root, &target, &name)
}

/// The path of each name that `tree` brings in.
fn names(tree: &UseTree, above: &mut Vec<String>, found: &mut BTreeMap<String, Vec<String>>) {
    let with = |last: String| above.iter().cloned().chain([last]).collect::<Vec<_>>();
    match tree {
        UseTree::Path(path) => {
            above.push(path.ident.to_string());
            names(&path.tree, above, found);
            above.pop();
        }
        UseTree::Name(name) if name.ident == "self" => {
            found.insert(above.last().cloned().unwrap_or_default(), above.clone());
        }
        UseTree::Name(name) => {
            found.insert(name.ident.to_string(), with(name.ident.to_string()));
        }
        UseTree::Rename(name) => {
            found.insert(name.rename.to_string(), with(name.ident.to_string()));
        }
        UseTree::Group(group) => {
            for tree in &group.items {
                names(tree, above, found);
            }
        }
        UseTree::Glob(_) => {}
    }
}

/// The properties of the tables of the Next.js service.
fn next_fields(root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let property = Regex::new(r"^  ([A-Za-z]\w*):").unwrap();
    for (path, names) in [
        (
            "snippets/typescript/nextjs/lib/settings.ts",
            &["SETTINGS"][..],
        ),
        (
            "snippets/typescript/src/llm/chat-events.ts",
            &["CHAT_EVENTS", "CHAT_DATA"],
        ),
    ] {
        let text = fs::read_to_string(root.join(path)).unwrap_or_default();
        for name in names {
            let start = Regex::new(&format!(r"export const {name}\b[^=]*= \{{\n")).unwrap();
            let Some(start) = start.find(&text) else {
                continue;
            };
            for line in text[start.end()..]
                .lines()
                .take_while(|line| !line.starts_with('}'))
            {
                if let Some(property) = property.captures(line) {
                    found.insert(format!("{name}.{}", &property[1]));
                }
            }
        }
    }
    found
}
