//! The checks are themselves checked: each one is given a broken copy and must turn red.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A copy of the parts of the repository that the checks read.
fn copy() -> TempDir {
    let copy = tempfile::tempdir().expect("a temporary folder");
    xtask::copy_to(copy.path());
    copy
}

/// The first chapter of a pattern, and its text.
fn chapter(root: &Path) -> (PathBuf, String) {
    let path = PathBuf::from("book/src/sse/serve.md");
    let text = fs::read_to_string(root.join(&path)).unwrap();
    (path, text)
}

fn edit(root: &Path, path: impl AsRef<Path>, change: impl FnOnce(String) -> String) {
    let path = root.join(path);
    let before = fs::read_to_string(&path).unwrap();
    let after = change(before.clone());
    assert_ne!(
        before,
        after,
        "the gate changed nothing in {}",
        path.display()
    );
    fs::write(path, after).unwrap();
}

/// One of `problems` contains `what`.
fn assert_red(problems: &[String], what: &str) {
    assert!(
        problems.iter().any(|p| p.contains(what)),
        "no problem mentions {what:?}: {problems:#?}"
    );
}

/// `cargo xtask sync`, which solves everything.
fn rewrite(root: &Path) {
    xtask::report(&xtask::sync::run(root).unwrap().problems);
}

fn fences(root: &Path) -> Vec<String> {
    xtask::documents(root)
        .iter()
        .flat_map(|d| xtask::sync::check_document(root, d))
        .collect()
}

#[test]
fn an_unbroken_copy_is_green() {
    let copy = copy();
    let root = copy.path();
    let mut problems = fences(root);
    problems.extend(xtask::checklist::check(root));
    problems.extend(xtask::skill::check(root));
    problems.extend(xtask::summary::check(root));
    problems.extend(xtask::generated::twins(root).1);
    xtask::report(&problems);
}

#[test]
fn a_changed_fence_is_found_and_rewritten() {
    let copy = copy();
    let root = copy.path();
    let (path, text) = chapter(root);
    let fence = xtask::fences::parse(&text)
        .unwrap()
        .into_iter()
        .find(|f| f.from.is_some())
        .unwrap();
    let line = fence
        .content
        .lines()
        .find(|l| l.len() > 20)
        .unwrap()
        .to_owned();
    edit(root, &path, |t| t.replacen(&line, "let changed = 1;", 1));
    assert_red(&fences(root), "differs from");
    rewrite(root);
    assert_eq!(fs::read_to_string(root.join(&path)).unwrap(), text);
}

/// Crates whose manifests say `test = false` have no unit tests that would never run.
#[test]
fn no_unit_test_is_where_none_is_run() {
    let root = xtask::root();
    let mut lost = Vec::new();
    for folder in [".", "snippets", "xtask"]
        .map(PathBuf::from)
        .into_iter()
        .chain(
            fs::read_dir(root.join("services"))
                .unwrap()
                .flatten()
                .map(|service| Path::new("services").join(service.file_name())),
        )
    {
        let manifest = fs::read_to_string(root.join(&folder).join("Cargo.toml"));
        if !manifest.is_ok_and(|text| text.contains("[lib]\ntest = false\n")) {
            continue;
        }
        xtask::walk(&root.join(&folder), Path::new("src"), &mut |path| {
            let text = fs::read_to_string(root.join(&folder).join(path)).unwrap_or_default();
            let test =
                |line: &str| line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            if path.extension().is_some_and(|e| e == "rs") && text.lines().any(|l| test(l.trim())) {
                lost.push(folder.join(path));
            }
        });
    }
    assert!(lost.is_empty(), "tests that never run: {lost:?}");
}

/// On the wire `data: ` and `data:` are different bytes, and so they are in a fence.
#[test]
fn a_blank_at_the_end_of_a_line_is_copied_and_its_loss_is_found() {
    let copy = copy();
    let root = copy.path();
    let path = PathBuf::from("book/src/sse/wire.md");
    let with_blank = fs::read_to_string(root.join(&path)).unwrap();
    assert!(with_blank.contains("\ndata: \n"));
    edit(root, &path, |t| t.replacen("\ndata: \n", "\ndata:\n", 1));
    assert_red(&fences(root), "differs from");
    rewrite(root);
    assert_eq!(fs::read_to_string(root.join(&path)).unwrap(), with_blank);
}

/// A chapter, and the file and the region that one of its fences shows.
fn sourced(root: &Path) -> (PathBuf, String, String) {
    let (path, text) = chapter(root);
    let from = xtask::fences::parse(&text)
        .unwrap()
        .into_iter()
        .find_map(|f| f.from.filter(|from| from.contains(".rs#")))
        .unwrap();
    let (file, anchor) = from.split_once('#').unwrap();
    (path, file.to_owned(), anchor.to_owned())
}

#[test]
fn a_changed_source_is_found() {
    let copy = copy();
    let (_, file, anchor) = sourced(copy.path());
    let mark = format!("ANCHOR: {anchor}\n");
    edit(copy.path(), file, |t| {
        t.replacen(&mark, &format!("{mark}// new line\n"), 1)
    });
    assert_red(&fences(copy.path()), "differs from");
}

#[test]
fn a_lost_anchor_is_found() {
    let copy = copy();
    let (path, file, anchor) = sourced(copy.path());
    edit(copy.path(), file, |t| {
        t.replace(&format!("ANCHOR: {anchor}"), "ANCHOR: renamed")
    });
    assert_red(&fences(copy.path()), &path.display().to_string());
    assert_red(&fences(copy.path()), &format!("no region named {anchor}"));
}

#[test]
fn a_fence_of_a_missing_file_or_without_source_is_found() {
    let copy = copy();
    let (path, _) = chapter(copy.path());
    edit(copy.path(), &path, |t| {
        format!(
            "{t}\n<!-- from: snippets/src/sse/gone.rs -->\n```rust\n```\n\ntext\n\n```rust\nfn free() {{}}\n```\n"
        )
    });
    assert_red(&fences(copy.path()), "snippets/src/sse/gone.rs");
    assert_red(&fences(copy.path()), "without <!-- from");
}

#[test]
fn an_include_directive_and_an_open_fence_are_found() {
    let copy = copy();
    let (path, _) = chapter(copy.path());
    edit(copy.path(), &path, |t| {
        format!("{t}\n{{{{#include x.rs}}}}\n")
    });
    assert_red(&fences(copy.path()), "include");
    edit(copy.path(), &path, |t| format!("{t}\n```text\n"));
    assert_red(&fences(copy.path()), "never closed");
}

#[test]
fn a_stale_checklist_or_anti_pattern_block_is_found() {
    let copy = copy();
    edit(copy.path(), "book/src/sse/wire.md", |t| {
        t.replacen("\n- `sse-", "\n- x `sse-", 1)
    });
    assert_red(&fences(copy.path()), "checklist block is out of date");
    edit(copy.path(), "book/src/sse/serve.md", |t| {
        t.replacen("(`sse_error_item`)", "(`x`)", 1)
    });
    assert_red(&fences(copy.path()), "anti-patterns block is out of date");
}

/// The pages of the whole pack are committed without their tables.
#[test]
fn the_pages_of_the_whole_pack_get_their_tables() {
    let root = xtask::root();
    for (page, row) in [
        (
            "book/src/checklist.md",
            "| [`sse-status-200`](sse/serve.md) <br> must |",
        ),
        ("book/src/anti-patterns.md", "<br> `sse_error_item.rs` |"),
    ] {
        let text = fs::read_to_string(root.join(page)).unwrap();
        assert!(!text.contains(row) && text.len() < 1_500, "{page}");
        let filled = xtask::generated::fill(&root, &text).unwrap().unwrap();
        assert!(filled.contains(row), "{filled}");
        assert!(!filled.contains("When the book is built"), "{filled}");
    }
}

#[test]
fn a_stale_table_of_copies_is_found() {
    let copy = copy();
    let root = copy.path();
    xtask::report(&xtask::sync::check(root));
    edit(root, "copying.tsv", |t| {
        t.replacen("\nsse/resume\t", "\nsse/resumed\t", 1)
    });
    assert_red(&xtask::sync::check(root), "copying.tsv: is out of date");
    rewrite(root);
    xtask::report(&xtask::sync::check(root));
    // A sibling that the code begins to use is needed.
    edit(root, "snippets/src/streams/tee.rs", |t| {
        t + "\n// super::pace is only named here.\npub use super::cancel::observed;\n"
    });
    assert_red(&xtask::sync::check(root), "copying.tsv: is out of date");
    let rows = xtask::copying::rows(root).unwrap();
    let tee = rows.iter().find(|row| row.name == "streams/tee").unwrap();
    assert!(tee.files.contains("streams/cancel.rs"), "{tee:?}");
    assert!(!tee.files.contains("streams/pace.rs"), "{tee:?}");
}

#[test]
fn a_proof_that_names_no_test_is_found() {
    let copy = copy();
    let items = xtask::checklist::read(copy.path(), "sse").unwrap();
    let proof = items[0].proof[0].clone();
    edit(copy.path(), "checklist/sse.jsonl", |t| {
        t.replacen(&proof, "snippets/tests/sse_serve.rs::no_such_test", 1)
    });
    assert_red(&xtask::checklist::check(copy.path()), "names no test");
}

#[test]
fn a_helper_function_or_an_uncompiled_file_is_no_proof() {
    let copy = copy();
    let root = copy.path();
    fs::write(
        root.join("snippets/tests/sse_orphan.rs"),
        "fn helper() {}\n\n#[test]\nfn real() {}\n",
    )
    .unwrap();
    let helper = xtask::checklist::find_test(root, "snippets/tests/sse_orphan.rs::helper");
    assert!(helper.unwrap_err().contains("names no test"));
    xtask::checklist::find_test(root, "snippets/tests/sse_orphan.rs::real").unwrap();
    assert_red(
        &xtask::sync::check(root),
        "snippets/tests/main.rs: is out of date",
    );
    rewrite(root);
    let list = fs::read_to_string(root.join("snippets/tests/main.rs")).unwrap();
    assert!(list.contains("\nmod sse_orphan;\n"), "{list}");
}

#[test]
fn an_item_without_proof_level_or_chapter_is_found() {
    let copy = copy();
    let root = copy.path();
    for (line, what) in [
        (
            r#"{"id":"sse-a","level":"must","chapter":"sse/serve","symptom":"lost","text":"A.","look_for":"a handler without it","probe":false}"#,
            "neither a proof",
        ),
        (
            r#"{"id":"sse-a","level":"maybe","chapter":"sse/serve","symptom":"lost","text":"A.","look_for":"a handler without it","probe":false}"#,
            "unknown variant",
        ),
        (
            r#"{"id":"sse-a","level":"must","chapter":"sse/none","symptom":"lost","text":"A.","look_for":"a handler without it","probe":false}"#,
            "no chapter",
        ),
        (
            r#"{"id":"x-a","level":"must","chapter":"sse/serve","symptom":"lost","text":"A.","look_for":"a handler without it","probe":false}"#,
            "ids of sse are",
        ),
        (
            r#"{"id":"sse-a","level":"must","chapter":"sse/serve","symptom":"lost","text":"A.","look_for":"a handler without it","source":{"url":"https://x.example","date":"lately"},"probe":false}"#,
            "a date",
        ),
        (
            r#"{"id":"sse-a","level":"must","chapter":"sse/serve","symptom":"lost","text":"So it does.","look_for":"a handler without it","probe":false}"#,
            "begins with its actor",
        ),
        (
            r#"{"id":"sse-a","level":"must","chapter":"sse/serve","symptom":"lost","text":"A.","look_for":"","probe":false}"#,
            "look_for has 0 characters",
        ),
        (
            r#"{"id":"sse-a","level":"must","chapter":"sse/serve","symptom":"odd","text":"A.","look_for":"a handler without it","probe":false}"#,
            "no symptom",
        ),
    ] {
        fs::write(root.join("checklist/sse.jsonl"), format!("{line}\n")).unwrap();
        assert_red(&xtask::checklist::check(root), what);
    }
}

#[test]
fn a_word_that_is_out_is_found() {
    let copy = copy();
    let clean = xtask::words::check(copy.path());
    edit(copy.path(), "book/src/sse/serve.md", |t| {
        format!("{t}\nA stream that stays open for ever, beside `for ever`.\n")
    });
    let found = xtask::words::check(copy.path());
    assert_eq!(found.len(), clean.len() + 2, "{found:?}");
    assert_red(&found, "for ever");
}

#[test]
fn a_counterexample_without_its_header_is_found() {
    let copy = copy();
    fs::write(
        copy.path().join("snippets/tests/anti_patterns/nameless.rs"),
        "//! Wrong: x.\n",
    )
    .unwrap();
    assert_red(&xtask::generated::twins(copy.path()).1, "nameless.rs");
    edit(
        copy.path(),
        "snippets/tests/anti_patterns/sse_cors_mirror.rs",
        |t| t.replacen("fails sse-cors-credentials", "fails sse-gone", 1),
    );
    assert_red(
        &xtask::generated::twins(copy.path()).1,
        "names sse-gone, which the probe does not check",
    );
}

#[test]
fn a_chapter_that_a_list_lacks_is_found() {
    let copy = copy();
    let root = copy.path();
    fs::write(root.join("book/src/sse/unlisted.md"), "# Unlisted\n").unwrap();
    let problems = xtask::summary::check(root);
    assert_red(&problems, "SUMMARY.md does not list sse/unlisted.md");
    assert_red(&problems, "names `sse/unlisted`");
}

#[test]
fn a_chapter_over_its_budget_or_out_of_shape_is_found() {
    let copy = copy();
    let root = copy.path();
    let (path, _) = chapter(root);
    edit(root, &path, |t| {
        let listing = format!("\n```text\n{}```\n", "a line\n".repeat(61));
        t.replacen("## Verify", "## Verification", 1) + &listing + &"word ".repeat(4_000)
    });
    let problems = xtask::budgets::check(root, &path);
    assert_red(&problems, "the budget is");
    assert_red(&problems, "## Verify");
    assert_red(&problems, "a listing of 61 lines");
}

#[test]
fn a_wrong_skill_md_is_found() {
    let copy = copy();
    let root = copy.path();
    let good = fs::read_to_string(root.join("SKILL.md")).unwrap();
    let cases: [(&str, &str, &str); 6] = [
        (
            "license: MIT",
            "license: MIT\nversion: 1",
            "no field version",
        ),
        (
            "name: streaming-api-patterns",
            "name: streaming_api",
            "the name is",
        ),
        (
            "book/src/sse/resume.md",
            "book/src/sse/gone.md",
            "names book/src/sse/gone.md",
        ),
        ("`sse-reserved-names`", "`sse-names`", "names sse-names"),
        ("axum 0.", "axum 9.", "is in no lock file"),
        ("description:", "description: [a, b]\nx:", "no field x"),
    ];
    for (from, to, what) in cases {
        fs::write(root.join("SKILL.md"), good.replacen(from, to, 1)).unwrap();
        assert_red(&xtask::skill::check(root), what);
    }
    fs::write(root.join("SKILL.md"), good + &"many words ".repeat(1_000)).unwrap();
    assert_red(&xtask::skill::check(root), "the budget is 2500");
}
