//! The text of the book equals the code it shows; `cargo xtask sync` rewrites what is generated.

use std::path::{Path, PathBuf};

#[test]
fn everything_that_is_generated_equals_its_source() {
    xtask::report(&xtask::sync::check(&xtask::root()));
}

/// What `cargo xtask new` has left to a person, and chapters that SUMMARY.md or SKILL.md lacks.
#[test]
fn nothing_is_left_to_write() {
    xtask::report(&xtask::new::left(&xtask::root()));
}

/// CONTRIBUTING.md, Style, and `xtask/src/words.rs` say what to write instead.
#[test]
fn no_text_has_a_word_that_is_out() {
    xtask::report(&xtask::words::check(&xtask::root()));
}

#[test]
#[ignore = "needs Python: run ./check"]
fn no_text_has_a_misspelled_word() {
    let root = xtask::root();
    let mut files = xtask::documents(&root);
    for folder in [
        "checklist",
        "snippets/src",
        "snippets/tests",
        "probe/src",
        "services",
        "src",
        "tests",
        "xtask",
    ] {
        xtask::walk(&root, Path::new(folder), &mut |path| {
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

#[test]
fn every_chapter_has_its_shape_and_size() {
    let root = xtask::root();
    let chapters: Vec<_> = xtask::documents(&root)
        .into_iter()
        .filter(|d| xtask::budgets::is_chapter(d))
        .collect();
    assert!(!chapters.is_empty());
    let problems: Vec<String> = chapters
        .iter()
        .flat_map(|c| xtask::budgets::check(&root, c))
        .collect();
    xtask::report(&problems);
}

/// The pages of the prompts are for people: no longer than a chapter.
#[test]
fn every_page_of_a_prompt_has_its_size() {
    let root = xtask::root();
    let mut count = 0;
    for page in xtask::documents(&root) {
        if page.starts_with("book/src/prompts") {
            count += 1;
            let used = xtask::budgets::tokens(&std::fs::read_to_string(root.join(&page)).unwrap());
            assert!(
                used <= xtask::budgets::CHAPTER_TOKENS,
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
    let (twins, problems) = xtask::generated::twins(&xtask::root());
    assert!(!twins.is_empty());
    xtask::report(&problems);
}
