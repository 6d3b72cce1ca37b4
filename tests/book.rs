//! The text of the book equals the code it shows. `UPDATE=1 cargo test --test book` rewrites copies.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod pack;

use std::path::{Path, PathBuf};

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

/// The probe is published alone: it has copies of the patterns that it uses, and of the license.
#[test]
fn every_file_of_the_probe_that_is_a_copy_equals_its_source() {
    let root = pack::root();
    let files = |folder: &str| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(root.join(folder)).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let (patterns, copies) = (root.join("snippets/src"), root.join("probe/patterns"));
    let providers = files("snippets/src/llm/providers").into_iter();
    // `probe/build.rs` names the same ones.
    let providers = providers.filter(|file| !file.ends_with("mod.rs"));
    let providers = providers.map(|file| file.strip_prefix(&patterns).unwrap().to_owned());
    let more = [
        "sse/wire.rs",
        "llm/failure.rs",
        "llm/model_event.rs",
        "llm/anthropic.rs",
        "llm/gemini.rs",
        "llm/ollama.rs",
        "llm/openai_chat.rs",
        "llm/openai_responses.rs",
    ];
    let all: Vec<PathBuf> = providers.chain(more.map(PathBuf::from)).collect();
    let copied = ["probe/patterns/llm", "probe/patterns/llm/providers"].map(files);
    for copy in copied.concat().into_iter().filter(|copy| copy.is_file()) {
        let known = all.iter().any(|name| copies.join(name) == copy);
        if !known && pack::updating() {
            std::fs::remove_file(&copy).unwrap();
        } else {
            assert!(known, "{} has no source any more", copy.display());
        }
    }
    let pairs = all
        .iter()
        .map(|name| (patterns.join(name), copies.join(name)));
    let license = (root.join("LICENSE"), root.join("probe/LICENSE"));
    for (source, copy) in pairs.chain([license]) {
        let bytes = std::fs::read(&source).unwrap();
        if pack::updating() {
            std::fs::write(&copy, &bytes).unwrap();
        }
        assert!(
            std::fs::read(&copy).is_ok_and(|copied| copied == bytes),
            "{} is not {}: `UPDATE=1 cargo test --test book` copies it",
            copy.display(),
            source.display()
        );
    }
}

/// CONTRIBUTING.md, Style, and `pack/words.rs` say what to write instead.
#[test]
fn no_text_has_a_word_that_is_out() {
    pack::report(&pack::words::check(&pack::root()));
}

#[test]
#[ignore = "needs Python: run ./check"]
fn no_text_has_a_misspelled_word() {
    let root = pack::root();
    let mut files = pack::documents(&root);
    for folder in [
        "checklist",
        "snippets/src",
        "snippets/tests",
        "probe/src",
        "services",
        "src",
        "tests",
    ] {
        pack::walk(&root, Path::new(folder), &mut |path| {
            if path
                .extension()
                .is_some_and(|e| e == "rs" || e == "ts" || e == "jsonl" || e == "md")
            {
                files.push(path.to_owned());
            }
        });
    }
    files.extend(["CONTRIBUTING.md", "CHANGELOG.md", "probe/README.md", "copy"].map(PathBuf::from));
    let output = std::process::Command::new(root.join("target/venv/tools/bin/codespell"))
        .current_dir(&root)
        .args(["--ignore-words", "tools/codespell.txt"])
        .args(&files)
        .output()
        .expect("codespell in target/venv/tools: ./check installs it");
    let found = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && found.is_empty(), "{found}");
}

/// `audit.txt`: what an audit searches for, by kind of endpoint and by symptom.
#[test]
fn the_index_of_the_audit_equals_the_checklist() {
    let root = pack::root();
    let made = pack::generated::audit_index(&root).unwrap();
    let path = root.join("audit.txt");
    if pack::updating() {
        std::fs::write(&path, &made).unwrap();
    }
    assert!(
        std::fs::read_to_string(&path).is_ok_and(|found| found == made),
        "audit.txt is out of date: `UPDATE=1 cargo test --test book` rewrites it"
    );
}

#[test]
fn the_table_of_copies_equals_the_sources() {
    let root = pack::root();
    pack::report(&pack::copying::check(&root, pack::updating()));
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

/// The pages of the prompts are for people: no longer than a chapter.
#[test]
fn every_page_of_a_prompt_has_its_size() {
    let root = pack::root();
    let mut count = 0;
    for page in pack::documents(&root) {
        if page.starts_with("book/src/prompts") {
            count += 1;
            let used = pack::budgets::tokens(&std::fs::read_to_string(root.join(&page)).unwrap());
            assert!(
                used <= pack::budgets::CHAPTER_TOKENS,
                "{}: {used} tokens",
                page.display()
            );
            let prompt = root.join("prompts").join(page.file_name().unwrap());
            assert!(prompt.is_file(), "{} has no prompt", page.display());
        }
    }
    let prompts = std::fs::read_dir(root.join("prompts")).unwrap().count();
    assert_eq!(count, prompts, "each prompt has its page");
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
