//! A rolling restart that no client notices: Redis, two instances of one service, nginx in front, one page.
//!
//! `cargo run -p snippets --features redis --example rolling [-- --port 8080] [--every SECONDS] [--rate EVENTS]`
//! needs redis-server and nginx, prints the address of the page, and restarts the instances one after the other each
//! time you press Enter, or with `--every` by itself. Everything is on loopback and ends with it, however it ends.

mod guard;
mod instance;
mod supervisor;

/// No machinery for two commands: `instance` is for the supervisor alone.
#[tokio::main]
async fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.first().map(String::as_str) {
        Some("instance") => instance::run(&arguments[1..]).await,
        _ => supervisor::run(&arguments).await,
    };
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
