//! `cargo bench -p snippets --bench streams`: what each pattern of event streams costs a server, beside the floor (one
//! bare write per subscriber, in one thread) and axum's `Sse`; and the speed of the parser. Rewrites the tables between
//! `<!-- bench -->` marks in `book/src/sse/{fanout,wire}.md` and the charts next to them, and stores the numbers in
//! `target/streams.json`. Needs Linux (`/proc`) and 4,100 file descriptors. `-- events` or `-- wire` runs one part.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub
)]

mod events;
mod report;
mod server;
mod wire;

fn main() {
    if let Ok(variant) = std::env::var(server::VARIANT) {
        return server::run(&variant);
    }
    let part = std::env::args().find(|arg| ["events", "wire"].contains(&arg.as_str()));
    if part.as_deref() != Some("events") {
        wire::run();
    }
    if part.as_deref() != Some("wire") {
        events::run();
    }
}
