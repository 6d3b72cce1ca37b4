//! The pack installed by the real clients of the stores into an empty home, from the store that the
//! program serves. The versions of the clients are pinned in `tools/`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::fixture::{Pack, Program, Server, within};
use axum::Router;
use axum::response::IntoResponse;
use axum::routing::get;
use serde_json::Value;
use streaming_api_patterns::package::{self, Package};
use streaming_api_patterns::serve::SKILLSTORE;
use streaming_api_patterns::store::{Store, sign};
use tempfile::TempDir;
use tokio::process::Command;

const KEY: &str = "a-key-for-tests";

/// An empty home folder, and an empty project in it.
struct Home {
    folder: TempDir,
}

/// What a client said. Exit codes are not enough: `skillstore check` and `update` exit 0 even when
/// they fail.
struct Said {
    code: Option<i32>,
    text: String,
}

impl Said {
    #[track_caller]
    fn has(&self, words: &[&str]) -> &Self {
        for word in words {
            assert!(self.text.contains(word), "no {word:?} in: {}", self.text);
        }
        self
    }

    #[track_caller]
    fn has_not(&self, words: &[&str]) -> &Self {
        for word in words {
            assert!(!self.text.contains(word), "{word:?} in: {}", self.text);
        }
        self
    }

    #[track_caller]
    fn exits(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "{}", self.text);
        self
    }
}

impl Home {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("project")).unwrap();
        Self { folder }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Runs a shell line in the project, with the pinned clients first in PATH and nothing else of
    /// this machine's environment.
    async fn run(&self, line: &str, environment: &[(&str, &str)]) -> Said {
        let tools = crate::fixture::root().join("tools/node_modules/.bin");
        assert!(
            tools.join("skillstore").exists(),
            "the clients are not installed: run ./check"
        );
        let python = crate::fixture::root().join("target/venv/tools/bin");
        let inherited = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(
            [tools, python]
                .into_iter()
                .chain(std::env::split_paths(&inherited)),
        );
        let mut command = Command::new("sh");
        command
            .args(["-c", line])
            .env_clear()
            .env("PATH", path.unwrap())
            .env("HOME", self.folder.path())
            .env("NO_COLOR", "1")
            .env("DO_NOT_TRACK", "1")
            .env("DISABLE_TELEMETRY", "1")
            .envs(environment.iter().copied())
            .current_dir(self.at("project"))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = within(line, command.output()).await.unwrap();
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        println!("$ {line}\n{text}");
        Said {
            code: output.status.code(),
            text,
        }
    }

    /// Runs `skillstore` against the store at `url`.
    async fn skillstore(&self, url: &str, arguments: &str) -> Said {
        let api = format!("{url}/api");
        let environment = [
            ("SKILLSTORE_API_URL", api.as_str()),
            ("SKILLSTORE_VERIFY_KEY", KEY),
        ];
        self.run(&format!("skillstore {arguments}"), &environment)
            .await
    }

    fn installed(&self, slug: &str) -> BTreeMap<String, Vec<u8>> {
        files(&self.at(".agents/skills").join(slug))
    }
}

/// The files below `folder` by their path.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).unwrap_or_else(|e| panic!("{}: {e}", next.display()))
        {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path
                    .strip_prefix(folder)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned();
                found.insert(name, std::fs::read(path).unwrap());
            }
        }
    }
    found
}

fn packed(package: &Package) -> BTreeMap<String, Vec<u8>> {
    package
        .files
        .iter()
        .map(|file| (file.path.clone(), file.content.clone()))
        .collect()
}

fn build(root: &Path) -> Package {
    package::build(root, |_| {}).unwrap()
}

#[track_caller]
fn assert_complete(installed: &BTreeMap<String, Vec<u8>>, package: &Package) {
    let expected = packed(package);
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(installed), names(&expected));
    for (name, content) in &expected {
        assert!(installed[name] == *content, "{name} has changed on the way");
    }
}

/// The package of this repository, unpacked into a folder that bears the skill's name.
fn unpacked() -> (TempDir, PathBuf, Package) {
    let package = build(&crate::fixture::root());
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join(&package.manifest.slug);
    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(&package.zip)).unwrap();
    zip.extract(&folder).unwrap();
    assert_complete(&files(&folder), &package);
    (outer, folder, package)
}

#[test]
fn the_pinned_clients_are_those_that_the_program_names() {
    let text = std::fs::read_to_string(crate::fixture::root().join("tools/package.json")).unwrap();
    let tools: Value = serde_json::from_str(&text).unwrap();
    let pinned = tools["dependencies"].as_object().unwrap();
    assert_eq!(pinned["skillstore"], SKILLSTORE);
    for (name, version) in pinned {
        let exact = version
            .as_str()
            .unwrap()
            // An alias: `npm:typescript@5.9.3`.
            .rsplit('@')
            .next()
            .unwrap()
            .split('.')
            .all(|part| part.parse::<u32>().is_ok());
        assert!(exact, "{name} {version} is not pinned");
    }
}

// --- npx skillstore ---

#[tokio::test]
#[ignore = "needs Node: run ./check"]
async fn skillstore_adds_lists_checks_and_updates() {
    let home = Home::new();
    let old = Pack::new("demo-pack", "0.1.0");
    let store = Program::serve(old.path(), &["--store-key", KEY]).await;
    let package = build(old.path());

    home.skillstore(&store.url, "add demo-pack -a claude-code,codex")
        .await
        .exits(0)
        .has(&["Manifest verified", "Content verified"]);
    assert_complete(&home.installed("demo-pack"), &package);
    // Codex reads ~/.agents/skills itself, Claude Code follows its link.
    assert_complete(&files(&home.at(".claude/skills/demo-pack")), &package);

    home.skillstore(&store.url, "list")
        .await
        .exits(0)
        .has(&["demo-pack", "0.1.0"]);
    let said = home.skillstore(&store.url, "check --json").await;
    let answer: Value = serde_json::from_str(&said.text).unwrap();
    assert_eq!(answer["upToDate"][0], "demo-pack");
    assert_eq!(answer["updates"].as_array().unwrap().len(), 0);

    let new = Pack::new("demo-pack", "0.2.0");
    new.remove("notes/[id]/page.tsx");
    new.write("notes/two.md", "new");
    let store = Program::serve(new.path(), &["--store-key", KEY]).await;
    let said = home.skillstore(&store.url, "check --json").await;
    let answer: Value = serde_json::from_str(&said.text).unwrap();
    assert_eq!(answer["updates"][0]["slug"], "demo-pack");
    assert_eq!(answer["updates"][0]["currentVersion"], "0.1.0");
    assert_eq!(answer["updates"][0]["latestVersion"], "0.2.0");
    assert_complete(&home.installed("demo-pack"), &package);

    home.skillstore(&store.url, "update").await;
    // The old files are gone, also those that the new version no longer has.
    assert_complete(&home.installed("demo-pack"), &build(new.path()));
    home.skillstore(&store.url, "list")
        .await
        .exits(0)
        .has(&["0.2.0"])
        .has_not(&["0.1.0"]);
}

/// A store whose manifest and zip are what the test makes of them.
async fn crooked(manifest: String, zip: Vec<u8>) -> Server {
    let json = [("content-type", "application/json")];
    let app = Router::new()
        .route(
            "/api/skills/{slug}/manifest",
            get(async move || (json, manifest.clone()).into_response()),
        )
        .route(
            "/api/skills/{slug}/download",
            get(async move || zip.clone()),
        );
    Server::start(app).await
}

/// The manifest that the store would sign for `package`, without its signature.
async fn manifest_of(package: &Package) -> Value {
    let router = Router::new().nest("/api", Store::new(package, KEY).unwrap().router());
    let server = Server::start(router).await;
    let url = server.url(&format!("/api/skills/{}/manifest", package.manifest.slug));
    let mut manifest: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
    manifest
        .as_object_mut()
        .unwrap()
        .shift_remove("signature")
        .unwrap();
    manifest
}

#[tokio::test]
#[ignore = "needs Node: run ./check"]
async fn skillstore_refuses_a_tampered_zip_and_a_bad_signature() {
    let home = Home::new();
    let old = Pack::new("demo-pack", "0.1.0");
    let store = Program::serve(old.path(), &["--store-key", KEY]).await;
    home.skillstore(&store.url, "add demo-pack -a claude-code")
        .await
        .exits(0);
    let installed = build(old.path());

    let new = Pack::new("demo-pack", "0.2.0");
    let package = build(new.path());
    let manifest = manifest_of(&package).await;
    let mut tampered = package.files.clone();
    tampered[0].content.push(b'!');
    let tampered = package::zip(&tampered).unwrap();

    let signed = sign(manifest.clone(), KEY).unwrap();
    let store = crooked(signed.clone(), tampered).await;
    home.skillstore(&store.url(""), "add demo-pack -a claude-code")
        .await
        .exits(1)
        .has(&["ZIP hash mismatch"]);
    assert_complete(&home.installed("demo-pack"), &installed);
    home.skillstore(&store.url(""), "update").await;
    assert_complete(&home.installed("demo-pack"), &installed);

    let forged = sign(manifest.clone(), "another key").unwrap();
    let mut edited: Value = serde_json::from_str(&signed).unwrap();
    edited["skill"]["version"] = "9.9.9".into();
    let unsigned = manifest.to_string();
    for bad in [forged, edited.to_string(), unsigned] {
        let store = crooked(bad, package.zip.clone()).await;
        home.skillstore(&store.url(""), "add demo-pack -a claude-code")
            .await
            .exits(1)
            .has(&["Manifest verification failed"]);
        assert_complete(&home.installed("demo-pack"), &installed);
        home.skillstore(&store.url(""), "update").await;
        assert_complete(&home.installed("demo-pack"), &installed);
    }
    home.skillstore(&store.url(""), "list")
        .await
        .has(&["0.1.0"])
        .has_not(&["0.2.0", "9.9.9"]);

    // The same package, untouched, is taken: it was the damage that was refused.
    let store = crooked(signed, package.zip.clone()).await;
    home.skillstore(&store.url(""), "add demo-pack -a claude-code")
        .await
        .exits(0);
    assert_complete(&home.installed("demo-pack"), &package);
}

#[tokio::test]
#[ignore = "needs Node: run ./check"]
async fn skillstore_takes_owner_and_name() {
    let home = Home::new();
    let pack = Pack::new("demo-pack", "0.1.0");
    let store = Program::serve(pack.path(), &["--store-key", KEY]).await;
    home.skillstore(&store.url, "add demo/pack -a codex")
        .await
        .exits(0);
    assert_complete(&home.installed("demo-pack"), &build(pack.path()));
    home.skillstore(&store.url, "add demo/other -a codex")
        .await
        .exits(1)
        .has(&["not found"]);
}

#[tokio::test]
#[ignore = "needs Node: run ./check"]
async fn the_printed_line_installs_this_pack() {
    let home = Home::new();
    let program = Program::serve(&crate::fixture::root(), &[]).await;
    let line = program
        .install
        .replace(&format!("npx --yes skillstore@{SKILLSTORE}"), "skillstore");
    assert_ne!(line, program.install, "the line begins with npx: {line}");
    home.run(&line, &[]).await.exits(0);
    let package = build(&crate::fixture::root());
    let installed = home.installed(&package.manifest.slug);
    assert_complete(&installed, &package);
    assert_complete(
        &files(&home.at(".claude/skills").join(&package.manifest.slug)),
        &package,
    );
    let skill = String::from_utf8(installed["SKILL.md"].clone()).unwrap();
    let folder = home.at(".agents/skills").join(&package.manifest.slug);
    for path in xtask::skill::paths(&skill) {
        assert!(
            folder.join(&path).exists(),
            "SKILL.md names {path}, which did not arrive"
        );
    }
}

// --- The other clients, on the unpacked package ---

#[tokio::test]
#[ignore = "needs Node: run ./check"]
async fn npx_skills_installs_the_unpacked_package() {
    let (_outer, folder, package) = unpacked();
    let line = format!(
        "skills add '{}' -a claude-code -a codex -y",
        folder.display()
    );
    let project = Home::new();
    project.run(&line, &[]).await.exits(0);
    let name = &package.manifest.slug;
    assert_complete(
        &files(&project.at("project/.agents/skills").join(name)),
        &package,
    );
    assert_complete(
        &files(&project.at("project/.claude/skills").join(name)),
        &package,
    );

    let home = Home::new();
    home.run(&format!("{line} -g"), &[]).await.exits(0);
    assert_complete(&files(&home.at(".agents/skills").join(name)), &package);
    assert_complete(&files(&home.at(".claude/skills").join(name)), &package);
}

#[tokio::test]
#[ignore = "needs Python: run ./check"]
async fn agentskills_validates_the_unpacked_package() {
    let (_outer, folder, _) = unpacked();
    let home = Home::new();
    home.run(&format!("agentskills validate '{}'", folder.display()), &[])
        .await
        .exits(0);

    // It does look: a field that the specification does not have fails.
    let skill = std::fs::read_to_string(folder.join("SKILL.md")).unwrap();
    std::fs::write(
        folder.join("SKILL.md"),
        skill.replacen("---\n", "---\ntags: x\n", 1),
    )
    .unwrap();
    home.run(&format!("agentskills validate '{}'", folder.display()), &[])
        .await
        .exits(1)
        .has(&["tags"]);
}

#[tokio::test]
#[ignore = "needs Node: run ./check"]
async fn claude_code_validates_the_plugin() {
    let (_outer, folder, _) = unpacked();
    let home = Home::new();
    for path in [folder.clone(), folder.join(".claude-plugin/plugin.json")] {
        let line = format!("claude plugin validate --strict '{}'", path.display());
        home.run(&line, &[])
            .await
            .exits(0)
            .has(&["Validation passed"]);
    }
    // Installed, it is the skill and a command for each prompt.
    let add = format!("claude plugin marketplace add '{}'", folder.display());
    home.run(&add, &[]).await.exits(0);
    home.run(
        "claude plugin install streaming-api-patterns@streaming-api-patterns",
        &[],
    )
    .await
    .exits(0);
    let said = home
        .run("claude plugin details streaming-api-patterns", &[])
        .await;
    for entry in std::fs::read_dir(crate::fixture::root().join("prompts")).unwrap() {
        let path = entry.unwrap().path();
        said.has(&[path.file_stem().unwrap().to_str().unwrap()]);
    }
    said.exits(0)
        .has(&["Skills (11)", "streaming-api-patterns"]);

    let plugin = folder.join(".claude-plugin/plugin.json");
    std::fs::write(&plugin, "{\"name\": \"Not A Name\"}").unwrap();
    let line = format!("claude plugin validate --strict '{}'", plugin.display());
    assert_ne!(
        home.run(&line, &[]).await.code,
        Some(0),
        "a broken plugin.json passes"
    );
}
