//! What is published works without this repository: the crate from its archive, the npm packages from their files.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::json;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[track_caller]
fn run(command: &mut Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        status.success(),
        "{command:?}\n{}{}",
        text(&stdout),
        text(&stderr)
    );
    text(&stdout)
}

/// `cargo publish --dry-run` of every crate that is meant to be published: its archive is unpacked and built apart from
/// the workspace.
#[test]
#[ignore = "needs a minute to build the archive: run ./check"]
fn what_is_published_builds_from_its_archive_alone() {
    let cargo = || {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(root()).env_remove("RUSTC"); // .cargo/config.toml sets it for skeptic
        cargo
    };
    let metadata = run(cargo().args(["metadata", "--no-deps", "--offline", "--format-version=1"]));
    let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    // `publish = false` is an empty list of registries.
    let published = packages.iter().filter(|p| p["publish"] != json!([]));
    let names: Vec<&str> = published.map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["stream-probe"]);
    let target = root().join("target/package-check");
    for name in names {
        let package = |arguments: &[&str]| {
            let mut cargo = cargo();
            cargo.args(arguments).args(["--allow-dirty", "-p", name]);
            cargo.arg("--target-dir").arg(&target);
            cargo
        };
        // Builds it, with no need of a network.
        run(&mut package(&["package", "--offline"]));
        // What is left of a dry run needs the index of the registry. One that cannot be reached decides nothing.
        let mut dry_run = package(&["publish", "--dry-run", "--no-verify"]);
        dry_run.env("CARGO_NET_RETRY", "0");
        dry_run.env("CARGO_HTTP_TIMEOUT", "10");
        let output = dry_run.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let unreachable = said.contains("failed to download");
        assert!(output.status.success() || unreachable, "{said}");
    }
    let folder = target.join(format!(
        "package/stream-probe-{}",
        env!("CARGO_PKG_VERSION")
    ));
    for name in ["LICENSE", "README.md", "patterns/sse/wire.rs"] {
        assert!(folder.join(name).is_file(), "{name} is not in the archive");
    }
}

/// The wrapper and the program of this platform, installed from their files into an empty folder.
#[test]
#[ignore = "needs npm: run ./check"]
fn the_npm_packages_run_from_an_empty_folder() {
    let files = tempfile::tempdir().unwrap();
    let project = tempfile::tempdir().unwrap();
    let arch = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => panic!("no package for {other}"),
    };
    let platform = format!("linux-{arch}");
    let pack = |arguments: &[&str]| {
        let script = root().join("probe/npm/pack.mjs");
        let printed = run(Command::new("node")
            .arg(script)
            .arg(files.path())
            .args(arguments));
        files.path().join(printed.trim())
    };
    let program = pack(&[&platform, env!("CARGO_BIN_EXE_stream-probe")]);
    let wrapper = pack(&[]);
    std::fs::write(project.path().join("package.json"), "{\"private\":true}").unwrap();
    run(Command::new("npm")
        .current_dir(project.path())
        .args([
            "install",
            "--offline",
            "--no-audit",
            "--no-fund",
            "--loglevel=error",
        ])
        .args([&program, &wrapper]));
    let npx = |arguments: &[&str]| {
        let mut command = Command::new("npx");
        command
            .current_dir(project.path())
            .args(["--no-install", "stream-probe"])
            .args(arguments);
        command
    };
    let version = run(&mut npx(&["--version"]));
    assert_eq!(
        version.trim(),
        concat!("stream-probe ", env!("CARGO_PKG_VERSION"))
    );
    assert!(run(&mut npx(&["list"])).contains("sse-status-200"));
    // The exit code comes through.
    let unknown = npx(&["explain", "sse-nonsense"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(2));
}

fn yaml(path: &str) -> serde_yaml_ng::Value {
    let text = std::fs::read_to_string(root().join(path)).unwrap();
    serde_yaml_ng::from_str(&text).unwrap()
}

/// The workflow builds each platform for which there is a package, and no other.
#[test]
fn the_release_builds_every_platform() {
    let release = yaml(".github/workflows/release.yml");
    let builds = &release["jobs"]["build"]["strategy"]["matrix"]["include"];
    let built: Vec<&str> = builds
        .as_sequence()
        .unwrap()
        .iter()
        .map(|build| build["platform"].as_str().unwrap())
        .collect();
    let script = std::fs::read_to_string(root().join("probe/npm/pack.mjs")).unwrap();
    let list = script.split("PLATFORMS = [").nth(1).unwrap();
    let list = list.split(']').next().unwrap();
    let packed: Vec<&str> = list
        .split(',')
        .map(|name| name.trim().trim_matches('"'))
        .collect();
    assert_eq!(built, packed);
}

/// Inputs of the action are arguments, never a part of its script.
#[test]
fn the_action_passes_its_inputs_on() {
    use std::os::unix::fs::PermissionsExt as _;
    let action = yaml("action.yml");
    assert_eq!(
        action["inputs"]["version"]["default"],
        env!("CARGO_PKG_VERSION")
    );
    let step = &action["runs"]["steps"][0];
    let script = step["run"].as_str().unwrap();
    assert!(!script.contains("${{"), "{script}");
    let folder = tempfile::tempdir().unwrap();
    let npx = folder.path().join("npx");
    std::fs::write(&npx, "#!/bin/sh\nprintf '%s\\n' \"$@\"\n").unwrap();
    std::fs::set_permissions(&npx, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    let printed = run(Command::new("bash")
        .args(["-e", "-c", script])
        .env("PATH", format!("{}:{path}", folder.path().display()))
        .env("KIND", "sse")
        .env("URL", "http://127.0.0.1:3000/events?a=$(id)")
        .env("OPTIONS", "--publish=curl -f 'x'\n\n--strict\n")
        .env("SARIF", "a b.sarif")
        .env("VERSION", "1.2.3"));
    let expected = [
        "--yes",
        "stream-probe@1.2.3",
        "sse",
        "http://127.0.0.1:3000/events?a=$(id)",
        "--sarif",
        "a b.sarif",
        "--publish=curl -f 'x'",
        "--strict",
    ];
    assert_eq!(printed.lines().collect::<Vec<_>>(), expected);
}
