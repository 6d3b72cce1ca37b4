//! Every Rust fence of SKILL.md, README.md and the book compiles alone, as a reader would paste it.
//!
//! `build.rs` stages the fences; skeptic compiles each one. `SKEPTIC_JOBS` bounds the compilers.

include!(concat!(env!("OUT_DIR"), "/skeptic-tests.rs"));

/// skeptic compiles a fence with the real compiler: one that is wrong must fail.
#[test]
fn a_fence_that_does_not_compile_is_found() {
    let compile = |text: &str| {
        let text = text.to_owned();
        std::panic::catch_unwind(move || {
            skeptic::rt::compile_test(
                env!("CARGO_MANIFEST_DIR"),
                env!("OUT_DIR"),
                env!("TARGET_TRIPLE"),
                &text,
            );
        })
    };
    assert!(compile("fn main() { let n: u32 = 1; let _ = n; }").is_ok());
    assert!(compile("use snippets::sse; fn main() { let n: u32 = \"one\"; }").is_err());
    assert!(compile("use snippets::sse::no_such_pattern; fn main() {}").is_err());
    // An edition of 2024 reached the compiler: `gen` is a keyword there.
    assert!(compile("fn main() { let gen = 1; let _ = gen; }").is_err());
}
