//! A network that misbehaves between client and server.

use std::net::SocketAddr;

use snippets::production::chaos::ChaosProxy;
use snippets::production::chaos_flow::Plan;

/// A chaos proxy on a free loopback port.
pub async fn chaos(
    upstream: SocketAddr,
    seed: u64,
    plan: impl Fn(u64) -> Plan + Send + 'static,
) -> ChaosProxy {
    let listen = ([127, 0, 0, 1], 0).into();
    ChaosProxy::start(listen, upstream, seed, 1_000, plan)
        .await
        .unwrap()
}
