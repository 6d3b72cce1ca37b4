//! Every test of the text. None links the patterns or the program, so that an edit of a chapter is tested in seconds.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod book;
mod checklist;
mod copying;
mod dependencies;
mod gates;
mod skill;
mod verbs;
