//! Wrong: a client applies an event, then stores its id.
//! Harm: it crashes in between, and the replay applies the event a second time: the money is booked twice.
//! Instead: sse/resume
//! Probe: cannot see: a client

use std::sync::Arc;

use snippets::sse::event::{Event, LastEventId};
use snippets::sse::log::{Config, Log};

use crate::support::reader::ready;

/// What survives a crash of the client.
#[derive(Default)]
struct Stored {
    balance: i64,
    cursor: Option<String>,
}

/// Where the client crashes, while it handles its second event.
#[derive(Clone, Copy, PartialEq)]
enum Crash {
    Never,
    Between,
}

fn run(log: &Arc<Log>, stored: &mut Stored, crash: Crash, in_one_step: bool) {
    let cursor = stored
        .cursor
        .clone()
        .map_or(LastEventId::None, LastEventId::Id);
    let mut handled = 0;
    for event in ready(&mut log.read(&cursor).unwrap()) {
        let amount: i64 = event.data.parse().unwrap();
        let id = event.id;
        handled += 1;
        let crashes = handled == 2 && crash == Crash::Between;
        if in_one_step {
            // A transaction: the crash is before it or after it.
            if crashes {
                return;
            }
            *stored = Stored {
                balance: stored.balance + amount,
                cursor: Some(id),
            };
        } else {
            stored.balance += amount;
            if crashes {
                return;
            }
            stored.cursor = Some(id);
        }
    }
}

fn balance_after_a_crash(in_one_step: bool) -> i64 {
    let log = Log::new(Config::complete(8, 1024));
    for amount in [100, 20, 3] {
        log.publish(&Event::new("booking", &amount).unwrap())
            .unwrap();
    }
    let mut stored = Stored::default();
    run(&log, &mut stored, Crash::Between, in_one_step);
    run(&log, &mut stored, Crash::Never, in_one_step);
    stored.balance
}

#[test]
fn the_event_is_applied_twice() {
    assert_eq!(balance_after_a_crash(false), 100 + 20 + 20 + 3);
}

#[test]
fn stored_in_one_step_it_is_applied_once() {
    assert_eq!(balance_after_a_crash(true), 123);
}
