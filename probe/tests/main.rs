//! The probe against services that are right, and against services with one fault each.
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

mod command;
mod decode;
mod liars;
mod llm;
mod other_stacks;
mod packages;
mod patterns;
mod process;
mod sse;
mod support;
mod tls;
mod wild;
mod worked;
mod ws;
