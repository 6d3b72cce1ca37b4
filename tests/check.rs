//! `./check` itself: what it counts, what it names, and that it skips nothing in silence. It runs in
//! a folder of its own, where cargo, npm and the other programs are stubs.

#![cfg(unix)]

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use tempfile::TempDir;

const PROGRAMS: [&str; 10] = [
    "node",
    "npm",
    "python3",
    "chromium",
    "nginx",
    "caddy",
    "haproxy",
    "redis-server",
    "postgres",
    "curl",
];

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(
            tempfile::Builder::new()
                .prefix("a folder ")
                .tempdir()
                .unwrap(),
        );
        let script = std::fs::read_to_string(crate::fixture::root().join("check")).unwrap();
        folder.write("check", &script);
        for name in PROGRAMS {
            folder.stub(name, "exit 0");
        }
        folder.stub(
            "cargo",
            &cargo("echo 'test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured'"),
        );
        // As root or not, apt-get is the stub.
        folder.stub("sudo", "shift; exec \"$@\"");
        folder.stub("apt-get", "exit 1");
        folder
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// A program of this name, first in PATH.
    fn stub(&self, name: &str, script: &str) {
        let path = format!("bin/{name}");
        self.write(&path, &format!("#!/bin/sh\n{script}\n"));
        let path = self.0.path().join(path);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Runs `./check` and returns its exit code and what it said.
    fn check(&self, arguments: &[&str]) -> (i32, String) {
        let path = format!(
            "{}:/usr/local/bin:/usr/bin:/bin",
            self.0.path().join("bin").display()
        );
        let output = Command::new("bash")
            .arg(self.0.path().join("check"))
            .args(arguments)
            .env("PATH", path)
            .current_dir("/")
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.code().unwrap(),
            String::from_utf8(said).unwrap(),
        )
    }

    /// Runs `./check`, which must end with `last` and the exit code that belongs to it.
    #[track_caller]
    fn ends_with(&self, arguments: &[&str], last: &str) -> String {
        let (code, said) = self.check(arguments);
        assert_eq!(said.lines().last().unwrap(), last, "{said}");
        assert_eq!(code, i32::from(!last.contains(" 0 failed")), "{said}");
        said
    }
}

/// A cargo whose tests answer with these lines, but for one good test of the other lane.
fn cargo(test: &str) -> String {
    let targets = ["patterns", "pack"].map(|name| {
        format!("{{\"kind\":[\"test\"],\"crate_types\":[\"bin\"],\"name\":\"{name}\"}}")
    });
    format!(
        "case \"$*\" in metadata*) echo '{}';; *--doc*) ;; \
         'test --workspace --no-fail-fast --lib --bins --test pack '*) {test};; \
         'test --workspace --no-fail-fast --test patterns '*) \
         echo 'test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured';; *) echo fine;; esac",
        targets.concat()
    )
}

#[test]
fn it_sums_the_results_of_all_runners() {
    let folder = Folder::new();
    folder.stub(
        "cargo",
        &cargo("echo 'test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured'; echo 'test result: ok. 4 passed; 0 failed; 2 ignored; 0 measured'"),
    );
    // rustfmt, clippy, the documentation, the build and the snapshots count as one each.
    folder.ends_with(&[], "13 passed, 0 failed, 2 skipped");

    for name in ["one", "two"] {
        folder.write(&format!("{name}/package-lock.json"), "{}");
        folder.write(
            &format!("{name}/package.json"),
            "{\n  \"scripts\": {\n    \"types\": \"tsc\",\n    \"test\": \"vitest\"\n  }\n}\n",
        );
        folder.write(
            &format!("{name}/node_modules/dependency/package-lock.json"),
            "{}",
        );
    }
    folder.stub(
        "npm",
        "case \"$*\" in *'one run --silent test'*) echo '      Tests  5 passed | 1 skipped (6)';; \
         *'two run --silent test'*) printf '# tests 4\\n# pass 4\\n# fail 0\\n# skipped 0\\n';; esac",
    );
    let said = folder.ends_with(&[], "24 passed, 0 failed, 3 skipped");
    assert!(!said.contains("node_modules/dependency"), "{said}");
}

#[test]
fn a_failed_test_is_counted_and_named() {
    let folder = Folder::new();
    folder.stub(
        "cargo",
        &cargo("echo 'test resume::gap ... FAILED'; echo 'test result: FAILED. 6 passed; 1 failed; 0 ignored'; exit 101"),
    );
    let said = folder.ends_with(&[], "12 passed, 1 failed");
    assert!(
        said.contains("tests: 1 failed, see target/check/tests.log\n  resume::gap\n"),
        "{said}"
    );
}

#[test]
fn a_runner_that_breaks_off_is_a_failure() {
    let folder = Folder::new();
    folder.stub("cargo", &cargo("echo 'error: could not compile'; exit 101"));
    folder.ends_with(&[], "6 passed, 1 failed");
    // Also when all that it said before was good.
    folder.stub(
        "cargo",
        &cargo("echo 'test result: ok. 6 passed; 0 failed; 0 ignored'; exit 101"),
    );
    folder.ends_with(&[], "12 passed, 1 failed");
    folder.stub("cargo", "[ \"$1 $2\" != 'clippy --workspace' ] || exit 101");
    let said = folder.ends_with(&[], "6 passed, 1 failed");
    assert!(said.contains("clippy: 1 failed"), "{said}");
}

#[test]
fn a_snapshot_that_no_test_uses_is_named() {
    let folder = Folder::new();
    folder.write("snippets/tests/snapshots/used.snap", "");
    folder.stub(
        "cargo",
        &cargo("echo \"$PWD/snippets/tests/../tests/snapshots/used.snap\" >>\"$INSTA_SNAPSHOT_REFERENCES_FILE\""),
    );
    folder.ends_with(&[], "7 passed, 0 failed");
    folder.write("snippets/tests/snapshots/unused.snap", "");
    folder.write("target/package/copy.snap", "");
    let said = folder.ends_with(&[], "6 passed, 1 failed");
    assert!(
        said.contains("/snippets/tests/snapshots/unused.snap\n"),
        "{said}"
    );
    assert!(!said.contains("copy.snap"), "{said}");
}

#[test]
fn what_is_missing_is_installed_or_fails_by_name() {
    let folder = Folder::new();
    folder.stub("caddy", "exit 127");
    let said = folder.ends_with(&[], "9 passed, 1 failed");
    assert!(
        said.contains(
            "FAILED install caddy: missing; install the program that Debian packages as `caddy`"
        ),
        "{said}"
    );
    let said = folder.ends_with(&["--no-install"], "9 passed, 1 failed");
    assert!(said.contains("install caddy: missing"), "{said}");

    folder.stub(
        "apt-get",
        "case \"$*\" in *install*caddy*) printf '#!/bin/sh\\n' >\"$(dirname \"$0\")/caddy\";; esac",
    );
    let said = folder.ends_with(&[], "9 passed, 0 failed");
    assert!(said.contains("== install: caddy"), "{said}");
    let said = folder.ends_with(&[], "9 passed, 0 failed");
    assert!(
        !said.contains("== install: caddy"),
        "nothing is installed twice: {said}"
    );
}

#[test]
fn a_component_of_the_toolchain_is_installed_or_fails_by_name() {
    let folder = Folder::new();
    folder.stub(
        "cargo",
        "[ \"$1\" != fmt ] || [ -f \"$(dirname \"$0\")/installed\" ]",
    );
    folder.stub("rustup", "echo 'no network'; exit 1");
    let said = folder.ends_with(&[], "6 passed, 2 failed");
    assert!(
        said.contains("FAILED install rustfmt: missing; run `rustup component add rustfmt`"),
        "{said}"
    );
    folder.stub(
        "rustup",
        "[ \"$*\" = 'component add rustfmt' ] && touch \"$(dirname \"$0\")/installed\"",
    );
    folder.ends_with(&[], "7 passed, 0 failed");
}

#[test]
fn packages_are_installed_once_for_each_lock_file() {
    let folder = Folder::new();
    folder.write("tools/package-lock.json", "1");
    folder.write("tools/package.json", "{}");
    folder.write("tools/requirements.txt", "a==1");
    folder.stub("npm", "mkdir -p node_modules && exit 0");
    folder.stub("python3", "for last; do :; done; [ \"$1 $2\" != '-m venv' ] || { mkdir -p \"$last/bin\"; printf '#!/bin/sh\\n' >\"$last/bin/pip\"; chmod +x \"$last/bin/pip\"; }");
    let said = folder.ends_with(&[], "9 passed, 0 failed");
    assert!(
        said.contains("== npm ci tools") && said.contains("== venv tools"),
        "{said}"
    );
    let said = folder.ends_with(&["--no-install"], "9 passed, 0 failed");
    assert!(
        !said.contains("== npm ci") && !said.contains("== venv"),
        "{said}"
    );
    folder.write("tools/package-lock.json", "2");
    folder.write("tools/requirements.txt", "a==2");
    let said = folder.ends_with(&["--no-install"], "9 passed, 2 failed");
    assert!(
        said.contains("npm ci tools: not installed") && said.contains("venv tools: not installed"),
        "{said}"
    );

    // A broken install is named, and the rest runs all the same.
    folder.stub(
        "npm",
        "[ \"$1\" = --version ] || { echo 'no network'; exit 1; }",
    );
    let said = folder.ends_with(&[], "9 passed, 1 failed");
    assert!(
        said.contains("no network")
            && said.contains("FAILED npm ci tools: see target/check/npm-ci-tools.log"),
        "{said}"
    );

    folder.write("other/tools/requirements.txt", "a==1");
    let said = folder.ends_with(&[], "9 passed, 2 failed");
    assert!(said.contains("two folders are called tools"), "{said}");
}

#[test]
fn wrong_arguments_are_exit_code_2() {
    let folder = Folder::new();
    for arguments in [&["--nope"][..], &["--no-install", "more"]] {
        let (code, said) = folder.check(arguments);
        assert_eq!(code, 2, "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    let (code, said) = folder.check(&["--help"]);
    assert_eq!(code, 0);
    assert!(said.starts_with("Usage: ./check"), "{said}");
}
