//! The text of the book equals the code it shows. `UPDATE=1 cargo test --test book` rewrites copies.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod pack;

use std::path::Path;

#[test]
fn every_copy_equals_its_source() {
    let root = pack::root();
    let mut problems = Vec::new();
    for document in pack::documents(&root) {
        problems.extend(if pack::updating() {
            pack::fences::update(&root, &document)
        } else {
            pack::fences::check(&root, &document)
        });
    }
    pack::report(&problems);
}

#[test]
fn every_chapter_has_its_shape_and_size() {
    let root = pack::root();
    let chapters: Vec<_> = pack::documents(&root)
        .into_iter()
        .filter(|d| pack::budgets::is_chapter(d))
        .collect();
    assert!(!chapters.is_empty());
    let problems: Vec<String> = chapters
        .iter()
        .flat_map(|c| pack::budgets::check(&root, c))
        .collect();
    pack::report(&problems);
}

#[test]
fn every_wrong_twin_says_what_is_wrong() {
    let (twins, problems) = pack::generated::twins(&pack::root());
    assert!(!twins.is_empty());
    pack::report(&problems);
}

#[test]
fn the_book_builds_without_warnings_and_every_link_resolves() {
    let root = pack::root();
    let out = tempfile::tempdir().expect("a temporary folder");
    let mut problems = pack::html::unlisted(&root);
    problems.extend(pack::html::build(&root, out.path()));
    pack::report(&problems);
    assert!(Path::new(out.path()).join("index.html").is_file());
}
