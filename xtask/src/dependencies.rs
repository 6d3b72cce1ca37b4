//! Dependencies: what the fences of the book need, which `cargo xtask sync` writes into `Cargo.toml`; and whether each one that a
//! manifest names is used, licensed for everyone, and there in one version.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use regex::Regex;
use serde_json::Value;

use super::fences;

/// The line of `Cargo.toml` after which `sync` writes.
const MARK: &str = "# What the fences of the book use; `cargo xtask sync` writes these lines.\n";

/// `Cargo.toml` with the crates that the Rust fences name, as far as the program does not use them itself.
pub fn manifest(root: &Path) -> Result<String, String> {
    let path = "Cargo.toml";
    let text = fs::read_to_string(root.join(path)).map_err(|e| format!("{path}: {e}"))?;
    let parsed: toml::Table = text.parse().map_err(|e| format!("{path}: {e}"))?;
    let (before, rest) = text
        .split_once(MARK)
        .ok_or_else(|| format!("{path}: no line {MARK:?}"))?;
    let end = rest
        .find("\n\n")
        .ok_or_else(|| format!("{path}: no empty line after the crates of the fences"))?;
    let known = parsed
        .get("workspace")
        .and_then(|workspace| workspace.get("dependencies"))
        .and_then(toml::Value::as_table)
        .ok_or_else(|| format!("{path}: no [workspace.dependencies]"))?;
    let used = crates_of_fences(root);
    let mut made = String::new();
    for name in known
        .keys()
        .filter(|name| used.contains(&name.replace('-', "_")))
    {
        let own = ["\n", ".workspace = true\n"].join(name);
        let with_features = format!("\n{name} = {{ workspace = true");
        if !before.contains(&own) && !before.contains(&with_features) {
            made.push_str(&format!("{name}.workspace = true\n"));
        }
    }
    Ok(format!("{before}{MARK}{}{}", made.trim_end(), &rest[end..]))
}

/// The first segments of all paths in Rust fences.
fn crates_of_fences(root: &Path) -> BTreeSet<String> {
    let path = Regex::new(r"(?:^|[^:\w])(?:use )?([a-z][a-z0-9_]*)::").unwrap();
    let mut found = BTreeSet::new();
    for document in super::documents(root) {
        let text = fs::read_to_string(root.join(document)).unwrap_or_default();
        for fence in fences::parse(&text).unwrap_or_default() {
            if fence.language == "rust" {
                found.extend(path.captures_iter(&fence.content).map(|c| c[1].to_owned()));
            }
        }
    }
    found
}

/// Licences that let everyone use, change and pass on what is built with them.
const LICENCES: [&str; 14] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC-BY-4.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Direct dependencies that are there twice, and why.
const TWICE: [(&str, &str); 1] = [(
    "reqwest",
    "reqwest-eventsource, which a test compares with, has its own",
)];

/// Dependencies that no source names, and why they are there.
const UNNAMED: [(&str, &str, &str); 1] = [(
    "brokers",
    "snippets",
    "turns on the features of the brokers",
)];

/// What is wrong with the dependencies of the workspace, for this platform.
pub fn check(root: &Path) -> Vec<String> {
    let metadata = match metadata(root) {
        Ok(metadata) => metadata,
        Err(e) => return vec![e],
    };
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let packages: BTreeMap<String, Value> = list(&metadata["packages"])
        .into_iter()
        .map(|package| (text(&package["id"]), package))
        .collect();
    let members: BTreeSet<String> = list(&metadata["workspace_members"])
        .iter()
        .map(text)
        .collect();
    let mut problems = Vec::new();
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for node in list(&metadata["resolve"]["nodes"]) {
        let id = text(&node["id"]);
        let Some(package) = packages.get(&id) else {
            continue;
        };
        let name = text(&package["name"]);
        let licence = text(&package["license"]);
        if !allowed(&licence) {
            problems.push(format!(
                "{name}: the licence {licence:?} is not in LICENCES of xtask/src/dependencies.rs"
            ));
        }
        if !members.contains(&id) {
            continue;
        }
        for dependency in list(&node["deps"]) {
            if let Some(found) = packages.get(&text(&dependency["pkg"])) {
                versions
                    .entry(text(&found["name"]))
                    .or_default()
                    .insert(text(&found["version"]));
            }
        }
        let manifest = text(&package["manifest_path"]);
        let sources = sources(root, Path::new(&manifest));
        for dependency in list(&package["dependencies"]) {
            let known = text(&dependency["name"]);
            let ident = dependency["rename"]
                .as_str()
                .unwrap_or(&known)
                .replace('-', "_");
            let expected = UNNAMED
                .iter()
                .any(|(of, what, _)| *of == name && *what == known);
            if !expected && !names(&sources, &ident) {
                problems.push(format!(
                    "{name}: nothing uses its dependency {known}: remove it"
                ));
            }
        }
    }
    for (name, versions) in versions {
        let expected = TWICE.iter().any(|(known, _)| *known == name);
        if versions.len() > 1 && !expected {
            let versions: Vec<String> = versions.into_iter().collect();
            problems.push(format!(
                "{name}: is there in several versions: {}",
                versions.join(", ")
            ));
        }
    }
    problems
}

/// Cargo's own answer, without the network.
fn metadata(root: &Path) -> Result<Value, String> {
    let rustc = Command::new("rustc").arg("-vV").output();
    let rustc = rustc.map_err(|e| format!("rustc cannot be started ({e})"))?;
    let rustc = String::from_utf8_lossy(&rustc.stdout).into_owned();
    let host = rustc.lines().find_map(|line| line.strip_prefix("host: "));
    let output = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
        .current_dir(root)
        .args(["metadata", "--locked", "--offline", "--format-version=1"])
        .args(["--filter-platform", host.unwrap_or_default()])
        .output()
        .map_err(|e| format!("cargo cannot be started ({e})"))?;
    if !output.status.success() {
        return Err(format!(
            "cargo metadata failed: {}",
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    serde_json::from_slice(&output.stdout).map_err(|e| format!("cargo metadata: {e}"))
}

/// Everything that may name a dependency of the package with this manifest.
fn sources(root: &Path, manifest: &Path) -> String {
    let folder = manifest.parent().unwrap_or(manifest);
    // The folders of other packages are in the root's.
    let folders: &[&str] = match folder == root {
        true => &["src", "tests", "book/src", "build.rs"],
        false => &["."],
    };
    let mut text = String::new();
    let mut add = |path: &Path| {
        let kind = path.extension().and_then(|kind| kind.to_str());
        if matches!(kind, Some("rs" | "md")) {
            text.push_str(&fs::read_to_string(folder.join(path)).unwrap_or_default());
        }
    };
    for part in folders {
        match folder.join(part).is_dir() {
            true => super::walk(folder, Path::new(part), &mut add),
            false => add(Path::new(part)),
        }
    }
    text
}

/// Whether a path or a `use` of `sources` begins with `name`.
fn names(sources: &str, name: &str) -> bool {
    sources.match_indices(name).any(|(at, _)| {
        let word = |c: char| c.is_alphanumeric() || c == '_';
        let after = &sources[at + name.len()..];
        !sources[..at].ends_with(word)
            && ["::", ";", " as ", ","]
                .iter()
                .any(|end| after.starts_with(end))
    })
}

/// Whether an SPDX expression leaves a choice of [`LICENCES`] only: of each part joined by AND, one joined by OR.
fn allowed(expression: &str) -> bool {
    let expression = expression.replace(" / ", "/").replace('/', " OR ");
    expression.split(" AND ").all(|part| {
        part.trim_matches(['(', ')'])
            .split(" OR ")
            .any(|licence| LICENCES.contains(&licence.trim_matches(['(', ')'])))
    })
}
