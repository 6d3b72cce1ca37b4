//! Every test of the patterns, in one binary. A pattern `sse/resume` has its tests in
//! `sse_resume.rs`; a wrong twin has its own file in `anti_patterns/`.

// Tests fail by panicking: the bans on `unwrap` are for code that people copy.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub
)]

/// Whoever runs the ignored tests wants those of the brokers as well: without their clients they do not exist.
#[cfg(not(all(feature = "nats", feature = "postgres", feature = "redis")))]
#[test]
#[ignore = "needs the clients of the brokers: cargo test --workspace"]
fn the_brokers_are_tested_too() {
    panic!("built without the clients of the brokers: cargo test --workspace has them");
}

mod anti_patterns;
mod compositions;
mod connections_client_ip;
mod connections_listen;
mod connections_per_user;
mod connections_tickets;
mod llm_ag_ui;
mod llm_agents;
mod llm_background;
mod llm_dialects;
mod llm_fixtures;
mod llm_mcp;
mod llm_providers;
mod llm_relay;
mod llm_resume;
mod llm_scripted_model;
mod llm_ui_message_stream;
mod llm_upstream;
mod llm_use_chat;
mod llm_vendor_sdks;
mod production_chaos;
mod production_deploy;
mod production_drain;
mod production_hostile;
mod production_observe;
mod production_presence;
mod production_proxies;
mod production_security;
mod production_shared_log;
mod production_snapshot;
mod production_testing;
mod production_topics;
mod production_topics_socket;
mod sse_consume;
mod sse_fanout;
mod sse_lifecycle;
mod sse_protect;
mod sse_resume;
mod sse_serve;
mod sse_wire;
mod stream_probe_twins;
mod streams_backpressure;
mod streams_body;
mod streams_cancel;
mod streams_deadline;
mod streams_pace;
mod streams_slow_consumer;
mod streams_tee;
mod support;
mod websocket_binary;
mod websocket_client;
mod websocket_facts;
mod websocket_messages;
mod websocket_observe;
mod websocket_pairs;
mod websocket_protect;
mod websocket_rates;
mod websocket_rooms;
mod websocket_serve;
mod websocket_throttle;
