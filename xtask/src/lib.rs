//! What maintains the repository: the checks that keep its text true, and what writes the text that is generated.
//!
//! # Layout
//!
//! Start with `main.rs`: the verbs of `cargo xtask`. Each check is a function of a folder; `tests/` runs it on the repository, and
//! `tests/gates.rs` on broken copies of it.
//!
//! - [`sync`]: all generated text; [`fences`], [`generated`] and [`copying`] make it, from sources, from [`checklist`] and from
//!   headers of counterexamples.
//! - [`modules`]: the lists of test files and counterexamples.
//! - [`dependencies`]: the crates of the manifests.
//! - [`new`]: a pattern or a check of the probe, as far as it can be written in advance.
//! - [`origin`]: the source of a generated line; [`versions`]: versions that the text names.
//! - [`budgets`], [`words`], [`skill`], [`settings`], [`summary`]: shape and words of the text.

// Input is the repository itself: a panic is the report of a broken one.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

pub mod budgets;
pub mod checklist;
pub mod copying;
pub mod dependencies;
pub mod fences;
pub mod generated;
pub mod modules;
pub mod new;
pub mod origin;
pub mod settings;
pub mod skill;
pub mod summary;
pub mod sync;
pub mod versions;
pub mod words;

use std::path::{Path, PathBuf};

/// The repository (or the installed pack) that these tests belong to.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask is a folder of the repository")
        .to_owned()
}

/// Every Markdown file that readers get, relative to the root: the front doors, the worked examples of the prompts (which
/// pages of the book copy, and so come before them), the chapters, the prompts.
pub fn documents(root: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("SKILL.md"), PathBuf::from("README.md")];
    for folder in ["probe/tests/worked", "prompts", "book/src"] {
        walk(root, Path::new(folder), &mut |path| {
            if path.extension().is_some_and(|e| e == "md") {
                found.push(path.to_owned());
            }
        });
    }
    found
}

/// Calls `visit` with every file below `folder`, relative to `root`, in a fixed order.
pub fn walk(root: &Path, folder: &Path, visit: &mut dyn FnMut(&Path)) {
    let Ok(entries) = std::fs::read_dir(root.join(folder)) else {
        return;
    };
    let mut names: Vec<_> = entries.flatten().map(|e| e.file_name()).collect();
    names.sort();
    for name in names {
        if name == "node_modules" || name == "target" || name == ".next" {
            continue;
        }
        let path = folder.join(name);
        if root.join(&path).is_dir() {
            walk(root, &path, visit);
        } else {
            visit(&path);
        }
    }
}

/// How a problem ends that [`sync`] solves.
pub const REWRITES: &str = "`cargo xtask sync` rewrites it";

/// Copies what the checks read to `to`, for tests that change it.
pub fn copy_to(to: &Path) {
    let root = root();
    let mut files: Vec<PathBuf> = [
        "SKILL.md",
        "README.md",
        "LICENSE",
        "Cargo.toml",
        "Cargo.lock",
        "copying.tsv",
        "audit.txt",
    ]
    .map(PathBuf::from)
    .into();
    let folders = [
        "book",
        "checklist",
        "prompts",
        "snippets",
        "probe",
        "src",
        "tests",
        "evals",
        "agents",
        "services",
        "xtask",
    ];
    for folder in folders {
        walk(&root, Path::new(folder), &mut |path| {
            files.push(path.to_owned())
        });
    }
    for file in files {
        let copy = to.join(&file);
        std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
        std::fs::copy(root.join(&file), copy).unwrap();
    }
}

/// Fails with all `problems`, one a line.
pub fn report(problems: &[String]) {
    assert!(
        problems.is_empty(),
        "{} problem(s):\n  {}\n",
        problems.len(),
        problems.join("\n  ")
    );
}
