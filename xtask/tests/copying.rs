//! `sh copy` as a reader runs it: every pattern lands in a fresh project and builds there with what was printed, and what it must
//! not do it refuses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use xtask::copying::Row;

/// What a run of `copy` said.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Said {
    /// Lines below the heading of a step that begins with `title`.
    fn step(&self, title: &str) -> Vec<&str> {
        self.out
            .lines()
            .skip_while(|line| {
                !line
                    .split_once(". ")
                    .is_some_and(|(_, t)| t.starts_with(title))
            })
            .skip(1)
            .map_while(|line| line.strip_prefix("   "))
            .collect()
    }

    fn has(&self, words: &[&str]) -> &Self {
        for word in words {
            assert!(
                self.out.contains(word) || self.err.contains(word),
                "no {word:?} in {self:#?}"
            );
        }
        self
    }

    fn exits(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }
}

/// `sh copy ARGUMENTS` in `folder`.
fn copy_in(folder: &Path, arguments: &[&str]) -> Said {
    let output = Command::new("sh")
        .arg(xtask::root().join("copy"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    Said {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn write(path: impl AsRef<Path>, text: &str) {
    let path = path.as_ref();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// What `cargo new NAME` writes.
fn new_crate(folder: &Path, name: &str) -> PathBuf {
    let home = folder.join(name);
    write(
        home.join("Cargo.toml"),
        &format!(
            "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dependencies]\n"
        ),
    );
    write(
        home.join("src/main.rs"),
        "fn main() {\n    println!(\"Hello, world!\");\n}\n",
    );
    home
}

/// Every file below `folder` with its content.
fn files(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    xtask::walk(folder, Path::new(""), &mut |path| {
        let text = fs::read_to_string(folder.join(path)).unwrap();
        found.push((path.display().to_string(), text));
    });
    found
}

fn rows(of: &str) -> Vec<Row> {
    let rows = xtask::copying::rows(&xtask::root()).unwrap();
    rows.into_iter().filter(|row| row.language == of).collect()
}

// --- Every pattern builds ---

/// Adds the lines that `copy` printed for the crate `home`.
fn follow(home: &Path, said: &Said) {
    let main = home.join("src/main.rs");
    let modules = said.step("Declare in src/main.rs").join("\n");
    // A warning would be the reader's to clean up.
    let text = format!(
        "#![deny(warnings)]\n{modules}\n{}",
        fs::read_to_string(&main).unwrap()
    );
    fs::write(main, text).unwrap();
    for line in said.step("Add the crates") {
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[..2], ["cargo", "add"], "{line}");
        let output = Command::new(env!("CARGO"))
            .args(["add", "-q", "--offline"])
            .args(&words[2..])
            .current_dir(home)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
#[ignore = "compiles each pattern in a crate of its own: run ./check"]
fn every_rust_pattern_and_service_builds_with_the_printed_lines() {
    let root = xtask::root();
    let workspace = tempfile::tempdir().unwrap();
    let folder = workspace.path();
    let rust = rows("rust");
    assert!(rust.len() > 50, "{} rows", rust.len());
    for row in &rust {
        // A service may have the name of a pattern.
        let name = format!("pattern-{}", row.name.replace(['/', '_'], "-"));
        let home = new_crate(folder, &name);
        let said = copy_in(folder, &[&format!("{}.rs", row.name), &name]);
        said.exits(0);
        follow(&home, &said);
    }
    for row in rows("service") {
        let name = row.name.replace('/', "-");
        copy_in(folder, &[&row.name, &name]).exits(0);
    }
    // TLS is some sixty crates more, one of them C, and no code of ours: `cargo add` has found the feature.
    for member in fs::read_dir(folder).unwrap() {
        let manifest = member.unwrap().path().join("Cargo.toml");
        let text = fs::read_to_string(&manifest).unwrap();
        fs::write(manifest, text.replace(", \"rustls\"", "")).unwrap();
    }
    // One workspace, so that each dependency is checked once for all; a workspace has its lock at the root.
    write(
        folder.join("Cargo.toml"),
        "[workspace]\nmembers = [\"*\"]\nresolver = \"3\"\n",
    );
    fs::copy(root.join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
    let output = Command::new(env!("CARGO"))
        .args(["check", "-q", "--offline", "--workspace", "--keep-going"])
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", root.join("target/copying"))
        .env_remove("RUSTC")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A project as its generator writes it: the folder of its tsconfig files, its package.json, the packages that are there.
fn new_package(folder: &Path, kind: &str, package: &str, modules: &str) -> PathBuf {
    let home = folder.join(kind);
    let from = xtask::root().join("tests/consumers").join(kind);
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        write(
            home.join(path.file_name().unwrap()),
            &fs::read_to_string(&path).unwrap(),
        );
    }
    write(home.join("package.json"), package);
    #[cfg(unix)]
    std::os::unix::fs::symlink(xtask::root().join(modules), home.join("node_modules")).unwrap();
    home
}

/// Every import of a package in `home` is in package.json or was printed.
fn assert_packages(home: &Path, printed: &str) {
    let manifest = fs::read_to_string(home.join("package.json")).unwrap();
    let import = regex::Regex::new(r#"from "([^"./][^"]*)""#).unwrap();
    for (path, text) in files(home)
        .iter()
        .filter(|(path, _)| path.ends_with(".ts") || path.ends_with(".tsx"))
    {
        for import in import.captures_iter(text) {
            let name = &import[1];
            let parts = if name.starts_with('@') { 2 } else { 1 };
            let package = name.split('/').take(parts).collect::<Vec<_>>().join("/");
            let known = name.starts_with("node:")
                || name.starts_with("@/")
                || manifest.contains(&format!("\"{package}\""))
                || printed.contains(&format!(" {package}@"));
            assert!(known, "{path} imports {name}, which nobody has installed");
        }
    }
}

#[test]
#[ignore = "needs Node: run ./check"]
fn every_typescript_pattern_compiles_where_it_is_copied() {
    let folder = tempfile::tempdir().unwrap();
    let next = new_package(
        folder.path(),
        "next",
        r#"{ "dependencies": { "next": "16", "react": "19", "react-dom": "19" }, "devDependencies": { "typescript": "^5", "@types/node": "^20", "@types/react": "^19", "@types/react-dom": "^19" } }"#,
        "snippets/typescript/nextjs/node_modules",
    );
    let vite = new_package(
        folder.path(),
        "vite",
        r#"{ "type": "module", "dependencies": { "react": "19", "react-dom": "19" }, "devDependencies": { "typescript": "~7", "@types/react": "^19" } }"#,
        "snippets/typescript/node_modules",
    );
    let node = new_package(
        folder.path(),
        "node",
        r#"{ "type": "module", "devDependencies": { "typescript": "^7" } }"#,
        "snippets/typescript/node_modules",
    );
    write(vite.join("src/main.tsx"), "export {};\n");
    write(node.join("src/main.ts"), "export {};\n");
    let (mut of_next, mut of_vite, mut of_node) = (String::new(), String::new(), String::new());
    for row in rows("ts") {
        let name = format!("{}.ts", row.name);
        for (home, printed) in [
            (&next, &mut of_next),
            (&vite, &mut of_vite),
            (&node, &mut of_node),
        ] {
            let said = copy_in(home, &[&name, "."]);
            said.exits(0);
            printed.push_str(&said.out);
        }
    }
    for row in rows("next") {
        let said = copy_in(&next, &[&row.name, "."]);
        said.exits(0);
        of_next.push_str(&said.out);
    }
    for (home, printed) in [(&next, of_next), (&vite, of_vite), (&node, of_node)] {
        assert_packages(home, &printed);
    }
    let root = xtask::root();
    let new = root.join("snippets/typescript/node_modules/typescript/bin/tsc");
    // create-next-app still installs TypeScript 5.
    let old = root.join("tools/node_modules/typescript5/bin/tsc");
    for (home, compiler, project) in [
        (&next, &old, "tsconfig.json"),
        (&next, &new, "tsconfig.json"),
        (&vite, &new, "tsconfig.app.json"),
        (&node, &old, "tsconfig.json"),
        (&node, &new, "tsconfig.json"),
    ] {
        let output = Command::new("node")
            .arg(compiler)
            .args(["--noEmit", "--incremental", "false", "-p", project])
            .current_dir(home)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{} with {}:\n{}{}",
            home.display(),
            compiler.display(),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

// --- What it says and refuses ---

fn projects() -> TempDir {
    let folder = tempfile::Builder::new()
        .prefix("a project ")
        .tempdir()
        .unwrap();
    new_crate(folder.path(), "app");
    write(
        folder.path().join("page/package.json"),
        "{ \"type\": \"module\" }\n",
    );
    folder
}

#[test]
fn it_copies_the_files_declares_them_and_says_how_to_go_on() {
    let folder = projects();
    let app = folder.path().join("app");
    let said = copy_in(folder.path(), &["streams/tee", "app"]);
    said.exits(0).has(&[
        "streams/tee.rs",
        "cargo add ",
        "mod streams;",
        "book/src/streams/tee.md",
    ]);
    let copied = fs::read_to_string(app.join("src/streams/tee.rs")).unwrap();
    assert_eq!(
        copied,
        fs::read_to_string(xtask::root().join("snippets/src/streams/tee.rs")).unwrap()
    );
    let list = fs::read_to_string(app.join("src/streams/mod.rs")).unwrap();
    assert!(list.contains("pub mod tee;"), "{list}");

    // Another one extends the list, and what is declared is not printed again.
    let main = app.join("src/main.rs");
    fs::write(
        &main,
        format!("mod streams;\n{}", fs::read_to_string(&main).unwrap()),
    )
    .unwrap();
    let said = copy_in(&app, &["streams/pace", "src"]);
    said.exits(0).has(&["streams/mod.rs", "extended"]);
    assert_eq!(said.step("Declare"), Vec::<&str>::new());
    let list = fs::read_to_string(app.join("src/streams/mod.rs")).unwrap();
    assert!(
        list.contains("pub mod tee;") && list.contains("pub mod pace;"),
        "{list}"
    );

    // The same again changes nothing.
    let before = files(&app);
    copy_in(&app, &["streams/pace", "."])
        .exits(0)
        .has(&["unchanged"]);
    assert_eq!(files(&app), before);
}

#[test]
fn a_reader_s_own_list_of_modules_is_kept() {
    let folder = projects();
    let app = folder.path().join("app");
    write(app.join("src/streams.rs"), "pub mod mine;\n");
    write(app.join("src/streams/mine.rs"), "");
    copy_in(folder.path(), &["streams/tee", "app"])
        .exits(0)
        .has(&["streams.rs"]);
    let list = fs::read_to_string(app.join("src/streams.rs")).unwrap();
    assert!(
        list.starts_with("pub mod mine;\n") && list.contains("pub mod tee;"),
        "{list}"
    );
    assert!(!app.join("src/streams/mod.rs").exists());
}

#[test]
fn a_file_that_differs_is_never_overwritten() {
    let folder = projects();
    let app = folder.path().join("app");
    write(app.join("src/streams/tee.rs"), "// mine\n");
    let before = files(&app);
    let said = copy_in(folder.path(), &["streams/tee", "app"]);
    said.exits(1).has(&["nothing is written", "streams/tee.rs"]);
    assert_eq!(files(&app), before);
}

#[test]
fn a_dry_run_writes_nothing() {
    let folder = projects();
    let app = folder.path().join("app");
    let before = files(&app);
    let said = copy_in(folder.path(), &["--dry-run", "streams/tee", "app"]);
    said.exits(0)
        .has(&["Would write", "streams/tee.rs", "cargo add"]);
    copy_in(folder.path(), &["streams/tee", "app", "--dry-run"]).exits(0);
    assert_eq!(files(&app), before);
}

#[test]
fn a_folder_below_src_is_a_module() {
    let folder = projects();
    let inner = folder.path().join("app/src/streaming");
    fs::create_dir(&inner).unwrap();
    let row = rows("rust").into_iter().find(|row| {
        let of = |file: &String| xtask::root().join("snippets/src").join(file);
        row.files
            .iter()
            .any(|file| fs::read_to_string(of(file)).unwrap().contains("crate::"))
    });
    let name = format!("{}.rs", row.unwrap().name);
    let said = copy_in(folder.path(), &[&name, "app/src/streaming"]);
    said.exits(0).has(&["mod streaming;"]);
    let copied = files(&inner);
    assert!(
        copied
            .iter()
            .any(|(path, text)| path == "mod.rs" && text.contains("pub mod "))
    );
    let all: String = copied.into_iter().map(|(_, text)| text).collect();
    assert!(all.contains("crate::streaming::"));
    assert!(!all.replace("crate::streaming::", "").contains("crate::"));
}

#[test]
fn a_pattern_s_own_list_replaces_that_of_copy_and_no_other() {
    let folder = projects();
    let app = folder.path().join("app");
    let row = rows("rust")
        .into_iter()
        .find(|row| row.files.iter().any(|file| file.ends_with("/mod.rs")))
        .unwrap();
    let list = row
        .files
        .iter()
        .find(|file| file.ends_with("/mod.rs"))
        .unwrap()
        .clone();
    let path = app.join("src").join(&list);
    write(
        &path,
        "// Lists the copied patterns; copy adds to it.\npub mod a;\n",
    );
    copy_in(folder.path(), &[&row.name, "app"])
        .exits(0)
        .has(&["replaced"]);
    write(&path, "pub mod a;\n");
    copy_in(folder.path(), &[&row.name, "app"])
        .exits(1)
        .has(&[&list]);
}

#[test]
fn typescript_gets_the_imports_that_its_project_compiles() {
    let folder = projects();
    let page = folder.path().join("page");
    for (config, import) in [
        (
            r#"{ "compilerOptions": { "moduleResolution": "bundler" } }"#,
            r#"from "./event-stream";"#,
        ),
        (
            "{ // NodeNext\n \"compilerOptions\": { \"module\": \"NodeNext\" } }",
            r#"from "./event-stream.js";"#,
        ),
        (
            r#"{ "compilerOptions": { "allowImportingTsExtensions": true } }"#,
            r#"from "./event-stream.ts";"#,
        ),
    ] {
        let _ = fs::remove_dir_all(page.join("streaming"));
        write(page.join("tsconfig.json"), config);
        copy_in(folder.path(), &["sse/connect", "page"])
            .exits(0)
            .has(&["import { "]);
        let text = fs::read_to_string(page.join("streaming/sse/connect.ts")).unwrap();
        assert!(text.contains(import), "{config}: {text}");
    }
    // Where there is a src, it goes there; a folder that is named is taken as it is.
    fs::create_dir_all(page.join("src/lib")).unwrap();
    copy_in(folder.path(), &["sse/connect", "page"]).exits(0);
    assert!(page.join("src/streaming/sse/connect.ts").is_file());
    copy_in(folder.path(), &["sse/connect", "page/src/lib"]).exits(0);
    assert!(page.join("src/lib/sse/event-stream.ts").is_file());
}

#[test]
fn a_name_of_two_languages_goes_by_its_destination() {
    let folder = projects();
    copy_in(folder.path(), &["websocket/client", "app"])
        .exits(0)
        .has(&["websocket/client.rs"]);
    copy_in(folder.path(), &["websocket/client", "page"])
        .exits(0)
        .has(&["websocket/client.ts"]);
    write(folder.path().join("app/package.json"), "{}");
    let said = copy_in(folder.path(), &["websocket/client", "app"]);
    said.exits(2)
        .has(&["websocket/client.rs or websocket/client.ts"]);
}

#[test]
fn wrong_arguments_are_named_with_what_to_do() {
    let folder = projects();
    let run = |arguments: &[&str]| copy_in(folder.path(), arguments);
    run(&["sse/reusme", "app"])
        .exits(2)
        .has(&["near: sse/resume", "--list"]);
    run(&["resume", "app"])
        .exits(2)
        .has(&["sse/resume", "llm/resume"]);
    run(&["nothing/like-it", "app"])
        .exits(2)
        .has(&["no pattern nothing/like-it"]);
    run(&["streams/tee"]).exits(2).has(&["DEST is missing"]);
    run(&[]).exits(2).has(&["Usage:"]);
    run(&["--wrong"]).exits(2).has(&["no option --wrong"]);
    run(&["streams/tee", "gone"])
        .exits(1)
        .has(&["gone is not a folder"]);
    run(&["streams/tee", "page"])
        .exits(1)
        .has(&["no Cargo.toml", "cargo new"]);
    run(&["sse/connect", "app"])
        .exits(1)
        .has(&["no package.json", "npm init"]);
    fs::create_dir_all(folder.path().join("app/examples")).unwrap();
    run(&["streams/tee", "app/examples"])
        .exits(1)
        .has(&["is not in"]);
    write(
        folder.path().join("all/Cargo.toml"),
        "[workspace]\nmembers = []\n",
    );
    run(&["streams/tee", "all"])
        .exits(1)
        .has(&["is a workspace"]);
    run(&["llm/nextjs", "page/"])
        .exits(1)
        .has(&["tsconfig.json has no path"]);
    run(&["--help"]).exits(0).has(&["Usage:"]);
}

#[test]
fn a_service_becomes_a_project_of_its_own() {
    let folder = projects();
    let said = copy_in(folder.path(), &["service/progress-jobs", "jobs"]);
    said.exits(0).has(&["cargo run", "README.md says"]);
    let home = folder.path().join("jobs");
    let read = |path: &str| fs::read_to_string(home.join(path)).unwrap();
    let manifest = read("Cargo.toml");
    // As with `cargo new`, the crate has the name of its folder.
    assert!(manifest.contains("name = \"jobs\""), "{manifest}");
    assert!(read("Dockerfile").contains("/release/jobs "));
    assert!(
        !manifest.contains("workspace") && !manifest.contains("path ="),
        "{manifest}"
    );
    assert!(
        read("src/lib.rs").ends_with("pub mod connections;\npub mod production;\npub mod sse;\n")
    );
    assert!(read("src/main.rs").contains("use jobs::connections::listen;"));
    let all = files(&home);
    assert!(
        all.iter()
            .all(|(path, text)| path == "Cargo.lock" || !text.contains("snippets"))
    );
    assert!(all.iter().all(|(path, _)| !path.starts_with("tests/")));
    for path in ["Dockerfile", "nginx.conf", "README.md", "Cargo.lock"] {
        assert!(home.join(path).is_file(), "{path}");
    }
    // A project that exists is not touched.
    let before = files(&home);
    let again = copy_in(folder.path(), &["service/progress-jobs", "jobs"]);
    again.exits(1).has(&["is not empty"]);
    assert_eq!(files(&home), before);
}

#[test]
fn a_service_in_a_folder_that_no_crate_can_be_called_keeps_its_name() {
    let folder = projects();
    copy_in(folder.path(), &["service/progress-jobs", "My jobs"]).exits(0);
    let manifest = fs::read_to_string(folder.path().join("My jobs/Cargo.toml")).unwrap();
    assert!(manifest.contains("name = \"progress-jobs\""), "{manifest}");
}

#[test]
fn the_last_part_of_a_name_is_enough_if_no_other_has_it() {
    let folder = projects();
    let copy = |name: &str| copy_in(folder.path(), &["--dry-run", name, "app"]);
    copy("use_chat").exits(0).has(&["llm/use_chat: "]);
    // `sse/topics` and `production/topics`
    copy("topics")
        .exits(2)
        .has(&["sse/topics", "production/topics"]);
}

#[test]
fn a_project_that_asks_a_provider_has_tls() {
    let folder = projects();
    let app = folder.path().join("app");
    let said = copy_in(folder.path(), &["llm/upstream", "app"]);
    follow(&app, said.exits(0));
    copy_in(folder.path(), &["service/llm-chat", "chat"]).exits(0);
    for home in [app, folder.path().join("chat")] {
        let manifest = fs::read_to_string(home.join("Cargo.toml")).unwrap();
        let manifest: toml::Table = manifest.parse().unwrap();
        let features = manifest["dependencies"]["reqwest"]["features"].as_array();
        let tls = |feature: &toml::Value| feature.as_str() == Some("rustls");
        assert!(features.unwrap().iter().any(tls), "{manifest}");
    }
}

#[test]
fn the_next_service_becomes_a_project_of_its_own() {
    let folder = projects();
    let said = copy_in(folder.path(), &["service/next-chat", "chat"]);
    said.exits(0)
        .has(&["npm install && npm run dev", "README.md says"]);
    let home = folder.path().join("chat");
    for path in [
        "app/page.tsx",
        "app/api/chat/route.ts",
        "lib/settings.ts",
        "streaming/llm/chat.ts",
        "scripted-model.mjs",
        "package-lock.json",
        "Dockerfile",
        ".dockerignore",
    ] {
        assert!(home.join(path).is_file(), "{path}");
    }
    // What the project imports is there: its own files, and packages in the versions that the application is tested with.
    let read = |path: PathBuf| -> serde_json::Value {
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    };
    let own = read(home.join("package.json"));
    let tested = read(xtask::root().join("snippets/typescript/nextjs/package.json"));
    for kind in ["dependencies", "devDependencies"] {
        for (name, version) in own[kind].as_object().unwrap() {
            assert_eq!(*version, tested[kind][name], "{name}");
        }
    }
    assert_packages(&home, "");
    let import = regex::Regex::new(r#"from "@/([^"]+)""#).unwrap();
    for (path, text) in files(&home) {
        for found in import.captures_iter(&text) {
            assert!(home.join(&found[1]).is_file(), "{path}: {}", &found[1]);
        }
    }
}

#[test]
fn a_route_for_the_ai_sdk_is_copied_only_where_it_is_asked_for() {
    let folder = projects();
    let page = folder.path().join("page");
    let config =
        r#"{ "compilerOptions": { "moduleResolution": "bundler", "paths": { "@/*": ["./*"] } } }"#;
    write(page.join("tsconfig.json"), config);
    let said = copy_in(folder.path(), &["llm/nextjs", "page"]);
    said.exits(0).has(&["POST /api/chat", "lib/settings.ts"]);
    assert!(page.join("app/api/chat/route.ts").is_file());
    assert!(!page.join("app/api/ai").exists() && !said.out.contains(" ai@"));
    let said = copy_in(folder.path(), &["llm/nextjs-ai", "page"]);
    said.exits(0)
        .has(&["POST /api/ai", " ai@", "book/src/llm/nextjs.md"]);
    assert!(page.join("app/api/ai/route.ts").is_file());
}

#[test]
fn the_list_has_one_line_for_each_row() {
    let folder = projects();
    let said = copy_in(folder.path(), &["--list"]);
    let rows = xtask::copying::rows(&xtask::root()).unwrap();
    assert_eq!(said.exits(0).out.lines().count(), rows.len());
    let said = copy_in(folder.path(), &["--list", "TypeScript"]);
    assert!(said.out.lines().count() < rows.len() && said.out.contains("sse/connect"));
}

#[test]
fn every_setting_of_a_service_is_in_the_table_of_its_readme() {
    xtask::report(&xtask::settings::check(&xtask::root()));
}

#[test]
fn every_chapter_has_a_row() {
    let root = xtask::root();
    let rows = xtask::copying::rows(&root).unwrap();
    for document in xtask::documents(&root)
        .iter()
        .filter(|d| xtask::budgets::is_chapter(d))
    {
        let name = document.with_extension("");
        let name = name.strip_prefix("book/src").unwrap().to_str().unwrap();
        let row = rows.iter().find(|row| row.name == name);
        let row = row.unwrap_or_else(|| panic!("{name} has no row"));
        assert_eq!(row.chapter, name);
        assert!(!row.summary.is_empty(), "{row:?}");
    }
}

/// Rows with more files than `MOST_FILES`: whole endpoints and pages. Each names the patterns that it is made of, and adds little of
/// its own.
const COMPOSED: [(&str, &[&str]); 11] = [
    ("llm/ag_ui", &["llm/agent", "llm/resume"]),
    ("llm/chat_page", &["llm/chat", "llm/stream-markdown"]),
    ("llm/upstream", &["llm/http", "llm/model_stream"]),
    ("llm/use-chat-log", &["llm/chat"]),
    (
        "llm/use_chat",
        &[
            "llm/resume",
            "llm/ui_message_stream",
            "llm/use_chat_history",
        ],
    ),
    ("production/disconnects", &["production/topics"]),
    ("production/presence", &["production/topics"]),
    (
        "production/topics_socket",
        &[
            "production/topics",
            "production/presence",
            "websocket/serve",
        ],
    ),
    (
        "production/feed",
        &["production/shared_log", "websocket/serve"],
    ),
    ("websocket/rooms", &["sse/log"]),
    (
        "websocket/rooms_endpoint",
        &["websocket/rooms", "websocket/serve"],
    ),
];
/// Files that a composed row may add to its patterns.
const OWN_FILES: usize = 4;

#[test]
fn no_pattern_drags_in_more_than_it_needs() {
    let most = xtask::copying::MOST_FILES;
    let rows = xtask::copying::rows(&xtask::root()).unwrap();
    // `next`, `app`, `folder` and `service` are applications.
    let patterns: Vec<_> = rows
        .iter()
        .filter(|row| ["rust", "ts"].contains(&row.language))
        .collect();
    let parts_of = |row: &Row| COMPOSED.iter().find(|(name, _)| *name == row.name);
    let mut problems = Vec::new();
    for row in &patterns {
        let parts = parts_of(row);
        let of_parts = |file: &&String| {
            parts.is_some_and(|(_, parts)| {
                let same = |other: &&&Row| {
                    other.language == row.language
                        && parts.contains(&&*other.name)
                        && (other.files.len() <= most || parts_of(other).is_some())
                };
                patterns
                    .iter()
                    .filter(same)
                    .any(|part| part.files.contains(*file))
            })
        };
        let own = row.files.iter().filter(|file| !of_parts(file)).count();
        match parts {
            None if own > most => problems.push(format!("{}: {:?}", row.name, row.files)),
            // A name may have a row in each language.
            Some(_)
                if patterns
                    .iter()
                    .all(|other| other.name != row.name || other.files.len() <= most) =>
            {
                problems.push(format!("{} is no longer composed", row.name));
            }
            Some(_) if own > OWN_FILES => {
                problems.push(format!("{} adds {own} files to its patterns", row.name));
            }
            _ => {}
        }
    }
    xtask::report(&problems);
}
