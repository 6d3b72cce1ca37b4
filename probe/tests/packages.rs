//! What is published works without this repository: the crate from its archive, the npm packages from their files.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

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

/// The archive that `cargo publish` would send is unpacked and built apart from the workspace.
#[test]
#[ignore = "needs a minute to build the archive: run ./check"]
fn the_packaged_crate_builds_alone() {
    let target = root().join("target/package-check");
    run(Command::new(env!("CARGO"))
        .current_dir(root())
        .args([
            "package",
            "-p",
            "stream-probe",
            "--allow-dirty",
            "--target-dir",
        ])
        .arg(&target));
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
