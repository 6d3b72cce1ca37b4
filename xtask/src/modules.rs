//! The lists of modules of the test binaries: `cargo xtask sync` writes them from the files that are there, as `mod` lines, which
//! `cargo fmt` follows.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each list: `main.rs` or `mod.rs`, which ends with it.
const LISTS: [&str; 5] = [
    "tests/main.rs",
    "xtask/tests/main.rs",
    "probe/tests/main.rs",
    "snippets/tests/main.rs",
    COUNTEREXAMPLES,
];

const COUNTEREXAMPLES: &str = "snippets/tests/anti_patterns/mod.rs";

/// Each list as it is to be.
pub fn lists(root: &Path) -> Result<Vec<(PathBuf, String)>, String> {
    let mut lists = Vec::new();
    for list in LISTS {
        let path = PathBuf::from(list);
        let text = fs::read_to_string(root.join(&path)).map_err(|e| format!("{list}: {e}"))?;
        let head = text.find("\nmod ").ok_or_else(|| {
            format!("{list} has no `mod` line: leave one, after which the list begins")
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut made = text[..=head].to_owned();
        for name in modules(root, folder) {
            made.push_str(&format!("mod {name};\n"));
        }
        if list == COUNTEREXAMPLES {
            made.push_str(&probed(root));
        }
        lists.push((path, made));
    }
    Ok(lists)
}

/// The modules of `folder`: its files, and its folders that have a `mod.rs`.
fn modules(root: &Path, folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(root.join(folder))
        .into_iter()
        .flatten()
        .flatten()
    {
        let (path, name) = (entry.path(), entry.file_name());
        let Some(name) = name.to_str() else { continue };
        match name.strip_suffix(".rs") {
            Some(name) if name != "main" && name != "mod" => found.insert(name.to_owned()),
            None if path.join("mod.rs").is_file() => found.insert(name.to_owned()),
            _ => false,
        };
    }
    found
}

/// The table of the counterexamples in Rust whose header says `Probe: fails`.
fn probed(root: &Path) -> String {
    let (counterexamples, _) = super::generated::twins(root);
    let mut table = "\n/// Those that the probe fails: the ids are in the header of each.\n\
        #[rustfmt::skip]\n\
        pub(crate) const PROBED: &[(&str, crate::support::wrong::Probed)] = &[\n"
        .to_owned();
    for found in &counterexamples {
        let name = found.path.file_stem().and_then(|name| name.to_str());
        if let Some(name) = name.filter(|name| !name.contains('.'))
            && found.fails.is_some()
        {
            table.push_str(&format!("    (\"{name}\", {name}::PROBED),\n"));
        }
    }
    table + "];\n"
}
