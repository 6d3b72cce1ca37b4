//! Shutdown behind a balancer: first not ready, then the streams end one by one, then a deadline.
//!
//! Use it as the `main` of every instance. It guarantees: readiness is false before anything else happens, while the
//! instance keeps serving; then new connections are refused, so that the balancer tries another instance; event streams
//! and sockets end in band at random times within their `drain_spread`; and it returns by the deadline. Give
//! [`Instance::stopping`] to `Streams::start` and `Sockets::new`. Needs `connections/{listen,takeover,send_deadline}.rs`.

use std::{io, net::SocketAddr, time::Duration};

use axum::{Router, http::StatusCode, routing::get};
use tokio::{
    net::{TcpListener, TcpSocket},
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::connections::listen;

// ANCHOR: plan
/// How long each step takes. Their sum must be below the time after which the process is killed
/// (Kubernetes: `terminationGracePeriodSeconds`, 30 s by default).
#[derive(Debug, Clone)]
pub struct Plan {
    /// How long the instance is not ready but serves as before: longer than the balancer takes to notice (its interval
    /// times its threshold).
    pub notice: Duration,
    /// How long streams (their `drain_spread` included) and running requests may take to end.
    pub deadline: Duration,
}
// ANCHOR_END: plan

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

    // ANCHOR: serve
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
            // Streams that start now are still served: a refusal (503) stops an EventSource permanently.
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
    // ANCHOR_END: serve
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

/// Raises the soft limit of file descriptors to `connections` and some for files; warns if the hard limit is lower. Most systems
/// give a process 1,024, each connection takes one, and Rust's runtime asks for no more.
#[cfg(unix)]
pub fn raise_descriptors(connections: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let needed = connections as u64 + 256;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum.map_or(Some(needed), |most| Some(most.min(needed))),
        maximum,
    };
    if current.is_some_and(|now| now < needed) && setrlimit(Resource::Nofile, raised).is_err() {
        tracing::warn!(needed, "the limit of descriptors cannot be raised");
    }
    if maximum.is_some_and(|most| most < needed) {
        tracing::warn!(
            needed,
            ?maximum,
            "the hard limit of descriptors is too low: raise it (ulimit -Hn)"
        );
    }
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
