//! Packs what a reader uses, as a store installs it: one zip whose bytes depend on the tree alone.
//!
//! `left_out` in `manifest.json` names what stays in the repository, with the reason. Manifests of cargo lose what is not there: the
//! members, tests and examples that would make cargo refuse the rest.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use anyhow::{Context, Result, ensure};
use ignore::WalkBuilder;
use ignore::gitignore::GitignoreBuilder;
use regex::bytes::{Regex, RegexSet};
use serde_json::json;
use sha2::{Digest, Sha256};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use crate::manifest::{LeftOut, Manifest};

/// Largest file, in bytes: stores refuse more.
pub const MAX_FILE: u64 = 512 * 1024;
/// Largest package, in bytes: an install copies all of it.
pub const MAX_TREE: u64 = 2 * 1024 * 1024;
/// Most files in a package.
pub const MAX_FILES: usize = 300;

/// Left out whether or not git ignores them.
const LEFT_OUT: [&str; 10] = [
    ".git",
    ".hg",
    ".svn",
    ".jj",
    ".ci",
    "target",
    "node_modules",
    ".next",
    "__pycache__",
    ".DS_Store",
];

/// Folders that the public store drops without a word, so that the installed copy would lack them.
const DROPPED_BY_STORES: [&str; 4] = ["dist", "build", "venv", ".cache"];

/// Characters that stores refuse in a file name.
const REFUSED_CHARACTERS: &str = "<>:\"|?*\\$'`";

/// One file of the package.
#[derive(Clone, PartialEq, Eq)]
pub struct File {
    /// Path from the pack's folder, with `/`.
    pub path: String,
    /// Its bytes.
    pub content: Vec<u8>,
}

/// The name and the size: contents would drown whatever else is shown.
impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({} bytes)", self.path, self.content.len())
    }
}

/// An entry of `left_out`, with the number of its files and their bytes.
pub type Excluded = (LeftOut, usize, usize);

/// A packed tree.
#[derive(Debug, Clone)]
pub struct Package {
    /// From `manifest.json`.
    pub manifest: Manifest,
    /// What went in, sorted by path.
    pub files: Vec<File>,
    /// The zip, files at its root.
    pub zip: Vec<u8>,
    /// SHA-256 of `zip`, lower-case hex.
    pub sha256: String,
    /// What stayed out, by the entries of the manifest: number of files and bytes of each.
    pub left_out: Vec<Excluded>,
}

/// Everything that keeps a tree from being packed: one line each.
#[derive(Debug)]
pub struct Refused(pub Vec<String>);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Refused {}

/// What looks like a secret, and how it is called in the message.
static SECRETS: LazyLock<(RegexSet, Vec<&'static str>)> = LazyLock::new(|| {
    let rules = [
        ("a private key", r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----"),
        ("an AWS access key", r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
        (
            "a GitHub token",
            r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{50})",
        ),
        ("a GitLab token", r"\bglpat-[A-Za-z0-9_-]{20}"),
        (
            "a provider's API key",
            r"\bsk-(?:ant-|proj-)?[A-Za-z0-9_-]{32}",
        ),
        ("a Google API key", r"\bAIza[0-9A-Za-z_-]{35}"),
        ("a Slack token", r"\bxox[abprs]-[0-9A-Za-z-]{20}"),
        (
            "an npm token",
            r"\bnpm_[A-Za-z0-9]{36}\b|:_auth[T]oken=[^\s$]",
        ),
        ("a Hugging Face token", r"\bhf_[A-Za-z0-9]{34}\b"),
        ("a Stripe key", r"\b[sr]k_live_[0-9A-Za-z]{20}"),
    ];
    #[expect(
        clippy::expect_used,
        reason = "constant patterns, each of which a test matches"
    )]
    let set = RegexSet::new(rules.map(|(_, pattern)| pattern)).expect("the patterns are valid");
    (set, rules.map(|(name, _)| name).into())
});

/// Files whose name alone says that they hold a secret.
static SECRET_NAMES: LazyLock<Regex> = LazyLock::new(|| {
    let names = r"(?i)^(?:\.env(?:\..*)?|.*\.(?:pem|key|p12|pfx|jks)|id_(?:rsa|dsa|ecdsa|ed25519)|\.netrc|\.pgpass|credentials(?:\.json)?)$";
    #[expect(
        clippy::expect_used,
        reason = "a constant pattern, which a test matches"
    )]
    Regex::new(names).expect("the pattern is valid")
});

/// Walks `root` and returns its files, sorted by path; `Err` holds a [`Refused`] when something in
/// the tree keeps it from being packed. What `left_out` names is refused for the same reasons, and counted there.
pub fn collect(root: &Path, left_out: &[LeftOut]) -> Result<(Vec<File>, Vec<Excluded>)> {
    let mut rules = Vec::new();
    for entry in left_out {
        let mut builder = GitignoreBuilder::new(root);
        for path in &entry.paths {
            builder.add_line(None, &format!("/{path}"))?;
        }
        rules.push((builder.build()?, 0, 0));
    }
    let walk = WalkBuilder::new(root)
        .standard_filters(false)
        .git_ignore(true)
        // An unpacked copy without .git must give the same bytes, whatever lies around it and
        // whatever the user's own git settings ignore.
        .require_git(false)
        .parents(false)
        .filter_entry(|entry| !LEFT_OUT.iter().any(|name| entry.file_name() == *name))
        .build();
    let mut files = Vec::new();
    let mut problems = Vec::new();
    for entry in walk {
        let entry = entry.with_context(|| format!("{} cannot be read", root.display()))?;
        if entry.depth() == 0 {
            continue;
        }
        let relative = entry.path().strip_prefix(root).unwrap_or(entry.path());
        let kind = entry.file_type().context("an entry without a type")?;
        if kind.is_symlink() {
            problems.push(format!(
                "{}: is a symbolic link, which installers refuse; replace it by the file itself",
                relative.display()
            ));
            continue;
        }
        let Some(path) = relative.to_str() else {
            problems.push(format!(
                "{}: the name is not valid UTF-8; rename it",
                relative.display()
            ));
            continue;
        };
        let path = path.replace(std::path::MAIN_SEPARATOR, "/");
        let name = path.rsplit('/').next().unwrap_or(&path);
        if let Some(problem) = refused_name(name, kind.is_dir(), &path) {
            // A line break in a name must not make two lines of one problem.
            let shown: String = path
                .chars()
                .map(|c| if c.is_control() { '?' } else { c })
                .collect();
            problems.push(format!("{shown}: {problem}"));
            continue;
        }
        if kind.is_dir() {
            continue;
        }
        if !kind.is_file() {
            problems.push(format!("{path}: is neither a file nor a folder; remove it"));
            continue;
        }
        let size = entry.metadata().map_or(0, |data| data.len());
        if size > MAX_FILE {
            problems.push(format!(
                "{path}: {size} bytes, more than the {MAX_FILE} a store accepts; make it smaller or let .gitignore name it"
            ));
            continue;
        }
        let content =
            std::fs::read(entry.path()).with_context(|| format!("{path} cannot be read"))?;
        for rule in SECRETS.0.matches(&content) {
            problems.push(format!(
                "{path}: looks as if it held {}; remove it, and revoke it if it is real",
                SECRETS.1[rule]
            ));
        }
        let rule = rules
            .iter_mut()
            .find(|(rule, _, _)| rule.matched_path_or_any_parents(&path, false).is_ignore());
        if let Some((_, count, bytes)) = rule {
            *count += 1;
            *bytes += content.len();
            continue;
        }
        files.push(File { path, content });
    }
    if !left_out.is_empty() {
        trim_manifests(&mut files);
        files.iter_mut().for_each(drop_anchors);
        files.iter_mut().for_each(indent_with_tabs);
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let mut folded: BTreeMap<String, &str> = BTreeMap::new();
    for file in &files {
        if let Some(other) = folded.insert(file.path.to_lowercase(), &file.path) {
            problems.push(format!(
                "{}: differs from {other} only in case; rename one of them",
                file.path
            ));
        }
    }
    let total: u64 = files.iter().map(|file| file.content.len() as u64).sum();
    if total > MAX_TREE {
        problems.push(format!(
            "the package holds {total} bytes, more than the {MAX_TREE} an install should copy; let left_out in manifest.json name what a reader does not need"
        ));
    }
    if files.len() > MAX_FILES {
        problems.push(format!(
            "the package holds {} files, more than the {MAX_FILES} an install should copy; let left_out in manifest.json name what a reader does not need",
            files.len()
        ));
    }
    if !files.iter().any(|file| file.path == "SKILL.md") {
        problems.push("SKILL.md: missing at the root of the pack".to_owned());
    }
    if problems.is_empty() {
        let counts = rules.into_iter().map(|(_, count, bytes)| (count, bytes));
        let counted = left_out.iter().cloned().zip(counts);
        Ok((
            files,
            counted
                .map(|(entry, (count, bytes))| (entry, count, bytes))
                .collect(),
        ))
    } else {
        problems.sort();
        Err(Refused(problems).into())
    }
}

/// Drops the marks of the pieces that the chapters show: they would stay in a reader's code.
fn drop_anchors(file: &mut File) {
    let Ok(text) = std::str::from_utf8(&file.content) else {
        return;
    };
    let is_mark = |line: &str| {
        let line = line.trim_start();
        let line = line.strip_prefix("//").or(line.strip_prefix('#'));
        line.is_some_and(|line| line.starts_with(" ANCHOR: ") || line.starts_with(" ANCHOR_END: "))
    };
    if file.path.ends_with(".md") || !text.lines().any(is_mark) {
        return;
    }
    let mut kept = String::with_capacity(text.len());
    let mut dropped = false;
    for line in text.split_inclusive('\n') {
        if is_mark(line) {
            dropped = true;
            continue;
        }
        // One blank line is enough where a mark stood between two.
        let doubled =
            dropped && line.trim().is_empty() && (kept.ends_with("\n\n") || kept.is_empty());
        dropped &= doubled;
        if !doubled {
            kept.push_str(line);
        }
    }
    file.content = kept.into_bytes();
}

/// Indents Rust with tabs, as rustfmt does with `hard_tabs`: blanks would be a tenth of an install. In a literal over several
/// lines they are content: a file that has one, and with it a line with an odd number of quotation marks, stays as it is.
fn indent_with_tabs(file: &mut File) {
    let Ok(text) = std::str::from_utf8(&file.content) else {
        return;
    };
    let is_odd = |line: &str| {
        let line = line.replace("\\\"", "").replace("'\"'", "");
        line.matches('"').count() % 2 == 1
    };
    if !file.path.ends_with(".rs") || text.lines().any(is_odd) {
        return;
    }
    let mut indented = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let levels = (line.len() - line.trim_start_matches(' ').len()) / 4;
        indented.extend(std::iter::repeat_n('\t', levels));
        indented.push_str(&line[4 * levels..]);
    }
    file.content = indented.into_bytes();
}

/// Takes what is not in the package out of its manifests, so that cargo builds what is.
fn trim_manifests(files: &mut [File]) {
    let crates: Vec<String> = files
        .iter()
        .filter_map(|file| file.path.strip_suffix("/Cargo.toml"))
        .map(|folder| format!("\"{folder}\""))
        .collect();
    let members: String = files
        .iter()
        .filter(|file| file.path.ends_with("/Cargo.toml"))
        .map(|file| String::from_utf8_lossy(&file.content).into_owned())
        .collect();
    let inherited = |name: &str| {
        members.lines().any(|line| {
            line.strip_prefix(name).is_some_and(|rest| {
                rest.starts_with(".workspace = true") || rest.starts_with(" = { workspace = true")
            })
        })
    };
    for file in files.iter_mut() {
        let is_root = file.path == "Cargo.toml";
        if !is_root && !file.path.ends_with("/Cargo.toml") {
            continue;
        }
        let Ok(text) = std::str::from_utf8(&file.content) else {
            continue;
        };
        let mut kept = String::new();
        let mut keep = true;
        let mut shared = false; // in the list from which members inherit
        // Sections of tests and examples; at the root, where `src/` is missing, everything but the workspace.
        for line in text.lines() {
            if let Some(section) = line.strip_prefix('[') {
                let section = section.trim_start_matches('[');
                let of = |names: &[&str]| names.iter().any(|name| section.starts_with(name));
                shared = is_root && of(&["workspace.dependencies"]);
                keep = if is_root {
                    of(&["workspace", "profile"])
                } else {
                    !of(&[
                        "dev-dependencies",
                        "build-dependencies",
                        "test]",
                        "bench]",
                        "example]",
                    ])
                };
            }
            if shared
                && let Some((name, _)) = line.split_once(" = ")
                && !inherited(name)
            {
                continue;
            }
            if shared && line.starts_with('#') {
                continue; // why a version was chosen, for maintainers
            }
            if keep && is_root && line.starts_with("members = ") {
                kept.push_str(&format!("members = [{}]\n", crates.join(", ")));
            } else if keep
                && !(is_root
                    && ["exclude = ", "default-members = "]
                        .iter()
                        .any(|key| line.starts_with(key)))
            {
                kept.push_str(line);
                kept.push('\n');
            }
        }
        file.content = kept.into_bytes();
    }
}

/// Why `name` (the last part of `path`) cannot be packed.
fn refused_name(name: &str, is_dir: bool, path: &str) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    if let Some(c) = name
        .chars()
        .find(|c| REFUSED_CHARACTERS.contains(*c) || c.is_control())
    {
        return Some(format!(
            "the name holds {c:?}, which stores refuse; rename it"
        ));
    }
    if name.starts_with(' ') || name.ends_with([' ', '.']) {
        return Some("the name begins or ends with a blank or a dot; rename it".to_owned());
    }
    if is_dir {
        return DROPPED_BY_STORES
            .contains(&lower.as_str())
            .then(|| "the store leaves out folders of this name; rename it".to_owned());
    }
    if lower == "skill.md" && path != "SKILL.md" {
        return Some("is a second SKILL.md, which stores refuse; rename it".to_owned());
    }
    if lower == "metadata.json" {
        return Some("installers drop files of this name; rename it".to_owned());
    }
    (SECRET_NAMES.is_match(name.as_bytes()) && lower != ".env.example").then(|| {
        "the name is that of a file with secrets; remove it or let .gitignore name it".to_owned()
    })
}

/// The zip of `files`: the given order, fixed times and modes, so that the same files always give
/// the same bytes.
pub fn zip(files: &[File]) -> Result<Vec<u8>> {
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .last_modified_time(DateTime::default());
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for file in files {
        // From the content, not from the file system: umask and checkout do not matter. The clients
        // of the stores drop these bits, `unzip` keeps them.
        let mode = if file.content.starts_with(b"#!") {
            0o755
        } else {
            0o644
        };
        zip.start_file(file.path.as_str(), options.unix_permissions(mode))
            .with_context(|| format!("{} cannot be packed", file.path))?;
        zip.write_all(&file.content)?;
    }
    Ok(zip.finish()?.into_inner())
}

/// Packs `root`; `progress` receives each step as a line.
pub fn build(root: &Path, mut progress: impl FnMut(&str)) -> Result<Package> {
    let manifest = Manifest::read(root)?;
    progress(&format!("Collecting the files of {}", root.display()));
    let (files, left_out) = collect(root, &manifest.left_out)?;
    progress(&format!("Packing {} files", files.len()));
    let zip = zip(&files)?;
    let sha256 = hex::encode(Sha256::digest(&zip));
    Ok(Package {
        manifest,
        files,
        zip,
        sha256,
        left_out,
    })
}

impl Package {
    /// The manifest next to the zip: what a store needs to offer this package.
    pub fn store_manifest(&self) -> serde_json::Value {
        json!({
            "version": self.manifest.version,
            "slug": self.manifest.slug,
            "name": self.manifest.name,
            "author": self.manifest.author,
            "license": self.manifest.license,
            "description": self.manifest.description,
            "sha256": self.sha256,
            "size": self.zip.len(),
        })
    }

    /// What went in, one line for each entry of the root: name, number of files, bytes.
    pub fn summary(&self) -> Vec<String> {
        let mut groups: BTreeMap<(bool, String), (usize, usize)> = BTreeMap::new();
        for file in &self.files {
            let (folder, group) = match file.path.split_once('/') {
                Some((folder, _)) => (true, format!("{folder}/")),
                None => (false, file.path.clone()),
            };
            let sum = groups.entry((!folder, group)).or_default();
            sum.0 += 1;
            sum.1 += file.content.len();
        }
        groups
            .iter()
            .map(|((_, name), (files, bytes))| {
                let plural = if *files == 1 { "" } else { "s" };
                format!("{name:<24} {files:>4} file{plural:<1} {:>8}", size(*bytes))
            })
            .collect()
    }

    /// What stayed out, one line for each entry of the manifest: files, bytes, paths, the reason.
    pub fn left_out(&self) -> Vec<String> {
        self.left_out
            .iter()
            .map(|(entry, files, bytes)| {
                format!(
                    "{files:>4} files {:>10}  {}: {}",
                    size(*bytes),
                    entry.paths.join(" "),
                    entry.why
                )
            })
            .collect()
    }

    /// Writes the package as the folder `out/SLUG`, for clients that copy a folder; an older one is replaced.
    pub fn unpack(&self, out: &Path) -> Result<PathBuf> {
        let folder = out.join(&self.manifest.slug);
        let write = || -> Result<()> {
            if folder.exists() {
                std::fs::remove_dir_all(&folder)?;
            }
            for file in &self.files {
                let path = folder.join(&file.path);
                std::fs::create_dir_all(path.parent().context("a path without a folder")?)?;
                std::fs::write(path, &file.content)?;
            }
            Ok(())
        };
        write().with_context(|| format!("{} cannot be written", folder.display()))?;
        Ok(folder)
    }

    /// Writes `SLUG-VERSION.zip` and `SLUG-VERSION.manifest.json` into `out`, each complete or not
    /// at all, and returns their paths.
    pub fn write(&self, out: &Path) -> Result<(PathBuf, PathBuf)> {
        std::fs::create_dir_all(out)
            .with_context(|| format!("{} cannot be made", out.display()))?;
        let stem = format!("{}-{}", self.manifest.slug, self.manifest.version);
        let zip = out.join(format!("{stem}.zip"));
        let manifest = out.join(format!("{stem}.manifest.json"));
        let text = format!(
            "{}\n",
            serde_json::to_string_pretty(&self.store_manifest())?
        );
        write_whole(&zip, &self.zip)?;
        write_whole(&manifest, text.as_bytes())?;
        Ok((zip, manifest))
    }
}

/// Where `package` writes without `--out`; a folder inside the pack that git does not ignore would
/// go into the next package.
pub fn check_out(root: &Path, out: &Path) -> Result<()> {
    let absolute = std::path::absolute(out)?;
    ensure!(
        !absolute.starts_with(root) || absolute.starts_with(root.join("target")),
        "--out {} lies inside the pack: choose a folder outside, or below target/",
        out.display()
    );
    Ok(())
}

/// Writes to a temporary file next to `path` and renames it.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> Result<()> {
        let folder = path.parent().context("a path without a folder")?;
        let mut builder = tempfile::Builder::new();
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
        let mut file = builder.tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("{} cannot be written", path.display()))
}

/// `bytes` for people.
pub fn size(bytes: usize) -> String {
    if bytes < 1024 {
        format!("{bytes} B")
    } else {
        format!("{:.1} KiB", bytes as f64 / 1024.0)
    }
}
