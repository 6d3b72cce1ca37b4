//! `cargo bench -p snippets --bench sse`: the server's CPU time for each delivered event, its memory for
//! each idle connection, and the speed of the parser, each beside the alternatives in the same run.
//! Rewrites the tables between `<!-- bench -->` marks in `book/src/sse/{wire,fanout}.md` and the charts
//! beside them. Needs Linux (`/proc`) and about 4,100 file descriptors. `-- fanout` or `-- wire` runs one part.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub
)]

#[cfg(feature = "jemalloc")]
mod allocator;
mod fanout;
mod report;
mod server;
mod wire;

fn main() {
    if let Ok(variant) = std::env::var(server::VARIANT) {
        return server::run(&variant);
    }
    let part = std::env::args().find(|arg| ["fanout", "wire"].contains(&arg.as_str()));
    if part.as_deref() != Some("fanout") {
        wire::run();
    }
    if part.as_deref() != Some("wire") {
        fanout::run();
    }
}
