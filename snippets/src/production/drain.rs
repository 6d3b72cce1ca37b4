//! The end of a process behind a balancer: out of rotation first, then its streams one by one, then a deadline.
//!
//! Use it as the `main` of every instance. It guarantees: readiness is false before anything else happens, while the
//! instance keeps serving; then new connections are refused, so that the balancer tries another instance; event streams
//! and sockets end in band at random times within their `drain_spread`; and it returns by the deadline. Give
//! [`Instance::stopping`] to `Streams::start` and `Sockets::new`. Needs `connections/{listen,takeover,send_deadline}.rs`.

// ANCHOR: drain
use std::{io, net::SocketAddr, time::Duration};

use axum::{Router, http::StatusCode, routing::get};
use tokio::{
    net::{TcpListener, TcpSocket},
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::connections::listen;

/// How long each step takes. Their sum must be below the time after which the process is killed
/// (Kubernetes: `terminationGracePeriodSeconds`, 30 s by default).
#[derive(Debug, Clone)]
pub struct Plan {
    /// Not ready, and serving as before: longer than the balancer takes to notice (its interval times its threshold).
    pub notice: Duration,
    /// For the ends of the streams, with their `drain_spread` within it, and for requests under way.
    pub deadline: Duration,
}

/// The state of an instance; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Instance {
    leaving: CancellationToken,
    /// Ends the streams and the sockets when it is cancelled.
    pub stopping: CancellationToken,
}

impl Instance {
    /// `GET /ready`: 200, and 503 as soon as the instance is leaving. It reports this instance alone: a check of the
    /// broker would take all instances out at once.
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

    /// Serves `app` until `leave`, then follows `plan`. `rest` is work outside of responses that must be finished:
    /// upgraded connections (`Sockets::drained`), spawned jobs. Returns whether everything ended before the deadline.
    pub async fn serve(
        &self,
        listener: TcpListener,
        app: Router,
        plan: Plan,
        leave: impl Future<Output = ()>,
        rest: impl Future<Output = ()>,
    ) -> bool {
        let leave = async {
            leave.await;
            self.leaving.cancel();
            // Streams that start now are welcome: a refusal (503) stops an EventSource permanently.
            sleep(plan.notice).await;
            self.stopping.cancel();
            Instant::now() + plan.deadline
        };
        let config = listen::Config {
            drain: plan.deadline,
            ..listen::Config::default()
        };
        let serve = listen::serve(listener, app, config, self.stopping.clone());
        let (deadline, open) = tokio::join!(leave, serve);
        timeout_at(deadline, rest).await.is_ok() && open == 0
    }
}

/// A listener for the moment at which the clients of another instance arrive. `TcpListener::bind` lets 128 connections wait
/// for `accept`; the next ones try again after 1 s, then 2 s more. The kernel allows `net.core.somaxconn`.
///
/// # Errors
/// If `addr` is in use or not allowed.
pub fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
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
