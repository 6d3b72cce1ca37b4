//! `cargo xtask` as a newcomer uses it, on a copy of the repository.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;
use xtask::checklist::Level;
use xtask::{new, origin, sync, versions};

fn copy() -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    xtask::copy_to(copy.path());
    copy
}

/// Exit code, and what `cargo xtask ARGUMENTS` prints in `folder`.
fn run(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    let output = command
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

fn assert_has(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "no {word:?} in: {text}");
    }
}

#[test]
fn wrong_arguments_say_what_to_do() {
    let copy = copy();
    for (arguments, words) in [
        (&[][..], &["no verb", "Usage: cargo xtask"][..]),
        (&["xsync"], &["no verb xsync", "sync"]),
        (&["sync", "all"], &["too many arguments"]),
        (&["new"], &["new pattern sse/foo", "new check sse-foo"]),
        (&["new", "test", "x"], &["new pattern"]),
        (&["new", "pattern"], &["new pattern sse/foo"]),
        (&["new", "pattern", "foo"], &["TOPIC/NAME", "websocket"]),
        (&["new", "pattern", "sse/Foo"], &["a-z, 0-9 and _"]),
        (&["new", "pattern", "sse/resume"], &["exists already"]),
        (
            &["new", "check", "foo"],
            &["begin it with sse-, ws- or llm-"],
        ),
        (
            &["new", "check", "sse-utf8"],
            &["edit its row in probe/src/checks.rs"],
        ),
        (&["where"], &["where book/src/sse/serve.md:212"]),
        (&["where", "SKILL.md"], &["is not FILE:LINE"]),
        (&["where", "gone.md:1"], &["gone.md cannot be read"]),
        (&["where", "SKILL.md:9999"], &["has ", " lines"]),
    ] {
        let (code, text) = run(copy.path(), arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {text}");
        assert_has(&text, words);
    }
    let elsewhere = tempfile::tempdir().unwrap();
    assert_has(
        &run(elsewhere.path(), &["sync"]).1,
        &["is not in the repository: change into it"],
    );
    assert_has(
        &run(elsewhere.path(), &["--help"]).1,
        &["Usage: cargo xtask"],
    );
    assert!(
        sync::run(copy.path()).unwrap().changed.is_empty(),
        "wrong arguments write nothing"
    );
}

#[test]
fn sync_rewrites_what_is_generated_and_ends_at_a_fixed_point() {
    let copy = copy();
    let root = copy.path();
    let (code, text) = run(&root.join("book/src"), &["sync"]);
    assert_eq!((code, text.trim()), (Some(0), "everything is up to date"));
    for path in [
        "audit.txt",
        "copying.tsv",
        "probe/src/checklist.rs",
        "probe/patterns/sse/wire.rs",
        "probe/LICENSE",
    ] {
        fs::write(root.join(path), "").unwrap();
    }
    fs::write(root.join("probe/patterns/llm/gone.rs"), "").unwrap();
    // The worked example has a generated block, and a page of the book copies the example.
    let source = root.join("checklist/sse.jsonl");
    let changed = fs::read_to_string(&source).unwrap().replacen(
        " sends a failure as an event.",
        " sends each failure as an event.",
        1,
    );
    fs::write(source, changed).unwrap();
    let (code, text) = run(root, &["sync"]);
    assert_eq!(code, Some(0), "{text}");
    assert_has(
        &text,
        &[
            "audit.txt",
            "copying.tsv",
            "wire.rs",
            "gone.rs",
            "LICENSE",
            "book/src/sse/serve.md",
        ],
    );
    assert!(!root.join("probe/patterns/llm/gone.rs").exists());
    assert_has(&run(root, &["sync"]).1, &["everything is up to date"]);
}

#[test]
fn a_new_pattern_has_every_part_and_the_rest_is_named() {
    let copy = copy();
    let root = copy.path();
    let (code, text) = run(root, &["new", "pattern", "sse/foo"]);
    assert_eq!(code, Some(0), "{text}");
    let no_row = "left: SKILL.md: no row of \"Copy and read\" names `sse/foo`";
    assert_has(&text, &[no_row, "left: checklist/sse.jsonl", "next: "]);
    // The chapter shows the text; it is to be written in the source.
    assert!(!text.contains("left: book/src/sse/foo.md:8"), "{text}");
    let others = [
        ("websocket", "aa_bar"),
        ("streams", "foo"),
        ("llm", "zz"),
        ("production", "foo"),
    ];
    for (topic, name) in others {
        new::pattern(root, &format!("{topic}/{name}")).unwrap();
    }
    xtask::report(&sync::run(root).unwrap().problems);
    let (left, rows) = (new::left(root), xtask::copying::rows(root).unwrap());
    for (topic, name) in [("sse", "foo")].into_iter().chain(others) {
        let source = format!("snippets/src/{topic}/{name}.rs");
        let tests = format!("snippets/tests/{topic}_{name}.rs");
        let counterexample = format!("snippets/tests/anti_patterns/{topic}_without_{name}.rs");
        for path in [&source, &tests, &counterexample] {
            let text = fs::read_to_string(root.join(path)).unwrap();
            syn::parse_file(&text).unwrap_or_else(|e| panic!("{path}: {e}"));
            assert!(
                left.iter().any(|left| left.starts_with(path.as_str())),
                "{path}"
            );
        }
        let chapter = fs::read_to_string(root.join(format!("book/src/{topic}/{name}.md"))).unwrap();
        assert_has(
            &chapter,
            &[
                "pub struct ",
                "## Guarantees",
                &format!("(`{topic}_without_{name}`)"),
            ],
        );
        assert!(rows.iter().any(|row| row.name == format!("{topic}/{name}")));
    }
    xtask::report(&sync::check(root));
    // Everything but the words is as the tests want it.
    xtask::report(&xtask::checklist::check(root));
    xtask::report(&xtask::generated::twins(root).1);
    xtask::report(&xtask::budgets::check(
        root,
        Path::new("book/src/sse/foo.md"),
    ));
}

#[test]
fn a_new_check_has_every_part_and_the_rest_is_named() {
    let copy = copy();
    let root = copy.path();
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    let (code, text) = run(root, &["new", "check", "sse-foo-bar"]);
    assert_eq!(code, Some(0), "{text}");
    assert_has(
        &text,
        &["left: probe/src/checks.rs", "left: checklist/", "next: "],
    );
    new::check(root, "ws-foo-bar").unwrap();
    new::check(root, "llm-foo-bar").unwrap();
    for (id, folder, service) in [
        ("sse-foo-bar", "sse", "sse"),
        ("ws-foo-bar", "ws", "ws"),
        ("llm-foo-bar", "llm", "relay"),
    ] {
        let constant = id.replace('-', "_").to_uppercase();
        assert_has(
            &read("probe/src/checks.rs"),
            &[&format!("\t{constant}\n\t\t\"WRITE: ")],
        );
        assert_has(
            &read(&format!("probe/src/{folder}/mod.rs")),
            &[&format!("run.unknown(checks::{constant}, ")],
        );
        assert_has(
            &read(&format!("probe/tests/support/{service}.rs")),
            &["    FooBar,\n"],
        );
        assert_has(
            &read(&format!("probe/tests/{folder}.rs")),
            &[&format!("    (Fault::FooBar, &[\"{id}\"]),\n")],
        );
        for path in [
            format!("probe/src/{folder}/mod.rs"),
            format!("probe/tests/{folder}.rs"),
            format!("probe/tests/support/{service}.rs"),
        ] {
            syn::parse_file(&read(&path)).unwrap_or_else(|e| panic!("{path}: {e}"));
        }
    }
    // An item that exists becomes one that the probe checks.
    let item = xtask::checklist::read(root, "sse")
        .unwrap()
        .into_iter()
        .find(|item| !item.probe && item.level == Level::Must)
        .unwrap();
    new::check(root, &item.id).unwrap();
    let probed = xtask::checklist::read(root, "sse").unwrap();
    assert!(
        probed
            .iter()
            .any(|found| found.id == item.id && found.probe && found.text == item.text)
    );
    // The probe takes from the checklist what is written there.
    sync::run(root).unwrap();
    let items = read("probe/src/checklist.rs");
    for id in ["sse-foo-bar", "ws-foo-bar", "llm-foo-bar", &item.id] {
        let constant = xtask::generated::constant(id);
        assert_has(&items, &[&format!("\t{constant} Must \"WRITE: ")]);
    }
}

/// Lines of every document lead to a source that has it.
#[test]
fn lines_lead_to_their_source() {
    let root = xtask::root();
    let mut shown = 0;
    for document in xtask::documents(&root) {
        let path = document.to_str().unwrap();
        let text = fs::read_to_string(root.join(path)).unwrap();
        // Some lines: each look-up reads the document.
        for (at, line) in (1..).zip(text.lines()).step_by(31) {
            let found = origin::find(&root, path, at).unwrap();
            let Some((file, number)) = found
                .split(' ')
                .next()
                .and_then(|place| place.rsplit_once(':'))
            else {
                continue;
            };
            let Ok(number) = number.parse::<usize>() else {
                continue;
            };
            let source = fs::read_to_string(root.join(file)).unwrap();
            let there = source.lines().nth(number - 1).unwrap_or_default();
            if !line.trim().is_empty()
                && file != path
                && (file.ends_with(".rs") || file.ends_with(".ts") || file.ends_with(".md"))
                && !line.starts_with("```")
            {
                assert_eq!(there.trim(), line.trim(), "{path}:{at} is not {found}");
                shown += 1;
            }
        }
    }
    assert!(shown > 100, "{shown} lines");
}

#[test]
fn versions_are_compared_with_the_locks() {
    let copy = copy();
    let root = copy.path();
    let page = root.join("book/src/choosing.md");
    let text = fs::read_to_string(&page).unwrap();
    fs::write(
        &page,
        text + "\nWith axum 0.1.2, `tokio` 1.9 and Next 99.0.0; nginx 1.22.1.\n",
    )
    .unwrap();
    let wrong: Vec<_> = versions::mentions(root)
        .into_iter()
        .filter(|m| !m.holds() && m.path.ends_with("choosing.md"))
        .collect();
    let said: Vec<_> = wrong
        .iter()
        .map(|m| (m.name.as_str(), m.said.as_str()))
        .collect();
    assert_eq!(
        said,
        [("axum", "0.1.2"), ("next", "99.0.0"), ("tokio", "1.9")]
    );
    let (code, printed) = run(root, &["versions"]);
    assert_eq!(code, Some(0));
    assert_has(&printed, &["axum 0.1.2; locked: 0.8", "versions hold"]);
}
