//! Wrong: event ids are bare numbers, and the counter starts at 1 with the process.
//! Harm: after a restart, a cursor from the previous epoch names a different event: new events with smaller numbers are skipped, and a client whose cursor is beyond the newest event waits forever.
//! Instead: sse/resume
//! Probe: fails sse-cursor-future

use axum::Router;
use axum::response::Response;
use snippets::sse::event::Cursor;
use snippets::sse::event::{Event, LastEventId};
use snippets::sse::log::{Config, Log};

use crate::support::reader::ready;
use crate::support::wrong::{Feed, Probed, Start, Wrong, resumes, route, send};

/// The events of this life of the process that a client with `cursor` gets.
fn wrong(events: &[&'static str], cursor: usize) -> Vec<&'static str> {
    events.iter().skip(cursor).copied().collect()
}

pub(crate) const PROBED: Probed = Probed::new(Start::Service(wrong_service)).with(resumes);

/// A cursor is a number of events to skip, whatever it was given out for.
pub(crate) fn wrong_service() -> Wrong {
    let feed = Feed::new("", 0);
    let followed = feed.clone();
    let events = async move |cursor: LastEventId| -> Response {
        let skip = match &cursor {
            LastEventId::Id(id) => id.parse().unwrap_or(0),
            _ => followed.begin(&cursor).1,
        };
        send(followed.after(skip))
    };
    let app = Router::new().route("/events", route(events));
    Wrong::publishing(app, move |n| feed.publish(n))
}

#[test]
fn the_new_events_are_skipped() {
    assert_eq!(wrong(&["a", "b", "c"], 2), ["c"]);
    // Restarted; a client that had seen two events of the last life comes back.
    assert_eq!(wrong(&["x", "y", "z"], 2), ["z"], "and never x or y");
    // One that had seen nine: silence, until the new life has published ten.
    assert!(wrong(&["x", "y", "z"], 9).is_empty());
}

#[test]
fn an_epoch_makes_it_a_reset() {
    let restarted = Log::new(Config::complete(8, 1024));
    for name in ["x", "y", "z"] {
        restarted.publish(&Event::new(name, &()).unwrap()).unwrap();
    }
    // Of the last lifetime: each has a random epoch.
    let cursor = LastEventId::Id(Cursor { epoch: 1, seq: 2 }.to_string());
    let mut reader = restarted.read(&cursor).unwrap();
    let seen: Vec<_> = ready(&mut reader).into_iter().map(|b| b.name).collect();
    assert_eq!(seen, ["reset", "x", "y", "z"]);
}
