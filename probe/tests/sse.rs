//! Every check of `stream-probe sse`: a service that is right passes, one with a single fault fails
//! that check and no other.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::atomic::Ordering;

use stream_probe::{Client, Kind, Verdict};
use support::sse::{Fault, Service};
use support::{assert_failed, assert_passed, probe, show};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_service_passes() {
    let report = Service::start(Fault::None).await.report().await;
    assert_failed(&report, &[]);
    // What this run cannot show: the stream does not end, and there is no --pid.
    let unknown = [
        "sse-terminal-event",
        "sse-disconnect-noticed",
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
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_right_services_pass() {
    for fault in [
        Fault::CrLf,
        Fault::GzipFlushed,
        Fault::CommentHeartbeat,
        Fault::ResetSignal,
        Fault::Ends,
    ] {
        let report = Service::start(fault).await.report().await;
        assert_eq!(
            report.ids(Verdict::Failed),
            Vec::<&str>::new(),
            "{fault:?}\n{}",
            show(&report)
        );
    }
    let report = Service::start(Fault::Ends204).await.report().await;
    assert_failed(&report, &[]);
    assert_passed(&report, "sse-terminal-event");
}

macro_rules! fails {
    ($($name:ident: $fault:ident => $($id:literal),+;)+) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let report = Service::start(Fault::$fault).await.report().await;
            assert_failed(&report, &[$($id),+]);
        }
    )+};
}

fails! {
    status: Status500 => "sse-status-200";
    content_type: WrongType => "sse-content-type";
    charset: Latin1 => "sse-charset-utf8";
    not_cached: NoCacheControl => "sse-not-cached";
    no_transform: NoTransformMissing => "sse-no-transform";
    no_buffering_headers: NoAccelHeader => "sse-no-buffering-headers";
    content_length: ContentLength => "sse-no-content-length";
    headers_before_first_event: HeadWithFirstEvent => "sse-headers-before-first-event";
    gzip_incremental: GzipHeld => "sse-gzip-incremental";
    utf8: BadUtf8 => "sse-utf8";
    bom: Bom => "sse-no-bom";
    line_endings: LoneCr => "sse-line-endings";
    known_fields: RawNewline => "sse-known-fields";
    data_in_every_event: EventWithoutData => "sse-data-in-every-event";
    complete_last_event: UnfinishedEnd => "sse-complete-last-event";
    reserved_names: ReservedName => "sse-reserved-names";
    retry_sane: RetryText => "sse-retry-sane";
    retry_jitter: RetryConstant => "sse-retry-jitter";
    ends_cleanly: CutEnd => "sse-ends-cleanly";
    terminal_event: RunsAgain => "sse-terminal-event";
    heartbeat: NoHeartbeat => "sse-heartbeat";
    head_finishes: HeadHangs => "sse-head-finishes";
    ids_unique: SameId => "sse-ids-unique";
    ids_ascii: IdNotAscii => "sse-ids-ascii";
    resume_no_gap: Gap => "sse-resume-no-gap", "sse-cursor-past";
    resume_no_duplicate: Duplicate => "sse-resume-no-duplicate";
    cursor_garbage: CursorPanics => "sse-cursor-garbage";
    cursor_past: PastSilent => "sse-cursor-past";
    cursor_future: FutureSilent => "sse-cursor-future";
    fan_out_order: OnlyOneReader => "sse-fan-out-order";
    reconnects_survived: Dies => "sse-reconnects-survived";
    cors_star: CorsStar => "sse-cors-credentials";
    cors_any: CorsAny => "sse-cors-credentials";
    errors_clean: Leak => "sse-errors-clean";
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
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
    options.skip = vec!["sse-stalled-*".to_owned()];
    assert_failed(&probe(Kind::Sse, &options).await, &["sse-ids-present"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
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
    for (fault, failed) in [
        (Fault::None, vec![]),
        (Fault::Blocks, vec!["sse-stalled-reader-isolated"]),
    ] {
        let service = Service::start(fault).await;
        service.hub.size.store(256 * 1024, Ordering::Relaxed);
        let mut options = service.options();
        options.only = vec!["sse-stalled-*".to_owned()];
        let report = probe(Kind::Sse, &options).await;
        assert_failed(&report, &failed);
        if failed.is_empty() {
            assert_passed(&report, "sse-stalled-reader-isolated");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_publish_most_is_unknown_and_nothing_is_wrong() {
    let service = Service::start(Fault::None).await;
    let mut options = service.options();
    options.publish = stream_probe::Publish::None;
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
