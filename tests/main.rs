//! Every test of the program, of the package and of the fences, in one binary: it links once after an edit.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod book_pages;
mod browser;
mod check;
mod fences;
mod fixture;
mod install;
mod live_llm;
mod live_streams;
mod manifest;
mod package;
mod program;
