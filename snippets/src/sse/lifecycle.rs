//! The ends of a stream: the client goes, the work fails, the service restarts.
//!
//! Goes with `serve.rs`, whose streams end in band when `shutdown` is cancelled, and `message.rs`. Use
//! [`produce`] where a stream is fed by work that is done for this client alone, and `jobs.rs` where
//! the work must be finished without it.

// ANCHOR: lifecycle
use std::{fmt::Debug, io, time::Duration};

use axum::{
    Router,
    serve::{Listener, ListenerExt},
};
use futures::{Stream, stream};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::message::Message;

/// How [`serve_until`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Every response was finished.
    Complete,
    /// The deadline came first; what is left ends with the runtime (`Runtime::shutdown_timeout`, since
    /// returning from `main` also waits for blocking tasks).
    DeadlinePassed,
}

/// Serves `app` until `shutdown` is cancelled, then gives open responses `drain` to finish. On its
/// own, axum's graceful shutdown waits for an open stream for ever.
pub async fn serve_until(
    listener: TcpListener,
    app: Router,
    shutdown: CancellationToken,
    drain: Duration,
) -> io::Result<Drained> {
    // Events are small writes: Nagle's algorithm would hold them back for an acknowledgement.
    let listener = listener.tap_io(|tcp| drop(tcp.set_nodelay(true)));
    serve_on(listener, app, shutdown, drain).await
}

/// As [`serve_until`], on a listener that prepares its connections itself: that of `listen.rs` also
/// cuts peers that have stopped reading.
pub async fn serve_on<L>(
    listener: L,
    app: Router,
    shutdown: CancellationToken,
    drain: Duration,
) -> io::Result<Drained>
where
    L: Listener,
    L::Addr: Debug,
{
    let serve =
        axum::serve(listener, app).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let deadline = async {
        shutdown.cancelled().await;
        tokio::time::sleep(drain).await;
    };
    tokio::select! {
        served = serve.into_future() => served.map(|()| Drained::Complete),
        () = deadline => Ok(Drained::DeadlinePassed),
    }
}

/// Why the work behind a stream has failed.
#[derive(Debug, thiserror::Error)]
pub enum WorkError<E> {
    /// It says so itself.
    #[error("{0}")]
    Failed(E),
    /// It has panicked.
    #[error("the work panicked")]
    Panicked,
}

/// Runs `work` as a task for one response. At most `capacity` messages wait for the client; then
/// `send` waits, and the work with it. The task is aborted in the moment the response is dropped, wherever
/// it waits: a task that only looks at the result of `send` goes on until its next message, which
/// for a silent upstream is never.
///
/// An error or a panic is the last item, so that the stream does not just end.
pub fn produce<E, Work>(
    capacity: usize,
    work: impl FnOnce(mpsc::Sender<Message>) -> Work,
) -> impl Stream<Item = Result<Message, WorkError<E>>>
where
    E: Send + 'static,
    Work: Future<Output = Result<(), E>> + Send + 'static,
{
    let (messages, received) = mpsc::channel(capacity.max(1));
    let task = AbortOnDropHandle::new(tokio::spawn(work(messages)));
    stream::unfold(Some((received, task)), |open| async {
        let (mut received, task) = open?;
        if let Some(message) = received.recv().await {
            return Some((Ok(message), Some((received, task))));
        }
        match task.await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some((Err(WorkError::Failed(error)), None)),
            Err(_) => Some((Err(WorkError::Panicked), None)),
        }
    })
}
// ANCHOR_END: lifecycle
