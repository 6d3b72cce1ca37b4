//! Support chat: a customer and the agents of one shop in a room, on the pack's rooms.

use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use snippets::websocket::protect::{Guard, authenticate};
use snippets::websocket::rates::{Quotas, Rates};
use snippets::websocket::rooms::{Full, Hub, Rules};
use snippets::websocket::rooms_endpoint;
use snippets::websocket::serve::Limits;
use snippets::websocket::serve::Sockets;
use snippets::websocket::users::Accounts;
use tokio_util::sync::CancellationToken;

/// A long message with its JSON; attachments go by HTTP.
const MESSAGE: usize = 8 * 1024;
/// The conversation that an agent who joins sees.
const HISTORY: usize = 200;
const HISTORY_BYTES: usize = 100 * 1024;
/// Conversations of one process, and people in one.
const ROOMS: usize = 2_000;
const MEMBERS: usize = 8;
/// A phone in a lift comes back within this.
const KEEP_EMPTY: Duration = Duration::from_secs(10 * 60);
/// Less than half of the load balancer's 60 s. Whoever is silent for three of them is gone.
const PING_EVERY: Duration = Duration::from_secs(20);

/// The sockets of the service; cancelling `shutdown` closes each with 1001.
pub fn sockets(shutdown: CancellationToken) -> Sockets {
    let limits = Limits {
        message: MESSAGE,
        ping_every: PING_EVERY,
        ..Limits::default()
    };
    Sockets::new(limits, shutdown)
}

/// `GET /rooms`, for those whom `guard` lets in.
pub fn app<A: Accounts>(sockets: Sockets, guard: Guard<A>) -> Router {
    let hub = Hub::new(Rules {
        history: HISTORY,
        history_bytes: HISTORY_BYTES,
        rooms: ROOMS,
        members: MEMBERS,
        keep_empty: KEEP_EMPTY,
        // A conversation must be complete: who falls behind comes back and resumes.
        full: |_| Full::Disconnect,
        ..Rules::default()
    });
    rooms_endpoint::router(sockets, hub, Rates::new(Quotas::default()))
        .layer(from_fn_with_state(guard, authenticate))
}
