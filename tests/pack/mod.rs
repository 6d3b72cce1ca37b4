//! The checks that keep the text true, as functions of a folder: the tests run them on the
//! repository, `gates.rs` on broken copies of it.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs
)]

pub mod budgets;
pub mod checklist;
pub mod copying;
pub mod fences;
pub mod generated;
pub mod html;
pub mod settings;
pub mod skill;
pub mod words;

use std::path::{Path, PathBuf};

/// The repository (or the installed pack) that these tests belong to.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
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

/// Whether the tests were asked to rewrite what they check (`UPDATE=1`).
pub fn updating() -> bool {
    std::env::var_os("UPDATE").is_some_and(|v| v == "1")
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
