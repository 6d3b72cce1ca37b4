//! The connection check of the page of live examples: numbered ticks. It shows whether
//! something between the program and the browser (a forwarded port, a company proxy) buffers.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::extract::Query;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::stream;
use serde::Deserialize;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Ticks of one run, unless `?of=N` says otherwise.
const TICKS: u32 = 20;
/// Most that can be asked for: five minutes.
const MAX_TICKS: u32 = 2000;
/// Time between two of them.
const PERIOD: Duration = Duration::from_millis(150);

#[derive(Deserialize)]
struct Run {
    of: Option<u32>,
}

/// `GET /ticks`: events `tick` with the ids 1 to 20, then `done`; `bye` when the program ends.
pub fn router(shutdown: CancellationToken) -> Router {
    Router::new().route(
        "/ticks",
        get(async move |Query(run): Query<Run>, headers: HeaderMap| {
            let of = run.of.unwrap_or(TICKS).min(MAX_TICKS);
            ticks(of, &headers, shutdown.clone())
        }),
    )
}

fn ticks(of: u32, headers: &HeaderMap, shutdown: CancellationToken) -> Response {
    let seen = headers
        .get("last-event-id")
        .and_then(|id| id.to_str().ok()?.parse::<u32>().ok())
        .unwrap_or(0);
    if seen >= of {
        // EventSource stops reconnecting on 204 (HTML, section 9.2.3).
        return StatusCode::NO_CONTENT.into_response();
    }
    let mut timer = interval(PERIOD);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let events = stream::unfold((Some(seen + 1), timer), move |(next, mut timer)| {
        let shutdown = shutdown.clone();
        async move {
            let n = next?;
            if n > of {
                let done = Event::default().event("done").data("{}");
                return Some((Ok::<_, Infallible>(done), (None, timer)));
            }
            let ended = tokio::select! {
                biased;
                () = shutdown.cancelled() => true,
                _ = timer.tick() => false,
            };
            if ended {
                let bye = Event::default().event("bye").data("{}");
                return Some((Ok(bye), (None, timer)));
            }
            let tick = Event::default()
                .event("tick")
                .id(n.to_string())
                .retry(Duration::from_millis(500))
                .data(format!("{{\"n\":{n},\"of\":{of}}}"));
            Some((Ok(tick), (Some(n + 1), timer)))
        }
    });
    let headers = [
        ("cache-control", "no-cache, no-store, no-transform"),
        ("x-accel-buffering", "no"),
    ];
    (headers, Sse::new(events)).into_response()
}
