//! WebSockets: rooms to be cut off from (`websocket/rooms`), and an echo for conformance suites.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::ws::Message;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::any;
use snippets::websocket::limits::Limits;
use snippets::websocket::outbox::Outbox;
use snippets::websocket::protect::User;
use snippets::websocket::rates::{Quotas, Rates};
use snippets::websocket::rooms::{Full, Hub, Rules};
use snippets::websocket::rooms_endpoint;
use snippets::websocket::serve::{Handler, Sockets, Upgrade};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// `/rooms` as in the pattern, every connection a guest; `/echo` sends every message back, with limits for the sizes of the
/// Autobahn test suite (messages of 16 MiB).
pub fn router(shutdown: CancellationToken) -> Router {
    let hub = Hub::new(Rules {
        history: 8,
        history_bytes: 32 * 1024,
        rooms: 50,
        members: 50,
        full: |_| Full::DropOldest,
        ..Rules::default()
    });
    let limits = Limits {
        message: 4096,
        ping_every: Duration::from_secs(5),
        ..Limits::default()
    };
    let sockets = Sockets::new(limits, shutdown.clone());
    let rooms = rooms_endpoint::router(sockets, hub, Rates::new(Quotas::default()))
        .layer(middleware::from_fn(guest));
    let large = Limits {
        message: 16 << 20,
        queue: 2_000,
        queue_bytes: 64 << 20,
        ..Limits::default()
    };
    let echo = Router::new()
        .route("/echo", any(echo))
        .with_state(Sockets::new(large, shutdown));
    rooms.merge(echo)
}

/// In place of `protect::authenticate`: a name for each connection.
async fn guest(mut request: Request, next: Next) -> Response {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let name = format!("guest {}", NEXT.fetch_add(1, Ordering::Relaxed)).into();
    let expires = Instant::now() + Duration::from_secs(3600);
    request.extensions_mut().insert(User {
        name,
        admin: false,
        expires,
    });
    next.run(request).await
}

async fn echo(State(sockets): State<Sockets>, upgrade: Upgrade) -> Response {
    sockets.accept(upgrade, |_| Echo)
}

struct Echo;

impl Handler for Echo {
    fn on_message(&mut self, message: Message, outbox: &Outbox) {
        outbox.send(message);
    }
}
