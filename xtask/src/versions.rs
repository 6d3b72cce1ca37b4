//! Versions that the text names, compared with the lock files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

/// A version in a text: `axum 0.8.9`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mention {
    pub path: PathBuf,
    pub line: usize,
    /// The package, as the lock file spells it.
    pub name: String,
    /// What the text says.
    pub said: String,
    /// What the lock files have.
    pub locked: BTreeSet<String>,
}

impl Mention {
    /// Whether a lock file has it; `0.8` says nothing about what follows.
    pub fn holds(&self) -> bool {
        let prefix = format!("{}.", self.said);
        self.locked
            .iter()
            .any(|locked| *locked == self.said || locked.starts_with(&prefix))
    }
}

/// Every version of a locked package in documents, comments of patterns and tests, and manifests' comments.
pub fn mentions(root: &Path) -> Vec<Mention> {
    let locked = locked(root);
    let word = Regex::new(r"(@?[A-Za-z][A-Za-z0-9_/@.-]*)`? v?(\d+\.\d+(?:\.\d+)?)\b").unwrap();
    let comment = Regex::new(r"^\s*(?://|#|/?\*)|[;,{})]\s+// ").unwrap();
    let mut files = super::documents(root);
    files.extend(
        [
            "Cargo.toml",
            "snippets/Cargo.toml",
            "probe/Cargo.toml",
            "probe/README.md",
        ]
        .map(PathBuf::from),
    );
    for folder in [
        "checklist",
        "snippets/src",
        "snippets/tests",
        "snippets/benches",
        "snippets/typescript/src",
        "snippets/typescript/test",
        "probe/src",
        "services",
    ] {
        super::walk(root, Path::new(folder), &mut |path| {
            files.push(path.to_owned())
        });
    }
    let mut found = BTreeSet::new();
    for path in files {
        let kind = path
            .extension()
            .and_then(|e| e.to_str())
            .unwrap_or_default();
        if !["md", "rs", "ts", "tsx", "jsonl", "toml"].contains(&kind) {
            continue;
        }
        let text = fs::read_to_string(root.join(&path)).unwrap_or_default();
        let mut in_fence = false;
        for (at, line) in (1..).zip(text.lines()) {
            in_fence ^= kind == "md" && line.trim_start().starts_with("```");
            // A fence is a copy; its source is read too.
            if in_fence || (["rs", "ts", "tsx", "toml"].contains(&kind) && !comment.is_match(line))
            {
                continue;
            }
            for capture in word.captures_iter(line) {
                let name = capture[1].trim_start_matches('`').to_lowercase();
                let name = name.strip_suffix(".js").unwrap_or(&name);
                if let Some((name, versions)) = locked.get_key_value(name) {
                    found.insert(Mention {
                        path: path.clone(),
                        line: at,
                        name: name.clone(),
                        said: capture[2].to_owned(),
                        locked: versions.clone(),
                    });
                }
            }
        }
    }
    found.into_iter().collect()
}

/// Versions by package: of Cargo.lock, and of each package-lock.json what that project itself depends on.
fn locked(root: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let lock = fs::read_to_string(root.join("Cargo.lock")).unwrap_or_default();
    let lock: toml::Table = lock.parse().unwrap_or_default();
    for package in lock
        .get("package")
        .and_then(|p| p.as_array())
        .into_iter()
        .flatten()
    {
        let field = |key: &str| package.get(key).and_then(|value| value.as_str());
        if let (Some(name), Some(version)) = (field("name"), field("version")) {
            let version = version.split('+').next().unwrap_or(version);
            found
                .entry(name.to_owned())
                .or_default()
                .insert(version.to_owned());
        }
    }
    let mut locks = Vec::new();
    super::walk(root, Path::new(""), &mut |path| {
        if path
            .file_name()
            .is_some_and(|name| name == "package-lock.json")
        {
            locks.push(path.to_owned());
        }
    });
    for path in locks {
        let text = fs::read_to_string(root.join(path)).unwrap_or_default();
        let lock: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let packages = lock["packages"].as_object();
        let direct = |kind: &str| packages.and_then(|all| all.get("")?.get(kind)?.as_object());
        for (name, _) in ["dependencies", "devDependencies"]
            .iter()
            .filter_map(|kind| direct(kind))
            .flatten()
        {
            let version = packages.and_then(|all| {
                all.get(&format!("node_modules/{name}"))?
                    .get("version")?
                    .as_str()
            });
            if let Some(version) = version {
                found
                    .entry(name.clone())
                    .or_default()
                    .insert(version.to_owned());
            }
        }
    }
    found
}
