//! `cargo bench -p snippets --bench streams`: what each pattern of event streams costs a server, beside the floor (one
//! bare write per subscriber, in one thread) and axum's `Sse`; and the speed of the parser. Rewrites the tables between
//! `<!-- bench -->` marks in `book/src/sse/{fanout,wire}.md` and the charts next to them, and stores the numbers in
//! `target/streams.json`. Needs Linux (`/proc`) and 4,100 file descriptors. `-- events`, `-- wire` or `-- scale` runs
//! one part.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub
)]

mod events;
mod report;
mod scale;
mod server;
mod wire;

fn main() {
    if let Ok(variant) = std::env::var(server::VARIANT) {
        return server::run(&variant);
    }
    let parts: [(&str, fn()); 3] = [
        ("wire", wire::run),
        ("events", events::run),
        ("scale", scale::run),
    ];
    let wanted = std::env::args().find(|arg| parts.iter().any(|(name, _)| name == arg));
    for (name, run) in parts {
        if wanted.as_deref().is_none_or(|wanted| wanted == name) {
            run();
        }
    }
}
