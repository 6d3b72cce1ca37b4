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
    let mut providers = Vec::new();
    for entry in std::fs::read_dir(llm.join("providers"))? {
        let file = entry?.path();
        // The list of the patterns' own modules, and the one that needs an asynchronous body.
        if !file.ends_with("mod.rs") && !file.ends_with("stream.rs") {
            providers.push(module(&file));
        }
    }
    let (failure, event) = (
        module(&llm.join("failure.rs")),
        module(&llm.join("model_event.rs")),
    );
    let providers = providers.concat();
    // What a program does not use of a pattern is no fault of the pattern.
    let tree = format!(
        "#[allow(dead_code, unreachable_pub, unused)]\nmod llm {{\n{failure}{event}pub mod providers {{\n{providers}}}\n}}\n"
    );
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    std::fs::write(out.join("wire.rs"), module(&patterns.join("sse/wire.rs")))?;
    std::fs::write(out.join("llm.rs"), tree)
}
