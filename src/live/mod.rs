//! Live examples: the routers of the patterns, mounted under `/live/<topic>` beside the book.
//!
//! Each topic has a file of its own with `pub fn router(shutdown: CancellationToken) -> Router`.
//! `shutdown` is cancelled when the program is asked to end; every stream ends in band then.

use axum::Router;
use tokio_util::sync::CancellationToken;

/// All live examples, to be nested under `/live`.
pub fn router(shutdown: CancellationToken) -> Router {
    let _ = shutdown;
    Router::new()
}
