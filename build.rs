//! Stages the Rust fences of the documents for skeptic (`tests/fences.rs`).
//!
//! A staged fence is what a reader gets who pastes it into a crate beside the copied tree: `super::`
//! and `crate::` become `snippets::`, and nothing runs (`no_run`), since most fences are servers.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::{Path, PathBuf};
use std::{env, fs};

#[path = "xtask/src/fences.rs"]
#[allow(dead_code, unreachable_pub)]
mod fences;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!(
        "cargo:rustc-env=TARGET_TRIPLE={}",
        env::var("TARGET").unwrap()
    );
    println!("cargo:rerun-if-changed=xtask/src/fences.rs");
    println!("cargo:rerun-if-changed=tools/rustc-2024");
    make_executable(Path::new("tools/rustc-2024"));
    // New chapters count too, not only changed ones.
    println!("cargo:rerun-if-changed=book/src");
    for file in ["SKILL.md", "README.md"] {
        println!("cargo:rerun-if-changed={file}");
    }
    let staging = PathBuf::from(env::var_os("OUT_DIR").unwrap()).join("fences");
    let _ = fs::remove_dir_all(&staging);
    fs::create_dir_all(&staging).unwrap();
    let mut documents = vec![PathBuf::from("SKILL.md"), PathBuf::from("README.md")];
    collect(Path::new("book/src"), &mut documents);
    let mut staged = Vec::new();
    for document in documents {
        // A broken document is the business of xtask/tests/book.rs, which names the line.
        let Ok(text) = fs::read_to_string(&document) else {
            continue;
        };
        let Ok(found) = fences::parse(&text) else {
            continue;
        };
        let rust: Vec<String> = found
            .iter()
            .filter(|fence| fence.language == "rust")
            .map(stage)
            .collect();
        if rust.is_empty() {
            continue;
        }
        let name = document.with_extension("").display().to_string();
        let file = staging.join(format!("{}.md", name.replace(['/', '\\'], "-")));
        fs::write(&file, rust.join("\n")).unwrap();
        staged.push(file);
    }
    if staged.is_empty() {
        let out = PathBuf::from(env::var_os("OUT_DIR").unwrap()).join("skeptic-tests.rs");
        fs::write(out, "").unwrap();
    }
    skeptic::generate_doc_tests(&staged);
}

/// An installed copy has lost the bit, and skeptic starts this file (`.cargo/config.toml`).
fn make_executable(path: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        if let Ok(meta) = fs::metadata(path)
            && meta.permissions().mode() & 0o111 == 0
        {
            // In a tree that is read-only the tests of the fences say what is wrong.
            let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o755));
        }
    }
    #[cfg(not(unix))]
    let _ = path;
}

fn collect(folder: &Path, documents: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(&path, documents);
        } else if path.extension().is_some_and(|e| e == "md") {
            documents.push(path);
        }
    }
}

fn stage(fence: &fences::Fence) -> String {
    // The module around the file's own: the folders of its path.
    let parent = fence
        .from
        .as_deref()
        .and_then(|from| from.strip_prefix("snippets/src/"))
        .map(|path| path.strip_suffix("/mod.rs").unwrap_or(path))
        .and_then(|path| path.rsplit_once('/'))
        .map(|(folders, _)| folders.replace('/', "::"));
    let mut code = fence.content.replace("crate::", "snippets::");
    if let Some(parent) = parent {
        code = code.replace("super::", &format!("snippets::{parent}::"));
    }
    if !code.contains("fn main(") {
        code.push_str("\n#[allow(dead_code)] fn main() {}");
    }
    format!("```rust,no_run\n{code}\n```\n")
}
