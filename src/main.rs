//! The command line.

use std::ffi::OsString;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use streaming_api_patterns::{one_line, package, root, serve};

#[derive(Parser)]
#[command(
    version,
    about = "Serve the streaming-API book with live examples, copy patterns, or package the skill",
    args_conflicts_with_subcommands = true
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the book, its live examples and a local store that installs the skill (default)
    Serve(Serve),
    /// Write the zip that stores install, its manifest, and the same files as a folder
    Package(Package),
    /// Copy a pattern or a service into a project; `copy --help` says more
    #[command(disable_help_flag = true)]
    Copy(Copy),
}

#[derive(Args)]
struct Copy {
    /// Arguments of the script `copy`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

#[derive(Args)]
struct Serve {
    /// Port to listen on; 0 takes a free one
    #[arg(long, default_value_t = 4173)]
    port: u16,
    /// Address to listen on; other machines can connect unless it is a loopback address
    #[arg(long, default_value = "127.0.0.1", value_parser = host)]
    host: IpAddr,
    /// Open the book in the browser
    #[arg(long)]
    open: bool,
    /// Key that signs the store's manifest [default: random for each run]
    #[arg(long, value_name = "KEY", value_parser = key)]
    store_key: Option<String>,
    #[command(flatten)]
    root: Root,
}

#[derive(Args)]
struct Package {
    /// Folder to write to [default: target/package in the pack's folder]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    #[command(flatten)]
    root: Root,
}

#[derive(Args)]
struct Root {
    /// Folder of the pack [default: the package of `cargo run`, else the current folder]
    #[arg(long, value_name = "FOLDER")]
    root: Option<PathBuf>,
}

fn host(text: &str) -> Result<IpAddr, String> {
    if text == "localhost" {
        return Ok(Ipv4Addr::LOCALHOST.into());
    }
    text.parse()
        .map_err(|_| "give an IP address, such as 127.0.0.1 or ::1".to_owned())
}

/// The key is printed in a line to paste into a shell.
fn key(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.is_empty() || !text.chars().all(plain) {
        return Err("use letters, digits, `-`, `_` and `.`".to_owned());
    }
    Ok(text.to_owned())
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Some(Command::Package(package)) => pack(&package),
        Some(Command::Copy(copy)) => match run_copy(&copy) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Some(Command::Serve(serve)) => run(serve),
        None => run(cli.serve),
    };
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };
    match error.downcast_ref::<package::Refused>() {
        Some(refused) => {
            for line in &refused.0 {
                eprintln!("error: {line}");
            }
        }
        None => eprintln!("error: {}", one_line(&error)),
    }
    ExitCode::FAILURE
}

fn run(serve: Serve) -> Result<()> {
    // RUST_LOG=debug shows what the patterns log.
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let options = serve::Options {
        root: root::find(serve.root.root.as_deref())?,
        host: serve.host,
        port: serve.port,
        open: serve.open,
        store_key: serve.store_key,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(async { serve::run(options, asked_to_end()?).await });
    // Tasks that outlive the drain deadline end with the process.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

/// Resolves on the first Ctrl-C or SIGTERM. Installed at once: a signal during the build counts.
fn asked_to_end() -> Result<impl Future<Output = ()>> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupt = signal(SignalKind::interrupt()).context("no handler for Ctrl-C")?;
        let mut terminate = signal(SignalKind::terminate()).context("no handler for SIGTERM")?;
        Ok(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        })
    }
    #[cfg(not(unix))]
    {
        Ok(async {
            let _ = tokio::signal::ctrl_c().await;
        })
    }
}

/// Runs the script, so that there is one implementation.
fn run_copy(options: &Copy) -> Result<ExitCode> {
    let script = root::find(None)?.join("copy");
    let status = std::process::Command::new("sh")
        .arg(&script)
        .args(&options.arguments)
        .status()
        .with_context(|| format!("sh cannot run {}", script.display()))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}

fn pack(options: &Package) -> Result<()> {
    let root = root::find(options.root.root.as_deref())?;
    let out = match &options.out {
        Some(out) => out.clone(),
        None => root.join("target/package"),
    };
    package::check_out(&root, &out)?;
    let package = package::build(&root, |step| say(&format!("{step} …")))?;
    let (zip, manifest) = package.write(&out)?;
    let folder = package.unpack(&out)?;
    say("");
    for line in package.summary() {
        say(&format!("  {line}"));
    }
    if !package.left_out.is_empty() {
        say("\nLeft out, as manifest.json says:");
    }
    for line in package.left_out() {
        say(&format!("  {line}"));
    }
    let total: usize = package.files.iter().map(|file| file.content.len()).sum();
    say(&format!(
        "\n{} files, {} ({} packed)\nsha256 {}\n{}\n{}\n{}",
        package.files.len(),
        package::size(total),
        package::size(package.zip.len()),
        package.sha256,
        zip.display(),
        manifest.display(),
        folder.display()
    ));
    Ok(())
}

/// A closed pipe (`| head`) is not an error.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
