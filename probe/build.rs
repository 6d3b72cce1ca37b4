//! Finds the patterns that the probe is built from: the copies of the published crate, or the patterns themselves where those
//! copies are left out, as in the installed skill.

use std::path::{Path, PathBuf};

fn main() -> std::io::Result<()> {
    println!("cargo::rerun-if-changed=patterns");
    let here = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let copies = here.join("patterns");
    let patterns = match copies.is_dir() {
        true => copies,
        false => here.join("../snippets/src"),
    };
    let module = |file: &Path| {
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        format!("#[path = {file:?}]\npub mod {name};\n")
    };
    let llm = patterns.join("llm");
    let of = |names: &[&str]| -> String {
        let modules = names.iter().map(|name| module(&llm.join(name)));
        modules.collect()
    };
    let own = of(&[
        "failure.rs",
        "model_event.rs",
        "anthropic.rs",
        "gemini.rs",
        "ollama.rs",
        "openai_chat.rs",
        "openai_responses.rs",
    ]);
    let shared = of(&[
        "providers/decode.rs",
        "providers/json.rs",
        "providers/surrogates.rs",
        "providers/tool_calls.rs",
    ]);
    // What a program does not use of a pattern is no fault of the pattern.
    let tree = format!(
        "#[allow(dead_code, unreachable_pub, unused)]\nmod llm {{\n{own}pub mod providers {{\n{shared}}}\n}}\n"
    );
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    std::fs::write(out.join("wire.rs"), module(&patterns.join("sse/wire.rs")))?;
    std::fs::write(out.join("llm.rs"), tree)
}
