//! `production/snapshot`: each change is in the snapshot or after its cursor.

use std::sync::Arc;

use axum::body::Body;
use axum::http::Request;
use proptest::prelude::*;
use snippets::production::snapshot::{Live, app};
use snippets::sse::event::{Event, LastEventId};
use snippets::sse::log::{Config, Log};
use tower::ServiceExt;

use crate::support::source::Events;
use crate::support::within;

fn event(n: u64) -> Event {
    Event::new("added", &n).unwrap()
}

fn live(kept: usize) -> (Arc<Live<Vec<u64>>>, Arc<Log>) {
    let log = Log::new(Config::complete(kept, 100_000));
    (Arc::new(Live::new(Vec::new(), log.clone())), log)
}

/// A client: loads a snapshot, reads on from its cursor for a while, and begins again after a reset.
async fn view(live: &Live<Vec<u64>>, log: &Arc<Log>, last: u64, pause: bool) -> Vec<u64> {
    'snapshot: loop {
        let snapshot = live.snapshot();
        let mut state = snapshot.state;
        let reader = log.read(&LastEventId::Id(snapshot.cursor)).unwrap();
        let mut events = Events::new(reader);
        while state.last() != Some(&last) {
            if pause {
                tokio::task::yield_now().await;
            }
            let seen = within("an event", events.next()).await.unwrap();
            if seen.name == "reset" {
                continue 'snapshot;
            }
            state.push(seen.data.parse().unwrap());
        }
        return state;
    }
}

/// Views that open at any moment while the state changes, some of them too slow for the log of 20 events.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_change_is_missing_or_doubled_in_any_view() {
    const LAST: u64 = 3_000;
    let (live, log) = live(20);
    let changes = tokio::spawn({
        let live = live.clone();
        async move {
            for n in 1..=LAST {
                live.change(&event(n), |state| state.push(n)).unwrap();
                tokio::task::yield_now().await;
            }
        }
    });
    let views = (0..40).map(|n| {
        let (live, log) = (live.clone(), log.clone());
        tokio::spawn(async move { view(&live, &log, LAST, n % 2 == 0).await })
    });
    let views: Vec<_> = views.collect();
    changes.await.unwrap();
    for view in views {
        assert_eq!(view.await.unwrap(), (1..=LAST).collect::<Vec<_>>());
    }
}

proptest! {
    #[test]
    fn a_snapshot_has_what_its_cursor_says(before in 0_u64..30, after in 0_u64..10) {
        let (live, log) = live(100);
        for n in 0..before {
            live.change(&event(n), |state| state.push(n)).unwrap();
        }
        let snapshot = live.snapshot();
        for n in before..before + after {
            live.change(&event(n), |state| state.push(n)).unwrap();
        }
        prop_assert_eq!(snapshot.state.len() as u64, before);
        let mut events = Events::new(log.read(&LastEventId::Id(snapshot.cursor)).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        for n in before..before + after {
            prop_assert_eq!(runtime.block_on(events.next()).unwrap().data, n.to_string());
        }
    }
}

#[tokio::test]
async fn an_event_that_is_refused_changes_nothing() {
    let (live, _log) = live(5);
    let large = Event::new("added", &"x".repeat(200_000)).unwrap();
    live.change(&large, |state| state.push(1)).unwrap_err();
    assert!(live.snapshot().state.is_empty());
}

#[tokio::test]
async fn the_snapshot_is_not_stored() {
    let (live, log) = live(5);
    live.change(&event(7), |state| state.push(7)).unwrap();
    let request = Request::get("/snapshot").body(Body::empty()).unwrap();
    let response = app(live).oneshot(request).await.unwrap();
    assert_eq!(response.headers()["cache-control"], "no-store");
    let body = axum::body::to_bytes(response.into_body(), 10_000)
        .await
        .unwrap();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["state"], serde_json::json!([7]));
    assert_eq!(body["cursor"], log.newest().to_string());
}
