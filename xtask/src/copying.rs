//! `copying.tsv`, which `copy` reads: for each pattern its files, its packages, its chapter and how to start. All of it comes from
//! the sources, the chapters and the lock files. `cargo xtask sync` rewrites it.
//!
//! Lines that begin with `#package` give the name of a package its version and features. Then one line per row, nine columns separated by tabs: name, language (`rust`, `ts`, `next`, `conf`, `service`, `app`, `folder`, or `-` for a
//! chapter without files), files, packages, chapter, kind of probe, number of files, summary, start. Blanks separate files and packages; `~` is a blank
//! within a package; ` ;; ` separates the lines of the start. Files are below `snippets/src`, `snippets/typescript/src`,
//! `snippets/typescript/nextjs` or the root, by language; `streaming/` of a Next.js row is `snippets/typescript/src`.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::LazyLock;

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use regex::Regex;
use toml::Value as Toml;

use super::checklist;

static LINK: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\[(`[^`]*`)\](?:\([^)]*\))?").unwrap());
static IMPORT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r#"(?m)(?:^import|^export|^\} from| from|import\()\s*(?:type\s+)?[^"'\n;]*?["']([^"']+)["']"#).unwrap()
});
static EXPORT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?m)^export (?:async )?(?:function\*?|class|const) ([A-Za-z_$][A-Za-z0-9_$]*)")
        .unwrap()
});

pub const TABLE: &str = "copying.tsv";
const HEADER: &str = "# name\tlanguage\tfiles\tpackages\tchapter\tprobe\tcount\tsummary\tstart";
const RUST: &str = "snippets/src";
const TYPESCRIPT: &str = "snippets/typescript/src";
const NEXT: &str = "snippets/typescript/nextjs";
/// Most files of a pattern; `xtask/tests/copying.rs` names those that may have more.
pub const MOST_FILES: usize = 8;

#[derive(Debug, Clone)]
pub struct Row {
    /// `sse/resume`; TypeScript patterns and Rust patterns may share a name.
    pub name: String,
    pub language: &'static str,
    pub files: BTreeSet<String>,
    /// What `cargo add` or `npm i` get, with `~` for a blank.
    pub packages: Vec<String>,
    pub chapter: String,
    pub probe: String,
    pub summary: String,
    pub start: Vec<String>,
}

/// The table as text, or what is wrong with its sources.
pub fn table(root: &Path) -> Result<String, Vec<String>> {
    let rows = rows(root)?;
    let mut packages = BTreeMap::new();
    for spec in rows.iter().flat_map(|row| &row.packages) {
        let first = packages.insert(name_of(spec), spec);
        if let Some(first) = first.filter(|first| *first != spec) {
            return Err(vec![format!(
                "{first} and {spec} are one package in two forms"
            )]);
        }
    }
    let mut text = String::new();
    for (name, spec) in packages {
        text.push_str(&format!("#package\t{name}\t{spec}\n"));
    }
    text.push_str(&format!("{HEADER}\n"));
    for row in rows {
        let dash = |text: &str| match text {
            "" => "-".to_owned(),
            text => text.replace('\t', " "),
        };
        let files: Vec<&str> = row.files.iter().map(String::as_str).collect();
        let packages: Vec<&str> = row.packages.iter().map(|spec| name_of(spec)).collect();
        let columns = [
            row.name.clone(),
            row.language.to_owned(),
            dash(&files.join(" ")),
            dash(&packages.join(" ")),
            dash(&row.chapter),
            dash(&row.probe),
            files.len().to_string(),
            dash(&row.summary),
            dash(&row.start.join(" ;; ")),
        ];
        text.push_str(&columns.join("\t"));
        text.push('\n');
    }
    Ok(text)
}

/// `ws` of `ws@8.18.2` and `@types/ws` of `-D~@types/ws@8.18.2`.
fn name_of(spec: &str) -> &str {
    let spec = spec.strip_prefix("-D~").unwrap_or(spec);
    let end = spec[1..].find(['@', '~']).map_or(spec.len(), |at| at + 1);
    &spec[..end]
}

pub fn rows(root: &Path) -> Result<Vec<Row>, Vec<String>> {
    let mut problems = Vec::new();
    let sources = Sources::read(root);
    let chapters = chapters(root);
    let probes = probes(root);
    let mut rows = Vec::new();
    rows.extend(rust_rows(&sources, &mut problems));
    rows.extend(typescript_rows(&sources, &mut problems));
    // A chapter without a pattern of its name is the patterns that it shows.
    for chapter in &chapters {
        if rows.iter().any(|row| row.name == chapter.name) {
            continue;
        }
        let (plain, sdk) = chapter.without_the_ai_sdk(&sources);
        rows.push(chapter_row(&sources, &plain, &mut problems));
        rows.extend(sdk.map(|chapter| chapter_row(&sources, &chapter, &mut problems)));
    }
    rows.extend(service_rows(&sources, &mut problems));
    for row in &mut rows {
        let own = chapters.iter().find(|chapter| chapter.name == row.name);
        let shows = |chapter: &&Chapter| {
            chapter
                .shows
                .iter()
                .any(|path| *path == own_path(row, root))
        };
        if row.chapter.is_empty()
            && let Some(chapter) = own.or_else(|| chapters.iter().find(shows))
        {
            row.chapter = chapter.name.clone();
        }
        if let Some(kind) = probes.get(&row.chapter) {
            row.probe = kind.clone();
        }
    }
    // What no chapter shows is explained where it is used.
    let named: Vec<(BTreeSet<String>, &'static str, String)> = rows
        .iter()
        .filter(|row| row.name == row.chapter)
        .map(|row| (row.files.clone(), row.language, row.chapter.clone()))
        .collect();
    for row in rows.iter_mut().filter(|row| row.chapter.is_empty()) {
        let own = row.files.iter().find(|file| is_main(file, &row.name));
        let used = named
            .iter()
            .filter(|(files, language, _)| {
                *language == row.language && own.is_some_and(|own| files.contains(own))
            })
            .min_by_key(|(files, _, _)| files.len());
        if let Some((_, _, chapter)) = used {
            row.chapter = chapter.clone();
        }
    }
    rows.sort_by(|a, b| (order(&a.name), a.language).cmp(&(order(&b.name), b.language)));
    if problems.is_empty() {
        Ok(rows)
    } else {
        Err(problems)
    }
}

/// In the order of the book, what is not in it last.
fn order(name: &str) -> (usize, String) {
    let topic = name.split('/').next().unwrap_or(name);
    let at = checklist::TOPICS.iter().position(|(t, _, _)| *t == topic);
    (at.unwrap_or(usize::MAX), name.to_owned())
}

/// Whether `file` is the file, or one of the folder, that gave `name` its name.
fn is_main(file: &str, name: &str) -> bool {
    let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
    stem == name || stem.strip_suffix("/mod") == Some(name)
}

/// The path of the row's own file from the root.
fn own_path(row: &Row, root: &Path) -> String {
    let base = match row.language {
        "rust" => RUST,
        "ts" => TYPESCRIPT,
        _ => return String::new(),
    };
    let own = row.files.iter().find(|file| is_main(file, &row.name));
    let path = format!("{base}/{}", own.map_or("", String::as_str));
    debug_assert!(root.join(&path).exists());
    path
}

/// Every path in a Rust file, or why it is not Rust.
type Paths = Rc<Result<Vec<Vec<String>>, String>>;

/// What the rows are made of.
struct Sources {
    root: PathBuf,
    /// `[workspace.dependencies]` with the version of the lock file.
    crates: BTreeMap<String, String>,
    /// Packages of both package.json.
    npm: BTreeMap<String, String>,
    /// The paths in each Rust file, or why it is not Rust: most files are part of many rows.
    paths: RefCell<BTreeMap<String, Paths>>,
}

impl Sources {
    fn read(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            crates: crates(root),
            npm: npm(root),
            paths: RefCell::default(),
        }
    }

    /// Every path in the Rust file `path`; `None`: it cannot be read.
    fn paths(&self, path: &str) -> Option<Paths> {
        if let Some(known) = self.paths.borrow().get(path) {
            return Some(known.clone());
        }
        let tokens = self.text(path)?.parse::<TokenStream>();
        let found = Rc::new(tokens.map(paths).map_err(|e| e.to_string()));
        self.paths
            .borrow_mut()
            .insert(path.to_owned(), found.clone());
        Some(found)
    }

    fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok()
    }

    /// Files below `folder` that end with one of `ends`, relative to it.
    fn files(&self, folder: &str, ends: &[&str]) -> Vec<String> {
        let mut found = Vec::new();
        super::walk(&self.root, Path::new(folder), &mut |path| {
            let path = path.strip_prefix(folder).unwrap_or(path);
            let path = path.to_string_lossy().replace('\\', "/");
            if ends.iter().any(|end| path.ends_with(end)) {
                found.push(path);
            }
        });
        found
    }
}

// --- Rust ---

fn rust_rows(sources: &Sources, problems: &mut Vec<String>) -> Vec<Row> {
    let mut rows = Vec::new();
    for file in sources.files(RUST, &[".rs"]) {
        let parts: Vec<&str> = file.split('/').collect();
        let name = match parts.as_slice() {
            [topic, file] if *file != "mod.rs" => format!("{topic}/{}", &file[..file.len() - 3]),
            [topic, folder, "mod.rs"] => format!("{topic}/{folder}"),
            _ => continue,
        };
        let (files, crates) = rust_needs(sources, [file.clone()], problems);
        let text = sources.text(&format!("{RUST}/{file}")).unwrap_or_default();
        // A folder starts where one of its files does.
        let folder = file.strip_suffix("mod.rs").unwrap_or("-");
        let below = files.iter().filter(|below| below.starts_with(folder));
        rows.push(Row {
            name,
            language: "rust",
            packages: cargo_packages(sources, &crates),
            chapter: String::new(),
            probe: String::new(),
            summary: first_sentence(&head(&text, "//!").0),
            start: first_start(sources, std::iter::once(&file).chain(below)),
            files,
        });
    }
    rows
}

/// Files below `snippets/src` and crates that `start` needs, itself included.
fn rust_needs(
    sources: &Sources,
    start: impl IntoIterator<Item = String>,
    problems: &mut Vec<String>,
) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut files, mut crates) = (BTreeSet::new(), BTreeSet::new());
    let mut pending: Vec<String> = start.into_iter().collect();
    while let Some(file) = pending.pop() {
        if files.contains(&file) {
            continue;
        }
        let path = format!("{RUST}/{file}");
        let Some(found) = sources.paths(&path) else {
            problems.push(format!("{path}: cannot be read"));
            continue;
        };
        match found.as_ref() {
            Err(e) => problems.push(format!("{path}: {e}")),
            Ok(found) => {
                for path in found {
                    if let Some(module) = resolve(sources, &file, path) {
                        pending.push(module);
                    }
                    let name = path[0].replace('_', "-");
                    for name in [path[0].clone(), name] {
                        if path.len() > 1 && sources.crates.contains_key(&name) {
                            crates.insert(name);
                        }
                    }
                }
            }
        }
        files.insert(file);
    }
    (files, crates)
}

/// Every path in `tokens`, the branches of `a::{b, c::d}` apart; `mod x;` as `mod::x`. Comments and strings are no tokens.
fn paths(tokens: TokenStream) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        at = match &tokens[at] {
            TokenTree::Ident(name) if *name == "mod" => {
                if let (Some(TokenTree::Ident(name)), Some(TokenTree::Punct(end))) =
                    (tokens.get(at + 1), tokens.get(at + 2))
                    && end.as_char() == ';'
                {
                    found.push(vec!["mod".to_owned(), name.to_string()]);
                }
                at + 1
            }
            TokenTree::Ident(_) => path(&tokens, at, &[], &mut found),
            TokenTree::Group(group) => {
                found.extend(paths(group.stream()));
                at + 1
            }
            _ => at + 1,
        };
    }
    found
}

/// Adds the path that begins at `at` below `prefix`; returns where it ends.
fn path(
    tokens: &[TokenTree],
    mut at: usize,
    prefix: &[String],
    found: &mut Vec<Vec<String>>,
) -> usize {
    let mut path = prefix.to_vec();
    loop {
        match tokens.get(at) {
            Some(TokenTree::Ident(name)) => path.push(name.to_string()),
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                let mut at_branch = 0;
                while at_branch < inner.len() {
                    let next = self::path(&inner, at_branch, &path, found);
                    at_branch = inner[next..]
                        .iter()
                        .position(|t| matches!(t, TokenTree::Punct(p) if p.as_char() == ','))
                        .map_or(inner.len(), |comma| next + comma + 1);
                }
                return at + 1;
            }
            // `a::<T>`, `a::*`: the rest is read by the caller.
            _ => {
                path.push("*".to_owned());
                break;
            }
        }
        at += 1;
        let colon =
            |at: usize| matches!(tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == ':');
        if !colon(at) || !colon(at + 1) {
            break;
        }
        at += 2;
    }
    found.push(path);
    at
}

/// The file below `snippets/src` that `path` in `file` leads to. A topic's `mod.rs` only lists its files, and so does a folder's
/// as long as nothing but its files is named.
fn resolve(sources: &Sources, file: &str, path: &[String]) -> Option<String> {
    let parent = |module: &str| module.rsplit_once('/').map_or("", |(p, _)| p).to_owned();
    let own = file
        .trim_end_matches(".rs")
        .trim_end_matches("/mod")
        .to_owned();
    let mut module = match path.first()?.as_str() {
        "crate" | "snippets" => String::new(),
        "self" | "mod" => own,
        "super" => parent(&own),
        _ => return None,
    };
    // `pub(super)` is no path.
    if path.len() == 1 {
        return None;
    }
    let is_file = |path: &str| sources.root.join(RUST).join(path).is_file();
    let mut found = None;
    if module.contains('/') && is_file(&format!("{module}/mod.rs")) {
        found = Some(format!("{module}/mod.rs"));
    }
    for name in &path[1..] {
        module = match name.as_str() {
            "super" => parent(&module),
            _ if module.is_empty() => name.clone(),
            _ => format!("{module}/{name}"),
        };
        let (single, folder) = (format!("{module}.rs"), format!("{module}/mod.rs"));
        if is_file(&single) {
            return Some(single);
        }
        if is_file(&folder) && module.contains('/') {
            found = Some(folder);
        }
    }
    found
}

/// How to start with the first of `files` that says so.
fn first_start<'a>(sources: &Sources, files: impl Iterator<Item = &'a String>) -> Vec<String> {
    files
        .map(|file| rust_start(&sources.text(&format!("{RUST}/{file}")).unwrap_or_default()))
        .find(|start| !start.is_empty())
        .unwrap_or_default()
}

/// How to start: the code block of the file's head, else its public functions.
fn rust_start(text: &str) -> Vec<String> {
    let (_, code) = head(text, "//!");
    if !code.is_empty() {
        return code;
    }
    let Ok(file) = syn::parse_file(text) else {
        return Vec::new();
    };
    let mut names = Vec::new();
    let public = |v: &syn::Visibility| matches!(v, syn::Visibility::Public(_));
    for item in &file.items {
        match item {
            syn::Item::Fn(item) if public(&item.vis) => {
                names.push((None, item.sig.ident.to_string()));
            }
            syn::Item::Impl(item) if item.trait_.is_none() => {
                for function in &item.items {
                    if let syn::ImplItem::Fn(function) = function
                        && public(&function.vis)
                        && let syn::Type::Path(of) = &*item.self_ty
                    {
                        let of = of.path.segments.last().map(|s| s.ident.to_string());
                        names.push((of, function.sig.ident.to_string()));
                    }
                }
            }
            _ => {}
        }
    }
    names.sort_by_key(|(of, name)| (of.is_some(), !matches!(name.as_str(), "new" | "start")));
    let lines = names.iter().filter_map(|(of, name)| {
        let begin = ["pub fn ", "pub async fn "].iter().find_map(|fun| {
            ["(", "<"]
                .iter()
                .find_map(|open| text.find(&format!("{fun}{name}{open}")))
        })?;
        let signature = text[begin..].split(['{', ';']).next()?;
        let signature = signature.split("\nwhere").next()?;
        let signature: Vec<&str> = signature.split_whitespace().collect();
        let signature = signature.join(" ").replace("( ", "(").replace(", )", ")");
        Some(match of {
            Some(of) => signature.replacen(name.as_str(), &format!("{of}::{name}"), 1),
            None => signature,
        })
    });
    lines.take(2).collect()
}

// --- TypeScript ---

fn typescript_rows(sources: &Sources, problems: &mut Vec<String>) -> Vec<Row> {
    let mut rows = Vec::new();
    for file in sources.files(TYPESCRIPT, &[".ts", ".tsx"]) {
        let (files, packages) = typescript_needs(sources, [file.clone()], false, problems);
        let text = sources
            .text(&format!("{TYPESCRIPT}/{file}"))
            .unwrap_or_default();
        let (mut prose, mut start) = head(&text, "//");
        if let Some(first) = prose.first_mut()
            && let Some((_, rest)) = first.split_once(": ")
        {
            let mut letters = rest.chars();
            *first = letters
                .next()
                .into_iter()
                .flat_map(char::to_uppercase)
                .chain(letters)
                .collect();
        }
        start.insert(0, import_line(&file, &text));
        rows.push(Row {
            name: file
                .rsplit_once('.')
                .map_or(&*file, |(name, _)| name)
                .to_owned(),
            language: "ts",
            files,
            packages: npm_packages(sources, &packages),
            chapter: String::new(),
            probe: String::new(),
            summary: first_sentence(&prose),
            start,
        });
    }
    rows
}

/// `import { … } from "…"` of everything but types that `text` exports.
fn import_line(file: &str, text: &str) -> String {
    let names: Vec<&str> = EXPORT
        .captures_iter(text)
        .map(|c| c.get(1).unwrap().as_str())
        .collect();
    format!("import {{ {} }} from \"{file}\";", names.join(", "))
}

/// The routes of a Next.js row, and where their contract is.
fn next_start(sources: &Sources, files: &BTreeSet<String>) -> Vec<String> {
    let method =
        Regex::new(r"(?m)^export (?:async )?function (GET|POST|PUT|PATCH|DELETE)\b").unwrap();
    let mut lines = Vec::new();
    for file in files {
        let Some(path) = file
            .strip_prefix("app")
            .and_then(|path| path.strip_suffix("/route.ts"))
        else {
            continue;
        };
        let text = sources.text(&format!("{NEXT}/{file}")).unwrap_or_default();
        for found in method.captures_iter(&text) {
            lines.push(format!("{} {path}: {file}", &found[1]));
        }
    }
    for (file, holds) in [
        (
            "lib/settings.ts",
            "roles, limits, times, statuses, refusals",
        ),
        (
            "streaming/llm/chat-events.ts",
            "names and data of the events",
        ),
    ] {
        if files.contains(file) {
            lines.push(format!("{holds}: {file}"));
        }
    }
    lines
}

/// Files and packages that `start` needs, itself included. Paths of a Next.js row are the application's, with `streaming/` for the patterns.
fn typescript_needs(
    sources: &Sources,
    start: impl IntoIterator<Item = String>,
    next: bool,
    problems: &mut Vec<String>,
) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut files, mut packages) = (BTreeSet::new(), BTreeSet::new());
    let mut pending: Vec<String> = start.into_iter().collect();
    while let Some(file) = pending.pop() {
        if files.contains(&file) {
            continue;
        }
        let path = match file.strip_prefix("streaming/") {
            Some(pattern) if next => format!("{TYPESCRIPT}/{pattern}"),
            _ if next => format!("{NEXT}/{file}"),
            _ => format!("{TYPESCRIPT}/{file}"),
        };
        let Some(text) = sources.text(&path) else {
            problems.push(format!("{path}: cannot be read"));
            continue;
        };
        let folder = file.rsplit_once('/').map_or("", |(folder, _)| folder);
        for import in IMPORT.captures_iter(&text) {
            let name = &import[1];
            if let Some(path) = name.strip_prefix("@/") {
                pending.push(path.to_owned());
            } else if name.starts_with('.') {
                pending.push(join(folder, name));
            } else if name.starts_with("node:") {
                packages.insert("@types/node".to_owned());
            } else {
                let parts = if name.starts_with('@') { 2 } else { 1 };
                let package = name.split('/').take(parts).collect::<Vec<_>>().join("/");
                let types = format!("@types/{package}");
                if sources.npm.contains_key(&types) {
                    packages.insert(types);
                }
                packages.insert(package);
            }
        }
        files.insert(file);
    }
    (files, packages)
}

/// `path` as seen from `folder`.
fn join(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|p| !p.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

// --- Chapters and services ---

struct Chapter {
    name: String,
    /// The chapter to read: `name`, except for a part of one.
    page: String,
    title: String,
    /// Paths from the root.
    shows: BTreeSet<String>,
}

impl Chapter {
    /// The chapter without its routes for the AI SDK, and those as `NAME-ai`, for readers who use it.
    fn without_the_ai_sdk(&self, sources: &Sources) -> (Self, Option<Self>) {
        let of_sdk = |path: &&String| {
            path.ends_with("/route.ts")
                && sources
                    .text(path)
                    .is_some_and(|text| text.contains("from \"ai\";"))
        };
        let sdk: BTreeSet<String> = self.shows.iter().filter(of_sdk).cloned().collect();
        let plain = Self {
            name: self.name.clone(),
            page: self.page.clone(),
            title: self.title.clone(),
            shows: self.shows.difference(&sdk).cloned().collect(),
        };
        let Some(first) = sdk.first() else {
            return (plain, None);
        };
        let (prose, _) = head(&sources.text(first).unwrap_or_default(), "//");
        let sdk = Self {
            name: format!("{}-ai", self.name),
            page: self.page.clone(),
            title: first_sentence(&prose[..1.min(prose.len())]),
            // What both need: the configuration, the instrumentation.
            shows: self
                .shows
                .iter()
                .filter(|path| sdk.contains(*path) || path.ends_with("/instrumentation.ts"))
                .cloned()
                .collect(),
        };
        (plain, Some(sdk))
    }
}

fn chapters(root: &Path) -> Vec<Chapter> {
    let from = Regex::new(r"(?m)^<!-- from: ([^ #]+)").unwrap();
    let mut found = Vec::new();
    for document in super::documents(root) {
        if !super::budgets::is_chapter(&document) {
            continue;
        }
        let text = fs::read_to_string(root.join(&document)).unwrap_or_default();
        let name = document.with_extension("");
        let name = name.strip_prefix("book/src").unwrap().to_string_lossy();
        found.push(Chapter {
            name: name.clone().into_owned(),
            page: name.into_owned(),
            title: text
                .lines()
                .next()
                .unwrap_or("")
                .trim_start_matches("# ")
                .to_owned(),
            shows: from.captures_iter(&text).map(|c| c[1].to_owned()).collect(),
        });
    }
    found
}

fn chapter_row(sources: &Sources, chapter: &Chapter, problems: &mut Vec<String>) -> Row {
    let below = |base: &str| -> Vec<String> {
        let prefix = format!("{base}/");
        let all = chapter
            .shows
            .iter()
            .filter_map(|path| path.strip_prefix(&prefix));
        all.map(str::to_owned).collect()
    };
    let next: Vec<String> = below(NEXT)
        .into_iter()
        // The application's own configuration is shown, and merged by hand.
        .filter(|path| path.contains('/') || path.starts_with("instrumentation"))
        .collect();
    let conf: Vec<String> = chapter
        .shows
        .iter()
        .filter(|path| path.starts_with("book/src/") || path.starts_with("services/"))
        .cloned()
        .collect();
    let mut start = Vec::new();
    let (language, files, packages) = if !next.is_empty() {
        let (files, packages) = typescript_needs(sources, next, true, problems);
        start = next_start(sources, &files);
        ("next", files, npm_packages(sources, &packages))
    } else if !below(RUST).is_empty() {
        let (files, crates) = rust_needs(sources, below(RUST), problems);
        start = first_start(sources, below(RUST).iter());
        ("rust", files, cargo_packages(sources, &crates))
    } else if !below(TYPESCRIPT).is_empty() {
        for file in below(TYPESCRIPT) {
            let text = sources
                .text(&format!("{TYPESCRIPT}/{file}"))
                .unwrap_or_default();
            start.push(import_line(&file, &text));
            start.extend(head(&text, "//").1);
        }
        let (files, packages) = typescript_needs(sources, below(TYPESCRIPT), false, problems);
        ("ts", files, npm_packages(sources, &packages))
    } else if !conf.is_empty() {
        ("conf", conf.into_iter().collect(), Vec::new())
    } else {
        ("-", BTreeSet::new(), Vec::new())
    };
    Row {
        name: chapter.name.clone(),
        language,
        files,
        packages,
        chapter: chapter.page.clone(),
        probe: String::new(),
        summary: chapter.title.clone(),
        start,
    }
}

/// A service is a crate `services/NAME` (`app()` in `src/lib.rs`) that names the patterns `snippets::…`; its row has the patterns.
fn service_rows(sources: &Sources, problems: &mut Vec<String>) -> Vec<Row> {
    let mut rows = Vec::new();
    let Ok(entries) = fs::read_dir(sources.root.join("services")) else {
        return rows;
    };
    let chapter = Regex::new(r"book/src/([a-z]+/[a-z_]+)\.md").unwrap();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let folder = format!("services/{name}");
        let readme = sources
            .text(&format!("{folder}/README.md"))
            .unwrap_or_default();
        let named = chapter
            .captures(&readme)
            .map_or(String::new(), |c| c[1].to_owned());
        let paragraph = readme.split("\n\n").nth(1).unwrap_or("").replace('\n', " ");
        let summary = first_sentence(&[paragraph]);
        let Some(manifest) = sources.text(&format!("{folder}/Cargo.toml")) else {
            if sources.text(&format!("{folder}/next.config.ts")).is_some() {
                rows.push(app_row(sources, &name, named, summary, problems));
            } else {
                rows.extend(folder_row(sources, &name));
            }
            continue;
        };
        let mut start = BTreeSet::new();
        for file in sources.files(&format!("{folder}/src"), &[".rs"]) {
            let text = sources
                .text(&format!("{folder}/src/{file}"))
                .unwrap_or_default();
            let Ok(tokens) = text.parse::<TokenStream>() else {
                problems.push(format!("{folder}/src/{file}: is not Rust"));
                continue;
            };
            let found = paths(tokens)
                .into_iter()
                .filter(|path| path[0] == "snippets");
            start.extend(found.filter_map(|path| resolve(sources, "mod.rs", &path)));
        }
        let (files, mut crates) = rust_needs(sources, start, problems);
        let toml: Toml = match toml::from_str(&manifest) {
            Ok(toml) => toml,
            Err(e) => {
                problems.push(format!("{folder}/Cargo.toml: {e}"));
                continue;
            }
        };
        for (dependency, value) in toml
            .get("dependencies")
            .and_then(Toml::as_table)
            .into_iter()
            .flatten()
        {
            if dependency == "snippets" {
                continue;
            }
            let inherited = value.get("workspace").and_then(Toml::as_bool) == Some(true);
            if !inherited || !sources.crates.contains_key(dependency) {
                problems.push(format!(
                    "{folder}/Cargo.toml: {dependency} is not `workspace = true`"
                ));
            }
            crates.insert(dependency.clone());
        }
        rows.push(Row {
            name: format!("service/{name}"),
            language: "service",
            files,
            packages: cargo_packages(sources, &crates),
            chapter: named,
            probe: String::new(),
            summary,
            start: Vec::new(),
        });
    }
    rows
}

/// A service of Next.js: what its page imports, the chat route, and the two files that every application has.
fn app_row(
    sources: &Sources,
    name: &str,
    chapter: String,
    summary: String,
    problems: &mut Vec<String>,
) -> Row {
    let page = sources
        .text(&format!("services/{name}/app/page.tsx"))
        .unwrap_or_default();
    let import = Regex::new(r#"from "@/([^"]+)""#).unwrap();
    let imported = import.captures_iter(&page).map(|c| c[1].to_owned());
    let fixed = [
        "app/api/chat/route.ts",
        "app/layout.tsx",
        "instrumentation.ts",
    ];
    let start = imported.chain(fixed.map(str::to_owned));
    let (files, _) = typescript_needs(sources, start, true, problems);
    Row {
        name: format!("service/{name}"),
        language: "app",
        files,
        packages: Vec::new(),
        chapter,
        probe: String::new(),
        summary,
        start: Vec::new(),
    }
}

/// A service in another language is copied as it is.
fn folder_row(sources: &Sources, name: &str) -> Option<Row> {
    let package = sources.text(&format!("services/{name}/package.json"))?;
    let package: serde_json::Value = serde_json::from_str(&package).ok()?;
    let summary = package["description"].as_str().unwrap_or_default();
    Some(Row {
        name: format!("service/{name}"),
        language: "folder",
        files: BTreeSet::new(),
        packages: Vec::new(),
        chapter: String::new(),
        probe: String::new(),
        summary: summary.to_owned(),
        start: Vec::new(),
    })
}

/// The kind of probe that has checks for each chapter.
fn probes(root: &Path) -> BTreeMap<String, String> {
    let mut kinds = BTreeMap::new();
    for item in checklist::read_all(root).unwrap_or_default() {
        let kind = item.id.split('-').next().unwrap_or_default();
        if item.probe && ["sse", "ws", "llm"].contains(&kind) {
            kinds.entry(item.chapter.clone()).or_insert(kind.to_owned());
        }
    }
    kinds
}

// --- Heads of files ---

/// Prose and code of the comment that opens a file.
fn head(text: &str, mark: &str) -> (Vec<String>, Vec<String>) {
    let (mut prose, mut code) = (Vec::new(), Vec::new());
    let mut in_code = false;
    for line in text.lines().map_while(|line| line.strip_prefix(mark)) {
        let line = line.strip_prefix(' ').unwrap_or(line);
        if line.starts_with("```") {
            in_code = !in_code;
        } else if in_code && !line.starts_with("# ") && line != "#" {
            code.push(line.to_owned());
        } else if !in_code {
            prose.push(line.to_owned());
        }
    }
    (prose, code)
}

fn first_sentence(prose: &[String]) -> String {
    let paragraph: Vec<&str> = prose
        .iter()
        .map(|line| line.trim())
        .take_while(|line| !line.is_empty())
        .collect();
    let paragraph = paragraph.join(" ");
    let end = paragraph.find(". ").map_or(paragraph.len(), |at| at + 1);
    LINK.replace_all(&paragraph[..end], "$1").into_owned()
}

// --- Packages ---

fn crates(root: &Path) -> BTreeMap<String, String> {
    let read = |path: &str| -> Toml {
        let text = fs::read_to_string(root.join(path)).unwrap_or_default();
        toml::from_str(&text).unwrap_or(Toml::Boolean(false))
    };
    let (manifest, lock) = (read("Cargo.toml"), read("Cargo.lock"));
    let locked: Vec<(&str, &str)> = lock
        .get("package")
        .and_then(Toml::as_array)
        .into_iter()
        .flatten()
        .filter_map(|p| Some((p.get("name")?.as_str()?, p.get("version")?.as_str()?)))
        .collect();
    let shared = manifest
        .get("workspace")
        .and_then(|w| w.get("dependencies"))
        .and_then(Toml::as_table);
    // What only the patterns use has its version there.
    let own = read("snippets/Cargo.toml");
    let own = own.get("dependencies").and_then(Toml::as_table);
    let own = own
        .into_iter()
        .flatten()
        .filter(|(_, value)| value.is_str() || value.get("version").is_some());
    let mut found = BTreeMap::new();
    for (name, value) in shared.into_iter().flatten().chain(own) {
        let field = |key: &str| value.get(key);
        let requirement = value
            .as_str()
            .or(field("version").and_then(Toml::as_str))
            .unwrap_or("");
        let version = locked
            .iter()
            .filter(|(package, version)| package == name && compatible(requirement, version))
            .map(|(_, version)| *version)
            .next_back();
        let version = version.unwrap_or(requirement);
        let version = version.split('+').next().unwrap_or(version);
        let mut line = format!("{name}@{version}");
        if field("default-features").and_then(Toml::as_bool) == Some(false) {
            line.push_str("~--no-default-features");
        }
        let mut features: Vec<&str> = field("features")
            .and_then(Toml::as_array)
            .into_iter()
            .flatten()
            .filter_map(Toml::as_str)
            .collect();
        // The tests stay on loopback; a reader's provider is reached by https.
        if name == "reqwest" {
            features.push("rustls");
        }
        if !features.is_empty() {
            line.push_str(&format!("~--features~{}", features.join(",")));
        }
        found.insert(name.clone(), line);
    }
    found
}

/// Whether `version` is one that cargo takes for `requirement`: the same first number that is not 0, and not older.
fn compatible(requirement: &str, version: &str) -> bool {
    let numbers = |text: &str| -> Vec<u64> {
        let core = text
            .trim_start_matches('=')
            .split(['-', '+'])
            .next()
            .unwrap_or("");
        core.split('.').map(|n| n.parse().unwrap_or(0)).collect()
    };
    let (wanted, has) = (numbers(requirement), numbers(version));
    let fixed = wanted
        .iter()
        .position(|n| *n > 0)
        .map_or(wanted.len(), |at| at + 1);
    has.get(..fixed) == wanted.get(..fixed) && has >= wanted
}

fn cargo_packages(sources: &Sources, crates: &BTreeSet<String>) -> Vec<String> {
    crates
        .iter()
        .filter_map(|name| sources.crates.get(name).cloned())
        .collect()
}

fn npm(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for folder in [NEXT, "snippets/typescript"] {
        let text = fs::read_to_string(root.join(folder).join("package.json")).unwrap_or_default();
        let package: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        for kind in ["dependencies", "devDependencies"] {
            for (name, version) in package[kind].as_object().into_iter().flatten() {
                found.insert(
                    name.clone(),
                    version.as_str().unwrap_or_default().to_owned(),
                );
            }
        }
    }
    found
}

fn npm_packages(sources: &Sources, packages: &BTreeSet<String>) -> Vec<String> {
    let line = |name: &String| {
        let version = sources.npm.get(name)?;
        let dev = if name.starts_with("@types/") {
            "-D~"
        } else {
            ""
        };
        Some(format!("{dev}{name}@{version}"))
    };
    packages.iter().filter_map(line).collect()
}
