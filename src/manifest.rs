//! `manifest.json`: what a store shows about the pack. Its fields are described in
//! `manifest.schema.json`; here stand those that the program itself uses.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

/// The part of `manifest.json` that `package` and the store use.
#[derive(Debug, Clone, Deserialize)]
pub struct Manifest {
    /// How the store names the pack in addresses: lower case, digits, single hyphens.
    pub slug: String,
    /// The skill's name, as in the frontmatter of SKILL.md.
    pub name: String,
    /// Semantic version, as in Cargo.toml.
    pub version: String,
    /// Who answers for the pack.
    pub author: String,
    /// SPDX identifier.
    pub license: String,
    /// The description of the frontmatter of SKILL.md.
    pub description: String,
    /// What stays in the repository when the pack is installed.
    #[serde(default)]
    pub left_out: Vec<LeftOut>,
}

/// Paths that are not installed, and the reason.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct LeftOut {
    /// From the pack's folder, in the notation of `.gitignore`: `tests/`, `services/*/tests/`.
    pub paths: Vec<String>,
    /// Why a reader does not need them.
    pub why: String,
}

impl Manifest {
    /// Reads `manifest.json` in `root`.
    pub fn read(root: &Path) -> Result<Self> {
        let path = root.join("manifest.json");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("{} cannot be read", path.display()))?;
        let manifest: Self = serde_json::from_str(&text)
            .with_context(|| format!("{} is not a manifest", path.display()))?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '+');
        for (field, value) in [("slug", &manifest.slug), ("version", &manifest.version)] {
            // Both become part of file names and addresses.
            anyhow::ensure!(
                !value.is_empty() && value.chars().all(plain),
                "{}: {field} {value:?} may hold only letters, digits, `-`, `.` and `+`",
                path.display()
            );
        }
        Ok(manifest)
    }
}
