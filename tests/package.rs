//! The package: the same bytes for the same tree, nothing that does not belong in it, and the store
//! that offers it.

use std::io::Read;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::fixture::{Pack, Server, program, within};
use axum::Router;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use streaming_api_patterns::package::{self, MAX_FILE, MAX_FILES, MAX_TREE, Package, Refused};
use streaming_api_patterns::store::{Store, sign};

fn pack() -> Pack {
    Pack::new("demo-pack", "0.1.0")
}

fn build(root: &Path) -> Package {
    package::build(root, |_| {}).unwrap()
}

fn names(package: &Package) -> Vec<&str> {
    package
        .files
        .iter()
        .map(|file| file.path.as_str())
        .collect()
}

// --- What goes in ---

#[test]
fn the_zip_holds_the_sorted_files_at_its_root() {
    let pack = pack();
    let package = build(pack.path());
    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(&package.zip)).unwrap();
    let in_zip: Vec<String> = zip
        .file_names()
        .map(|name| name.unwrap().into_owned())
        .collect();
    let mut sorted = names(&package);
    assert_eq!(in_zip, sorted);
    sorted.sort_unstable();
    assert_eq!(in_zip, sorted);
    assert!(
        in_zip.contains(&"SKILL.md".to_owned())
            && in_zip.contains(&"notes/[id]/page.tsx".to_owned())
    );
    for file in &package.files {
        let mut entry = zip.by_name(&file.path).unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        assert_eq!(
            content,
            std::fs::read(pack.path().join(&file.path)).unwrap()
        );
        let mode = if file.path == "run" { 0o755 } else { 0o644 };
        assert_eq!(entry.unix_mode().unwrap() & 0o777, mode, "{}", file.path);
        assert_eq!(entry.last_modified().unwrap().year(), 1980);
    }
}

#[test]
fn the_same_tree_gives_the_same_bytes() {
    let first = pack();
    let expected = build(first.path());
    // Another folder name, other times, other modes, another order of creation, no `.git`.
    let second = tempfile::Builder::new()
        .prefix("other name ")
        .tempdir()
        .unwrap();
    for file in expected.files.iter().rev() {
        let path = second.path().join(&file.path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &file.content).unwrap();
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(86_400);
        std::fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(long_ago)
            .unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        }
    }
    assert_eq!(build(second.path()).sha256, expected.sha256);
    // And a git repository around and in it changes nothing.
    std::fs::create_dir_all(second.path().join(".git/info")).unwrap();
    std::fs::write(second.path().join(".git/info/exclude"), "notes\n").unwrap();
    std::fs::write(second.path().join(".git/HEAD"), "ref: refs/heads/main\n").unwrap();
    assert_eq!(build(second.path()).sha256, expected.sha256);
    // One byte does.
    std::fs::write(second.path().join("notes/one.md"), "other").unwrap();
    assert_ne!(build(second.path()).sha256, expected.sha256);
}

#[test]
fn an_ignore_file_above_the_pack_does_not_count() {
    let outer = tempfile::tempdir().unwrap();
    std::fs::create_dir(outer.path().join(".git")).unwrap();
    std::fs::write(outer.path().join(".gitignore"), "*.md\n").unwrap();
    let source = pack();
    let inner = outer.path().join("inner");
    for file in build(source.path()).files {
        let path = inner.join(file.path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, file.content).unwrap();
    }
    assert_eq!(build(&inner).sha256, build(source.path()).sha256);
}

#[test]
fn what_git_ignores_and_what_no_reader_needs_stays_out() {
    let pack = pack();
    let expected: Vec<String> = names(&build(pack.path()))
        .into_iter()
        .map(str::to_owned)
        .collect();
    for path in [
        "a.log",
        "notes/b.log",
        "target/x",
        "notes/target/x",
        "node_modules/m/index.js",
        "notes/node_modules/m/SKILL.md",
        ".git/config",
        ".hg/store",
        ".svn/entries",
        ".jj/repo",
        ".ci/run",
        "notes/__pycache__/x.pyc",
        "notes/.DS_Store",
    ] {
        pack.write(path, "left out");
    }
    assert_eq!(names(&build(pack.path())), expected);
    pack.write("keep.log", "a negated pattern");
    pack.write("notes/.gitignore", "private/\n");
    pack.write("notes/private/x", "ignored from below");
    pack.write(".hidden", "a hidden file is a file");
    let package = build(pack.path());
    let more: Vec<&str> = names(&package)
        .into_iter()
        .filter(|name| !expected.iter().any(|e| e == name))
        .collect();
    assert_eq!(more, [".hidden", "keep.log", "notes/.gitignore"]);
}

// --- What is refused ---

/// The lines with which `pack` is refused.
fn refused(pack: &Pack) -> Vec<String> {
    let error = package::build(pack.path(), |_| {}).unwrap_err();
    error.downcast::<Refused>().unwrap().0
}

#[test]
fn each_thing_that_a_store_refuses_is_one_line() {
    let large = vec![b'x'; usize::try_from(MAX_FILE).unwrap() + 1];
    for (path, content, words) in [
        ("notes/SKILL.md", &b"x"[..], "second SKILL.md"),
        ("notes/skill.md", b"x", "second SKILL.md"),
        ("notes/metadata.json", b"{}", "installers drop"),
        ("notes/what?.md", b"x", "'?'"),
        ("notes/a:b.md", b"x", "':'"),
        ("notes/a$b.md", b"x", "'$'"),
        ("notes/a\\b.md", b"x", "'\\\\'"),
        ("notes/it's.md", b"x", "'\\''"),
        ("notes/a`b.md", b"x", "'`'"),
        ("notes/a\nb.md", b"x", "'\\n'"),
        ("notes/end.", b"x", "blank or a dot"),
        ("notes/dist/x.js", b"x", "leaves out folders"),
        ("notes/One.md", b"x", "only in case"),
        ("large.txt", &large, "more than the 524288"),
        (".env", b"x", "file with secrets"),
        (".env.local", b"x", "file with secrets"),
        ("notes/server.PEM", b"x", "file with secrets"),
        ("id_ed25519", b"x", "file with secrets"),
    ] {
        let pack = pack();
        pack.write(path, content);
        let lines = refused(&pack);
        assert_eq!(lines.len(), 1, "{path}: {lines:?}");
        assert!(lines[0].contains(words), "{path}: {lines:?}");
        assert!(
            lines[0].contains(':') && !lines[0].contains('\n'),
            "{path}: {lines:?}"
        );
    }
    let pack = pack();
    pack.write(".env.example", "KEY=");
    build(pack.path());
}

#[test]
fn each_kind_of_secret_is_found() {
    // Put together here, so that this file is not refused itself.
    let x = |n: usize| "xY9".repeat(n).chars().take(n).collect::<String>();
    let upper = |n: usize| "XY9".repeat(n).chars().take(n).collect::<String>();
    for (secret, words) in [
        (
            format!("-----BEGIN {}PRIVATE KEY-----", "RSA "),
            "a private key",
        ),
        (
            format!("-----BEGIN {}KEY-----", "PRIVATE "),
            "a private key",
        ),
        (format!("AKIA{}", upper(16)), "an AWS access key"),
        (format!("ghp_{}", x(36)), "a GitHub token"),
        (format!("github_pat_{}", x(50)), "a GitHub token"),
        (format!("glpat-{}", x(20)), "a GitLab token"),
        (format!("sk-ant-{}", x(40)), "a provider's API key"),
        (format!("sk-proj-{}", x(40)), "a provider's API key"),
        (format!("sk-{}", x(48)), "a provider's API key"),
        (format!("AIza{}", x(35)), "a Google API key"),
        (format!("xoxb-{}", x(24)), "a Slack token"),
        (format!("npm_{}", x(36)), "an npm token"),
        (
            format!("//host/:_auth{}={}", "Token", x(36)),
            "an npm token",
        ),
        (format!("hf_{}", x(34)), "a Hugging Face token"),
        (format!("sk_live_{}", x(24)), "a Stripe key"),
    ] {
        let pack = pack();
        pack.write(
            "notes/config.txt",
            format!("before\nkey = \"{secret}\"\nafter\n"),
        );
        let lines = refused(&pack);
        assert_eq!(lines.len(), 1, "{secret}: {lines:?}");
        assert!(
            lines[0].starts_with("notes/config.txt: ") && lines[0].contains(words),
            "{lines:?}"
        );
        assert!(
            !lines[0].contains(&secret),
            "the message repeats the secret"
        );
    }
    let pack = pack();
    pack.write(
        "notes/config.txt",
        "sk-short, AKIA, ghp_placeholder, process.env.OPENAI_API_KEY",
    );
    build(pack.path());
}

#[cfg(unix)]
#[test]
fn symbolic_links_are_refused() {
    let pack = pack();
    std::os::unix::fs::symlink("one.md", pack.path().join("notes/link.md")).unwrap();
    std::os::unix::fs::symlink("notes", pack.path().join("folder")).unwrap();
    let lines = refused(&pack);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines.iter().all(|line| line.contains("symbolic link")),
        "{lines:?}"
    );
}

#[test]
fn a_tree_that_is_too_large_is_refused() {
    let pack = pack();
    for n in 0..=MAX_TREE / MAX_FILE {
        pack.write(&format!("notes/{n}.txt"), vec![b'x'; MAX_FILE as usize]);
    }
    let lines = refused(&pack);
    assert_eq!(lines.len(), 1, "{lines:?}");
    let limit = format!("more than the {MAX_TREE}");
    assert!(lines[0].contains(&limit), "{lines:?}");
}

#[tokio::test]
async fn the_command_names_every_problem_and_writes_nothing() {
    let pack = pack();
    pack.write("notes/SKILL.md", "x");
    pack.write(".env", "x");
    let root = pack.path().to_str().unwrap();
    let output = within("package", program(&["package", "--root", root]).output())
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(errors.lines().count(), 2, "{errors}");
    assert!(
        errors.lines().all(|line| line.starts_with("error: ")),
        "{errors}"
    );
    assert!(!pack.path().join("target").exists());
}

// --- What is written ---

#[tokio::test]
async fn the_command_writes_the_zip_and_its_manifest() {
    let pack = pack();
    let root = pack.path().to_str().unwrap();
    let run = async |more: &[&str]| {
        let mut arguments = vec!["package", "--root", root];
        arguments.extend(more);
        within("package", program(&arguments).output())
            .await
            .unwrap()
    };
    let output = run(&[]).await;
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let zip = std::fs::read(pack.path().join("target/package/demo-pack-0.1.0.zip")).unwrap();
    let sha256 = hex::encode(Sha256::digest(&zip));
    let manifest = std::fs::read_to_string(
        pack.path()
            .join("target/package/demo-pack-0.1.0.manifest.json"),
    )
    .unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    let source: Value =
        serde_json::from_slice(&std::fs::read(pack.path().join("manifest.json")).unwrap()).unwrap();
    assert_eq!(
        manifest,
        json!({
            "version": "0.1.0", "slug": "demo-pack", "name": "demo-pack", "author": source["author"],
            "license": "MIT", "description": source["description"], "sha256": sha256, "size": zip.len(),
        })
    );
    assert!(
        text.contains(&sha256) && text.contains("demo-pack-0.1.0.zip"),
        "{text}"
    );
    let notes = text.lines().find(|line| line.contains("notes/")).unwrap();
    assert!(notes.contains("2 files"), "{notes}");

    // Again, over the old files, and to a folder outside.
    assert!(run(&[]).await.status.success());
    let outside = tempfile::tempdir().unwrap();
    let out = outside.path().join("new/folder");
    assert!(
        run(&["--out", out.to_str().unwrap()])
            .await
            .status
            .success()
    );
    let mut written: Vec<_> = std::fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    written.sort();
    assert_eq!(
        written,
        [
            "demo-pack",
            "demo-pack-0.1.0.manifest.json",
            "demo-pack-0.1.0.zip"
        ]
    );
    assert_eq!(std::fs::read(out.join("demo-pack-0.1.0.zip")).unwrap(), zip);

    // A folder of the pack itself would go into the next package.
    let inside = run(&["--out", pack.path().join("notes").to_str().unwrap()]).await;
    assert_eq!(inside.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&inside.stderr).contains("lies inside the pack"));
}

#[test]
fn slugs_and_versions_that_would_leave_the_folder_are_refused() {
    for (slug, version) in [
        ("../evil", "0.1.0"),
        ("a/b", "0.1.0"),
        ("a", "../1"),
        ("", "0.1.0"),
    ] {
        let pack = pack();
        let manifest = json!({
            "slug": slug, "name": "n", "version": version, "author": "a", "license": "MIT", "description": "d",
        });
        pack.write("manifest.json", manifest.to_string());
        let error = package::build(pack.path(), |_| {}).unwrap_err();
        assert!(error.to_string().contains("may hold only"), "{error}");
    }
}

#[test]
fn what_the_manifest_leaves_out_stays_out_and_is_counted() {
    let pack = pack();
    let mut manifest: Value =
        serde_json::from_slice(&std::fs::read(pack.path().join("manifest.json")).unwrap()).unwrap();
    manifest["left_out"] = json!([
        { "paths": ["tests/", "part/*/tests/"], "why": "proofs" },
        { "paths": ["other/"], "why": "another crate" },
    ]);
    pack.write("manifest.json", manifest.to_string());
    pack.write("tests/one.rs", "one");
    pack.write("part/a/tests/two.rs", "two");
    pack.write("part/a/src/tests/kept.rs", "");
    pack.write("other/Cargo.toml", "[package]\n");
    pack.write(
        "Cargo.toml",
        "[workspace]\nmembers = [\"part/a\", \"other\"]\nexclude = [\"x\"]\n\n[package]\nname = \"p\"\n\n[profile.dev]\ndebug = false\n",
    );
    pack.write(
        "part/a/Cargo.toml",
        "[package]\nname = \"a\"\n\n[dev-dependencies]\nother = { path = \"../../other\" }\n\n[[test]]\nname = \"t\"\n\n[lints]\nworkspace = true\n",
    );
    let package = build(pack.path());
    assert!(names(&package).contains(&"part/a/src/tests/kept.rs"));
    for name in ["tests/one.rs", "part/a/tests/two.rs", "other/Cargo.toml"] {
        assert!(!names(&package).contains(&name), "{name}");
    }
    let text = |name: &str| {
        let file = package.files.iter().find(|file| file.path == name).unwrap();
        String::from_utf8(file.content.clone()).unwrap()
    };
    assert_eq!(
        text("Cargo.toml"),
        "[workspace]\nmembers = [\"part/a\"]\n\n[profile.dev]\ndebug = false\n"
    );
    assert_eq!(
        text("part/a/Cargo.toml"),
        "[package]\nname = \"a\"\n\n[lints]\nworkspace = true\n"
    );
    let said = package.left_out();
    assert!(
        said[0].contains("2 files") && said[0].contains("tests/ part/*/tests/: proofs"),
        "{said:?}"
    );
    assert!(
        said[1].contains("1 files") && said[1].contains("another crate"),
        "{said:?}"
    );
}

#[test]
fn a_package_of_too_many_files_is_refused() {
    let pack = pack();
    for n in 0..=MAX_FILES {
        pack.write(&format!("notes/{n}.md"), "x");
    }
    let lines = refused(&pack);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains(&format!("more than the {MAX_FILES}")),
        "{lines:?}"
    );
}

#[test]
fn this_pack_has_what_a_reader_uses_and_no_proofs() {
    let package = build(&crate::fixture::root());
    for name in [
        "SKILL.md",
        "LICENSE",
        "copy",
        "copying.tsv",
        "manifest.json",
        "probe/src/main.rs",
        "book/src/sse/serve.md",
        "prompts/scale-out.md",
        ".claude-plugin/plugin.json",
    ] {
        assert!(names(&package).contains(&name), "{name}");
    }
    for file in &package.files {
        let proof = [
            "tests/",
            "test/",
            "benches/",
            "fuzz/",
            "evals/",
            "checklist/",
        ]
        .iter()
        .any(|folder| file.path.starts_with(folder) || file.path.contains(&format!("/{folder}")));
        assert!(!proof, "{}", file.path);
    }
    let total: usize = package.files.iter().map(|file| file.content.len()).sum();
    println!("{} files, {total} bytes", package.files.len());
}

#[test]
fn rust_is_indented_with_tabs_unless_blanks_are_content() {
    let pack = pack();
    let mut manifest: Value =
        serde_json::from_slice(&std::fs::read(pack.path().join("manifest.json")).unwrap()).unwrap();
    manifest["left_out"] = json!([{ "paths": ["tests/"], "why": "proofs" }]);
    pack.write("manifest.json", manifest.to_string());
    pack.write("tests/one.rs", "one");
    let literal = "const A: &str = \"\n    kept\";\nfn a() {\n    b();\n}\n";
    pack.write("part/literal.rs", literal);
    pack.write("part/page.ts", "if (a) {\n    b();\n}\n");
    pack.write(
        "part/plain.rs",
        "fn a() {\n    if b('\"', \"\\\"\") {\n        // c\n      d();\n    }\n}\n",
    );
    let package = build(pack.path());
    let text = |name: &str| {
        let file = package.files.iter().find(|file| file.path == name).unwrap();
        String::from_utf8(file.content.clone()).unwrap()
    };
    let indented = "fn a() {\n\tif b('\"', \"\\\"\") {\n\t\t// c\n\t  d();\n\t}\n}\n";
    assert_eq!(text("part/plain.rs"), indented);
    assert_eq!(text("part/literal.rs"), literal);
    assert_eq!(text("part/page.ts"), "if (a) {\n    b();\n}\n");
}

/// The package as a folder.
fn unpacked() -> (tempfile::TempDir, std::path::PathBuf, Package) {
    let package = build(&crate::fixture::root());
    let outer = tempfile::tempdir().unwrap();
    let folder = package.unpack(outer.path()).unwrap();
    (outer, folder, package)
}

#[test]
fn nothing_in_the_package_points_out_of_it() {
    let (_outer, folder, package) = unpacked();
    let link = regex::Regex::new(r"\]\(([^)\s#:]+)(?:#[^)\s]*)?\)").unwrap();
    for file in &package.files {
        let is_prompt = file.path.starts_with("prompts/");
        if !file.path.ends_with(".md") || file.path == "book/src/SUMMARY.md" {
            continue;
        }
        let text = std::str::from_utf8(&file.content).unwrap();
        let home = folder.join(&file.path);
        for link in link.captures_iter(text) {
            let path = home.parent().unwrap().join(&link[1]);
            let pages = ["prompts/", "checklist.md", "anti-patterns.md", ".svg"];
            let is_page_for_people = pages.iter().any(|page| link[1].contains(page));
            assert!(
                path.exists() || is_page_for_people,
                "{} links to {}",
                file.path,
                &link[1]
            );
        }
        if is_prompt || file.path == "SKILL.md" {
            for path in xtask::skill::paths(text) {
                assert!(folder.join(&path).exists(), "{} names {path}", file.path);
            }
        }
    }
}

/// An install has tabs, to be small; a project has what rustfmt writes by default.
#[test]
fn what_is_copied_from_the_package_is_indented_as_here() {
    let (outer, folder, _package) = unpacked();
    let status = std::process::Command::new("sh")
        .arg(folder.join("copy"))
        .args(["service/llm-chat", "chat"])
        .current_dir(outer.path())
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    let own = crate::fixture::root().join("snippets");
    for file in ["src/llm/upstream.rs", "src/sse/log.rs", "src/llm/relay.rs"] {
        let lines = |path: std::path::PathBuf| -> Vec<String> {
            let text = std::fs::read_to_string(path).unwrap();
            let lines = text.lines().map(str::to_owned);
            let marks = ["// ANCHOR", "// ANCHOR_END"];
            lines
                .filter(|line| !line.is_empty())
                .filter(|line| !marks.iter().any(|mark| line.trim_start().starts_with(mark)))
                .collect()
        };
        assert_eq!(
            lines(outer.path().join("chat").join(file)),
            lines(own.join(file))
        );
    }
}

#[test]
fn every_pattern_can_be_copied_from_the_package() {
    let (outer, folder, _package) = unpacked();
    let app = outer.path().join("app");
    std::fs::create_dir_all(app.join("src")).unwrap();
    std::fs::write(app.join("Cargo.toml"), "[package]\nname = \"app\"\n").unwrap();
    std::fs::write(app.join("package.json"), "{}").unwrap();
    let paths = "{ \"compilerOptions\": { \"paths\": { \"@/*\": [\"./*\"] } } }";
    std::fs::write(app.join("tsconfig.json"), paths).unwrap();
    let mut tried = std::collections::BTreeSet::new();
    for row in xtask::copying::rows(&crate::fixture::root()).unwrap() {
        for file in &row.files {
            let base = match (row.language, file.strip_prefix("streaming/")) {
                ("rust" | "service", _) => format!("snippets/src/{file}"),
                ("ts", _) => format!("snippets/typescript/src/{file}"),
                ("next" | "app", Some(file)) => format!("snippets/typescript/src/{file}"),
                ("next" | "app", None) => format!("snippets/typescript/nextjs/{file}"),
                _ => file.clone(),
            };
            assert!(folder.join(&base).is_file(), "{}: {base}", row.name);
        }
        // The script itself, once for each language.
        if !tried.insert(row.language) {
            continue;
        }
        let end = match row.language {
            "rust" => ".rs",
            "ts" => ".ts",
            _ => "",
        };
        let to = if row.name.starts_with("service/") {
            "new"
        } else {
            "app"
        };
        let output = std::process::Command::new("sh")
            .arg(folder.join("copy"))
            .args(["--dry-run", &format!("{}{end}", row.name), to])
            .current_dir(outer.path())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}: {}",
            row.name,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    assert!(tried.len() >= 6, "{tried:?}");
}

/// The probe is what SKILL.md starts from the installed folder.
#[test]
fn cargo_understands_the_package() {
    let (_outer, folder, _package) = unpacked();
    let output = std::process::Command::new(env!("CARGO"))
        .args([
            "metadata",
            "-q",
            "--offline",
            "--no-deps",
            "--format-version",
            "1",
        ])
        .arg("--manifest-path")
        .arg(folder.join("probe/Cargo.toml"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

// --- The store ---

#[test]
fn signatures_are_those_of_json_stringify() {
    // The expected value is Node's: createHmac("sha256", "key").update(JSON.stringify(manifest)).
    let manifest = json!({
        "version": "1.0",
        "skill": {
            "slug": "a-b",
            "name": "Zöe \"q\" \\ / \u{2028} \u{7f} \u{1} \u{1f} \n\t\u{8}\u{c}\r \u{1F600} <&>",
            "n": 12_345_678_901_u64,
        },
        "downloadUrl": "/api/x", "empty": {}, "list": [null, true, -1],
    });
    let signed: Value = serde_json::from_str(&sign(manifest, "key").unwrap()).unwrap();
    assert_eq!(
        signed["signature"],
        "b58b5badbe01454076a8f7d6064c838dc0f5b1dec1abde2ff8ae0f2c1afe8ebb"
    );
}

#[tokio::test]
async fn the_store_answers_the_two_routes() {
    let pack = pack();
    let package = build(pack.path());
    let store = Store::new(&package, "key").unwrap();
    let server = Server::start(Router::new().nest("/api", store.router())).await;
    let get = async |path: &str| reqwest::get(server.url(path)).await.unwrap();

    let text = get("/api/skills/demo-pack/manifest")
        .await
        .text()
        .await
        .unwrap();
    let mut manifest: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(manifest["version"], "1.0");
    assert_eq!(manifest["skill"]["slug"], "demo-pack");
    assert_eq!(manifest["skill"]["version"], "0.1.0");
    assert_eq!(manifest["skill"]["zipHash"], package.sha256.as_str());
    let members: Vec<&String> = manifest.as_object().unwrap().keys().collect();
    assert_eq!(
        members,
        [
            "version",
            "skill",
            "downloadUrl",
            "generatedAt",
            "signature"
        ]
    );
    let signature = manifest
        .as_object_mut()
        .unwrap()
        .shift_remove("signature")
        .unwrap();
    let again: Value = serde_json::from_str(&sign(manifest.clone(), "key").unwrap()).unwrap();
    assert_eq!(again["signature"], signature);
    let other: Value = serde_json::from_str(&sign(manifest.clone(), "other").unwrap()).unwrap();
    assert_ne!(other["signature"], signature);

    let url = manifest["downloadUrl"].as_str().unwrap();
    let zip = get(url).await.bytes().await.unwrap();
    assert_eq!(hex::encode(Sha256::digest(&zip)), package.sha256);

    // `owner/name` is `owner-name`.
    assert_eq!(
        get("/api/skills/demo/pack/manifest")
            .await
            .text()
            .await
            .unwrap(),
        text
    );
    assert_eq!(
        get("/api/skills/demo/pack/download")
            .await
            .bytes()
            .await
            .unwrap(),
        zip
    );

    for path in [
        "/api/skills/other/manifest",
        "/api/skills/other/download",
        "/api/skills/a/b/manifest",
        "/api/skills/demo-pack",
        "/api/other",
    ] {
        let response = get(path).await;
        assert_eq!(response.status(), 404, "{path}");
        let answer: Value = response.json().await.unwrap();
        assert!(
            answer["error"].as_str().unwrap().starts_with("no such "),
            "{path}: {answer}"
        );
    }
}
