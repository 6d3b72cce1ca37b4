//! Every check of `stream-probe sse`: a service that is right passes, one with a single fault fails
//! that check and no other.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::support::sse::{Fault, LIMIT, Service};
use crate::support::{
    self, assert_compositions, assert_failed, assert_faults, assert_passed, probe, show, together,
};
use stream_probe::{Client, Kind, Verdict};

/// One test for all of these, which wait more than they work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_right_or_cannot_be_told_does_not_fail() {
    tokio::join!(
        a_right_service_passes(),
        other_right_services_pass(),
        promised_resume_needs_ids(),
        a_limit_holds_and_gives_places_back(),
        an_event_source_does_not_see_comments(),
        without_publish_most_is_unknown_and_nothing_is_wrong(),
        a_limit_that_the_probe_has_reached_is_no_clean_error(),
    );
}

async fn a_limit_that_the_probe_has_reached_is_no_clean_error() {
    let service = Service::start(Fault::Throttled).await;
    let mut options = service.options();
    options.only = vec!["sse-errors-clean".to_owned()];
    let report = probe(Kind::Sse, &options).await;
    let open = report.ids(Verdict::CouldNotTell);
    assert_eq!(open, ["sse-errors-clean"], "{}", show(&report));
}

async fn a_right_service_passes() {
    let report = Service::start(Fault::None).await.report().await;
    assert_failed(&report, &[]);
    // What this run cannot show: the stream does not end, and there is no --pid.
    let unknown = [
        "sse-terminal-event",
        "sse-disconnect-noticed",
        "sse-limit-counts-streams",
        "sse-http2-works",
        "sse-http2-stream-limit",
        "sse-shutdown-ends-streams",
    ];
    let mut seen = report.ids(Verdict::CouldNotTell);
    seen.sort_unstable();
    let mut expected = unknown.to_vec();
    expected.sort_unstable();
    assert_eq!(seen, expected, "\n{}", show(&report));
    assert_eq!(report.exit_code(true), 0);
}

/// What is right in another way must not be called wrong.
async fn other_right_services_pass() {
    let right = [
        Fault::CrLf,
        Fault::GzipFlushed,
        Fault::CommentHeartbeat,
        Fault::ResetSignal,
        Fault::Trimmed,
        Fault::TrimmedByAnotherName,
        Fault::Ends,
        Fault::Ends204,
        Fault::Http2,
    ];
    together(right.map(|fault| async move {
        let report = Service::start(fault).await.report().await;
        assert_eq!(
            report.ids(Verdict::Failed),
            Vec::<&str>::new(),
            "{fault:?}\n{}",
            show(&report)
        );
        if fault == Fault::Ends204 {
            assert_passed(&report, "sse-terminal-event");
        }
        if fault == Fault::Http2 {
            assert_passed(&report, "sse-http2-works");
            assert_passed(&report, "sse-http2-stream-limit");
        }
        let past = match fault {
            Fault::Trimmed => Verdict::Passed,
            Fault::TrimmedByAnotherName => Verdict::CouldNotTell,
            _ => return,
        };
        assert_eq!(
            report.verdict("sse-cursor-past"),
            Some(past),
            "{}",
            show(&report)
        );
    }))
    .await;
}

/// Each fault, and the checks that must fail for it: no other may.
const FAULTS: &[(Fault, &[&str])] = &[
    (Fault::Status500, &["sse-status-200"]),
    (Fault::WrongType, &["sse-content-type"]),
    (Fault::Latin1, &["sse-charset-utf8"]),
    (Fault::NoCacheControl, &["sse-not-cached"]),
    (Fault::NoTransformMissing, &["sse-no-transform"]),
    (Fault::NoAccelHeader, &["sse-no-buffering-headers"]),
    (Fault::ContentLength, &["sse-no-content-length"]),
    (
        Fault::HeadWithFirstEvent,
        &["sse-headers-before-first-event"],
    ),
    (Fault::HeldBack, &["sse-events-incremental"]),
    (Fault::GzipHeld, &["sse-gzip-incremental"]),
    (Fault::BadUtf8, &["sse-utf8"]),
    (Fault::Bom, &["sse-no-bom"]),
    (Fault::LoneCr, &["sse-line-endings"]),
    (Fault::RawNewline, &["sse-known-fields"]),
    (Fault::EventWithoutData, &["sse-data-in-every-event"]),
    (Fault::UnfinishedEnd, &["sse-complete-last-event"]),
    (Fault::ReservedName, &["sse-reserved-names"]),
    (Fault::RetryText, &["sse-retry-sane"]),
    (Fault::RetryConstant, &["sse-retry-jitter"]),
    (Fault::CutEnd, &["sse-ends-cleanly"]),
    (Fault::RunsAgain, &["sse-terminal-event"]),
    (Fault::NoHeartbeat, &["sse-heartbeat"]),
    (Fault::HeadHangs, &["sse-head-finishes"]),
    (Fault::SameId, &["sse-ids-unique"]),
    (Fault::IdNotAscii, &["sse-ids-ascii"]),
    (Fault::Gap, &["sse-resume-no-gap", "sse-cursor-past"]),
    (Fault::Duplicate, &["sse-resume-no-duplicate"]),
    (Fault::CursorPanics, &["sse-cursor-garbage"]),
    (Fault::PastSilent, &["sse-cursor-past"]),
    (Fault::FutureSilent, &["sse-cursor-future"]),
    (Fault::OnlyOneReader, &["sse-fan-out-order"]),
    (Fault::Dies, &["sse-reconnects-survived"]),
    (Fault::CorsStar, &["sse-cors-credentials"]),
    (Fault::CorsAny, &["sse-cors-credentials"]),
    (Fault::Leak, &["sse-errors-clean"]),
    (Fault::Http2Connection, &["sse-http2-works"]),
    (Fault::Http2Held, &["sse-http2-works"]),
    (Fault::Http2Cancelled, &["sse-http2-works"]),
    (Fault::Http2FewStreams, &["sse-http2-stream-limit"]),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute: run ./check"]
async fn every_fault_fails_its_check_and_no_other() {
    let report = |fault| async move { Service::start(fault).await.report().await };
    assert_faults(FAULTS, report).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes half a minute: run ./check"]
async fn no_composition_of_faults_fails_an_unrelated_check() {
    let report =
        |faults: Vec<Fault>| async move { Service::start(faults.as_slice()).await.report().await };
    assert_compositions(FAULTS, 1..17, 3, report).await;
}

async fn promised_resume_needs_ids() {
    let service = Service::start(Fault::NoIds).await;
    let report = service.report().await;
    assert_failed(&report, &[]);
    assert_eq!(
        report.verdict("sse-ids-present"),
        Some(Verdict::CouldNotTell)
    );
    let mut options = service.options();
    options.resumable = true;
    options.only = vec!["sse-ids-*".to_owned()];
    assert_failed(&probe(Kind::Sse, &options).await, &["sse-ids-present"]);
}

async fn a_limit_holds_and_gives_places_back() {
    let services = [
        (Fault::Limited, LIMIT, Verdict::Passed),
        // More than it allows: somebody else may hold the places.
        (Fault::Limited, LIMIT + 1, Verdict::CouldNotTell),
        (Fault::None, LIMIT, Verdict::Failed),
        (Fault::PlacesLost, LIMIT, Verdict::Failed),
    ];
    together(services.map(|(fault, limit, verdict)| async move {
        let service = Service::start(fault).await;
        let mut options = service.options();
        options.only = vec!["sse-limit-counts-streams".to_owned()];
        options.limit = Some(limit);
        options.heartbeat = Some(Duration::ZERO);
        let report = probe(Kind::Sse, &options).await;
        assert_eq!(
            report.verdict("sse-limit-counts-streams"),
            Some(verdict),
            "{fault:?}\n{}",
            show(&report)
        );
    }))
    .await;
}

async fn an_event_source_does_not_see_comments() {
    let service = Service::start(Fault::CommentHeartbeat).await;
    let mut options = service.options();
    options.only = vec!["sse-heartbeat*".to_owned()];
    options.client = Client::EventSource;
    assert_failed(
        &probe(Kind::Sse, &options).await,
        &["sse-heartbeat-visible"],
    );
    options.client = Client::Fetch;
    assert_failed(&probe(Kind::Sse, &options).await, &[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_reader_is_felt_or_not() {
    let services = [
        (Fault::None, vec![]),
        (Fault::Blocks, vec!["sse-stalled-reader-isolated"]),
    ];
    together(services.map(|(fault, failed)| async move {
        let service = Service::start(fault).await;
        service.hub.size.store(256 * 1024, Ordering::Relaxed);
        let mut options = service.options();
        options.only = vec!["sse-stalled-*".to_owned()];
        let report = probe(Kind::Sse, &options).await;
        assert_failed(&report, &failed);
        if failed.is_empty() {
            assert_passed(&report, "sse-stalled-reader-isolated");
        }
    }))
    .await;
}

async fn without_publish_most_is_unknown_and_nothing_is_wrong() {
    let service = Service::start(Fault::None).await;
    let mut options = service.options();
    options.publish = stream_probe::Publish::None;
    options.budget = Duration::from_secs(4);
    let report = probe(Kind::Sse, &options).await;
    assert_failed(&report, &[]);
    assert_eq!(
        report.verdict("sse-resume-no-gap"),
        Some(Verdict::CouldNotTell)
    );
}

#[tokio::test]
async fn nothing_listens() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let options = support::options(addr, "/");
    assert!(stream_probe::run(Kind::Sse, &options, None).await.is_err());
}
