//! Builds the book in process, and refuses one that is not whole: mdBook logs a broken include or
//! an unclosed tag and continues.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use anyhow::{Context, Result, anyhow, bail, ensure};
use mdbook_driver::MDBook;
use mdbook_driver::book::BookItem;
use mdbook_driver::config::Config;
use regex::Regex;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context as LayerContext, Layer, SubscriberExt};

/// A built book.
#[derive(Debug, Clone)]
pub struct Book {
    /// Its title.
    pub title: String,
    /// Number of chapters.
    pub chapters: usize,
    /// The live examples that its chapters show, in order.
    pub live: Vec<Example>,
}

/// A live example and the chapter that shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// The value of `data-live`: `topic-pattern`.
    pub name: String,
    /// Title of the chapter.
    pub chapter: String,
    /// Address of the chapter, from the book's root.
    pub page: String,
}

static LIVE: LazyLock<Regex> = LazyLock::new(|| pattern(r#"data-live="([^"]*)""#));
static LINK: LazyLock<Regex> =
    LazyLock::new(|| pattern(r#"<(?:a|img|link|script)\b[^>]*?\s(?:href|src)="([^"]*)""#));
static ID: LazyLock<Regex> = LazyLock::new(|| pattern(r#"\sid="([^"]+)""#));
static SCHEME: LazyLock<Regex> = LazyLock::new(|| pattern(r"^(?:[a-zA-Z][a-zA-Z0-9+.-]*:|//)"));

#[expect(
    clippy::expect_used,
    reason = "constant patterns, each used by every build"
)]
fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("the pattern is valid")
}

/// Builds the book of the pack in `root` into `out`, which is emptied first. Fails on whatever
/// mdBook logs as an error or a warning, on a missing chapter, and on an internal link or anchor
/// that leads nowhere.
pub fn build(root: &Path, out: &Path) -> Result<Book> {
    let folder = root.join("book");
    let toml = folder.join("book.toml");
    ensure!(toml.is_file(), "{} is missing", toml.display());
    let mut config = Config::from_disk(&toml).with_context(|| format!("{}", toml.display()))?;
    config.build.build_dir = std::path::absolute(out)?;
    // mdBook would write the missing chapter into the source tree.
    config.build.create_missing = false;

    let complaints = Complaints::default();
    let subscriber = tracing_subscriber::registry().with(complaints.clone());
    let built = tracing::subscriber::with_default(subscriber, || {
        let mut book = MDBook::load_with_config(&folder, config)?;
        fill(root, &mut book)?;
        book.build()?;
        anyhow::Ok(book)
    });
    let complaints = complaints.take();
    let book = built.with_context(|| format!("the book does not build{complaints}"))?;
    ensure!(
        complaints.is_empty(),
        "the book does not build cleanly{complaints}"
    );

    let mut live = Vec::new();
    let mut chapters = 0;
    for item in book.iter() {
        if let BookItem::Chapter(chapter) = item
            && let Some(path) = &chapter.path
        {
            chapters += 1;
            for found in LIVE.captures_iter(&chapter.content) {
                live.push(Example {
                    name: found[1].to_owned(),
                    chapter: chapter.name.clone(),
                    page: path
                        .with_extension("html")
                        .to_string_lossy()
                        .replace('\\', "/"),
                });
            }
        }
    }
    let broken = broken_links(out)?;
    if !broken.is_empty() {
        bail!("the book has broken links: {}", broken.join("; "));
    }
    for example in &live {
        let module = folder.join("live").join(format!("{}.js", example.name));
        ensure!(
            module.is_file(),
            "{} shows the live example {:?}, but {} is missing",
            example.page,
            example.name,
            module.display()
        );
    }
    Ok(Book {
        title: book.config.book.title.clone().unwrap_or_default(),
        chapters,
        live,
    })
}

/// Puts the tables of the whole pack into the pages that have a place for them.
fn fill(root: &Path, book: &mut MDBook) -> Result<()> {
    let mut filled = Ok(());
    book.book.for_each_mut(|item| {
        if let BookItem::Chapter(chapter) = item {
            match xtask::generated::fill(root, &chapter.content) {
                Ok(Some(content)) => chapter.content = content,
                Ok(None) => {}
                Err(why) => filled = Err(anyhow!("{}: {why}", chapter.name)),
            }
        }
    });
    filled
}

/// The internal links of the HTML pages below `out` whose file or anchor does not exist, as
/// `page: link`.
pub fn broken_links(out: &Path) -> Result<Vec<String>> {
    let mut files = BTreeSet::new();
    list(out, Path::new(""), &mut files)?;
    let mut pages: BTreeMap<&str, String> = BTreeMap::new();
    for path in files.iter().filter(|path| path.ends_with(".html")) {
        pages.insert(path, std::fs::read_to_string(out.join(path))?);
    }
    let ids: BTreeMap<&str, BTreeSet<&str>> = pages
        .iter()
        .map(|(path, html)| {
            let ids = ID.captures_iter(html).filter_map(|id| id.get(1));
            (*path, ids.map(|id| id.as_str()).collect())
        })
        .collect();
    let mut broken = Vec::new();
    for (page, html) in &pages {
        // mdBook's own pages whose links are relative to another one.
        if matches!(*page, "404.html" | "toc.html") {
            continue;
        }
        for link in LINK.captures_iter(html).filter_map(|found| found.get(1)) {
            let link = link.as_str();
            if SCHEME.is_match(link) || link.starts_with("/live") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let path = path.split('?').next().unwrap_or_default();
            let exists = resolve(page, path).is_some_and(|target| {
                files.contains(&target)
                    && (anchor.is_empty()
                        || ids
                            .get(target.as_str())
                            .is_none_or(|ids| ids.contains(anchor)))
            });
            if !exists {
                broken.push(format!("{page}: {link}"));
            }
        }
    }
    broken.sort();
    broken.dedup();
    Ok(broken)
}

/// The file that `link` means on `page`; `None` when it leaves the book.
fn resolve(page: &str, link: &str) -> Option<String> {
    if link.is_empty() {
        return Some(page.to_owned());
    }
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    let link = match link.strip_prefix('/') {
        Some(absolute) => {
            parts.clear();
            absolute
        }
        None => link,
    };
    for part in link.split('/') {
        match part {
            "." => {}
            ".." => {
                parts.pop()?;
            }
            other => parts.push(other),
        }
    }
    let mut target = parts.join("/");
    if target.is_empty() || target.ends_with('/') {
        target.push_str("index.html");
    }
    Some(target)
}

/// The files below `root`/`at`, with `/`.
fn list(root: &Path, at: &Path, files: &mut BTreeSet<String>) -> Result<()> {
    let folder: PathBuf = root.join(at);
    let entries = std::fs::read_dir(&folder)
        .with_context(|| format!("{} cannot be read", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let path = at.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            list(root, &path, files)?;
        } else {
            files.insert(path.to_string_lossy().replace('\\', "/"));
        }
    }
    Ok(())
}

/// What mdBook logs as a warning or an error during a build.
#[derive(Debug, Clone, Default)]
struct Complaints(Arc<Mutex<String>>);

impl Complaints {
    fn take(&self) -> String {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<S: Subscriber> Layer<S> for Complaints {
    fn on_event(&self, event: &Event<'_>, _: LayerContext<'_, S>) {
        if *event.metadata().level() <= Level::WARN {
            let mut message = Message::default();
            event.record(&mut message);
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = write!(all, "; {}", message.0.trim());
        }
    }
}

#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.0, "{value:?}");
        }
    }
}
