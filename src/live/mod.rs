//! Live examples: the routers of the patterns, mounted under `/live/<topic>` next to the book.
//!
//! # Layout
//!
//! Start with `sse`, `websocket`, `streams` and `llm`: one file per topic; `fanout` and `gzip` are parts of `sse`. `frame` is the check
//! of the connection, `probe` the page `/probe`. `connection` and `cut` break streams off, as a bad network does.
//!
//! To add a topic: a file `src/live/<topic>.rs` with `pub fn router(shutdown: CancellationToken) ->
//! Router`, one line `pub mod <topic>;` and one line `.nest(…)` below. `shutdown` is cancelled when
//! the program is asked to end; every stream ends in band then. `POST /live/<topic>/cut` comes with
//! [`cut::cuttable`].
//!
//! In the browser: `book/live/<topic>-<pattern>.js` for `<div data-live="<topic>-<pattern>"></div>`,
//! see `book/live/live.js`.

pub mod connection;
pub mod cut;
pub mod fanout;
pub mod frame;
pub mod gzip;
pub mod llm;
pub mod probe;
pub mod sse;
pub mod streams;
pub mod websocket;

use axum::Router;
use cut::cuttable;
use tokio_util::sync::CancellationToken;

/// All live examples, to be nested under `/live`.
pub fn router(shutdown: CancellationToken) -> Router {
    Router::new()
        .nest("/frame", cuttable(frame::router(shutdown.clone())))
        .nest("/sse", cuttable(sse::router(shutdown.clone())))
        .nest("/llm", cuttable(llm::router(shutdown.clone())))
        .nest("/streams", cuttable(streams::router(shutdown.clone())))
        .nest("/websocket", cuttable(websocket::router(shutdown.clone())))
}
