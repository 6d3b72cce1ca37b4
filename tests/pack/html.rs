//! The built book: no warning while it builds, and every internal link and anchor resolves.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};

use mdbook_driver::MDBook;
use regex::Regex;
use tracing::field::{Field, Visit};

/// Builds the book of `root` into `out`; returns what mdBook warned of. mdBook logs an error for a
/// missing include and goes on, so its result alone says little.
pub fn build(root: &Path, out: &Path) -> Vec<String> {
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let collect = Collect {
        warnings: Arc::clone(&warnings),
    };
    let result = tracing::subscriber::with_default(collect, || {
        let mut book = MDBook::load(root.join("book"))?;
        book.config.build.build_dir = out.to_owned();
        book.build()
    });
    let mut problems = std::mem::take(&mut *warnings.lock().unwrap());
    if let Err(e) = result {
        problems.push(format!("the book does not build: {e:#}"));
    }
    problems
}

/// Internal links of the built book that lead nowhere.
pub fn dead_links(out: &Path) -> Vec<String> {
    let reference = Regex::new(r#"(?:href|src)="([^"]+)""#).unwrap();
    let id = Regex::new(r#"\sid="([^"]+)""#).unwrap();
    let mut pages: Vec<PathBuf> = Vec::new();
    super::walk(out, Path::new(""), &mut |path| {
        if path.extension().is_some_and(|e| e == "html") {
            pages.push(path.to_owned());
        }
    });
    let mut texts = HashMap::new();
    let mut ids: HashMap<PathBuf, BTreeSet<String>> = HashMap::new();
    for page in &pages {
        let text = fs::read_to_string(out.join(page)).unwrap();
        ids.insert(
            page.clone(),
            id.captures_iter(&text).map(|c| c[1].to_owned()).collect(),
        );
        texts.insert(page.clone(), text);
    }
    let mut problems = Vec::new();
    for page in &pages {
        // The print page repeats every chapter with rewritten anchors; 404 is served at any depth.
        if page.ends_with("404.html") {
            continue;
        }
        for c in reference.captures_iter(&texts[page]) {
            let link = c[1].replace("&amp;", "&");
            // Routes of the program, not pages of the book.
            let served = ["/live", "/live-js", "/api"]
                .iter()
                .any(|p| link.starts_with(p));
            if served
                || link.contains("://")
                || link.starts_with("data:")
                || link.starts_with("mailto:")
            {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if path.is_empty() {
                page.clone()
            } else {
                normal(&page.parent().unwrap_or(Path::new("")).join(path))
            };
            if !out.join(&target).exists() {
                problems.push(format!("{}: dead link {link}", page.display()));
            } else if !anchor.is_empty()
                && ids.get(&target).is_some_and(|ids| !ids.contains(anchor))
            {
                problems.push(format!("{}: dead anchor {link}", page.display()));
            }
        }
    }
    problems
}

/// Chapters that exist and that SUMMARY.md does not list.
pub fn unlisted(root: &Path) -> Vec<String> {
    let summary = fs::read_to_string(root.join("book/src/SUMMARY.md")).unwrap_or_default();
    let mut problems = Vec::new();
    super::walk(root, Path::new("book/src"), &mut |path| {
        let name = path
            .strip_prefix("book/src")
            .unwrap()
            .to_string_lossy()
            .into_owned();
        if name.ends_with(".md") && name != "SUMMARY.md" && !summary.contains(&format!("({name})"))
        {
            problems.push(format!("book/src/SUMMARY.md does not list {name}"));
        }
    });
    problems
}

fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

/// Collects the texts of warnings and errors.
struct Collect {
    warnings: Arc<Mutex<Vec<String>>>,
}

impl tracing::Subscriber for Collect {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Message(String);
        impl Visit for Message {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" {
                    self.0 = format!("{value:?}");
                }
            }
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        self.warnings
            .lock()
            .unwrap()
            .push(format!("mdBook: {}", message.0));
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}
