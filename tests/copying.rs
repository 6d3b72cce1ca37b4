//! Every row of `book/src/copying.md` compiles: its files alone, with its crates alone, in a crate of
//! their own.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod pack;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Writes the crate of one row below `folder`.
fn write_crate(root: &Path, folder: &Path, name: &str, files: &[&str], crates: &[&str]) {
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
    let versions = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let dependencies: String = versions
        .lines()
        .skip_while(|line| *line != "[workspace.dependencies]")
        .take_while(|line| !line.starts_with("[package]"))
        .filter(|line| {
            line.split([' ', '='])
                .next()
                .is_some_and(|name| crates.contains(&name))
        })
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(
        dependencies.lines().count(),
        crates.len(),
        "{name}: {crates:?}"
    );
    fs::write(
        folder.join("Cargo.toml"),
        format!(
            "[package]\nname = \"row\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[dependencies]\n{dependencies}\n[workspace]\n"
        ),
    )
    .unwrap();
    fs::copy(root.join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
}

#[test]
#[ignore = "compiles each pattern in a crate of its own: run ./check"]
fn each_row_compiles_alone() {
    let root = pack::root();
    let table = pack::copying::table(&root);
    let target = root.join("target/copying");
    let mut problems = Vec::new();
    for row in table.lines().skip(2) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let (name, files, crates) = (cells[0], cells[1], cells[2]);
        let files: Vec<&str> = files.split_whitespace().collect();
        let crates: Vec<&str> = crates.split_whitespace().collect();
        let folder = tempfile::tempdir().unwrap();
        write_crate(&root, folder.path(), name, &files, &crates);
        let output = Command::new(env!("CARGO"))
            .args(["check", "-q", "--offline"])
            .current_dir(folder.path())
            .env("CARGO_TARGET_DIR", &target)
            .env_remove("RUSTC")
            .output()
            .unwrap();
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            let first: Vec<&str> = text.lines().filter(|l| !l.is_empty()).take(6).collect();
            problems.push(format!("{name}: {}", first.join(" / ")));
        }
    }
    pack::report(&problems);
}
