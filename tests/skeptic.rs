//! Every Rust fence of SKILL.md, README.md and the book compiles alone, as a reader would paste it.
//!
//! `build.rs` stages the fences; skeptic compiles each one. `SKEPTIC_JOBS` bounds the compilers.

#![allow(missing_docs)]

include!(concat!(env!("OUT_DIR"), "/skeptic-tests.rs"));
