//! Writes a report and streams its progress to the page that asked for it.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::Sse;
use axum::response::sse::Event;
use axum::routing::get;
use futures::{Stream, StreamExt, stream};

/// Counts the reports that were begun, since each is billed.
#[derive(Clone, Default)]
pub struct Billed(pub Arc<AtomicU64>);

pub fn app(billed: Billed) -> Router {
    Router::new()
        .route("/reports/q3", get(write))
        .with_state(billed)
}

async fn write(State(billed): State<Billed>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    billed.0.fetch_add(1, Ordering::Relaxed);
    let pages = stream::iter(1..=8).then(|page| async move {
        tokio::time::sleep(Duration::from_millis(250)).await;
        Event::default().event("page").data(page.to_string())
    });
    let done = stream::iter([Event::default().event("done").data("")]);
    Sse::new(pages.chain(done).map(Ok))
}
