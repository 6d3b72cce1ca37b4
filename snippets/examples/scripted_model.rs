//! Serves the scripted model on a loopback port, for a client in any language.
//!
//! `cargo run -p snippets --example scripted_model [port]`; choose a fault with
//! `"model": "scripted/<name>"`.

use snippets::llm::scripted_model::{Script, ScriptedModel};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok());
    let listener = TcpListener::bind(("127.0.0.1", port.unwrap_or(0))).await?;
    println!("http://{}", listener.local_addr()?);
    eprintln!("models: scripted/<name> with {}", Script::NAMES.join(", "));
    axum::serve(listener, ScriptedModel::default().router()).await
}
