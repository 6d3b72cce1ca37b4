//! Finds the patterns that the probe is built from: the copies of the published crate, or the patterns themselves where those
//! copies are left out, as in the installed skill.

use std::path::PathBuf;

/// The decoder of model events: modules of `llm`, and of its `providers`.
const LLM: [&str; 2] = ["failure", "model_event"];
const PROVIDERS: [&str; 10] = [
    "anthropic",
    "decode",
    "gemini",
    "in_band",
    "json",
    "ollama",
    "openai_chat",
    "openai_responses",
    "surrogates",
    "tool_calls",
];

fn main() -> std::io::Result<()> {
    println!("cargo::rerun-if-changed=patterns");
    let crate_folder = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let copies = crate_folder.join("patterns");
    let patterns = if copies.is_dir() {
        copies
    } else {
        crate_folder.join("../snippets/src")
    };
    let module = |path: &str| {
        let name = path.rsplit('/').next().unwrap_or(path);
        let file = patterns.join(format!("{path}.rs"));
        format!("#[path = {file:?}]\npub mod {name};\n")
    };
    let llm: String = LLM
        .iter()
        .map(|name| module(&format!("llm/{name}")))
        .collect();
    let providers: String = PROVIDERS
        .iter()
        .map(|name| module(&format!("llm/providers/{name}")))
        .collect();
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    std::fs::write(out.join("wire.rs"), module("sse/wire"))?;
    // What a program does not use of a pattern is no fault of the pattern.
    let allow = "#[allow(dead_code, unreachable_pub, unused)]";
    std::fs::write(
        out.join("llm.rs"),
        format!("{allow}\nmod llm {{\n{llm}pub mod providers {{\n{providers}}}\n}}\n"),
    )
}
