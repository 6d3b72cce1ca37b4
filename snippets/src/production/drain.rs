//! The end of a process behind a balancer: out of rotation first, then its streams one by one, then a deadline.
//!
//! Use it as the `main` of every instance. It promises: readiness is false before anything else happens, while
//! the instance serves on; new connections are then refused, so that the balancer tries another instance; event streams
//! and sockets end in band at random times within their `drain_spread`; and it returns at the deadline at the latest.
//! Needs `sse/{lifecycle,message}.rs`; give the same `stopping` token to `sse/serve.rs` and `websocket/serve.rs`.

// ANCHOR: drain
use std::{fmt::Debug, io, net::SocketAddr, time::Duration};

use axum::{Router, http::StatusCode, routing::get, serve::Listener};
use tokio::{
    net::{TcpListener, TcpSocket},
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::sse::lifecycle::{Drained, serve_on};

/// How long each step takes. Their sum must be below the time after which the process is killed
/// (Kubernetes: `terminationGracePeriodSeconds`, 30 s by default).
#[derive(Debug, Clone)]
pub struct Plan {
    /// Not ready, and serving as before: longer than the balancer takes to see it (its interval times its threshold).
    pub notice: Duration,
    /// For the ends of the streams, with their `drain_spread` within it, and for requests under way.
    pub deadline: Duration,
}

/// The state of an instance; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Instance {
    leaving: CancellationToken,
    /// Ends the streams (`Streams::new`) and the sockets (`Sockets::new`) when it is cancelled.
    pub stopping: CancellationToken,
}

impl Instance {
    /// `GET /ready`: 200, and 503 from the moment in which the instance is told to leave. Only this instance's own
    /// state: a check of the broker would take all instances out at once.
    pub fn ready(&self) -> Router {
        let leaving = self.leaving.clone();
        let ready = move || async move {
            match leaving.is_cancelled() {
                false => StatusCode::OK,
                true => StatusCode::SERVICE_UNAVAILABLE,
            }
        };
        Router::new().route("/ready", get(ready))
    }

    /// Serves `app` until `told` to leave, then follows `plan`. `rest` is what axum does not wait for: upgraded
    /// connections (`Sockets::drained`) and spawned work that must be finished.
    pub async fn serve<L>(
        &self,
        listener: L,
        app: Router,
        plan: Plan,
        told: impl Future<Output = ()>,
        rest: impl Future<Output = ()>,
    ) -> io::Result<Drained>
    where
        L: Listener,
        L::Addr: Debug,
    {
        let leave = async {
            told.await;
            self.leaving.cancel();
            // Streams that begin now are welcome: a refusal (503) ends an EventSource for good.
            sleep(plan.notice).await;
            // axum closes the listening socket with this, and idle connections.
            self.stopping.cancel();
            Ok(Instant::now() + plan.deadline)
        };
        let serve = serve_on(listener, app, self.stopping.clone(), plan.deadline);
        let (deadline, served) = tokio::try_join!(leave, serve)?;
        match served {
            Drained::DeadlinePassed => Ok(Drained::DeadlinePassed),
            Drained::Complete => Ok(timeout_at(deadline, rest)
                .await
                .map_or(Drained::DeadlinePassed, |()| Drained::Complete)),
        }
    }
}

/// A listener for the moment in which the clients of another instance arrive. `TcpListener::bind` lets 128 connections wait
/// for `accept`; the next ones try again after 1 s, then 2 s more. The kernel allows `net.core.somaxconn`.
pub fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = match addr {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // As `TcpListener::bind` does: a restart need not wait for the old connections' TIME_WAIT.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(4096)
}

/// SIGTERM, as orchestrators send it, or Ctrl-C.
pub async fn signal() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut term) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = term.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}
// ANCHOR_END: drain
