//! The book as the program builds it: a build that warns or has a dead link is refused.

use std::fs;
use std::path::Path;

use streaming_api_patterns::book;

/// Builds the book of `root`; returns why it is refused.
fn refused(root: &Path) -> String {
    let out = tempfile::tempdir().unwrap();
    let built = book::build(root, out.path());
    assert!(built.is_err() || out.path().join("index.html").is_file());
    built.err().map_or(String::new(), |e| format!("{e:#}"))
}

#[test]
fn the_book_builds_without_warnings_and_every_link_resolves() {
    assert_eq!(refused(&xtask::root()), "");
}

/// A copy of the repository with `text` at the end of `path`.
fn broken(path: &str, text: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    xtask::copy_to(copy.path());
    let path = copy.path().join(path);
    let before = fs::read_to_string(&path).unwrap();
    fs::write(path, before + text).unwrap();
    copy
}

#[test]
fn a_dead_link_and_a_dead_anchor_are_found() {
    let links = "\n[a](../sse/gone.md) [b](../checklist.md#gone)\n";
    let why = refused(broken("book/src/sse/serve.md", links).path());
    assert!(
        why.contains("sse/gone.html") && why.contains("checklist.html#gone"),
        "{why}"
    );
}

#[test]
fn a_book_that_warns_or_does_not_build_is_found() {
    let why = refused(broken("book/src/sse/serve.md", "\n{{#include gone.rs}}\n").path());
    assert!(why.contains("gone.rs"), "{why}");
    let why = refused(broken("book/src/SUMMARY.md", "\n- [Gone](gone.md)\n").path());
    assert!(why.contains("does not build"), "{why}");
}
