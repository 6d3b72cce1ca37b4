//! Every row of `book/src/copying.md` compiles: its files alone, with its crates alone, in a crate of
//! their own.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod pack;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Writes the package `name` with one row's files and crates below `folder`.
fn write_package(root: &Path, folder: &Path, name: &str, files: &[&str], crates: &[&str]) {
    let src = folder.join("src");
    let mut modules: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in files {
        let to = src.join(file);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(root.join("snippets/src").join(file), to).unwrap();
        let (topic, rest) = file.split_once('/').unwrap();
        let module = rest.split('/').next().unwrap().trim_end_matches(".rs");
        modules
            .entry(topic.to_owned())
            .or_default()
            .insert(module.to_owned());
    }
    let mut lib = String::new();
    for (topic, names) in &modules {
        lib.push_str(&format!("pub mod {topic};\n"));
        let list: String = names
            .iter()
            .map(|name| format!("pub mod {name};\n"))
            .collect();
        fs::write(src.join(topic).join("mod.rs"), list).unwrap();
    }
    fs::write(src.join("lib.rs"), lib).unwrap();
    let dependencies: String = crates
        .iter()
        .map(|name| format!("{name}.workspace = true\n"))
        .collect();
    fs::write(
        folder.join("Cargo.toml"),
        format!(
            "[package]\nname = \"{name}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[dependencies]\n{dependencies}"
        ),
    )
    .unwrap();
}

/// The lines of `[workspace.dependencies]`.
fn versions(root: &Path) -> String {
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let (_, rest) = manifest.split_once("[workspace.dependencies]\n").unwrap();
    rest.lines()
        .take_while(|line| !line.starts_with('['))
        .map(|line| format!("{line}\n"))
        .collect()
}

#[test]
#[ignore = "compiles each pattern in a package of its own: run ./check"]
fn each_row_compiles_alone() {
    let root = pack::root();
    let table = pack::copying::table(&root);
    let workspace = tempfile::tempdir().unwrap();
    // One workspace, so that each dependency is checked once for all rows.
    fs::write(
        workspace.path().join("Cargo.toml"),
        format!(
            "[workspace]\nmembers = [\"*\"]\nresolver = \"2\"\n\n[workspace.dependencies]\n{}",
            versions(&root)
        ),
    )
    .unwrap();
    fs::copy(root.join("Cargo.lock"), workspace.path().join("Cargo.lock")).unwrap();
    let mut rows = 0;
    for row in table.lines().skip(2) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let (name, files, crates) = (cells[0].replace('/', "-"), cells[1], cells[2]);
        let files: Vec<&str> = files.split_whitespace().collect();
        let crates: Vec<&str> = crates.split_whitespace().collect();
        write_package(&root, &workspace.path().join(&name), &name, &files, &crates);
        rows += 1;
    }
    assert!(rows > 30, "{rows} rows");
    let output = Command::new(env!("CARGO"))
        .args(["check", "-q", "--offline", "--workspace", "--keep-going"])
        .current_dir(workspace.path())
        .env("CARGO_TARGET_DIR", root.join("target/copying"))
        .env_remove("RUSTC")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
