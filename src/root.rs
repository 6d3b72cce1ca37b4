//! Finds the pack's folder.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The pack's folder: `named` (`--root`), else the one that `cargo run` names in
/// `CARGO_MANIFEST_DIR`, else the current one. It is not compiled in: a copied binary must not
/// look where it was built.
pub fn find(named: Option<&Path>) -> Result<PathBuf> {
    let candidate = match named {
        Some(path) => path.to_owned(),
        None => match std::env::var_os("CARGO_MANIFEST_DIR") {
            Some(path) => PathBuf::from(path),
            None => std::env::current_dir().context("the current folder cannot be read")?,
        },
    };
    if !candidate.join("SKILL.md").is_file() {
        bail!(
            "there is no SKILL.md in {}: use `cargo run` inside the pack, or name its folder with --root",
            candidate.display()
        );
    }
    candidate
        .canonicalize()
        .with_context(|| format!("{} cannot be read", candidate.display()))
}
