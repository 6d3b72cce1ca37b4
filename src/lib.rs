//! What `cargo run` does: the book, the live examples and the store of the pack, and `package`.
//! A library so that tests use every part in process; `main.rs` only reads the command line.
//!
//! # Layout
//!
//! Start with [`serve`], which mounts [`book`], [`live`] and [`store`]; the store offers what [`package`] packs by [`manifest`].
//! [`root`] finds the pack's folder.

pub mod book;
pub mod live;
pub mod manifest;
pub mod package;
pub mod root;
pub mod serve;
pub mod store;

/// 128 random bits in hexadecimal digits: a name that cannot be guessed.
pub fn random_id() -> String {
    hex::encode(rand::random::<[u8; 16]>())
}

/// `error` and its causes on one line.
pub fn one_line(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines.join(" ")
}
