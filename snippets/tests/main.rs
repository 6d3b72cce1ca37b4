//! Every test of the patterns, in one binary. A pattern `sse/resume` has its tests in
//! `sse_resume.rs`; a wrong twin has its own file in `anti_patterns/`.

// Tests fail by panicking: the bans on `unwrap` are for code that people copy.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub
)]

mod anti_patterns;
mod sse_wire;
mod support;
