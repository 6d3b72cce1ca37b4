//! `cargo xtask VERB`: what a maintainer does with the repository. CONTRIBUTING.md shows when.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use xtask::{new, origin, sync, versions};

const HELP: &str = "\
Usage: cargo xtask VERB

  sync                       write all text that is generated; says what you still have to write
  new pattern TOPIC/NAME     start a pattern: source, test, counterexample, checklist item, chapter (sse/foo)
  new check ID               start a check of the probe, with its fault and its checklist item (sse-foo)
  where FILE:LINE            the source of a generated line (book/src/sse/serve.md:212)
  versions                   versions that the text names and no lock file has
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if arguments
        .iter()
        .any(|argument| ["-h", "--help", "help"].contains(argument))
    {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    match run(&arguments) {
        Ok(code) => code,
        Err(wrong) => {
            eprintln!("error: {wrong}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &[&str]) -> Result<ExitCode, String> {
    let root = root()?;
    match arguments {
        ["sync"] => synced(&root),
        ["new", "pattern", name] => made(&root, new::pattern(&root, name)?),
        ["new", "check", id] => made(&root, new::check(&root, id)?),
        ["where", place] => {
            let (path, line) = place
                .rsplit_once(':')
                .and_then(|(path, line)| Some((path, line.parse().ok()?)))
                .ok_or_else(|| format!("{place} is not FILE:LINE: write it like book/src/sse/serve.md:212"))?;
            println!("{}", origin::find(&root, &from_root(&root, path), line)?);
            Ok(ExitCode::SUCCESS)
        }
        ["versions"] => {
            let (hold, differ): (Vec<_>, Vec<_>) =
                versions::mentions(&root).into_iter().partition(versions::Mention::holds);
            for mention in &differ {
                let locked: Vec<&str> = mention.locked.iter().map(String::as_str).collect();
                println!(
                    "{}:{}: {} {}; locked: {}",
                    mention.path.display(),
                    mention.line,
                    mention.name,
                    mention.said,
                    locked.join(", ")
                );
            }
            println!("{} versions hold; check the {} above: is the statement still true?", hold.len(), differ.len());
            Ok(ExitCode::SUCCESS)
        }
        ["new"] | ["new", "pattern" | "check"] => {
            Err("new needs a kind and a name: `cargo xtask new pattern sse/foo` or `cargo xtask new check sse-foo`".to_owned())
        }
        ["new", kind, ..] if !["pattern", "check"].contains(kind) => {
            Err(format!("there is no kind {kind}: write `new pattern` or `new check`"))
        }
        ["where"] => Err("where needs a place: `cargo xtask where book/src/sse/serve.md:212`".to_owned()),
        [] => Err(format!("no verb\n\n{HELP}")),
        [verb @ ("sync" | "new" | "where" | "versions"), ..] => {
            Err(format!("{verb} has too many arguments: see `cargo xtask --help`"))
        }
        [verb, ..] => Err(format!("there is no verb {verb}\n\n{HELP}")),
    }
}

/// The repository around the current folder.
fn root() -> Result<PathBuf, String> {
    let here =
        std::env::current_dir().map_err(|e| format!("the current folder cannot be read ({e})"))?;
    here.ancestors()
        .find(|folder| folder.join("SKILL.md").is_file() && folder.join("xtask").is_dir())
        .map(Path::to_owned)
        .ok_or_else(|| {
            format!(
                "{} is not in the repository: change into it",
                here.display()
            )
        })
}

/// `path` as given, from the root and with `/`.
fn from_root(root: &Path, path: &str) -> String {
    let here = std::env::current_dir().unwrap_or_default().join(path);
    let path = match here.canonicalize().ok().zip(root.canonicalize().ok()) {
        Some((file, root)) => file
            .strip_prefix(root)
            .map_or(path.into(), |path| path.to_string_lossy().into_owned()),
        None => path.to_owned(),
    };
    path.replace('\\', "/")
}

fn made(root: &Path, made: new::Made) -> Result<ExitCode, String> {
    for path in &made.files {
        println!("wrote {}", path.display());
    }
    let code = synced(root)?;
    for step in &made.next {
        println!("next: {step}");
    }
    // What is still to be written is expected here.
    let _ = code;
    Ok(ExitCode::SUCCESS)
}

fn synced(root: &Path) -> Result<ExitCode, String> {
    let mut synced =
        sync::run(root).map_err(|e| format!("a generated file cannot be written ({e})"))?;
    for path in &synced.changed {
        println!("wrote {}", path.display());
    }
    synced.problems.extend(new::left(root));
    for problem in &synced.problems {
        println!("left: {problem}");
    }
    if synced.changed.is_empty() && synced.problems.is_empty() {
        println!("everything is up to date");
    }
    Ok(if synced.problems.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
